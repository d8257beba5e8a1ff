"""The worker's pipeline: take changes, have their texts embedded, write the vectors.

Taking, finishing, tending and walking go on at once, each on a connection of its own. A batch that
is out at a provider holds a lease in the database and no transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any

import psycopg
from psycopg import sql

from qwen_embed_plugins.postgres import connect, listening, queue
from qwen_embed_plugins.postgres.asking import Asking, EmbedderFactory
from qwen_embed_plugins.postgres.chunking import ChunkingFactory
from qwen_embed_plugins.postgres.finishing import Finishing, WorkerProgress
from qwen_embed_plugins.postgres.kept import Kept
from qwen_embed_plugins.postgres.lanes import Counts, Lane
from qwen_embed_plugins.postgres.metrics import Metrics
from qwen_embed_plugins.postgres.presence import Presence
from qwen_embed_plugins.postgres.queue import Batch
from qwen_embed_plugins.postgres.session import (
    CHANGED,
    RETRIED,
    Session,
    Sessions,
    is_connection_loss,
)
from qwen_embed_plugins.postgres.tending import Tending

log = logging.getLogger("qwen_embed_plugins.postgres.worker")

_GRACE_SECONDS = 5.0
_WRITERS = 2
_LONG_LOG_BLOCKS = 200  # about 1 ms to read
_MOST_LEASES = 8  # full ones whose texts are in memory, whatever the number of vectorizers


@dataclass(frozen=True, slots=True)
class WorkerSummary:
    """What a worker did. `waiting` maps vectorizers with work that could not be done to the reason.

    `embedded` vectors were written, `equal` texts had theirs already, `removed` keys have no row or
    no text, `dead` texts were refused for good, `lost` answers came after their lease was gone.
    `rows` are in step now, for `tokens` of providers and `cost` in US dollars.
    """

    embedded: int = 0
    equal: int = 0
    removed: int = 0
    dead: int = 0
    lost: int = 0
    rows: int = 0
    tokens: int = 0
    cost: Decimal = Decimal(0)
    seconds: float = 0.0
    waiting: dict[str, str] = field(default_factory=dict)


@dataclass
class Pipeline:
    """One worker's run; `run` is all that others call."""

    address: str
    once: bool
    only: Collection[str] | None
    embedder_for: EmbedderFactory
    chunking_for: ChunkingFactory
    batch_size: int
    in_flight: int
    lease_seconds: float
    poll_seconds: float
    on_progress: Callable[[WorkerProgress], None] | None
    stopping: asyncio.Event
    backfill_rows_per_second: float | None = None
    metrics: Metrics | None = None

    def __post_init__(self) -> None:
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.tending = Tending(
            self.address,
            presence=Presence(self.name),
            only=self.only,
            batch_size=self.batch_size,
            lease_seconds=self.lease_seconds,
            walk_rows_per_second=self.backfill_rows_per_second,
        )
        self.taking, self.writing = Session(self.address), Sessions(self.address, _WRITERS)
        kept = Kept()
        self.asking = Asking(self.tending, kept, self.embedder_for, self.chunking_for)
        self.finishing = Finishing(
            self.writing,
            self.tending,
            kept,
            once=self.once,
            stopping=self.stopping,
            on_progress=self.on_progress,
            metrics=self.metrics,
        )
        self.wake = asyncio.Event()
        self.batches: dict[int, tuple[Lane, Batch]] = {}
        self.processing: set[asyncio.Task[None]] = set()
        self.failure: Exception | None = None
        if self.metrics is not None:
            self.metrics.lanes = lambda: self.lanes

    @property
    def lanes(self) -> list[Lane]:
        return list(self.tending.lanes.values())

    async def run(self) -> WorkerSummary:
        started = time.monotonic()
        loops: list[asyncio.Task[None]] = []
        try:
            await self._unless_stopped(self.tending.require_schema())
            await self._unless_stopped(self.tending.refresh())
            # Settings and clients are loaded now, not while a transaction of another loop is open.
            for lane in self._open_lanes():
                await self.asking.is_ready(lane)
            self._say("worker started", vectorizers=len(self.lanes))
            loops = [
                self._begin(self._produce),
                self._begin(lambda: self.tending.tend(self.batches, self.stopping)),
                self._begin(lambda: self.tending.walk(self.stopping, self.wake)),
                self._begin(self._listen),
            ]
            awake = asyncio.create_task(self._wake_all_on_stop())
            done, _ = await asyncio.wait(loops, return_when=asyncio.FIRST_COMPLETED)
            awake.cancel()
            for task in done:
                task.result()
        finally:
            await self._end(loops)
        summary = self._summary(time.monotonic() - started)
        self._say("worker ended", rows=summary.rows, seconds=round(summary.seconds, 1))
        return summary

    def _say(self, event: str, **fields: object) -> None:
        """An event of a service; a run with an end has a summary."""
        if not self.once:
            log.info(event, extra={"worker": self.name, **fields})

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for it, but not beyond the first signal."""
        task = asyncio.create_task(work)
        told = asyncio.create_task(self.stopping.wait())
        try:
            await asyncio.wait((task, told), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
        finally:
            told.cancel()
            await _cancelled([task])

    def _begin(self, loop: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        return asyncio.create_task(self._lasting(loop))

    async def _lasting(self, loop: Callable[[], Awaitable[None]]) -> None:
        """Run a loop; start it again if another session was in the way, or, as a service, if the
        server went away."""
        pause = 0.2
        while not self.stopping.is_set():
            began = time.monotonic()
            try:
                await loop()
            except RETRIED as error:
                log.info("a loop gives way", extra={"reason": connect.explain(error)})
            except psycopg.Error as error:
                if self.once or not is_connection_loss(error):
                    raise
                log.warning("lost the server, trying again", extra={"wait_seconds": pause})
            else:
                return
            pause = 0.2 if time.monotonic() - began > 10.0 else min(5.0, pause * 2)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), pause * random.uniform(0.5, 1.0))

    async def _wake_all_on_stop(self) -> None:
        await self.stopping.wait()
        self.wake.set()
        self.tending.walk_wanted.set()

    async def _listen(self) -> None:
        def wanted() -> bool:
            return not self.once and any(lane.vectorizer.notify for lane in self.lanes)

        await listening.listen(self.address, wanted=wanted, wake=self.wake, stopping=self.stopping)

    # Taking

    async def _produce(self) -> None:
        while not self.stopping.is_set():
            self.wake.clear()
            if self.failure is not None:
                failure, self.failure = self.failure, None
                raise failure
            ready = await self._ready_lanes()
            for lane in ready:
                if self._has_room(lane):
                    await self._take(lane)
            if ready:
                continue
            if self.once and not self.processing and await self._is_over():
                return
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.wake.wait(), self.poll_seconds)

    async def _is_over(self) -> bool:
        return await self.tending.nothing_left() and not self.processing

    def _open_lanes(self) -> list[Lane]:
        return [
            lane
            for lane in self.lanes
            if lane.may_take(self.in_flight)
            and self._has_room(lane)
            and not (self.once and lane.at_rest)
        ]

    def _has_room(self, lane: Lane) -> bool:
        """Whether texts of another batch may be held. One batch of each lane always may."""
        held = sum(batch.tokens for _, batch in self.batches.values())
        return lane.in_flight == 0 or held < _MOST_LEASES * queue.LEASE_TOKENS

    async def _ready_lanes(self) -> list[Lane]:
        lanes = self._open_lanes()
        waiting = await self._ask_ready([lane for lane in lanes if not lane.hungry])
        return [lane for lane in lanes if lane.hungry or lane.vectorizer.id in waiting]

    async def _ask_ready(self, lanes: Sequence[Lane]) -> set[int]:
        """Which of these have something in the log or due, by one question to the server."""
        if not lanes:
            return set()
        now = time.monotonic()
        starts = [(lane, lane.floor.start(now)) for lane in lanes]
        question = sql.SQL(" UNION ALL ").join(
            lane.vectorizer.query("is_ready", floor=sql.Literal(f"({start},0)"))
            for lane, start in starts
        )
        try:
            rows = await self.taking.ask(question)
        except psycopg.OperationalError:
            raise
        except psycopg.Error:
            # One of them is not as it was. Each will be told by its own taking, none by another's.
            return {lane.vectorizer.id for lane in lanes}
        spent = time.monotonic() - now
        looks = {row["id"]: row for row in rows}
        blocks = sum(look["blocks"] for look in looks.values())
        for lane, start in starts:
            look = looks[lane.vectorizer.id]
            if not look["waits"]:
                # Each by its size: a short log is not read the less for a long one beside it.
                share = spent * look["blocks"] / max(1, blocks)
                last = look["blocks"] - 1 if look["blocks"] >= _LONG_LOG_BLOCKS else None
                lane.floor.scanned(start, furthest=last, short=True, now=now, seconds=share)
        return {number for number, look in looks.items() if look["waits"]}

    async def _take(self, lane: Lane) -> None:
        if not await self.asking.is_ready(lane):
            return
        now = time.monotonic()
        start = lane.floor.start(now)
        limit = lane.rows_to_take(self.batch_size)
        flow = queue.take(
            lane.vectorizer,
            worker=self.name,
            block=start,
            limit=limit,
            lease_seconds=self.lease_seconds,
            due_first=lane.due_first,
            short=lane.rows_are_short(limit),
        )
        try:
            taken = await self.taking.transact(flow)
        except psycopg.Error as error:
            await self._not_taken(lane, error)
            return
        spent = time.monotonic() - now
        lane.due_first, lane.room = not lane.due_first, taken.room
        lane.hungry = taken.scan is None or not taken.scan.short
        if taken.scan is not None:
            block, short = taken.scan
            lane.floor.scanned(start, furthest=block, short=short, now=now, seconds=spent)
        if taken.batch is not None:
            self._start_processing(lane, taken.batch)

    async def _not_taken(self, lane: Lane, error: psycopg.Error) -> None:
        # Rows that are long by now may have taken too long to be read as short ones.
        lane.hungry, lane.room = False, None
        if isinstance(error, RETRIED):
            log.info("taking gives way", extra={"reason": connect.explain(error)})
            lane.give_way(random.uniform(0.02, 0.2))
        elif is_connection_loss(error):
            raise error
        elif not (isinstance(error, CHANGED) and await self.tending.names_changed(lane)):
            await self.tending.block(lane, "blocked", connect.explain_to_worker(error))

    def _start_processing(self, lane: Lane, batch: Batch) -> None:
        lane.in_flight += 1
        self.batches[batch.token] = (lane, batch)
        task = asyncio.create_task(self._process(lane, batch))
        self.processing.add(task)
        task.add_done_callback(self.processing.discard)

    # A batch

    async def _process(self, lane: Lane, batch: Batch) -> None:
        began = time.monotonic()
        try:
            outcome = await self.asking.outcome(lane, batch)
            self._say_why_work_waits(lane)
            if not await self.finishing.finish(lane, batch, outcome):
                await self.tending.hand_back(lane, batch)
            self.batches.pop(batch.token, None)
        except Exception as error:
            self.failure = self.failure or error
            # A service may go on after this: its heartbeat must not keep the batch from everyone.
            await self.tending.hand_back(lane, batch)
            self.batches.pop(batch.token, None)
        finally:
            # What was cut off stays in `batches`, to be handed back at the end.
            lane.in_flight -= 1
            self._note_end(lane, batch, time.monotonic() - began)
            self.wake.set()

    def _say_why_work_waits(self, lane: Lane) -> None:
        """Each new reason once; a run with an end says it in its summary."""
        if not self.once and lane.reason is not None and lane.reason != lane.said:
            lane.said = lane.reason
            extra = {"vectorizer": lane.vectorizer.name, "reason": lane.reason}
            log.warning("work waits", extra=extra)

    def _note_end(self, lane: Lane, batch: Batch, seconds: float) -> None:
        name = lane.vectorizer.name
        if self.metrics is not None:
            self.metrics.batch_ended(name, seconds)
        extra = {"vectorizer": name, "rows": len(batch.ids), "seconds": round(seconds, 3)}
        log.debug("a batch ended", extra=extra)

    # Ending

    async def _end(self, loops: Sequence[asyncio.Task[None]]) -> None:
        try:
            if self.processing and self.stopping.is_set():
                await asyncio.wait(self.processing, timeout=_GRACE_SECONDS)
        finally:
            await _cancelled([*self.processing, *loops])
            # A server that stands still is not waited for: what it does not hear, leases end.
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._hand_back_all(), _GRACE_SECONDS)
            await self.tending.leave()
            for part in (self.taking, self.writing, self.tending, self.asking):
                await part.close()

    async def _hand_back_all(self) -> None:
        for lane, batch in list(self.batches.values()):
            await self.tending.hand_back(lane, batch)

    def _summary(self, seconds: float) -> WorkerSummary:
        total = Counts()
        waiting: dict[str, str] = {}
        for lane in self.lanes:
            for key, value in asdict(lane.counts).items():
                setattr(total, key, getattr(total, key) + value)
            reason = lane.stopped or lane.reason
            if reason is not None:
                waiting[lane.vectorizer.name] = reason
        return WorkerSummary(**asdict(total), seconds=seconds, waiting=waiting)


async def _cancelled(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancel them, and again where that waits for a server that stands still."""
    for _ in range(2):
        running = [task for task in tasks if not task.done()]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=_GRACE_SECONDS)
    for task in tasks:
        if task.done() and not task.cancelled():
            task.exception()  # seen: a loop's own end has been told by then
