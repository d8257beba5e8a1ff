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
import traceback
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal
from typing import Any, Protocol

import psycopg
from psycopg import sql

from qwen_embed_plugins.errors import (
    BudgetExceeded,
    ConfigurationError,
    NoOfferLeft,
    without_secrets,
)
from qwen_embed_plugins.postgres import column, connect, listening, queue
from qwen_embed_plugins.postgres._flow import Flow
from qwen_embed_plugins.postgres.answers import (
    Answer,
    EmbedsTexts,
    held,
    sort_answer,
    standing,
)
from qwen_embed_plugins.postgres.chunking import Chunking, ChunkingFactory, Split
from qwen_embed_plugins.postgres.kept import Kept, Ready, known
from qwen_embed_plugins.postgres.lanes import Counts, Lane
from qwen_embed_plugins.postgres.metrics import Metrics
from qwen_embed_plugins.postgres.presence import Presence
from qwen_embed_plugins.postgres.queue import Batch, Item, Outcome
from qwen_embed_plugins.postgres.session import CHANGED, RETRIED, Session, is_connection_loss
from qwen_embed_plugins.postgres.tending import Tending

log = logging.getLogger("qwen_embed_plugins.postgres.worker")

_GRACE_SECONDS = 5.0
_LONGEST_REFUSED_SECONDS = 10.0
_MOST_LEASES = 8  # full ones whose texts are in memory, whatever the number of vectorizers


class EmbedderFactory(Protocol):
    """Makes an embedder of one space. Raises `ConfigurationError` if the settings allow none."""

    def __call__(self, model: str, dimensions: int) -> EmbedsTexts: ...


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
        self.taking, self.finishing = Session(self.address), Session(self.address)
        self.wake = asyncio.Event()
        self.embedders: dict[tuple[str, int], EmbedsTexts] = {}
        self.chunkings: dict[tuple[str | None, int, int], Chunking] = {}
        self.kept = Kept()
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
                await self._embedder(lane)
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
        ready = {int(next(iter(row.values()))) for row in rows}
        spent = time.monotonic() - now
        for lane, start in starts:
            if lane.vectorizer.id not in ready:
                lane.floor.scanned(start, furthest=None, short=True, now=now, seconds=spent)
        return ready

    async def _take(self, lane: Lane) -> None:
        if await self._embedder(lane) is None or not await self._may_split(lane):
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
        lane.hungry = False
        if isinstance(error, RETRIED):
            log.info("taking gives way", extra={"reason": connect.explain(error)})
            lane.give_way(random.uniform(0.02, 0.2))
        elif is_connection_loss(error):
            raise error
        elif not (isinstance(error, CHANGED) and await self._names_changed(lane)):
            await self.tending.block(lane, "blocked", connect.explain_to_worker(error))

    async def _names_changed(self, lane: Lane) -> bool:
        """Read the definitions again; whether this one's names are others now, or it is gone. Where
        they cannot be read now, they may be others."""
        before = lane.vectorizer
        try:
            await self.tending.refresh()
        except psycopg.Error as error:
            if not (isinstance(error, RETRIED) or is_connection_loss(error)):
                raise
            return True
        return not self.tending.is_there(lane) or before.names != lane.vectorizer.names

    def _start_processing(self, lane: Lane, batch: Batch) -> None:
        lane.in_flight += 1
        self.batches[batch.token] = (lane, batch)
        task = asyncio.create_task(self._process(lane, batch))
        self.processing.add(task)
        task.add_done_callback(self.processing.discard)

    async def _embedder(self, lane: Lane) -> EmbedsTexts | None:
        """The embedder of a lane's space, made once for all lanes of that space."""
        vectorizer = lane.vectorizer
        wanted = (vectorizer.model, vectorizer.dimensions)
        if wanted in self.embedders:
            return self.embedders[wanted]
        try:
            embedder = self.embedder_for(*wanted)
        except ConfigurationError as error:
            await self.tending.block(lane, "blocked", _line(error))
            return None
        if (embedder.space.model, embedder.space.dimensions) != wanted:
            await self.tending.block(
                lane,
                "blocked",
                f"this worker's embedder makes {embedder.space}, the vectorizer holds "
                f"{vectorizer.model}/{vectorizer.dimensions}. Change the settings, or create a "
                "vectorizer of that model and dimensions.",
            )
            return None
        self.embedders[wanted] = embedder
        return embedder

    async def _may_split(self, lane: Lane) -> bool:
        """Whether a lane that splits its texts can."""
        try:
            self._chunking(lane)
        except ConfigurationError as error:
            await self.tending.block(lane, "blocked", _line(error))
            return False
        return True

    def _chunking(self, lane: Lane) -> Chunking | None:
        vectorizer = lane.vectorizer
        if vectorizer.chunk_tokens is None:
            return None
        wanted = (vectorizer.chunker, vectorizer.chunk_tokens, vectorizer.chunk_overlap)
        if wanted not in self.chunkings:
            self.chunkings[wanted] = self.chunking_for(*wanted)
        return self.chunkings[wanted]

    # Embedding and finishing

    async def _process(self, lane: Lane, batch: Batch) -> None:
        began = time.monotonic()
        try:
            outcome = await self._embed(lane, batch)
            self._say_why_work_waits(lane)
            if not await self._finish(lane, batch, outcome):
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

    def _note_end(self, lane: Lane, batch: Batch, seconds: float) -> None:
        name = lane.vectorizer.name
        if self.metrics is not None:
            self.metrics.batch_ended(name, seconds)
        extra = {"vectorizer": name, "rows": len(batch.ids), "seconds": round(seconds, 3)}
        log.debug("a batch ended", extra=extra)

    async def _embed(self, lane: Lane, batch: Batch) -> Outcome:
        if not batch.items:
            return Outcome()
        try:
            split = await self._split(lane, batch)
            answer = await self._answer(lane, batch, split.items)
        except NoOfferLeft as error:
            lane.rest("held", _line(error), retry_at=error.retry_at)
        except BudgetExceeded as error:
            lane.rest("held", _line(error), retry_at=error.retry_at)
        except ConfigurationError as error:
            lane.rest("blocked", _line(error))
        except Exception as error:  # an embedder's own bug must cost no text its life
            # Where, not what: an exception of someone else's may hold a key or a whole text.
            where = "".join(traceback.format_tb(error.__traceback__))
            log.error("the embedder failed", extra={"reason": _line(error), "where": where})
            lane.rest("held", f"{type(error).__name__}: {_line(error)}")
        else:
            outcome = self._sorted(lane, answer)
            return replace(outcome, buried=(*outcome.buried, *split.bad))
        return held(batch.items)

    async def _split(self, lane: Lane, batch: Batch) -> Split:
        chunking = self._chunking(lane)
        if chunking is None:
            return Split(batch.items, ())
        # Long texts take long; the heartbeat goes on meanwhile.
        return await asyncio.to_thread(chunking.split, batch.items)

    async def _answer(self, lane: Lane, batch: Batch, items: Sequence[Item]) -> Answer:
        vectorizer = lane.vectorizer
        ready, asked = known(items, batch.standing, self.kept, vectorizer.space)
        if not asked:
            return Answer(standing(ready), None)
        embedder = self.embedders[vectorizer.model, vectorizer.dimensions]
        result = await embedder.embed([item.text for item in asked], role="document")
        lane.counts.pay(result)
        answer = sort_answer(asked, result, ready)
        self.kept.keep(vectorizer.space, answer.unused)
        return answer

    def _say_why_work_waits(self, lane: Lane) -> None:
        """Each new reason once; a run with an end says it in its summary."""
        if not self.once and lane.reason is not None and lane.reason != lane.said:
            lane.said = lane.reason
            extra = {"vectorizer": lane.vectorizer.name, "reason": lane.reason}
            log.warning("work waits", extra=extra)

    def _sorted(self, lane: Lane, answer: Answer) -> Outcome:
        outcome = answer.outcome
        if answer.no_offer is None:
            if outcome.written:
                lane.recovered()
        elif outcome.written:
            lane.recovered()
            lane.note("held", answer.no_offer)
        else:
            lane.rest("held", answer.no_offer)
        return outcome

    async def _finish(self, lane: Lane, batch: Batch, outcome: Outcome) -> bool:
        """Write the outcome, however often it takes; False if there is no place for it now.

        A service keeps what it paid for until it can be written: handed back, it would be paid
        again at each try. Meanwhile the lane tries another batch: if that one can be written, the
        rows of this one are to blame.
        """
        pause, refused, written_before = 0.05, False, lane.counts.embedded
        parts = column.Parts(batch, outcome) if lane.vectorizer.in_column else None
        try:
            while True:
                others_pass = refused and lane.counts.embedded > written_before
                if parts is not None:
                    batch, outcome = parts.batch, parts.outcome
                flow = self._finish_flow(
                    lane, batch, outcome, over=refused, others_pass=others_pass
                )
                try:
                    if parts is not None and parts.waiting:
                        await self._write_part(lane, parts, others_pass=others_pass)
                        continue
                    became = await self.finishing.transact(flow)
                except RETRIED:
                    pass
                except column.OwnWriteChangesText:
                    await self._pause(lane, outcome)
                    return False
                except psycopg.Error as error:
                    lost = is_connection_loss(error)
                    if lost and self.once:
                        raise
                    # Renamed: then the paid answers still have a place to go.
                    renamed = isinstance(error, CHANGED) and await self._names_changed(lane)
                    if not self.tending.is_there(lane):
                        return True
                    if not (lost or renamed):
                        reason = connect.explain_to_worker(error)
                        await self.tending.block(lane, "blocked", reason)
                        if self.once:
                            return False
                        if not refused:
                            refused, written_before = True, lane.counts.embedded
                            lane.stuck += 1
                else:
                    if refused:
                        lane.recovered()
                    self._count(lane, batch, outcome, became)
                    return True
                if self.stopping.is_set() and (refused or pause > 1.0):
                    return False
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(_LONGEST_REFUSED_SECONDS if refused else 2.0, pause * 2)
        finally:
            lane.stuck -= int(refused)

    async def _write_part(self, lane: Lane, parts: column.Parts, *, others_pass: bool) -> None:
        """One transaction on a user's own table. Rows that stay locked are left for later."""
        rows = parts.next
        flow = column.write_part(
            lane.vectorizer, parts, types=self.tending.types, others_pass=others_pass
        )
        written = await self.finishing.transact(flow)
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
        await self.finishing.transact(column.pause(lane.vectorizer, reason))
        await self.tending.refresh()

    def _finish_flow(
        self, lane: Lane, batch: Batch, outcome: Outcome, *, over: bool, others_pass: bool
    ) -> Flow[Outcome | None]:
        types = self.tending.types
        became = yield from queue.finish(
            lane.vectorizer, batch, outcome, types=types, others_pass=others_pass
        )
        if lane.trouble is not None and not over:
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
            for part in (self.taking, self.finishing, self.tending):
                await part.close()
            for embedder in self.embedders.values():
                await _close(embedder)

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


async def _close(embedder: EmbedsTexts) -> None:
    close = getattr(embedder, "aclose", None)  # a stand-in may have nothing to close
    if close is not None:
        await close()


def _line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return without_secrets(lines[0]) if lines else type(error).__name__
