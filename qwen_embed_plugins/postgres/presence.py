"""A worker's own rows in the database: that it runs, what it did, how fast it is."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qwen_embed_plugins._version import __version__
from qwen_embed_plugins.postgres import _sql
from qwen_embed_plugins.postgres._flow import Flow, Statement

if TYPE_CHECKING:
    from qwen_embed_plugins.postgres.lanes import Lane

BUSY_SECONDS = 5.0
IDLE_SECONDS = 15.0
WINDOW_SECONDS = 60.0
"""Speeds are those of the last minute: long enough for batches that take seconds."""


@dataclass
class Speed:
    """Rows and tokens by the second over a sliding window."""

    _samples: deque[tuple[float, int, int]] = field(default_factory=deque)

    def add(self, now: float, rows: int, tokens: int) -> tuple[float, float]:
        """Note the totals at `now`; gives both speeds."""
        self._samples.append((now, rows, tokens))
        while len(self._samples) > 2 and self._samples[1][0] <= now - WINDOW_SECONDS:
            self._samples.popleft()
        began, rows_before, tokens_before = self._samples[0]
        seconds = now - began
        if seconds <= 0:
            return 0.0, 0.0
        return (rows - rows_before) / seconds, (tokens - tokens_before) / seconds


class Presence:
    """Written every few seconds while there is something to tell, else three times as seldom."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._run = secrets.token_hex(8)
        self._speeds: dict[int, Speed] = {}
        self._told: dict[int, tuple[Any, ...]] = {}
        self._beat_at: float | None = None

    def is_due(self, lanes: Iterable[Lane]) -> bool:
        """Whether a beat is worth a statement now."""
        if self._beat_at is None:
            return True
        elapsed = time.monotonic() - self._beat_at
        return elapsed >= (BUSY_SECONDS if self._has_news(lanes) else IDLE_SECONDS)

    def _has_news(self, lanes: Iterable[Lane]) -> bool:
        # Something was done since, or the speed that was told last is not yet nothing.
        return any(
            lane.vectorizer.id not in self._told
            or self._told[lane.vectorizer.id][0] != lane.counts.rows
            or any(self._told[lane.vectorizer.id][3:])
            for lane in lanes
        )

    def beat(self, lanes: Iterable[Lane]) -> Flow[None]:
        """Give a sign of life, and the figures that changed."""
        now, first = time.monotonic(), self._beat_at is None
        self._beat_at = now  # also if it fails: a sign of life is not worth trying again at once
        who = {"run": self._run, "name": self._name, "version": __version__}
        yield Statement(_sql.query("give_sign"), who)
        figures = {lane.vectorizer.id: self._figures(lane, now) for lane in lanes}
        changed = {key: row for key, row in figures.items() if self._told.get(key) != row}
        if changed:
            names = ("rows", "tokens", "costs", "row_speeds", "token_speeds")
            columns = dict(zip(names, map(list, zip(*changed.values(), strict=True)), strict=True))
            values = {"run": self._run, "vectorizers": list(changed), **columns}
            yield Statement(_sql.query("tell_tally"), values)
        if first:
            yield Statement(_sql.query("forget_workers"))
        self._told = figures

    def _figures(self, lane: Lane, now: float) -> tuple[Any, ...]:
        counts = lane.counts
        speed = self._speeds.setdefault(lane.vectorizer.id, Speed())
        return (
            counts.rows,
            counts.tokens,
            counts.cost,
            *speed.add(now, counts.rows, counts.tokens),
        )

    def leave(self) -> Flow[None]:
        """Take the rows away."""
        if self._beat_at is not None:
            yield Statement(_sql.query("leave"), {"run": self._run})
