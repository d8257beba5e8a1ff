"""When a known text goes along with a batch, to show that a server still runs the same model."""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qwen_embed_plugins.parity import PROBES, cosines

if TYPE_CHECKING:
    from qwen_embed_plugins.types import Matrix

UNSEEN_SECONDS = 86_400.0
"""After so long without a look at it, an offer's next batch carries a known text: programs too
short for a whole round of batches would never send one."""


@dataclass(slots=True)
class Canaries:
    """Counts batches by offer, shared by the flows of an embedder."""

    every: int
    _left: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def due(self, offer: str) -> bool:
        """Count one batch; whether it should carry a known text."""
        with self._lock:
            left = self._left.get(offer, self.every) - 1
            self._left[offer] = left or self.every
            return left == 0


def choose(texts: Collection[str]) -> int | None:
    """The place among the probes of one that the batch does not hold itself; None if it holds
    them all: a server may answer equal texts with one row."""
    return next((place for place, probe in enumerate(PROBES) if probe not in texts), None)


def cosine(row: Matrix, met: Matrix, probe: int) -> float:
    """How near the vector of a probe is to the one that this offer gave when it was met."""
    return float(cosines(row[None, :], met[probe : probe + 1])[0])
