"""Writing vectors into a column of the user's own table: few rows at a time, none waited for.

Whatever is done here the user's transactions can notice: see docs/postgres.md. So a part is small,
its rows are locked in key order and only if nobody else has them, and what could not be locked is
tried again with the vectors that were paid for.
"""

from __future__ import annotations

from collections.abc import Collection, Set
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg

from qwen_embed_plugins.postgres import _sql, blame
from qwen_embed_plugins.postgres._flow import Flow, Statement
from qwen_embed_plugins.postgres.kept import Ready
from qwen_embed_plugins.postgres.queue import Batch, Burial, Delay, Outcome, write_vectors

if TYPE_CHECKING:
    from qwen_embed_plugins.postgres.definition import Vectorizer, VectorTypes

ROWS_AT_ONCE = 50
"""In one transaction. An app's update of such a row waits for it: 500 rows of 1,024 numbers with an
index took 186 ms, 50 took 19."""

ROUNDS = 8
LOCKED_PAUSE_SECONDS = 2.0


class OwnWriteChangesText(Exception):
    """Writing a vector changed the row's text, by a user's trigger: it would be paid for ever."""


class Written(NamedTuple):
    """What became of a part: rows that someone else has locked, and rows that cannot be written."""

    locked: Set[int]
    buried: tuple[Burial, ...]


@dataclass
class Parts:
    """A batch on its way into a column, some rows of it `waiting`; those in `clearing` are to have
    no vector any more."""

    batch: Batch
    outcome: Outcome
    waiting: list[int] = field(default_factory=list)
    clearing: Set[int] = frozenset()
    rounds: int = 0

    def __post_init__(self) -> None:
        buried = (burial.id for burial in (*self.batch.bad, *self.outcome.buried))
        self.clearing = frozenset((*self.batch.gone, *buried))
        written = dict.fromkeys(item.id for item in self.outcome.written)
        self.waiting = [*written, *sorted(self.clearing - written.keys())]

    @property
    def next(self) -> list[int]:
        """The rows of the next transaction."""
        return self.waiting[:ROWS_AT_ONCE]

    def note(self, rows: Collection[int], written: Written) -> bool:
        """Take in what became of these rows; says whether any of them was done."""
        kept = self.outcome.without({burial.id for burial in written.buried})
        self.outcome = replace(kept, buried=(*kept.buried, *written.buried))
        self.clearing |= {burial.id for burial in written.buried}
        # Rows that are to be cleared now come again, as do those that are locked, after the others.
        again = [*(burial.id for burial in written.buried), *sorted(written.locked)]
        self.waiting = [row for row in self.waiting if row not in set(rows)] + again
        return len(written.locked) < len(rows)

    def give_up(self) -> tuple[Batch, Outcome, list[Ready]]:
        """What is left to be finished, and the vectors of rows that stay locked: those wait."""
        left = set(self.waiting)
        unwritten = self.outcome.only(left & {item.id for item in self.outcome.written})
        unused = [
            Ready(*one)
            for one in zip(unwritten.written, unwritten.vectors, unwritten.offers, strict=True)
        ]
        outcome = self.outcome.without(left)
        delay = (Delay(tuple(left), LOCKED_PAUSE_SECONDS),) if left else ()
        outcome = replace(
            outcome,
            buried=tuple(burial for burial in outcome.buried if burial.id not in left),
            delayed=(*outcome.delayed, *delay),
        )
        batch = replace(
            self.batch,
            gone=tuple(row for row in self.batch.gone if row not in left),
            bad=tuple(burial for burial in self.batch.bad if burial.id not in left),
        )
        return batch, outcome, unused


def write_part(
    vectorizer: Vectorizer, parts: Parts, *, types: VectorTypes, others_pass: bool
) -> Flow[Written | None]:
    """Write the next rows of a batch; None, and nothing written, if its lease was lost.

    Raises `OwnWriteChangesText`.
    """
    rows = parts.next
    token = {"token": parts.batch.token}
    if not (yield Statement(_sql.query("hold_lease"), token)):
        return None
    yield Statement(vectorizer.query("hold_work"), {**token, "ids": rows})
    mine = yield from _ids(vectorizer, "lock_rows", {**token, "ids": rows})
    there = yield from _ids(vectorizer, "find_rows", {**token, "ids": rows})
    locked = there - mine
    writing = parts.outcome.only(mine - parts.clearing)
    changing = {**token, "ids": [item.id for item in writing.written]}
    before = yield from _texts(vectorizer, changing)
    yield Statement(_sql.query("find_users_names"))
    became = yield from write_vectors(vectorizer, parts.batch.token, writing, types, others_pass)
    if before != (yield from _texts(vectorizer, changing)):
        raise OwnWriteChangesText
    cleared = [row for row in rows if row in parts.clearing and row not in locked]
    if cleared:
        yield Statement(vectorizer.query("clear_column"), {**token, "ids": cleared})
    buried = became.buried[len(writing.buried) :]
    unfinished = {*locked, *(burial.id for burial in buried), *parts.clearing}
    done = [row for row in rows if row not in unfinished]
    yield Statement(vectorizer.query("finish_work"), {**token, "ids": done})
    return Written(locked, buried)


def _ids(vectorizer: Vectorizer, query: str, values: dict[str, Any]) -> Flow[frozenset[int]]:
    rows = yield Statement(vectorizer.query(query), values)
    return frozenset(row["id"] for row in rows)


def _texts(vectorizer: Vectorizer, values: dict[str, Any]) -> Flow[dict[int, bytes | None]]:
    """The hash of each locked row's text; nothing if one can no longer be computed."""
    if not values["ids"]:
        return {}
    rows = yield from blame.tried(Statement(vectorizer.query("read_locked"), values))
    if isinstance(rows, psycopg.Error):
        return {}
    return {row["id"]: row["content_hash"] for row in rows}


def pause(vectorizer: Vectorizer, message: str) -> Flow[None]:
    """Stop a vectorizer that would pay for ever."""
    yield Statement(_sql.query("pause_for"), {"vectorizer": vectorizer.id, "message": message})


def why_paused(vectorizer: Vectorizer) -> str:
    """For people: what to do about `OwnWriteChangesText`."""
    return (
        f"writing a vector into {vectorizer.source_table} changes the text that it is of (by a "
        "trigger that sets updated_at?), which would be paid for without end. Take that column out "
        "of the text (redefine), or drop it and create it with a side table; then resume."
    )
