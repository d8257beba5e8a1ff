"""The file of a page: written whole or not at all, over nothing but a page of the same command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from qwen_embed_plugins.cli.session import current
from qwen_embed_plugins.cli.vector_files import destination

Command = TypeVar("Command", bound=Callable[..., Any])


def html_option(help_text: str) -> Callable[[Command], Command]:
    """`--html FILE`."""
    return click.option(
        "--html",
        "html",
        type=click.Path(dir_okay=False),
        metavar="FILE",
        callback=_file_named,
        help=help_text,
    )


def _file_named(_: click.Context, __: click.Parameter, file: str | None) -> str | None:
    """A page is replaced as a whole, which needs a name."""
    if file in ("", "-"):
        raise click.BadParameter(f"{file!r} names no file")
    return file


def earlier_page(file: str, kind: str) -> str:
    """The page of this kind that stands there; empty if there is none. Raises `UsageError` for
    anything else."""
    from qwen_embed_plugins.cli.html_page import marker

    path = Path(file)
    if not path.is_file():
        return ""
    begins = marker(kind).encode()
    with path.open("rb") as reader:
        start = reader.read(len(begins))
        if not start:
            return ""
        if start != begins:
            raise click.UsageError(
                f"--html: {file} is no page of `{kind}`; name another file, or remove it"
            )
        return (start + reader.read()).decode("utf-8", "replace")


def write_page(file: str, content: str, *, say: bool = True) -> None:
    """Put a page in the place of what stands there, and say so unless it is to be quiet."""
    with destination(file, at_once=True) as target:
        target.write(content.encode())
    if say and not current().quiet:
        click.echo(f"wrote {file}", err=True)
