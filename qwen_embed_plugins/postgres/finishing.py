"""Writing what became of a batch, however often it takes: what was paid for is not thrown away."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

import psycopg

from qwen_embed_plugins.postgres import column, connect, queue
from qwen_embed_plugins.postgres.kept import Kept, Ready
from qwen_embed_plugins.postgres.session import CHANGED, RETRIED, Sessions, is_connection_loss

if TYPE_CHECKING:
    from qwen_embed_plugins.postgres._flow import Flow
    from qwen_embed_plugins.postgres.lanes import Lane
    from qwen_embed_plugins.postgres.metrics import Metrics
    from qwen_embed_plugins.postgres.queue import Batch, Outcome
    from qwen_embed_plugins.postgres.tending import Tending

log = logging.getLogger("qwen_embed_plugins.postgres.worker")

_LONGEST_PAUSE_SECONDS = 2.0
_LONGEST_REFUSED_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class WorkerProgress:
    """A batch was finished: this worker's counts for one vectorizer since it started."""

    name: str
    embedded: int
    equal: int
    removed: int
    dead: int
    lost: int
    rows: int
    tokens: int
    cost: Decimal


@dataclass
class Finishing:
    """The writing side of one worker; `once` and `stopping` say how long it may try."""

    sessions: Sessions
    tending: Tending
    kept: Kept
    once: bool
    stopping: asyncio.Event
    on_progress: Callable[[WorkerProgress], None] | None
    metrics: Metrics | None

    async def finish(self, lane: Lane, batch: Batch, outcome: Outcome) -> bool:
        """Write the outcome; False if there is no place for it now.

        A service keeps what it paid for until it can be written: handed back, it would be paid
        again at each try. Meanwhile the lane tries another batch: if that one can be written, the
        rows of this one are to blame.
        """
        attempt = _Attempt(lane, batch, outcome)
        try:
            while True:
                try:
                    became = await self._write(attempt)
                except RETRIED:
                    pass
                except column.OwnWriteChangesText:
                    await self._pause(lane, attempt.outcome)
                    return False
                except psycopg.Error as error:
                    passes = await self._may_pass(lane, error)
                    if not self.tending.is_there(lane):
                        return True
                    if not passes:
                        reason = connect.explain_to_worker(error)
                        await self.tending.block(lane, "blocked", reason)
                        if self.once:
                            return False
                        attempt.was_refused()
                else:
                    if attempt.refused:
                        lane.recovered()
                    self._count(lane, attempt.batch, attempt.outcome, became)
                    return True
                if self.stopping.is_set() and attempt.is_long():
                    return False
                await asyncio.sleep(attempt.next_pause())
        finally:
            lane.stuck -= int(attempt.refused)

    async def _may_pass(self, lane: Lane, error: psycopg.Error) -> bool:
        """Whether this is over by itself soon. Raised where a run with an end lost the server."""
        if is_connection_loss(error):
            if self.once:
                raise error
            return True
        # Renamed: then the paid answers still have a place to go.
        return isinstance(error, CHANGED) and await self.tending.names_changed(lane)

    async def _write(self, attempt: _Attempt) -> Outcome | None:
        """One try. In a column part by part, each a transaction of its own."""
        lane, parts = attempt.lane, attempt.parts
        while parts is not None and parts.waiting:
            await self._write_part(lane, parts, others_pass=attempt.others_pass)
        return await self.sessions.transact(self._finish_flow(attempt))

    async def _write_part(self, lane: Lane, parts: column.Parts, *, others_pass: bool) -> None:
        """One transaction on a user's own table. Rows that stay locked are left for later."""
        rows = parts.next
        flow = column.write_part(
            lane.vectorizer, parts, types=self.tending.types, others_pass=others_pass
        )
        written = await self.sessions.transact(flow)
        if written is None:
            parts.waiting.clear()  # the lease is lost, as the finish will find
        elif not parts.note(rows, written):
            parts.rounds += 1
            if parts.rounds >= column.ROUNDS or self.stopping.is_set():
                parts.batch, parts.outcome, unused = parts.give_up()
                self.kept.keep(lane.vectorizer.space, unused)
                parts.waiting.clear()
            else:
                await asyncio.sleep(random.uniform(0.02, 0.1) * parts.rounds)

    async def _pause(self, lane: Lane, outcome: Outcome) -> None:
        """Stop a lane whose own writes change its texts; keep what was paid."""
        paid = zip(outcome.written, outcome.vectors, outcome.offers, strict=True)
        self.kept.keep(lane.vectorizer.space, (Ready(*one) for one in paid))
        reason = column.why_paused(lane.vectorizer)
        log.warning("paused", extra={"vectorizer": lane.vectorizer.name, "reason": reason})
        lane.rest("blocked", reason)
        await self.sessions.transact(column.pause(lane.vectorizer, reason))
        await self.tending.refresh()

    def _finish_flow(self, attempt: _Attempt) -> Flow[Outcome | None]:
        lane = attempt.lane
        became = yield from queue.finish(
            lane.vectorizer,
            attempt.batch,
            attempt.outcome,
            types=self.tending.types,
            others_pass=attempt.others_pass,
        )
        if lane.trouble is not None and not attempt.refused:
            yield from lane.tell()
        elif became is not None and became.written:
            yield from lane.clear()
        return became

    def _count(self, lane: Lane, batch: Batch, outcome: Outcome, became: Outcome | None) -> None:
        if became is not None:
            lane.counts.add(batch, became)
            self.kept.forget(lane.vectorizer.space, became.written)
        else:
            lane.counts.lost += len(outcome.written)
            log.info("a lease was lost, its answers are dropped", extra={"batch": len(batch.ids)})
            if self.metrics is not None:
                self.metrics.lease_lost(lane.vectorizer.name)
        if self.on_progress is not None:
            self.on_progress(WorkerProgress(name=lane.vectorizer.name, **asdict(lane.counts)))


class _Attempt:
    """How far the writing of one batch has come, and what was in its way."""

    def __init__(self, lane: Lane, batch: Batch, outcome: Outcome) -> None:
        self.lane = lane
        self._batch, self._outcome = batch, outcome
        self.parts = column.Parts(batch, outcome) if lane.vectorizer.in_column else None
        self.refused = False
        self._written_before = lane.counts.embedded
        self._pause = 0.05

    @property
    def batch(self) -> Batch:
        return self._batch if self.parts is None else self.parts.batch

    @property
    def outcome(self) -> Outcome:
        return self._outcome if self.parts is None else self.parts.outcome

    @property
    def others_pass(self) -> bool:
        """Whether another batch of the lane was written since this one was refused."""
        return self.refused and self.lane.counts.embedded > self._written_before

    def was_refused(self) -> None:
        """The database takes none of it, and says so."""
        if not self.refused:
            self.refused, self._written_before = True, self.lane.counts.embedded
            self.lane.stuck += 1

    def is_long(self) -> bool:
        """Whether it would take longer than someone who ended the worker wants to wait."""
        return self.refused or self._pause > 1.0

    def next_pause(self) -> float:
        """Seconds until the next try, longer each time."""
        seconds = self._pause * random.uniform(0.5, 1.0)
        longest = _LONGEST_REFUSED_SECONDS if self.refused else _LONGEST_PAUSE_SECONDS
        self._pause = min(longest, self._pause * 2)
        return seconds
