"""What plugins may observe. Values only: an observer cannot change what happens."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TypeAlias

from qwen_embed_plugins.types import FaultKind


@dataclass(frozen=True, slots=True)
class AttemptFinished:
    """One request came back, or failed. `fault` is None when its vectors were accepted."""

    offer: str
    texts: int
    tokens: int
    cost: Decimal
    seconds: float
    fault: FaultKind | None


@dataclass(frozen=True, slots=True)
class OfferPaused:
    """An offer is not tried until `until` (seconds since the epoch)."""

    offer: str
    kind: FaultKind
    message: str
    until: float


@dataclass(frozen=True, slots=True)
class BudgetReached:
    """A request was not sent because a budget would have been overrun."""

    budget: str
    message: str


@dataclass(frozen=True, slots=True)
class VerdictChanged:
    """An offer was measured, and may now serve its space or may not. `cosine` is the least one to
    the vectors it was compared with, None where the measure was another (a cut text)."""

    offer: str
    space: str
    serves: bool
    cosine: float | None


Event: TypeAlias = AttemptFinished | OfferPaused | BudgetReached | VerdictChanged
