"""How many requests an offer may have under way at once: as many as it takes well.

It begins with a few, goes up while they succeed, is halved when the offer pushes back, and goes
down by one while its answers take much longer for each token than they did at best. Never beyond
the limit that the settings or the offer name.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

START = 8
"""So many at once no service was found to mind; whoever allows more is asked for more by and by."""

CROWDED = 4.0
"""An answer that takes so many times as long for each token as the best ones waits in a queue at
the server, where more requests bring nothing."""

FEWEST = 2
"""Slow answers alone do not lead below this."""

TELLING_TOKENS = 256
"""Smaller answers say more about the network than about the server."""

FORGETS = 1.01
"""How much slower the best counts with each answer: a server may become slow for good."""


@dataclass(slots=True)
class _Pace:
    allowed: float = START
    grows_fast: bool = True
    changed_at: float = float("-inf")
    best: float | None = None
    usual: float | None = None


class Pacing:
    """Shared by all flows of an embedder; every method takes the lock for arithmetic only."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._paces: dict[str, _Pace] = {}

    def places(self, key: str, most: int) -> int:
        """How many requests may be under way at an offer that allows so many at most."""
        with self._lock:
            pace = self._paces.get(key)
            return max(1, min(most, int(START if pace is None else pace.allowed)))

    def succeeded(
        self, key: str, seconds: float, tokens: int, began: float, now: float, most: int
    ) -> None:
        """An answer with so many tokens came after so many seconds."""
        with self._lock:
            pace = self._paces.setdefault(key, _Pace())
            if tokens >= TELLING_TOKENS and self._is_crowded(pace, seconds / tokens):
                if began >= pace.changed_at and pace.allowed > FEWEST:
                    pace.allowed, pace.grows_fast = max(FEWEST, pace.allowed - 1), False
                    pace.changed_at = now
                return
            step = 1.0 if pace.grows_fast else 1.0 / pace.allowed
            pace.allowed = min(most, pace.allowed + step) if pace.allowed < most else pace.allowed

    def pushed_back(self, key: str, began: float, now: float, most: int) -> None:
        """The offer refused a request because there were too many. Those that were under way when
        it first did say nothing new."""
        with self._lock:
            pace = self._paces.setdefault(key, _Pace())
            if began >= pace.changed_at:
                pace.allowed = max(1.0, min(pace.allowed, most) / 2)
                pace.grows_fast, pace.changed_at = False, now

    def _is_crowded(self, pace: _Pace, seconds_per_token: float) -> bool:
        if pace.best is None or pace.usual is None:
            pace.best = pace.usual = seconds_per_token
        pace.best = min(pace.best * FORGETS, seconds_per_token)
        pace.usual += 0.2 * (seconds_per_token - pace.usual)
        return pace.usual > CROWDED * pace.best
