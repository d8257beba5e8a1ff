"""What goes to standard output: JSON for programs, tables of at most 80 columns for people."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import click

WIDTH_IN_A_PIPE = 80

BETWEEN_COLUMNS = 3
"""What rich puts between the columns of a table."""

LONG_WORD = 16
"""A longer word, a path for example, may be broken where a column folds."""


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
    """A table as wide as the terminal, 80 columns in a pipe; colour only on a terminal. Where it is
    too narrow for that, a block for each row."""
    described = [Column(column) if isinstance(column, str) else column for column in columns]
    if not rows:
        click.echo(empty)
    elif _least_width(described, rows) > console(sys.stdout).width:
        print_blocks(described[:1], [_record(described, row) for row in rows])
    else:
        _print(_table(described, rows))


def _least_width(columns: Sequence[Column], rows: Sequence[Sequence[object]]) -> int:
    """How wide a table must be to leave words whole, but for long ones in columns that fold."""
    width = BETWEEN_COLUMNS * (len(columns) - 1)
    for place, column in enumerate(columns):
        if column.long == "is cut":
            said = [column.title]
        else:
            said = [column.title, *("" if row[place] is None else str(row[place]) for row in rows)]
        words = [line for text in said for line in text.splitlines()]
        if column.long == "folds":
            words = [word[:LONG_WORD] for line in words for word in line.split()]
        width += max(map(len, words), default=0)
    return width


def _record(columns: Sequence[Column], row: Sequence[object]) -> Block:
    """A row as a block: its first cell, and below it the others with their names."""
    named = zip(columns[1:], row[1:], strict=True)
    said = [f"{' '.join(c.title.split())} {value}" for c, value in named if value not in (None, "")]
    return Block(str(row[0]), shared="; ".join(said))


def _table(columns: Sequence[Column], rows: Sequence[Sequence[object]]) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for column in columns:
        table.add_column(
            column.title,
            justify="right" if column.right else "left",
            overflow="fold",
            no_wrap=column.long == "fits",
        )
    for row in rows:
        table.add_row(*map(_cell, row, columns))
    return table


def print_text(text: str) -> None:
    """A paragraph, wrapped to the terminal's width."""
    _print(_cell(text, Column("")))


def print_line(text: str) -> None:
    """A sentence, wrapped on a terminal; whole in a pipe, where programs look for it."""
    if sys.stdout.isatty():
        print_text(text)
    else:
        click.echo(text)


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
    # With NO_COLOR rich would still write in bold.
    colours: Any = None if os.environ.get("NO_COLOR") else "auto"
    return Console(file=stream, width=width, highlight=False, color_system=colours)


def moves_its_cursor(stream: Any) -> bool:
    """Whether a stream is a terminal on which something can be drawn over, and ours to draw on: in
    the background it would draw over what its user types."""
    able = stream.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")
    return able and _in_foreground(stream)


def _in_foreground(stream: Any) -> bool:
    try:
        return os.tcgetpgrp(stream.fileno()) == os.getpgrp()
    except (AttributeError, OSError):  # Windows; a terminal that is not the session's own
        return True
