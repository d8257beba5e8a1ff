"""One request to one offer, made ready for a driver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qwen_embed_plugins.catalogue import ConfiguredOffer
from qwen_embed_plugins.effects import Job
from qwen_embed_plugins.types import Batch, Role

if TYPE_CHECKING:
    from qwen_embed_plugins.router import Router

BYTES_PER_NUMBER = 32
"""Generous: a float64 takes up to 25 characters in JSON."""

ANSWER_SLACK_BYTES = 1 << 20


def make_job(
    router: Router,
    offer: ConfiguredOffer,
    texts: Sequence[str],
    role: Role,
    instruction: str | None = None,
    dimensions: int | None = None,
) -> Job:
    """The job that sends these texts, formatted already, to an offer; `dimensions` asks for another
    length than the offer's own."""
    learnt = router.capabilities.get((offer.endpoint, "encoding"))
    batch = Batch(
        texts,
        role,
        offer.model,
        offer.offer.wire_name,
        instruction,
        "float" if learnt == "float" else offer.provider.encoding,
        dimensions or offer.offer.dimensions,
    )
    size = len(texts) * offer.dimensions * BYTES_PER_NUMBER + ANSWER_SLACK_BYTES
    return Job(next(router.job_ids), offer, batch, router.timeout_seconds, size)


def counted_tokens(router: Router, job: Job) -> int:
    """How many tokens a job has by our own count: its texts as they are sent, and the instruction
    that a server puts before each."""
    batch, apart = job.batch, job.offer.provider.adds_instruction
    instructions = [batch.instruction or ""] * len(batch.texts) if apart else []
    return sum(map(router.count_tokens, [*batch.texts, *instructions]))


def likely_tokens(router: Router, job: Job) -> int:
    """How many tokens the provider is likely to count: what is reserved for, at least 1."""
    return router.likely_tokens(job.offer, counted_tokens(router, job))
