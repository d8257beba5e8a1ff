"""What a page of `pg status` keeps of earlier looks, so that its charts show a time. Pure.

The database keeps no history, and needs none: whoever wants a chart has the page written again and
again, and it carries its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

KEPT_SECONDS = 7 * 86_400.0
"""Older samples are forgotten: in a longer chart the last hours would be a hair's breadth."""

MOST_SAMPLES = 500
"""Finer than a screen has points."""

FEWEST_SAMPLES = 20

MOST_FIGURES = 20_000
"""Samples times vectorizers, so that a page stays at a few megabytes with hundreds of them."""


class Figures(NamedTuple):
    """What a chart needs of one vectorizer: rows to do (waiting, leased and ahead of walks), dead
    rows, and the speed of its workers."""

    to_do: int
    dead: int
    rows_per_second: float
    tokens_per_second: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One look, at a moment in seconds since the epoch."""

    at: float
    figures: Mapping[str, Figures]


@dataclass(frozen=True, slots=True)
class History:
    """Samples of one database, the oldest first."""

    database: str
    samples: Sequence[Sample] = field(default_factory=list)


def with_sample(history: History, sample: Sample) -> History:
    """The history with one more at its end, and without what is too old or too much."""
    known = [
        item for item in history.samples if sample.at - KEPT_SECONDS <= item.at < sample.at
    ]  # a clock may have been put back
    most = MOST_FIGURES // max(1, len(sample.figures))
    most = max(FEWEST_SAMPLES, min(MOST_SAMPLES, most))
    return History(history.database, thinned([*known, sample], most))


def thinned(samples: Sequence[Sample], most: int) -> list[Sample]:
    """At most so many: each second one of the older half goes, as often as it takes. What is older
    was thinned more often, and what is new is whole."""
    kept = list(samples)
    while len(kept) > most:
        half = len(kept) // 2
        kept = kept[:half:2] + kept[half:]
    return kept


def dumped(history: History) -> str:
    """The history as JSON that may stand in a page: it has no sign that ends an element."""
    samples = [
        {"at": round(item.at, 3), "vectorizers": {k: list(v) for k, v in item.figures.items()}}
        for item in history.samples
    ]
    said = json.dumps({"database": history.database, "samples": samples}, separators=(",", ":"))
    for sign in "<>&":
        said = said.replace(sign, f"\\u{ord(sign):04x}")
    return said


def loaded(said: str) -> History:
    """The history again. Raises ValueError for what cannot be one: people edit files."""
    try:
        found = json.loads(said)
        samples = [_sample(item) for item in found["samples"]]
        return History(str(found["database"]), sorted(samples, key=lambda sample: sample.at))
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise ValueError("no samples") from error


def _sample(said: Any) -> Sample:
    figures = {str(name): _figures(*values) for name, values in said["vectorizers"].items()}
    return Sample(_number(said["at"]), figures)


def _figures(to_do: Any, dead: Any, rows: Any, tokens: Any) -> Figures:
    return Figures(int(_number(to_do)), int(_number(dead)), _number(rows), _number(tokens))


def _number(said: Any) -> float:
    if isinstance(said, bool) or not isinstance(said, int | float) or not math.isfinite(said):
        raise TypeError("no number")
    if said < 0:
        raise ValueError("below zero")
    return said
