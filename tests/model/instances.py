"""The small worlds that are explored, and the bugs that each of them is small enough to show."""

from __future__ import annotations

from dataclasses import replace

from tests.model.states import ABSENT, Bug, Instance

CHANGES = Instance(statements=3)
"""One key, two workers; three changes of the row, each committed early or late."""

TRUNCATES = Instance(statements=2, truncate=True, walkers=1, rollback=True)
"""TRUNCATE and its walk among them."""

SWEEPS = replace(TRUNCATES, start=(1,), rollback=False)
"""The same for a row that has its vector already."""

REFUSALS = replace(
    TRUNCATES, outcomes=("written", "refused", "later", "held"), by_hand=True, rollback=False
)
"""Answers of all kinds; enqueue() and retry()."""

SKIPS = Instance(statements=2, start=(1,), tasks=("backfill",), walkers=1, empty=True)
"""A row that is looked at although it did not change; texts that become empty."""

TWO_KEYS = Instance(keys=2, statements=2, start=(1, ABSENT), per_transaction=2, room=True)
"""Two keys in one transaction of the writer and in one batch, or in two for want of room."""

LATE = Instance(keys=2, statements=2, writers=2, start=(1, 2), texts=3)
"""Two writers; the first to write may be the last to commit."""

BACKFILL = Instance(
    keys=2, statements=0, start=(1, 2), embedded=False, tasks=("backfill",), walkers=1, portion=1
)
"""A walk in two portions over rows that have no vector yet."""

DOUBTS = Instance(statements=2, start=(1,), audit=True)
"""An audit that wants vectors made again, among changes."""

SMALL: dict[str, Instance] = {
    "changes": CHANGES,
    "truncates": TRUNCATES,
    "sweeps": SWEEPS,
    "refusals": REFUSALS,
    "skips": SKIPS,
    "two keys": TWO_KEYS,
    "late": LATE,
    "backfill": BACKFILL,
    "doubts": DOUBTS,
}

LARGE: dict[str, Instance] = {
    "four changes": replace(CHANGES, statements=4),
    "three workers": replace(CHANGES, workers=3),
    "three workers, two keys": replace(TWO_KEYS, workers=3, room=False),
    "truncates again": replace(SWEEPS, statements=3),
    "two walkers": replace(TRUNCATES, walkers=2, by_hand=True),
    "refusals again": replace(REFUSALS, statements=3),
    "backfill among changes": replace(BACKFILL, statements=1),
    "two keys again": replace(TWO_KEYS, statements=3, rollback=True),
}

BUGS: dict[Bug, tuple[str, str]] = {
    "claim and read in one statement": ("changes", "every vector is of its text"),
    "a version of the row as fence": ("changes", "every vector is of its text"),
    "no dirty flag": ("changes", "every vector is of its text"),
    "an unchecked hash skip": ("skips", "every vector is of its text"),
    "a sweep by DELETE": ("sweeps", "every vector is of its text"),
    "a finish without the source": ("truncates", "every vector is of its text"),
    "no fence at all": ("changes", "answers are kept"),
    "an answer for a changed key is dropped": ("changes", "answers are kept"),
    "a burial without the source": ("refusals", "every vector is of its text"),
    "walks pass over dead letters": ("refusals", "every vector is of its text"),
    "a doubt is forgotten": ("doubts", "every vector is of its text"),
    "work that is due is not taken": ("changes", "stuck"),
}
"""Where each planted bug is found, and which law it breaks first."""
