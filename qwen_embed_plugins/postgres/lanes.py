"""One vectorizer's traffic in one worker: what is under way, what it waits for, what it did."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

from qwen_embed_plugins.postgres import _sql
from qwen_embed_plugins.postgres._flow import Flow, Statement
from qwen_embed_plugins.postgres.floor import LogFloor

if TYPE_CHECKING:
    from qwen_embed_plugins.postgres.definition import Vectorizer
    from qwen_embed_plugins.postgres.queue import Batch, Outcome
    from qwen_embed_plugins.types import EmbedResult

Trouble = Literal["held", "blocked"]
LONGEST_REST_SECONDS = 60.0


@dataclass
class Counts:
    """What a worker did for one vectorizer; see `WorkerSummary`."""

    embedded: int = 0
    equal: int = 0
    removed: int = 0
    dead: int = 0
    lost: int = 0
    rows: int = 0
    tokens: int = 0
    cost: Decimal = Decimal(0)

    def add(self, batch: Batch, outcome: Outcome) -> None:
        """Count a batch that was finished."""
        self.embedded += len(outcome.vectors)
        self.equal += len(batch.equal)
        self.removed += len(batch.gone)
        self.dead += len(outcome.buried) + len(batch.bad)
        ended = {item.id for item in outcome.written} | {burial.id for burial in outcome.buried}
        self.rows += len(ended) + len(batch.equal) + len(batch.gone) + len(batch.bad)

    def pay(self, result: EmbedResult) -> None:
        """Count what a provider's answer cost, whatever becomes of it."""
        self.tokens += result.usage.tokens
        self.cost += result.cost


@dataclass
class Lane:
    """No lane stops another: each has its own share of batches and its own rests.

    `reason` says what is wrong. A lane at rest takes nothing until `wait_until`, then one batch to
    see whether it is over; a lane with a reason that is not at rest goes on. `said` is the reason
    that was logged last. `room` rows fit into one lease, as far as is known; `due_first` says whose
    turn it is, retries or new rows; `stuck` batches are answered but cannot be written.
    """

    vectorizer: Vectorizer
    floor: LogFloor = field(default_factory=LogFloor)
    room: int | None = None
    due_first: bool = False
    in_flight: int = 0
    stuck: int = 0
    hungry: bool = False
    trouble: Trouble | None = None
    reason: str | None = None
    at_rest: bool = False
    wait_until: float = 0.0
    said: str | None = None
    index_done: bool = False
    counts: Counts = field(default_factory=Counts)
    _rest_seconds: float = 0.0

    def rest(self, trouble: Trouble, reason: str, *, retry_at: float | None = None) -> None:
        """Stop taking for a while, longer each time; `retry_at` is in seconds since the epoch."""
        now = time.monotonic()
        self.trouble, self.reason = trouble, reason
        if self.at_rest and now < self.wait_until:
            return  # another batch of the same bad moment
        self.at_rest = True
        self._rest_seconds = min(LONGEST_REST_SECONDS, max(1.0, self._rest_seconds * 2))
        if retry_at is not None:
            self._rest_seconds = min(self._rest_seconds, max(0.1, retry_at - time.time()))
        self.wait_until = now + self._rest_seconds

    def note(self, trouble: Trouble, reason: str) -> None:
        """Some of the work waits; the rest goes on."""
        self.trouble, self.reason = trouble, reason

    def give_way(self, seconds: float) -> None:
        """Wait a moment for another session, without a word."""
        self.wait_until = time.monotonic() + seconds

    def recovered(self) -> None:
        """It works again."""
        self.trouble = self.reason = self.said = None
        self.at_rest, self.wait_until, self._rest_seconds = False, 0.0, 0.0

    @property
    def stopped(self) -> str | None:
        """Why nothing is to be done here now, although there may be work."""
        if not self.vectorizer.workable:
            return self.vectorizer.problem or "its tables are missing"
        if self.vectorizer.paused:
            return (self.trouble == "blocked" and self.reason) or "paused"
        if self.vectorizer.suspended:
            return "suspended"
        return self.reason if self.at_rest else None

    def may_take(self, limit: int) -> bool:
        """Whether it has room for a batch now. While at rest one batch asks if it is over."""
        asking = self.in_flight - self.stuck if self.at_rest else 0
        return (
            self.vectorizer.workable
            and not self.vectorizer.paused
            and not self.vectorizer.suspended
            and self.wait_until <= time.monotonic()
            and asking == 0
            and self.in_flight < limit
        )

    def rows_to_take(self, most: int) -> int:
        """How many rows the next take asks for; texts that no lease has room for stay untouched."""
        return min(most, most if self.room is None else self.room)

    def rows_are_short(self, rows: int) -> bool:
        """Whether so many rows like the last ones would fill less than half of a lease."""
        return self.room is not None and self.room >= 2 * rows

    def tell(self) -> Flow[None]:
        """Write the reason where the view `status` shows it."""
        values: dict[str, Any] = {
            "vectorizer": self.vectorizer.id,
            "trouble": self.trouble,
            "message": self.reason,
        }
        yield Statement(_sql.query("report_trouble"), values)

    def clear(self) -> Flow[None]:
        """Take the reason back, whoever wrote it, unless some work waits for it still."""
        yield Statement(self.vectorizer.query("clear_trouble"), {"vectorizer": self.vectorizer.id})
