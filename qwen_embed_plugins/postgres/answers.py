"""From an embedder's answer to what becomes of each row. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from qwen_embed_plugins.errors import without_secrets
from qwen_embed_plugins.postgres.queue import Burial, Delay, Item, Outcome

if TYPE_CHECKING:
    from qwen_embed_plugins.spaces import EmbeddingSpace
    from qwen_embed_plugins.types import EmbedResult, Role

BAD_VECTOR_ATTEMPTS = 5
_BAD_VECTOR_PAUSE_SECONDS = 2.0
_NO_OFFER_PAUSE_SECONDS = 5.0


class EmbedsTexts(Protocol):
    """What the worker needs of an embedder; `AsyncEmbedder` is one."""

    @property
    def space(self) -> EmbeddingSpace: ...

    async def embed(self, texts: Sequence[str], role: Role = "document") -> EmbedResult: ...


class Answer(NamedTuple):
    """An outcome, and the reason if some texts found no offer."""

    outcome: Outcome
    no_offer: str | None


def held(items: Sequence[Item]) -> Outcome:
    """The outcome when nobody could serve: all goes back into the line, no text is blamed.

    Due at once: it is the lane that waits, and a worker started later finds the work.
    """
    return Outcome(delayed=(Delay(tuple(item.id for item in items), 0.0),))


def sort_answer(items: Sequence[Item], result: EmbedResult) -> Answer:
    """Vectors are written, refused texts buried, the rest tried again.

    A vector that failed its checks may be the provider's fault: its text dies at the fifth try.
    """
    failed = {error.position: error for error in result.errors}
    good = [position for position in range(len(items)) if position not in failed]
    buried: list[Burial] = []
    delayed: list[Delay] = []
    no_offer: str | None = None
    for position, error in sorted(failed.items()):
        item, message = items[position], without_secrets(error.message)
        if error.kind == "no_offer":
            no_offer = no_offer or message
            # Alone without an offer, it waits alone; where all are, the lane does.
            pause = _NO_OFFER_PAUSE_SECONDS if good else 0.0
            delayed.append(Delay((item.id,), pause))
        elif error.kind == "bad_vector" and item.attempts + 1 < BAD_VECTOR_ATTEMPTS:
            pause = _BAD_VECTOR_PAUSE_SECONDS * 2**item.attempts
            delayed.append(Delay((item.id,), pause, faults=1))
        else:
            buried.append(Burial(item.id, error.kind, message))
    outcome = Outcome(
        written=tuple(items[position] for position in good),
        vectors=result.vectors[good],
        offers=tuple(result.offers[position] for position in good),
        buried=tuple(buried),
        delayed=_grouped(delayed),
    )
    return Answer(outcome, no_offer)


def _grouped(delays: Sequence[Delay]) -> tuple[Delay, ...]:
    groups: dict[tuple[float, int], list[int]] = {}
    for delay in delays:
        groups.setdefault((delay.pause_seconds, delay.faults), []).extend(delay.ids)
    return tuple(Delay(tuple(ids), pause, faults) for (pause, faults), ids in groups.items())
