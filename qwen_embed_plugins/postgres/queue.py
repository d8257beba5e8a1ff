"""Take, read, finish: the life of a batch, one flow for each transaction.

The log is the waiting line. Taking moves keys from it under a lease; reading sees the committed
rows in a later statement; finishing writes only while the lease, the fence, still holds. Between
reading and finishing nothing is open.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import psycopg
from psycopg import sql

from qwen_embed_plugins.postgres import _sql, blame, writing
from qwen_embed_plugins.postgres._flow import Flow, Row, Statement
from qwen_embed_plugins.postgres.vectors import ids_array
from qwen_embed_plugins.tokens import BYTES_PER_TOKEN, estimate_tokens

if TYPE_CHECKING:
    from qwen_embed_plugins.postgres.definition import Vectorizer, VectorTypes
    from qwen_embed_plugins.types import Matrix


LEASE_TOKENS = 500_000
"""What one lease holds, by the estimate; and four bytes for each of them. 500 rows of a page or two
fit in, or 16 of 32,768 tokens. The row that crosses the line goes along."""

LEASE_CHUNKS = 1_000
"""Chunks of a lease, roughly: their vectors weigh more than their text."""

LONGEST_BYTES = 32 << 20
"""A longer text is read by no one: 32,768 tokens of a kilobyte each, where the longest token of a
published vocabulary has some hundred bytes."""


class Item(NamedTuple):
    """A text to be embedded, a row's or a chunk of it.

    `id` is its row of the work table, `attempts` the row's faults so far, `row_hash` of the row's
    whole text, in which it starts at `start`. `stands` is the chunk in the side table that has its
    text, and so its vector.
    """

    id: int
    text: str
    attempts: int
    row_hash: bytes = b""
    chunk: int = 0
    start: int = 0
    stands: int | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """What one lease holds, read and sorted.

    `items` need a vector; `equal` have the right one already; `gone` have no row or no text;
    `bad` have a text that cannot be read. `tokens` is the estimate for all items, `octets` the
    length of all texts that were read. `standing` has the chunks of items in the side table, by id
    and hash of their text.
    """

    token: int
    items: tuple[Item, ...]
    equal: tuple[int, ...]
    gone: tuple[int, ...]
    bad: tuple[Burial, ...] = ()
    tokens: int = 0
    octets: int = 0
    standing: Mapping[tuple[int, bytes], int] = field(default_factory=dict)

    @property
    def ids(self) -> list[int]:
        bad = (burial.id for burial in self.bad)
        return [*(item.id for item in self.items), *self.equal, *self.gone, *bad]


class Scan(NamedTuple):
    """A look into the log: the furthest block that rows came from, whether it ran out of rows."""

    block: int | None
    short: bool


class Taken(NamedTuple):
    """The outcome of one take: `scan` is None if retries left no room for the log.

    `room` is how many rows like these fit into one lease; None where no text tells.
    """

    batch: Batch | None
    scan: Scan | None
    room: int | None


class Burial(NamedTuple):
    """A text that nobody takes: its work row and what was said about it."""

    id: int
    kind: str
    message: str


class Delay(NamedTuple):
    """Work to be tried again after a pause; `faults` is 1 if the text was at fault, else 0."""

    ids: tuple[int, ...]
    pause_seconds: float
    faults: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a batch. `written` has all items of a row or none.

    `vectors` (n, d) and `offers` belong, in order, to those of `written` that do not stand.
    """

    written: tuple[Item, ...] = ()
    vectors: Matrix = field(default_factory=lambda: np.empty((0, 0), np.float32))
    offers: tuple[str | None, ...] = ()
    buried: tuple[Burial, ...] = ()
    delayed: tuple[Delay, ...] = field(default=())

    def only(self, rows: Collection[int]) -> Outcome:
        """The same with the written items of these rows alone."""
        wanted = set(rows)
        if all(item.id in wanted for item in self.written):
            return self
        paid = [item.id in wanted for item in self.written if item.stands is None]
        return replace(
            self,
            written=tuple(item for item in self.written if item.id in wanted),
            vectors=self.vectors[np.array(paid, dtype=bool)],
            offers=tuple(offer for offer, kept in zip(self.offers, paid, strict=True) if kept),
        )

    def without(self, rows: Collection[int]) -> Outcome:
        """The same without the written items of these rows."""
        return self.only({item.id for item in self.written}.difference(rows)) if rows else self

    def places(self) -> list[int | None]:
        """For each written item the place of its vector among `vectors`, from 1."""
        numbers = itertools.count(1)
        return [next(numbers) if item.stands is None else None for item in self.written]


def take(
    vectorizer: Vectorizer,
    *,
    worker: str,
    block: int,
    limit: int,
    lease_seconds: float,
    due_first: bool = False,
    short: bool = False,
) -> Flow[Taken]:
    """Lease up to `limit` recorded changes from `block` on, or due retries, and read their rows.

    `short` says that all their texts are likely to fit into one lease: they are read faster.
    Whatever is first may fill the batch. With turns taken, retries never starve new rows nor new
    rows retries.
    """
    opened = yield Statement(
        _sql.query("open_lease"),
        {"vectorizer": vectorizer.id, "worker": worker, "lease_seconds": lease_seconds},
    )
    token = opened[0]["token"]
    due = (yield from _take_due(vectorizer, token, limit)) if due_first else []
    logged, scan = yield from _take_log(vectorizer, token, block, limit - len(due))
    if not due_first:
        due = yield from _take_due(vectorizer, token, limit - len(logged))
    ids = [*due, *logged]
    if not ids:
        yield Statement(_sql.query("close_lease"), {"token": token})
        return Taken(None, scan, limit)
    batch = yield from _read(vectorizer, token, ids, short)
    room = rows_that_fit(batch, lease_tokens(vectorizer)) if batch.octets else None
    return Taken(batch, scan, room)


def _take_due(vectorizer: Vectorizer, token: int, limit: int) -> Flow[list[int]]:
    if limit <= 0:
        return []
    rows = yield Statement(vectorizer.query("take_due"), {"token": token, "limit": limit})
    return [row["id"] for row in rows]


def _take_log(
    vectorizer: Vectorizer, token: int, block: int, limit: int
) -> Flow[tuple[list[int], Scan | None]]:
    if limit <= 0:
        return [], None
    values: dict[str, Any] = {"token": token, "floor": f"({block},0)", "limit": limit}
    taken = (yield Statement(vectorizer.query("take_log"), values))[0]
    if taken["truncated"]:
        yield Statement(_sql.query("add_orphans_task"), {"vectorizer": vectorizer.id})
    return taken["ids"], Scan(_block(taken["furthest"]), taken["taken"] < limit)


def _block(furthest: str | None) -> int | None:
    return int(furthest.strip("()").split(",")[0]) if furthest else None


def lease_tokens(vectorizer: Vectorizer) -> int:
    """How many tokens one lease of it holds: fewer where they make many chunks. Pure."""
    if vectorizer.chunk_tokens is None:
        return LEASE_TOKENS
    return min(LEASE_TOKENS, LEASE_CHUNKS * (vectorizer.chunk_tokens - vectorizer.chunk_overlap))


def rows_that_fit(batch: Batch, capacity: int) -> int:
    """How many rows like a batch's a lease of so many tokens would hold; at least 1. Pure."""
    load = max(1, batch.tokens, batch.octets // BYTES_PER_TOKEN)
    return max(1, len(batch.ids) * capacity // load)


def _read(vectorizer: Vectorizer, token: int, ids: list[int], short: bool) -> Flow[Batch]:
    """The rows of these keys, as far as one lease has room; the other keys are given back."""
    rows: list[Row] = []
    capacity = lease_tokens(vectorizer)
    query = sql.Literal(vectorizer.query("read_rows").as_string())

    def read(part: Sequence[int]) -> Flow[psycopg.Error | None]:
        held = sum(row["octets"] for row in rows if row["content"] is not None)
        room = capacity * BYTES_PER_TOKEN - held
        values = {
            "token": token,
            "ids": ids_array(part),
            "room": room,
            "longest": LONGEST_BYTES,
            "short": short,
        }
        found = yield from blame.tried(
            Statement(vectorizer.query("read_within", query=query), values)
        )
        if isinstance(found, psycopg.Error):
            return found
        rows.extend(found)
        return None

    errors = yield from blame.apart(ids, read)
    bad = [
        Burial(place, "bad_content", f"the row's text cannot be read: {blame.reason(error)}")
        for place, error in errors.items()
    ]
    batch = sort_rows(token, rows, space=vectorizer.space, bad=bad, capacity=capacity)
    unread = sorted(set(ids) - set(batch.ids))
    if unread:
        yield Statement(vectorizer.query("return_unread"), {"token": token, "ids": unread})
    if vectorizer.chunk_tokens is not None:
        had = {row["id"] for row in rows if row["content_hash"] is not None and not row["again"]}
        changed = [item.id for item in batch.items if item.id in had]
        batch = replace(batch, standing=(yield from _read_chunks(vectorizer, token, changed)))
    return batch


def _read_chunks(
    vectorizer: Vectorizer, token: int, ids: list[int]
) -> Flow[dict[tuple[int, bytes], int]]:
    if not ids:
        return {}
    values = {"token": token, "ids": ids}
    rows = yield Statement(vectorizer.query("read_chunks"), values)
    return {(row["id"], row["text_hash"]): row["chunk"] for row in rows}


def sort_rows(
    token: int,
    rows: Sequence[Row],
    *,
    space: str,
    bad: Sequence[Burial] = (),
    capacity: int = LEASE_TOKENS,
) -> Batch:
    """Which rows need a vector, which have it, which must have none, up to what a lease holds.

    Pure. The batch leaves out what is beyond.
    """
    items, equal, gone, refused = [], [], [], list(bad)
    tokens = 0
    for row in rows:
        content = row["content"]
        if row["octets"] > LONGEST_BYTES:
            refused.append(Burial(row["id"], "too_large", _too_long(row["octets"])))
        elif content is None or not content.strip():
            gone.append(row["id"])
        elif (
            row["content_hash"] == (digest := content_hash(content))
            and row["space"] == space
            and not row["again"]
        ):
            equal.append(row["id"])
        elif tokens < capacity:
            tokens += estimate_tokens(content)
            items.append(Item(row["id"], content, row["attempts"], digest))
    octets = sum(row["octets"] for row in rows if row["content"] is not None)
    return Batch(token, tuple(items), tuple(equal), tuple(gone), tuple(refused), tokens, octets)


def _too_long(octets: int) -> str:
    return f"the row's text has {octets} bytes, at most {LONGEST_BYTES} are read. Shorten it."


def content_hash(text: str) -> bytes:
    """SHA-256 of the text in UTF-8: what stands beside a vector to tell whose it is."""
    return hashlib.sha256(text.encode("utf-8")).digest()


def finish(
    vectorizer: Vectorizer,
    batch: Batch,
    outcome: Outcome,
    *,
    types: VectorTypes,
    others_pass: bool = False,
) -> Flow[Outcome | None]:
    """Write what became of a batch, and give it; None, and nothing written, if its lease was lost.

    A row that cannot be written becomes a dead letter and the others are written. Where none can,
    and each may be well, the error is raised: unless `others_pass` says that other rows can.

    The order is the protocol's: the fence first, then the work rows, so that nobody marks them
    dirty between the check and the commit; an answer for a dirty key is written, since it is newer
    than what stands there, and the key goes back into the line.
    """
    token = {"token": batch.token}
    if not (yield Statement(_sql.query("hold_lease"), token)):
        return None
    all_ids = ids_array(batch.ids)
    yield Statement(vectorizer.query("hold_work"), {**token, "ids": all_ids})
    # In a column both were done before, a part at a time.
    if not vectorizer.in_column:
        outcome = yield from write_vectors(vectorizer, batch.token, outcome, types, others_pass)
    buried = [*batch.bad, *outcome.buried]
    removed = [*batch.gone, *(burial.id for burial in buried)]
    if removed and not vectorizer.in_column:
        yield Statement(vectorizer.query("remove_vectors"), {**token, "ids": removed})
    if buried:
        yield Statement(vectorizer.query("bury_work"), {**token, **_reasons(buried)})
    for delay in outcome.delayed:
        yield Statement(
            vectorizer.query("delay_work"), {**token, **delay._asdict(), "ids": list(delay.ids)}
        )
    written = {item.id for item in outcome.written}
    done = ids_array([*written, *batch.equal, *batch.gone])
    yield Statement(vectorizer.query("finish_work"), {**token, "ids": done})
    yield Statement(vectorizer.query("release_dirty"), {**token, "ids": all_ids})
    yield Statement(_sql.query("close_lease"), token)
    return outcome


def write_vectors(
    vectorizer: Vectorizer, token: int, outcome: Outcome, types: VectorTypes, others_pass: bool
) -> Flow[Outcome]:
    """Write the vectors; in the outcome it gives, rows that cannot be written are to be buried."""
    missing = yield from writing.rows_without(vectorizer, token, outcome)
    if missing:
        again = Delay(tuple(missing), 0.0)
        outcome = replace(outcome.without(missing), delayed=(*outcome.delayed, again))
    if not outcome.written:
        return outcome
    errors = yield from writing.write(vectorizer, token, outcome, types)
    kept = outcome.without(errors)
    if errors and not kept.written and not others_pass:
        for error in errors.values():
            if not blame.is_surely_of_the_row(error):
                raise error
    buried = [
        Burial(row, "bad_content", f"the row's vector cannot be written: {blame.reason(error)}")
        for row, error in errors.items()
    ]
    return replace(kept, buried=(*outcome.buried, *buried))


def _reasons(buried: Sequence[Burial]) -> dict[str, list[Any]]:
    return {
        "ids": [burial.id for burial in buried],
        "kinds": [burial.kind for burial in buried],
        "messages": [burial.message for burial in buried],
    }


def hand_back(vectorizer: Vectorizer, batch: Batch) -> Flow[None]:
    """Give a batch up unfinished: anyone may take it at once."""
    values = {"token": batch.token, "ids": batch.ids, "pause_seconds": 0, "faults": 0}
    if (yield Statement(_sql.query("hold_lease"), values)):
        # In key order, as takes do it: the update alone could deadlock with one.
        yield Statement(vectorizer.query("hold_work"), values)
        yield Statement(vectorizer.query("delay_work"), values)
        yield Statement(_sql.query("close_lease"), values)


def extend(tokens: Sequence[int], lease_seconds: float) -> Flow[set[int]]:
    """The heartbeat of all batches in flight; gives the tokens it reached."""
    rows = yield Statement(
        _sql.query("extend_leases"), {"tokens": list(tokens), "lease_seconds": lease_seconds}
    )
    return {row["token"] for row in rows}


def reap(vectorizer: Vectorizer) -> Flow[None]:
    """Free what workers held that went silent."""
    yield Statement(vectorizer.query("reap_leases"), {"vectorizer": vectorizer.id})
