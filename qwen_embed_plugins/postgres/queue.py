"""Take, read, finish: the life of a batch, one flow for each transaction.

The log is the waiting line. Taking moves keys from it under a lease; reading sees the committed
rows in a later statement; finishing writes only while the lease, the fence, still holds. Between
reading and finishing nothing is open.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import psycopg
from psycopg import sql

from qwen_embed_plugins.postgres import _sql, blame
from qwen_embed_plugins.postgres._flow import Flow, Row, Statement
from qwen_embed_plugins.postgres.vectors import vector_array
from qwen_embed_plugins.tokens import BYTES_PER_TOKEN, estimate_tokens

if TYPE_CHECKING:
    from qwen_embed_plugins.postgres.definition import Vectorizer, VectorTypes
    from qwen_embed_plugins.types import Matrix


LEASE_TOKENS = 500_000
"""What one lease holds, by the estimate; and four bytes for each of them. 500 rows of a page or two
fit in, or 16 of 32,768 tokens. The row that crosses the line goes along."""

LONGEST_BYTES = 32 << 20
"""A longer text is read by no one: 32,768 tokens of a kilobyte each, where the longest token of a
published vocabulary has some hundred bytes."""


class Item(NamedTuple):
    """A text to be embedded: `id` is its row of the work table, `attempts` its faults so far."""

    id: int
    text: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What one lease holds, read and sorted.

    `items` need a vector; `equal` have the right one already; `gone` have no row or no text;
    `bad` have a text that cannot be read. `tokens` is the estimate for all items, `octets` the
    length of all texts that were read.
    """

    token: int
    items: tuple[Item, ...]
    equal: tuple[int, ...]
    gone: tuple[int, ...]
    bad: tuple[Burial, ...] = ()
    tokens: int = 0
    octets: int = 0

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

    `room` is how many rows like these fit into one lease.
    """

    batch: Batch | None
    scan: Scan | None
    room: int


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
    """What became of a batch. `vectors` (n, d) and `offers` belong to `written`, in order."""

    written: tuple[Item, ...] = ()
    vectors: Matrix = field(default_factory=lambda: np.empty((0, 0), np.float32))
    offers: tuple[str | None, ...] = ()
    buried: tuple[Burial, ...] = ()
    delayed: tuple[Delay, ...] = field(default=())

    def only(self, places: Sequence[int]) -> Outcome:
        """The same with these of its written items alone."""
        if len(places) == len(self.written):
            return self
        return replace(
            self,
            written=tuple(self.written[place] for place in places),
            vectors=self.vectors[list(places)],
            offers=tuple(self.offers[place] for place in places),
        )


def take(
    vectorizer: Vectorizer,
    *,
    worker: str,
    block: int,
    limit: int,
    lease_seconds: float,
    due_first: bool = False,
) -> Flow[Taken]:
    """Lease up to `limit` recorded changes from `block` on, or due retries, and read their rows.

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
    batch = yield from _read(vectorizer, token, ids)
    return Taken(batch, scan, rows_that_fit(batch))


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


def rows_that_fit(batch: Batch) -> int:
    """How many rows like those of a batch one lease would hold; at least 1. Pure."""
    load = max(1, batch.tokens, batch.octets // BYTES_PER_TOKEN)
    return max(1, len(batch.ids) * LEASE_TOKENS // load)


def _read(vectorizer: Vectorizer, token: int, ids: list[int]) -> Flow[Batch]:
    """The rows of these keys, as far as one lease has room; the other keys are given back."""
    rows: list[Row] = []
    query = sql.Literal(vectorizer.query("read_rows").as_string())

    def read(part: Sequence[int]) -> Flow[psycopg.Error | None]:
        held = sum(row["octets"] for row in rows if row["content"] is not None)
        room = LEASE_TOKENS * BYTES_PER_TOKEN - held
        values = {"token": token, "ids": list(part), "room": room, "longest": LONGEST_BYTES}
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
    batch = sort_rows(token, rows, space=vectorizer.space, bad=bad)
    unread = sorted(set(ids) - set(batch.ids))
    if unread:
        yield Statement(vectorizer.query("return_unread"), {"token": token, "ids": unread})
    return batch


def sort_rows(token: int, rows: Sequence[Row], *, space: str, bad: Sequence[Burial] = ()) -> Batch:
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
            row["content_hash"] == content_hash(content)
            and row["space"] == space
            and not row["again"]
        ):
            equal.append(row["id"])
        elif tokens < LEASE_TOKENS:
            tokens += estimate_tokens(content)
            items.append(Item(row["id"], content, row["attempts"]))
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
    yield Statement(vectorizer.query("hold_work"), {**token, "ids": batch.ids})
    outcome = yield from _write(vectorizer, batch.token, outcome, types, others_pass)
    buried = [*batch.bad, *outcome.buried]
    removed = [*batch.gone, *(burial.id for burial in buried)]
    if removed:
        yield Statement(vectorizer.query("remove_vectors"), {**token, "ids": removed})
    if buried:
        yield Statement(vectorizer.query("bury_work"), {**token, **_reasons(buried)})
    for delay in outcome.delayed:
        yield Statement(
            vectorizer.query("delay_work"), {**token, **delay._asdict(), "ids": list(delay.ids)}
        )
    done = [*(item.id for item in outcome.written), *batch.equal, *batch.gone]
    yield Statement(vectorizer.query("finish_work"), {**token, "ids": done})
    yield Statement(vectorizer.query("release_dirty"), {**token, "ids": batch.ids})
    yield Statement(_sql.query("close_lease"), token)
    return outcome


def _write(
    vectorizer: Vectorizer, token: int, outcome: Outcome, types: VectorTypes, others_pass: bool
) -> Flow[Outcome]:
    """Write the vectors; in the outcome it gives, rows that cannot be written are to be buried."""

    def write(places: Sequence[int]) -> Flow[psycopg.Error | None]:
        statement = _write_some(vectorizer, token, outcome.only(places), types)
        rows = yield from blame.tried(statement)
        return rows if isinstance(rows, psycopg.Error) else None

    places = range(len(outcome.written))
    errors = yield from blame.apart(places, write)
    if not errors:
        return outcome
    if len(errors) == len(places) and not others_pass:
        for error in errors.values():
            if not blame.is_surely_of_the_row(error):
                raise error
    buried = [
        Burial(
            outcome.written[place].id,
            "bad_content",
            f"the row's vector cannot be written: {blame.reason(error)}",
        )
        for place, error in errors.items()
    ]
    kept = outcome.only([place for place in places if place not in errors])
    return replace(kept, buried=(*outcome.buried, *buried))


def _write_some(
    vectorizer: Vectorizer, token: int, outcome: Outcome, types: VectorTypes
) -> Statement:
    texts = [item.text for item in outcome.written]
    return Statement(
        vectorizer.query("write_vectors", vector_type=vectorizer.vector_type(types)),
        {
            "token": token,
            "ids": [item.id for item in outcome.written],
            "texts": texts,
            "vectors": vector_array(
                outcome.vectors,
                storage=vectorizer.storage,
                type_oid=types.oids[vectorizer.storage],
            ),
            "hashes": [content_hash(text) for text in texts],
            "offers": list(outcome.offers),
        },
    )


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
