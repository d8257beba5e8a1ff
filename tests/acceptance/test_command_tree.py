"""The same thing has the same name in every command, and every help has an example that holds."""

from __future__ import annotations

import re
import shlex
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from qwen_embed_plugins.cli.root import root

if TYPE_CHECKING:
    from tests.acceptance.conftest import Run

COMMON = {"--settings", "--quiet", "--verbose", "--help"}
SHORT = {"-h": "--help", "-q": "--quiet", "-v": "--verbose", "-k": "--k"}


def walk(command: click.Command, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command with what is typed for it."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from walk(found, f"{path} {name}".strip())


TREE = dict(walk(root))


def options(command: click.Command) -> list[click.Option]:
    context = click.Context(command, help_option_names=["-h", "--help"])
    return [found for found in command.get_params(context) if isinstance(found, click.Option)]


def examples(command: click.Command) -> list[str]:
    """The commands of an epilog, those that go on in the next line put together."""
    text = re.sub(r"\\\n\s*", "", command.epilog or "")
    return re.findall(r"qwen-embed (.*?)(?:\)\"|$)", text, re.MULTILINE)


@pytest.mark.parametrize("path", TREE)
def test_every_command_has_an_example_of_itself_that_could_be_run(path: str) -> None:
    command = TREE[path]
    found = examples(command)
    assert "Example" in (command.epilog or "")
    assert any(f"{line} ".startswith(f"{path} ".lstrip()) for line in found)
    for file in ("texts.txt", "rows.csv", "shop.sql"):
        Path(file).touch()
    for line in found:
        words = shlex.split(line.partition(" > ")[0], comments=True)
        name = max((one for one in TREE if f"{' '.join(words)} ".startswith(f"{one} ")), key=len)
        TREE[name].make_context(name, words[len(name.split()) :])


@pytest.mark.parametrize("path", TREE)
def test_every_command_takes_the_common_options(path: str) -> None:
    taken = {name for option in options(TREE[path]) for name in option.opts}
    assert taken >= COMMON
    assert (path.startswith("pg ") or path == "doctor") == ("--dsn" in taken)
    assert {name for name in taken if not name.startswith("--")} <= SHORT.keys()


def test_one_name_means_one_thing() -> None:
    """An option takes a value of the same kind wherever it stands."""
    shapes = defaultdict(set)
    for command in TREE.values():
        for option in options(command):
            name = next(name for name in option.opts if name.startswith("--"))
            shapes[name].add((option.metavar, option.is_flag, option.multiple))
            assert option.help, name
            assert option.help.endswith("."), name
            assert re.fullmatch(r"--[a-z]+(-[a-z]+)*", name)
            numbers = isinstance(option.type, (click.IntRange, click.types.IntParamType))
            assert not numbers or option.metavar in ("N", "M", "TOKENS"), name
    assert {name: found for name, found in shapes.items() if len(found) > 1} == {}


def test_one_thing_has_one_name() -> None:
    """No two options explain themselves by the same words."""
    names = defaultdict(set)
    for command in TREE.values():
        for option in options(command):
            names[option.help].add(option.opts[-1] if option.opts[0] in SHORT else option.opts[0])
    assert {said: found for said, found in names.items() if len(found) > 1} == {}


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are a Unix matter")
def test_every_help_fits_a_terminal(run: Run) -> None:
    from tests.acceptance.terminals import each_on_terminal, plain

    helps = each_on_terminal(run, [f"{path} --help".strip() for path in TREE])
    for line, said in helps.items():
        assert said.startswith("Usage: qwen-embed"), line
        assert run.fits(plain(said)), line
