"""The texts of `embed`: arguments, or the lines of a file, in portions of bounded size."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

PORTION_TEXTS = 2048
"""32 MB of vectors at 4,096 numbers, and enough batches to keep every connection busy."""

PORTION_CHARACTERS = 1 << 22


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


@contextmanager
def lines_of(file: str) -> Iterator[Iterator[str]]:
    """The lines of a file, `-` being standard input, without their ends. Not read at once.

    A byte that is no UTF-8 stays in its line as a lone surrogate, which fails that text alone.
    """
    if file == "-":
        stream = sys.stdin.buffer
        reader = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape")
        yield (line.rstrip("\n") for line in reader)
        return
    with Path(file).open(encoding="utf-8-sig", errors="surrogateescape") as reader:
        yield (line.rstrip("\n") for line in reader)


def count_lines(file: str) -> int | None:
    """How many lines an ordinary file has; None for what can be read only once."""
    path = Path(file)
    if file == "-" or not path.is_file():
        return None
    with path.open(encoding="utf-8", errors="surrogateescape") as reader:
        return sum(1 for _ in reader)
