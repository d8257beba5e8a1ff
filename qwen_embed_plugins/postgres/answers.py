"""From an embedder's answer to what becomes of each row. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from qwen_embed_plugins.errors import without_secrets
from qwen_embed_plugins.postgres.kept import Ready
from qwen_embed_plugins.postgres.queue import Burial, Delay, Item, Outcome

if TYPE_CHECKING:
    from qwen_embed_plugins.spaces import EmbeddingSpace
    from qwen_embed_plugins.types import EmbedResult, Matrix, Role, TextError

BAD_VECTOR_ATTEMPTS = 5
_BAD_VECTOR_PAUSE_SECONDS = 2.0
_NO_OFFER_PAUSE_SECONDS = 5.0


class EmbedsTexts(Protocol):
    """What the worker needs of an embedder; `AsyncEmbedder` is one."""

    @property
    def space(self) -> EmbeddingSpace: ...

    async def embed(self, texts: Sequence[str], role: Role = "document") -> EmbedResult: ...


class Answer(NamedTuple):
    """An outcome, the reason if some texts found no offer, and vectors that rows that wait have."""

    outcome: Outcome
    no_offer: str | None
    unused: tuple[Ready, ...] = ()


def held(items: Sequence[Item]) -> Outcome:
    """The outcome when nobody could serve: all goes back into the line, no text is blamed.

    Due at once: it is the lane that waits, and a worker started later finds the work.
    """
    return Outcome(delayed=(Delay(tuple(item.id for item in items), 0.0),))


def sort_answer(items: Sequence[Item], result: EmbedResult, ready: Sequence[Ready] = ()) -> Answer:
    """Vectors are written, refused texts buried, the rest tried again; a row as a whole.

    `result` is of `items`; `ready` need not be asked for. A vector that failed its checks may be
    the provider's fault: its text dies at the fifth try.
    """
    if not result.errors and not ready:
        return Answer(Outcome(tuple(items), result.vectors, result.offers), None)
    worst: dict[int, TextError] = {}
    for error in result.errors:
        row = items[error.position]
        before = worst.get(row.id)
        if before is None or _weight(row, error) > _weight(row, before):
            worst[row.id] = error
    sorted_errors = _sort_errors(items, worst, others=_has_others(items, ready, worst))
    failed = {error.position for error in result.errors}
    answered = [
        Ready(item, result.vectors[place], result.offers[place])
        for place, item in enumerate(items)
        if place not in failed
    ]
    good = [one for one in (*answered, *ready) if one.item.id not in worst]
    buried = {burial.id for burial in sorted_errors.buried}
    unused = (one for one in (*answered, *ready) if one.item.id in worst.keys() - buried)
    outcome = replace(sorted_errors, **_written(good, result.vectors))
    no_offer = next((e.message for e in result.errors if e.kind == "no_offer"), None)
    return Answer(outcome, no_offer and without_secrets(no_offer), tuple(unused))


def _has_others(
    items: Sequence[Item], ready: Sequence[Ready], worst: Mapping[int, TextError]
) -> bool:
    return any(row not in worst for row in (*(i.id for i in items), *(r.item.id for r in ready)))


def _may_be_well(item: Item, error: TextError) -> bool:
    """Whether the text may have a vector at another try."""
    again = error.kind == "bad_vector" and item.attempts + 1 < BAD_VECTOR_ATTEMPTS
    return again or error.kind == "no_offer"


def _weight(item: Item, error: TextError) -> int:
    if not _may_be_well(item, error):
        return 2
    return 1 if error.kind == "bad_vector" else 0


def _sort_errors(items: Sequence[Item], worst: Mapping[int, TextError], *, others: bool) -> Outcome:
    """What becomes of rows that failed. `others`: there are rows that did not."""
    buried: list[Burial] = []
    delayed: list[Delay] = []
    for row, error in sorted(worst.items(), key=lambda entry: entry[1].position):
        item = items[error.position]
        if not _may_be_well(item, error):
            buried.append(Burial(row, error.kind, without_secrets(error.message)))
        elif error.kind == "no_offer":
            # Alone without an offer, it waits alone; where all are, the lane does.
            delayed.append(Delay((row,), _NO_OFFER_PAUSE_SECONDS if others else 0.0))
        else:
            pause = _BAD_VECTOR_PAUSE_SECONDS * 2**item.attempts
            delayed.append(Delay((row,), pause, faults=1))
    return Outcome(buried=tuple(buried), delayed=_grouped(delayed))


def standing(ready: Sequence[Ready]) -> Outcome:
    """The outcome where nothing needs to be asked for."""
    return Outcome(**_written(ready, np.empty((0, 0), np.float32)))


def _written(ready: Sequence[Ready], like: Matrix) -> dict[str, Any]:
    vectors = [one.vector for one in ready if one.vector is not None]
    return {
        "written": tuple(one.item for one in ready),
        "vectors": np.stack(vectors) if vectors else like[:0],
        "offers": tuple(one.offer for one in ready if one.vector is not None),
    }


def _grouped(delays: Sequence[Delay]) -> tuple[Delay, ...]:
    groups: dict[tuple[float, int], list[int]] = {}
    for delay in delays:
        groups.setdefault((delay.pause_seconds, delay.faults), []).extend(delay.ids)
    return tuple(Delay(tuple(ids), pause, faults) for (pause, faults), ids in groups.items())
