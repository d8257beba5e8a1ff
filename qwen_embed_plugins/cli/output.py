"""What goes to standard output: JSON for programs, tables of at most 80 columns for people."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import click

WIDTH_IN_A_PIPE = 80


class Column(NamedTuple):
    """A column of a table. A long value goes on in the next line if the column folds, ends in an
    ellipsis if it is cut, and takes the room it needs otherwise."""

    title: str
    right: bool = False
    long: Literal["folds", "is cut", "fits"] = "folds"


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
) -> None:
    """A table as wide as the terminal, 80 columns in a pipe; colour only on a terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    if not rows:
        click.echo(empty)
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    described = [Column(column) if isinstance(column, str) else column for column in columns]
    for column in described:
        table.add_column(
            column.title,
            justify="right" if column.right else "left",
            overflow="fold",
            no_wrap=column.long == "fits",
        )
    for row in rows:
        table.add_row(*map(_cell, row, described))
    _print(table)


def print_text(text: str) -> None:
    """A paragraph, wrapped to the terminal's width."""
    _print(_cell(text, Column("")))


def print_pairs(pairs: Sequence[tuple[str, object]]) -> None:
    """Names with their values, which go on below each other; a pair without a value is left out."""
    grid = _grid([Column("", long="fits"), Column("")])
    for name, value in pairs:
        if value not in (None, ""):
            grid.add_row(_cell(name, Column("")), _cell(value, Column("")))
    _print(grid)


class Block(NamedTuple):
    """Rows below a title, and below what holds for all of them."""

    title: str
    rows: Sequence[Sequence[object]] = ()
    shared: str = ""


def print_blocks(columns: Sequence[Column], blocks: Sequence[Block]) -> None:
    """Blocks one below the other, their columns in line, without headings."""
    from rich.padding import Padding

    widths = [
        max((len(str(row[place])) for block in blocks for row in block.rows), default=0)
        for place in range(len(columns))
    ]
    for block in blocks:
        _print(_cell(block.title, Column("")), style="bold")
        grid = _grid(columns)
        for column, width in zip(grid.columns, widths, strict=True):
            column.min_width = width if column.no_wrap else None
        for row in block.rows:
            grid.add_row(*map(_cell, row, columns))
        for part in filter(None, (_cell(block.shared, Column("")), grid if block.rows else None)):
            _print(Padding(part, (0, 0, 0, 2), expand=False))


def _grid(columns: Sequence[Column]) -> Any:
    from rich.table import Table

    grid = Table.grid(padding=(0, 2, 0, 0))
    for column in columns:
        grid.add_column(
            justify="right" if column.right else "left",
            overflow="fold",
            no_wrap=column.long == "fits",
        )
    return grid


def _cell(value: object, column: Column) -> Any:
    """The value as text: a string would be read as rich's own markup."""
    from rich.text import Text

    said = "" if value is None else str(value)
    if column.long == "is cut":
        return Text(said, no_wrap=True, overflow="ellipsis")
    return Text(said)


def _print(drawing: Any, style: str | None = None) -> None:
    """Print without the blanks with which rich fills lines: they stay in what people copy."""
    out = console(sys.stdout)
    with out.capture() as drawn:
        out.print(drawing, style=style)
    sys.stdout.write(re.sub(" +\n", "\n", drawn.get()))


def console(stream: Any) -> Any:
    """A rich console on a stream."""
    from rich.console import Console

    width = None if stream.isatty() else WIDTH_IN_A_PIPE
    return Console(file=stream, width=width, highlight=False)
