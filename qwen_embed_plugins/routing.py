"""Ranking: in which order offers are asked. Policies are plain functions, registered by a hook."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeAlias

from qwen_embed_plugins.catalogue import ConfiguredOffer

UNKNOWN_PRICE = Decimal("Infinity")


@dataclass(frozen=True, slots=True)
class Candidate:
    """An offer as a policy sees it. `latency_seconds` is the decaying mean of what was measured,
    None before the first attempt."""

    offer: ConfiguredOffer
    latency_seconds: float | None = None

    @property
    def price(self) -> Decimal:
        """US dollars per million tokens; infinite where unknown, so that it ranks last."""
        return UNKNOWN_PRICE if self.offer.price is None else self.offer.price


Policy: TypeAlias = Callable[[Sequence[Candidate]], Sequence[Candidate]]
"""Gives the candidates in the order in which to ask them. It may leave some out."""


def free_first(candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    """What costs nothing, then by price; equals stay in the order of the settings."""
    return sorted(candidates, key=lambda candidate: candidate.price)


def cheapest(candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    """By price alone."""
    return sorted(candidates, key=lambda candidate: candidate.price)


def fastest(candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    """By measured latency; an offer never measured goes first, so that it is."""
    return sorted(candidates, key=lambda candidate: candidate.latency_seconds or 0.0)


def ordered(candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    """As the settings name them."""
    return list(candidates)
