"""Ranking: in which order offers are asked. Policies are plain functions, registered by a hook."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TypeAlias

from qwen_embed_plugins.catalogue import ConfiguredOffer
from qwen_embed_plugins.tariffs import UNKNOWN_PRICE, Tariff


@dataclass(frozen=True, slots=True)
class Candidate:
    """An offer as a policy sees it. `latency_seconds` is the decaying mean of what was measured for
    this role, None before the first attempt; `tariff` is what tokens cost there now."""

    offer: ConfiguredOffer
    latency_seconds: float | None = None
    tariff: Tariff = field(default_factory=lambda: Tariff(None))

    @property
    def price(self) -> Decimal:
        """US dollars per million tokens now: 0 while a grant covers them, infinite where unknown,
        so that it ranks last."""
        return UNKNOWN_PRICE if self.tariff.price is None else self.tariff.price


Policy: TypeAlias = Callable[[Sequence[Candidate]], Sequence[Candidate]]
"""Gives the candidates in the order in which to ask them. It may leave some out."""


def free_first(candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    """What never costs anything, then grants in the order in which they would be lost, then by
    price; equals stay in the order of the settings."""
    return sorted(candidates, key=lambda candidate: candidate.tariff.tier)


def cheapest(candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    """By what tokens cost now, and nothing else."""
    return sorted(candidates, key=lambda candidate: candidate.price)


def fastest(candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    """By measured latency; an offer never measured goes first, so that it is."""
    return sorted(candidates, key=lambda candidate: candidate.latency_seconds or 0.0)


def ordered(candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    """As the settings name them."""
    return list(candidates)
