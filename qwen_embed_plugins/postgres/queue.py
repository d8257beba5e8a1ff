"""Take, read, finish: the life of a batch, one flow for each transaction.

The log is the waiting line. Taking moves keys from it under a lease; reading sees the committed
rows in a later statement; finishing writes only while the lease, the fence, still holds. Between
reading and finishing nothing is open.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from qwen_embed_plugins.postgres import _sql
from qwen_embed_plugins.postgres._flow import Flow, Row, Statement
from qwen_embed_plugins.postgres.vectors import vector_array

if TYPE_CHECKING:
    from qwen_embed_plugins.postgres.definition import Vectorizer, VectorTypes
    from qwen_embed_plugins.types import Matrix


class Item(NamedTuple):
    """A text to be embedded: `id` is its row of the work table, `attempts` its faults so far."""

    id: int
    text: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What one lease holds, read and sorted.

    `items` need a vector; `equal` have the right one already; `gone` have no row or no text.
    """

    token: int
    items: tuple[Item, ...]
    equal: tuple[int, ...]
    gone: tuple[int, ...]

    @property
    def ids(self) -> list[int]:
        return [*(item.id for item in self.items), *self.equal, *self.gone]


class Taken(NamedTuple):
    """The outcome of one take. `logged` counts rows of the log, `block` is the furthest one's."""

    batch: Batch | None
    logged: int
    block: int | None


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


def take(
    vectorizer: Vectorizer, *, worker: str, block: int, limit: int, lease_seconds: float
) -> Flow[Taken]:
    """Lease up to `limit` recorded changes from `block` on, and some retries; read their rows."""
    values: dict[str, Any] = {
        "vectorizer": vectorizer.id,
        "worker": worker,
        "lease_seconds": lease_seconds,
        "floor": f"({block},0)",
        "limit": limit,
    }
    values["token"] = (yield Statement(_sql.query("open_lease"), values))[0]["token"]
    taken = (yield Statement(vectorizer.query("take_log"), values))[0]
    if taken["truncated"]:
        yield Statement(_sql.query("add_orphans_task"), values)
    # Retries get a share of every batch, and all the room that fresh changes leave.
    share = max(limit // 4, limit - len(taken["ids"]))
    due = yield Statement(vectorizer.query("take_due"), {**values, "limit": share})
    ids = [*taken["ids"], *(row["id"] for row in due)]
    batch = yield from _read(vectorizer, values["token"], ids)
    return Taken(batch, taken["taken"], _block(taken["furthest"]))


def _block(furthest: str | None) -> int | None:
    return int(furthest.strip("()").split(",")[0]) if furthest else None


def _read(vectorizer: Vectorizer, token: int, ids: list[int]) -> Flow[Batch | None]:
    values = {"token": token, "ids": ids}
    if not ids:
        yield Statement(_sql.query("close_lease"), values)
        return None
    rows = yield Statement(vectorizer.query("read_rows"), values)
    return sort_rows(token, rows, space=vectorizer.space)


def sort_rows(token: int, rows: Sequence[Row], *, space: str) -> Batch:
    """Which rows need a vector, which have it, which must have none. Pure."""
    items, equal, gone = [], [], []
    for row in rows:
        content = row["content"]
        if content is None or not content.strip():
            gone.append(row["id"])
        elif (
            row["content_hash"] == content_hash(content)
            and row["space"] == space
            and not row["again"]
        ):
            equal.append(row["id"])
        else:
            items.append(Item(row["id"], content, row["attempts"]))
    return Batch(token, tuple(items), tuple(equal), tuple(gone))


def content_hash(text: str) -> bytes:
    """SHA-256 of the text in UTF-8: what stands beside a vector to tell whose it is."""
    return hashlib.sha256(text.encode("utf-8")).digest()


def finish(
    vectorizer: Vectorizer, batch: Batch, outcome: Outcome, *, types: VectorTypes
) -> Flow[bool]:
    """Write what became of a batch; False, and nothing written, if its lease was lost.

    The order is the protocol's: the fence first, then the work rows, so that nobody marks them
    dirty between the check and the commit; an answer for a dirty key is written, since it is newer
    than what stands there, and the key goes back into the line.
    """
    token = {"token": batch.token}
    if not (yield Statement(_sql.query("hold_lease"), token)):
        return False
    yield Statement(vectorizer.query("hold_work"), {**token, "ids": batch.ids})
    if outcome.written:
        yield _write(vectorizer, batch.token, outcome, types)
    removed = [*batch.gone, *(burial.id for burial in outcome.buried)]
    if removed:
        yield Statement(vectorizer.query("remove_vectors"), {**token, "ids": removed})
    if outcome.buried:
        yield Statement(vectorizer.query("bury_work"), {**token, **_reasons(outcome.buried)})
    for delay in outcome.delayed:
        yield Statement(
            vectorizer.query("delay_work"), {**token, **delay._asdict(), "ids": list(delay.ids)}
        )
    done = [*(item.id for item in outcome.written), *batch.equal, *batch.gone]
    yield Statement(vectorizer.query("finish_work"), {**token, "ids": done})
    yield Statement(vectorizer.query("release_dirty"), {**token, "ids": batch.ids})
    yield Statement(_sql.query("close_lease"), token)
    return True


def _write(vectorizer: Vectorizer, token: int, outcome: Outcome, types: VectorTypes) -> Statement:
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
