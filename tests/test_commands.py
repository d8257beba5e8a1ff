"""Every command is told of in a page."""

from __future__ import annotations

import re
from collections.abc import Iterator
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


@pytest.mark.parametrize("path", COMMANDS)
def test_a_page_tells_of_the_command(path: str) -> None:
    assert re.search(rf"{path}(?![\w-])", PAGES), f"no page has `{path}`"
