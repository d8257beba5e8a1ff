"""The texts of `embed`: arguments, or lines, fields or a column of a file, in bounded portions."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import click

PORTION_TEXTS = 2048
"""32 MB of vectors at 4,096 numbers, and enough batches to keep every connection busy."""

PORTION_CHARACTERS = 1 << 22

LONGEST_FIELD = 1 << 30
"""The csv module's own limit, 131,072 characters, would refuse a longer text and all after it."""


def portions(texts: Iterable[str]) -> Iterator[list[str]]:
    """The texts in runs that are bounded in number and, but for one long text, in size."""
    portion: list[str] = []
    characters = 0
    for text in texts:
        if portion and (
            len(portion) >= PORTION_TEXTS or characters + len(text) > PORTION_CHARACTERS
        ):
            yield portion
            portion, characters = [], 0
        portion.append(text)
        characters += len(text)
    if portion:
        yield portion


class Unreadable(str):
    """Stands for the text of a line that has none, which fails that text alone: the reason why."""

    reason: str

    @classmethod
    def because(cls, reason: str) -> Unreadable:
        text = cls()
        text.reason = reason
        return text


@contextmanager
def lines_of(file: str) -> Iterator[Iterator[str]]:
    """The lines of a file, `-` being standard input, without their ends. Not read at once.

    A byte that is no UTF-8 stays in its line as a lone surrogate, which fails that text alone.
    """
    with _opened(file) as reader:
        yield (line.rstrip("\n") for line in reader)


@contextmanager
def fields_of(file: str, field: str) -> Iterator[Iterator[str]]:
    """One field of the JSON object in each line."""
    with lines_of(file) as lines:
        yield (_field_of(line, field) for line in lines)


def _field_of(line: str, field: str) -> str:
    import orjson

    try:
        found = orjson.loads(line.encode("utf-8", "surrogateescape"))
    except orjson.JSONDecodeError:
        return Unreadable.because("the line is no JSON")
    if not isinstance(found, dict):
        return Unreadable.because("the line is no JSON object")
    text = found.get(field)
    if isinstance(text, str):
        return text
    has = f"is {type(text).__name__}, no string" if field in found else "is not in the object"
    return Unreadable.because(f"the field {field!r} {has}")


@contextmanager
def column_of(file: str, column: str) -> Iterator[Iterator[str]]:
    """One column of a CSV file, by its name in the first line. Raises `UsageError` if there is no
    such column."""
    with _opened(file, newline="") as reader:
        rows = csv.reader(reader, strict=True)
        csv.field_size_limit(LONGEST_FIELD)
        titles = next(rows, [])
        if column not in titles:
            named = ", ".join(map(repr, titles)) or "none"
            raise click.UsageError(f"--field {column}: no such column, there are: {named}")
        place = titles.index(column)
        yield _cells(rows, place, file)


def _cells(rows: Any, place: int, file: str) -> Iterator[str]:
    try:
        for row in rows:
            if row:
                yield _cell(row, place)
    except csv.Error as error:
        raise click.UsageError(f"--file {file}: no CSV at line {rows.line_num}: {error}") from None


def _cell(row: list[str], place: int) -> str:
    return row[place] if place < len(row) else Unreadable.because("the row is too short")


def count_texts(file: str, *, is_csv: bool) -> int | None:
    """How many texts an ordinary file has; None for what can be read only once."""
    path = Path(file)
    if file == "-" or not path.is_file():
        return None
    with _opened(file, newline="" if is_csv else None) as reader:
        if is_csv:
            return max(0, sum(1 for row in csv.reader(reader) if row) - 1)
        return sum(1 for _ in reader)


@contextmanager
def _opened(file: str, newline: str | None = None) -> Iterator[TextIO]:
    reading: dict[str, Any] = {
        "encoding": "utf-8-sig",
        "errors": "surrogateescape",
        "newline": newline,
    }
    if file == "-":
        yield io.TextIOWrapper(sys.stdin.buffer, **reading)
        return
    with Path(file).open(**reading) as reader:
        yield reader
