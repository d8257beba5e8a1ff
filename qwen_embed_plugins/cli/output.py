"""What goes to standard output: JSON for programs, tables of at most 80 columns for people."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import click

WIDTH_IN_A_PIPE = 80


class Column(NamedTuple):
    """A column of a table; `folds` says that long values go on in the next line."""

    title: str
    right: bool = False
    folds: bool = True


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def print_json(value: object) -> None:
    """The value as indented JSON in UTF-8, whatever the terminal's encoding is."""
    import orjson

    content = orjson.dumps(value, default=str, option=orjson.OPT_INDENT_2)
    sys.stdout.buffer.write(content + b"\n")


def print_table(
    columns: Sequence[Column | str],
    rows: Sequence[Sequence[object]],
    *,
    empty: str = "none",
    one_line: bool = False,
) -> None:
    """A table as wide as the terminal, 80 columns in a pipe; colour only on a terminal.

    With `one_line` what is too long for its row ends in an ellipsis instead of going on below.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    if not rows:
        click.echo(empty)
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for column in columns:
        title, right, folds = Column(column) if isinstance(column, str) else column
        table.add_column(
            title,
            justify="right" if right else "left",
            overflow="ellipsis" if one_line else "fold",
            no_wrap=one_line or not folds,
        )
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    console(sys.stdout).print(table)


def _cell(value: object) -> Any:
    """The value as text: a string would be read as rich's own markup."""
    from rich.text import Text

    return Text("" if value is None else str(value))


def console(stream: Any) -> Any:
    """A rich console on a stream."""
    from rich.console import Console

    width = None if stream.isatty() else WIDTH_IN_A_PIPE
    return Console(file=stream, width=width, highlight=False)
