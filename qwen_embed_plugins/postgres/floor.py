"""Where in the log the next scan starts: a hint that keeps taking flat over millions of rows.

Consumed rows stay in the log's first blocks until vacuum may remove them, which another session's
old snapshot can put off for hours. Starting behind them makes a scan cost the same throughout. The
hint is never trusted: a transaction that commits late has its rows before it, and vacuum frees room
there, so the scan starts over often, but not so often that starting over becomes the work.
"""

from __future__ import annotations

from dataclasses import dataclass

_COST_SHARE = 20
_LONGEST_SECONDS = 5.0


@dataclass
class LogFloor:
    """The block that one worker scans one log from. Times are seconds of a monotonic clock."""

    block: int = 0
    _wrapped_at: float = float("-inf")
    _wrap_cost: float = 0.0
    _short: bool = True

    def start(self, now: float) -> int:
        """The block to scan from: 0 when a wrap is due and affordable, else the furthest seen."""
        rested = now - self._wrapped_at >= _COST_SHARE * self._wrap_cost
        overdue = now - self._wrapped_at >= _LONGEST_SECONDS
        return 0 if rested and (self._short or overdue) else self.block

    def scanned(
        self, start: int, *, furthest: int | None, short: bool, now: float, seconds: float
    ) -> None:
        """Note a scan: where it began, the furthest block it gave (or looked at, if it found
        nothing), whether it ran out of rows."""
        if start == 0:
            self._wrapped_at, self._wrap_cost = now, seconds
        if furthest is not None:
            self.block = furthest
        self._short = short

    def rewind(self) -> None:
        """Scan from the start next time, whatever it costs."""
        self._wrapped_at, self._short = float("-inf"), True
