"""How our own counts of tokens relate to what each provider counts, learnt from its answers."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil, isfinite

LEAST, MOST = 0.25, 64.0
"""Between these lies what is believed of one of our tokens. No tokenizer counts more than four; but
what a provider counts is what it bills, so more is held where it counts more."""

BEYOND = 4.0
"""Who counts so many times what was expected, much more than was held, is believed at once."""

HALF_TOKENS = 5_000
"""A batch of so many tokens weighs a half, a query next to nothing: its end tokens would tell."""

MOST_WEIGHT = 0.25
"""No batch weighs more: one of base64 must not speak for the prose after it."""

MOVED = 0.05
"""What has moved by less than this share is not worth a write."""

BATCHES = 50
"""Nor is anything within so many batches of an endpoint."""


@dataclass(slots=True)
class _Known:
    ratio: float
    remembered: float
    batches: int = BATCHES


@dataclass(slots=True)
class Calibration:
    """Tokens counted by the provider for each of ours, by endpoint: a decaying mean, weighted by
    the size of batches. It starts from `stored`: (endpoint, `name`) to a number, as the state keeps
    it. Shared by threads.

    It corrects what is expected of a provider. What a provider's count is judged by must not be
    corrected by it: one that cuts texts would set its own measure.
    """

    stored: Mapping[tuple[str, str], str]
    name: str
    _known: dict[str, _Known] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def corrected(self, endpoint: str, tokens: int) -> int:
        """How many tokens a provider is likely to count where we count so many; at least 1."""
        with self._lock:
            ratio = self._of(endpoint).ratio
        return max(1, ceil(tokens * ratio))

    def observe(self, endpoint: str, reported: int, counted: int) -> str | None:
        """Take in what a provider reported for a batch and what we counted, both above 0. Gives the
        ratio if it is worth being remembered."""
        # Bounded before it is divided: a server may report what no float holds.
        seen = _within(min(reported, counted * ceil(MOST)) / counted)
        weight = min(MOST_WEIGHT, counted / (counted + HALF_TOKENS))
        with self._lock:
            known = self._of(endpoint)
            known.ratio += (1.0 if seen > BEYOND * known.ratio else weight) * (seen - known.ratio)
            known.batches += 1
            moved = abs(known.ratio / known.remembered - 1) > MOVED
            if not moved or known.batches <= BATCHES:
                return None
            known.remembered, known.batches = known.ratio, 0
            return f"{known.ratio:.4f}"

    def _of(self, endpoint: str) -> _Known:
        known = self._known.get(endpoint)
        if known is None:
            ratio = _read(self.stored.get((endpoint, self.name), ""))
            known = self._known[endpoint] = _Known(ratio, ratio)
        return known


def _within(ratio: float) -> float:
    return min(MOST, max(LEAST, ratio))


def _read(stored: str) -> float:
    """A ratio as the state kept it; 1 for what is none."""
    try:
        ratio = float(stored)
    except ValueError:
        return 1.0
    return _within(ratio) if isfinite(ratio) else 1.0
