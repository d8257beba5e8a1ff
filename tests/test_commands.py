"""Every command is told of in a page, and has examples in its help that it understands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import click
import pytest

from qwen_embed_plugins.cli.root import root

ROOT = Path(__file__).parent.parent
PAGES = "\n".join(
    path.read_text("utf-8") for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
)


def contexts(command: click.Command, above: click.Context | None = None) -> Iterator[click.Context]:
    """One for each command, groups included."""
    context = click.Context(command, above, info_name=command.name if above else "qwen-embed")
    yield context
    if isinstance(command, click.Group):
        of_plugins = getattr(command, "added", {})
        for name in command.list_commands(context):
            if name in of_plugins:
                continue
            below = command.get_command(context, name)
            assert below is not None
            yield from contexts(below, context)


COMMANDS = {context.command_path: context for context in contexts(root)}


def examples(context: click.Context) -> Iterator[list[str]]:
    """The words of each example in its help, from the program's name on."""
    epilog = (context.command.epilog or "").replace("\\\n", " ")
    for line in epilog.splitlines():
        found = re.match(r"\s*(?:Example: )?(qwen-embed .*)", line)
        if found:
            words = shlex.split(found[1])
            yield [*takewhile(lambda word: word not in ("|", ">"), words)]


@pytest.mark.parametrize("path", COMMANDS)
def test_a_page_tells_of_the_command(path: str) -> None:
    assert re.search(rf"{path}(?![\w-])", PAGES), f"no page has `{path}`"


@pytest.mark.parametrize("path", COMMANDS)
def test_the_help_has_an_example_of_the_command(path: str) -> None:
    assert any(words[: len(path.split())] == path.split() for words in examples(COMMANDS[path]))


@pytest.mark.parametrize("path", COMMANDS)
def test_the_examples_are_understood(path: str) -> None:
    for words in examples(COMMANDS[path]):
        for word in words:
            if re.fullmatch(r"\w+\.(txt|csv)", word):
                Path(word).touch()  # in the test's own folder: an option wants a file that is there
        context, rest = COMMANDS["qwen-embed"], words[1:]
        while isinstance(context.command, click.Group):
            name, command, rest = context.command.resolve_command(context, rest)
            assert command is not None
            context = click.Context(command, context, info_name=name)
        context.command.parse_args(context, rest)
