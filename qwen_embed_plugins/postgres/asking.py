"""What a batch's texts become: vectors from a provider, or the reason why they wait."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from qwen_embed_plugins.errors import (
    BudgetExceeded,
    ConfigurationError,
    NoOfferLeft,
    without_secrets,
)
from qwen_embed_plugins.postgres.answers import Answer, EmbedsTexts, held, sort_answer, standing
from qwen_embed_plugins.postgres.chunking import Chunking, ChunkingFactory, Split
from qwen_embed_plugins.postgres.kept import Kept, known
from qwen_embed_plugins.postgres.queue import Outcome

if TYPE_CHECKING:
    from qwen_embed_plugins.postgres.lanes import Lane
    from qwen_embed_plugins.postgres.queue import Batch, Item
    from qwen_embed_plugins.postgres.tending import Tending

log = logging.getLogger("qwen_embed_plugins.postgres.worker")


class EmbedderFactory(Protocol):
    """Makes an embedder of one space. Raises `ConfigurationError` if the settings allow none."""

    def __call__(self, model: str, dimensions: int) -> EmbedsTexts: ...


class Asking:
    """A worker's embedders and splitters, one for all lanes that need the same."""

    def __init__(
        self,
        tending: Tending,
        kept: Kept,
        embedder_for: EmbedderFactory,
        chunking_for: ChunkingFactory,
    ) -> None:
        self._tending, self._kept = tending, kept
        self._embedder_for, self._chunking_for = embedder_for, chunking_for
        self._embedders: dict[tuple[str, int], EmbedsTexts] = {}
        self._chunkings: dict[tuple[str | None, int, int], Chunking] = {}

    async def is_ready(self, lane: Lane) -> bool:
        """Whether a lane's texts can be split and embedded. If not it is blocked, and told why."""
        try:
            self._make_embedder(lane)
            self._chunking(lane)
        except ConfigurationError as error:
            await self._tending.block(lane, "blocked", line(error))
            return False
        return True

    async def outcome(self, lane: Lane, batch: Batch) -> Outcome:
        """Ask for the vectors of a batch. Never raises: what cannot be asked for now waits, the
        lane rests and says why."""
        if not batch.items:
            return Outcome()
        try:
            split = await self._split(lane, batch)
            answer = await self._answer(lane, batch, split.items)
        except NoOfferLeft as error:
            lane.rest("held", line(error), retry_at=error.retry_at)
        except BudgetExceeded as error:
            lane.rest("held", line(error), retry_at=error.retry_at)
        except ConfigurationError as error:
            lane.rest("blocked", line(error))
        except Exception as error:  # an embedder's own bug must cost no text its life
            # Where, not what: an exception of someone else's may hold a key or a whole text.
            where = "".join(traceback.format_tb(error.__traceback__))
            log.error("the embedder failed", extra={"reason": line(error), "where": where})
            lane.rest("held", f"{type(error).__name__}: {line(error)}")
        else:
            outcome = _judged(lane, answer)
            return replace(outcome, buried=(*outcome.buried, *split.bad))
        return held(batch.items)

    async def close(self) -> None:
        """Close the embedders."""
        for embedder in self._embedders.values():
            close = getattr(embedder, "aclose", None)  # a stand-in may have nothing to close
            if close is not None:
                await close()

    def _make_embedder(self, lane: Lane) -> None:
        wanted = (lane.vectorizer.model, lane.vectorizer.dimensions)
        if wanted in self._embedders:
            return
        embedder = self._embedder_for(*wanted)
        if (embedder.space.model, embedder.space.dimensions) != wanted:
            raise ConfigurationError(
                f"this worker's embedder makes {embedder.space}, the vectorizer holds "
                f"{wanted[0]}/{wanted[1]}. Change the settings, or create a vectorizer of that "
                "model and dimensions."
            )
        self._embedders[wanted] = embedder

    def _chunking(self, lane: Lane) -> Chunking | None:
        vectorizer = lane.vectorizer
        if vectorizer.chunk_tokens is None:
            return None
        wanted = (vectorizer.chunker, vectorizer.chunk_tokens, vectorizer.chunk_overlap)
        if wanted not in self._chunkings:
            self._chunkings[wanted] = self._chunking_for(*wanted)
        return self._chunkings[wanted]

    async def _split(self, lane: Lane, batch: Batch) -> Split:
        chunking = self._chunking(lane)
        if chunking is None:
            return Split(batch.items, ())
        # Long texts take long; the heartbeat goes on meanwhile.
        return await asyncio.to_thread(chunking.split, batch.items)

    async def _answer(self, lane: Lane, batch: Batch, items: Sequence[Item]) -> Answer:
        vectorizer = lane.vectorizer
        ready, asked = known(items, batch.standing, self._kept, vectorizer.space)
        if not asked:
            return Answer(standing(ready), None)
        embedder = self._embedders[vectorizer.model, vectorizer.dimensions]
        result = await embedder.embed([item.text for item in asked], role="document")
        lane.counts.pay(result)
        answer = sort_answer(asked, result, ready)
        self._kept.keep(vectorizer.space, answer.unused)
        return answer


def _judged(lane: Lane, answer: Answer) -> Outcome:
    """The outcome of an answer, and what it tells of the lane."""
    outcome = answer.outcome
    if answer.no_offer is None:
        if outcome.written:
            lane.recovered()
    elif outcome.written:
        lane.recovered()
        lane.note("held", answer.no_offer)
    else:
        lane.rest("held", answer.no_offer)
    return outcome


def line(error: BaseException) -> str:
    """An error in one line, without a secret."""
    lines = str(error).splitlines()
    return without_secrets(lines[0]) if lines else type(error).__name__
