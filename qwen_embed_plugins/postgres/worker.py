"""The worker: takes changes, has their texts embedded, writes the vectors.

Three things go on at once, each on a connection of its own: taking and reading, finishing, and
tending (leases, walks, the state of the triggers). A batch between reading and finishing holds a
lease in the database and no transaction. Each vectorizer has a *lane*: how many of its batches are
under way, and whether it must wait; so none stops another.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import psycopg
from psycopg import errors as pg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from qwen_embed_plugins.errors import (
    BudgetExceeded,
    ConfigurationError,
    DatabaseError,
    NoOfferLeft,
    without_secrets,
)
from qwen_embed_plugins.postgres import _sql, connect, indexes, queue, walks
from qwen_embed_plugins.postgres._flow import Flow, Statement
from qwen_embed_plugins.postgres.answers import EmbedsTexts, held, sort_answer
from qwen_embed_plugins.postgres.definition import (
    Vectorizer,
    VectorTypes,
    define_vectorizers,
    vector_types,
)
from qwen_embed_plugins.postgres.floor import LogFloor
from qwen_embed_plugins.postgres.queue import Batch, Outcome
from qwen_embed_plugins.postgres.session import Session

log = logging.getLogger("qwen_embed_plugins.postgres.worker")

_TEND_SECONDS = 2.0
_GRACE_SECONDS = 5.0
_LONGEST_PAUSE_SECONDS = 60.0
_LONGEST_LOG_BATCHES = 8
_PORTION_BATCHES = 4
_RETRIED = (pg.LockNotAvailable, pg.DeadlockDetected, pg.SerializationFailure, pg.QueryCanceled)
_CHANGED = (pg.UndefinedTable, pg.UndefinedColumn, pg.UndefinedFunction, pg.InvalidSchemaName)


class EmbedderFactory(Protocol):
    """Makes an embedder of one space. Raises `ConfigurationError` if the settings allow none."""

    def __call__(self, model: str, dimensions: int) -> EmbedsTexts: ...


def default_embedder(model: str, dimensions: int) -> EmbedsTexts:
    """An `AsyncEmbedder` of this space from the discovered settings."""
    from qwen_embed_plugins.embedder import AsyncEmbedder

    return AsyncEmbedder(model=model, dimensions=dimensions)


@dataclass(frozen=True, slots=True)
class WorkerSummary:
    """What a worker did. `waiting` maps vectorizers whose work could not be done to the reason.

    `embedded` vectors were written, `equal` texts had theirs already, `removed` keys have no row or
    no text, `dead` texts were refused for good, `lost` answers came after their lease was gone.
    """

    embedded: int = 0
    equal: int = 0
    removed: int = 0
    dead: int = 0
    lost: int = 0
    seconds: float = 0.0
    waiting: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WorkerProgress:
    """A batch was finished: counts of this worker since it started, for one vectorizer."""

    name: str
    embedded: int
    equal: int
    removed: int
    dead: int


@dataclass
class _Lane:
    """One vectorizer's traffic in this worker."""

    vectorizer: Vectorizer
    floor: LogFloor = field(default_factory=LogFloor)
    in_flight: int = 0
    hungry: bool = False
    trouble: str | None = None
    reason: str | None = None
    wait_until: float = 0.0
    pause: float = 0.0
    index_done: bool = False
    counts: dict[str, int] = field(
        default_factory=lambda: {"embedded": 0, "equal": 0, "removed": 0, "dead": 0, "lost": 0}
    )

    def wait(self, trouble: str | None, reason: str, until: float | None = None) -> float:
        """Let the lane rest, longer each time; gives the pause in seconds."""
        self.trouble, self.reason = trouble, reason
        self.pause = min(_LONGEST_PAUSE_SECONDS, max(1.0, self.pause * 2))
        if until is not None:
            self.pause = min(self.pause, max(0.1, until - time.time()))
        self.wait_until = time.monotonic() + self.pause
        return self.pause

    def recovered(self) -> None:
        self.trouble, self.reason, self.pause, self.wait_until = None, None, 0.0, 0.0

    @property
    def idle_reason(self) -> str | None:
        """Why nothing is to be done here although there may be work."""
        if not self.vectorizer.workable:
            return self.vectorizer.problem or "its tables are missing"
        if self.vectorizer.paused:
            return "paused"
        return self.reason


async def arun_worker(
    target: str | psycopg.AsyncConnection[Any] | psycopg.Connection[Any] | None = None,
    *,
    once: bool = False,
    only: Collection[str] | None = None,
    embedder_for: EmbedderFactory | None = None,
    batch_size: int = 500,
    in_flight: int = 4,
    lease_seconds: float = 30.0,
    poll_seconds: float = 0.7,
    on_progress: Callable[[WorkerProgress], None] | None = None,
    stopping: asyncio.Event | None = None,
) -> WorkerSummary:
    """Keep the vectors of a database in step with their rows.

    With `once` it returns when nothing is left that can be done now; otherwise it runs until
    cancelled or until `stopping` is set, and survives restarts of the server. `only` names
    vectorizers; `in_flight` batches of up to `batch_size` rows are under way for each. Raises
    `DatabaseError` if the server cannot be reached at the start or qwen_embed is not installed;
    with `once` also if the connection is lost.
    """
    worker = _Worker(
        address=_address_of(target),
        once=once,
        only=frozenset(only) if only is not None else None,
        embedder_for=embedder_for or default_embedder,
        batch_size=batch_size,
        in_flight=in_flight,
        lease_seconds=lease_seconds,
        poll_seconds=poll_seconds,
        on_progress=on_progress,
        stopping=stopping or asyncio.Event(),
    )
    with connect.explained(worker.address):
        return await worker.run()


def run_worker(
    target: str | psycopg.Connection[Any] | None = None, **options: Any
) -> WorkerSummary:
    """`arun_worker` for programs without an event loop: blocks until it returns.

    The first SIGTERM or SIGINT lets batches end or hands them back, within seconds; the second
    aborts. Raises `ConfigurationError` inside a running loop.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_run_with_signals(target, options))
    raise ConfigurationError("run_worker blocks the running event loop: await arun_worker instead")


async def _run_with_signals(target: Any, options: dict[str, Any]) -> WorkerSummary:
    stopping = options.pop("stopping", None) or asyncio.Event()
    work = asyncio.ensure_future(arun_worker(target, stopping=stopping, **options))

    def stop() -> None:
        if stopping.is_set():
            work.cancel()
        stopping.set()

    # Windows loops and threads cannot take signals this way; there Ctrl-C ends asyncio.run itself.
    with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop)
    return await work


def _address_of(target: Any) -> str:
    if isinstance(target, (psycopg.Connection, psycopg.AsyncConnection)):
        info = target.info
        return make_conninfo("", **{**info.get_parameters(), "password": info.password or None})
    return connect.resolve(target)


@dataclass
class _Worker:
    address: str
    once: bool
    only: frozenset[str] | None
    embedder_for: EmbedderFactory
    batch_size: int
    in_flight: int
    lease_seconds: float
    poll_seconds: float
    on_progress: Callable[[WorkerProgress], None] | None
    stopping: asyncio.Event

    def __post_init__(self) -> None:
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.lanes: dict[int, _Lane] = {}
        self.types = VectorTypes("", {})
        self.taking, self.finishing, self.tending, self.walking = (
            Session(self.address) for _ in range(4)
        )
        self.wake = asyncio.Event()
        self.walk_wanted = asyncio.Event()
        self.batches: dict[int, tuple[_Lane, Batch]] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.embedders: dict[tuple[str, int], EmbedsTexts] = {}
        self.left_over: list[tuple[_Lane, Batch]] = []
        self.failure: BaseException | None = None
        self.building: asyncio.Task[None] | None = None

    async def run(self) -> WorkerSummary:
        started = time.monotonic()
        background: list[asyncio.Task[None]] = []
        try:
            await self._refresh()
            # Settings and clients are loaded now, not while a transaction of another loop is open.
            for lane in self._open_lanes():
                await self._embedder(lane)
            background = [
                asyncio.create_task(self._lasting(self._tend), name="tend"),
                asyncio.create_task(self._lasting(self._walk), name="walk"),
                asyncio.create_task(self._watch_stopping(), name="stopping"),
            ]
            await self._attend(background)
        finally:
            await self._end(background)
        return self._summary(time.monotonic() - started)

    async def _attend(self, background: list[asyncio.Task[None]]) -> None:
        # A background task ends only by an error, which must not go unseen while taking goes on.
        main = asyncio.create_task(self._lasting(self._produce), name="produce")
        background.append(main)
        watched = [task for task in background if task.get_name() != "stopping"]
        done, _ = await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def _watch_stopping(self) -> None:
        await self.stopping.wait()
        self.wake.set()
        self.walk_wanted.set()

    async def _lasting(self, loop: Callable[[], Awaitable[None]]) -> None:
        """Run a loop; as a service, start it again after the server went away."""
        pause = 0.2
        while True:
            began = time.monotonic()
            try:
                return await loop()
            except psycopg.OperationalError as error:
                if self.once or not _is_connection_loss(error):
                    raise
                log.warning("lost the server, trying again", extra={"wait_seconds": pause})
            if time.monotonic() - began > 10:
                pause = 0.2
            if await self._sleep(pause * random.uniform(0.5, 1.0)):
                return None
            pause = min(5.0, pause * 2)

    async def _sleep(self, seconds: float) -> bool:
        """Wait, but not past a stop; says whether it is time to stop."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)
        return self.stopping.is_set()

    # Taking

    async def _produce(self) -> None:
        while not self.stopping.is_set():
            self.wake.clear()
            if self.failure is not None:
                raise self.failure
            ready = await self._ready_lanes()
            for lane in ready:
                await self._take(lane)
            if ready:
                continue
            if self.once and await self._nothing_left():
                return
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.wake.wait(), self.poll_seconds)

    def _open_lanes(self) -> list[_Lane]:
        now = time.monotonic()
        return [
            lane
            for lane in self.lanes.values()
            if lane.vectorizer.workable
            and not lane.vectorizer.paused
            and not (self.once and lane.reason)
            and lane.wait_until <= now
            # While a lane is in trouble one batch asks whether it is over.
            and lane.in_flight < (1 if lane.reason else self.in_flight)
        ]

    async def _ready_lanes(self) -> list[_Lane]:
        lanes = self._open_lanes()
        asked = [lane for lane in lanes if not lane.hungry]
        waiting: set[int] = set()
        if asked:
            waiting = await self._ask_ready(asked)
        return [lane for lane in lanes if lane.hungry or lane.vectorizer.id in waiting]

    async def _ask_ready(self, lanes: Sequence[_Lane]) -> set[int]:
        now = time.monotonic()
        starts = [(lane, lane.floor.start(now)) for lane in lanes]
        question = sql.SQL(" UNION ALL ").join(
            lane.vectorizer.query("is_ready", floor=sql.Literal(f"({start},0)"))
            for lane, start in starts
        )
        try:
            rows = await self.taking.transact(_rows(Statement(question)))
        except (*_CHANGED, pg.InsufficientPrivilege) as error:
            await self._changed(lanes, error)
            return set()
        except _RETRIED:
            return set()
        ready = {next(iter(row.values())) for row in rows}
        spent = time.monotonic() - now
        for lane, start in starts:
            if lane.vectorizer.id not in ready:
                lane.floor.scanned(start, furthest=None, short=True, now=now, seconds=spent)
        return ready

    async def _take(self, lane: _Lane) -> None:
        if await self._embedder(lane) is None:
            return None
        now = time.monotonic()
        start = lane.floor.start(now)
        flow = queue.take(
            lane.vectorizer,
            worker=self.name,
            block=start,
            limit=self.batch_size,
            lease_seconds=self.lease_seconds,
        )
        try:
            taken = await self.taking.transact(flow)
        except _CHANGED as error:
            return await self._changed([lane], error)
        except _RETRIED as error:
            log.info("taking waits for another session", extra={"reason": connect.explain(error)})
            lane.wait_until = time.monotonic() + random.uniform(0.02, 0.2)
            return None
        except psycopg.OperationalError:
            raise
        except psycopg.Error as error:
            return await self._blocked(lane, _explained_for_worker(error))
        short = taken.logged < self.batch_size
        lane.floor.scanned(
            start, furthest=taken.block, short=short, now=now, seconds=time.monotonic() - now
        )
        lane.hungry = not short
        if taken.batch is not None:
            lane.in_flight += 1
            self.batches[taken.batch.token] = (lane, taken.batch)
            task = asyncio.create_task(self._process(lane, taken.batch))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        return None

    async def _embedder(self, lane: _Lane) -> EmbedsTexts | None:
        """The embedder of a lane's space, made once for all lanes of that space."""
        vectorizer = lane.vectorizer
        wanted = (vectorizer.model, vectorizer.dimensions)
        if wanted in self.embedders:
            return self.embedders[wanted]
        try:
            embedder = self.embedder_for(*wanted)
        except ConfigurationError as error:
            await self._blocked(lane, _line(error))
            return None
        if (embedder.space.model, embedder.space.dimensions) != wanted:
            await self._blocked(
                lane,
                f"this worker's embedder makes {embedder.space}, the vectorizer holds "
                f"{vectorizer.model}/{vectorizer.dimensions}. Change the settings, or create a "
                "vectorizer of that model and dimensions.",
            )
            return None
        self.embedders[wanted] = embedder
        return embedder

    # Embedding and finishing

    async def _process(self, lane: _Lane, batch: Batch) -> None:
        try:
            outcome = await self._embed(lane, batch)
            await self._finish(lane, batch, outcome)
        except asyncio.CancelledError:
            self.left_over.append((lane, batch))
            raise
        except Exception as error:  # raised again by the loop that started this
            self.left_over.append((lane, batch))
            self.failure = self.failure or error
        finally:
            lane.in_flight -= 1
            self.batches.pop(batch.token, None)
            self.wake.set()

    async def _embed(self, lane: _Lane, batch: Batch) -> Outcome:
        if not batch.items:
            return Outcome()
        wanted = (lane.vectorizer.model, lane.vectorizer.dimensions)
        texts = [item.text for item in batch.items]
        try:
            result = await self.embedders[wanted].embed(texts, role="document")
        except NoOfferLeft as error:
            return held(batch.items, lane.wait("held", _line(error), error.retry_at))
        except BudgetExceeded as error:
            return held(batch.items, lane.wait("held", _line(error)))
        except ConfigurationError as error:
            return held(batch.items, lane.wait("blocked", _line(error)))
        except Exception as error:  # an embedder's own bug must cost no text its life
            log.exception("the embedder failed")
            reason = f"{type(error).__name__}: {_line(error)}"
            return held(batch.items, lane.wait("held", reason))
        answer = sort_answer(batch.items, result, pause_seconds=max(1.0, lane.pause))
        if answer.no_offer is not None:
            lane.wait("held", answer.no_offer)
        elif answer.outcome.written:
            lane.recovered()
        return answer.outcome

    async def _finish(self, lane: _Lane, batch: Batch, outcome: Outcome) -> None:
        pause = 0.05
        while True:
            flow = self._finish_flow(lane, batch, outcome)
            try:
                kept = await self.finishing.transact(flow)
            except _CHANGED as error:
                # Renamed, and then the paid answers still have a place to go; or gone.
                await self._changed([lane], error)
                if not self._is_there(lane) or pause > 1:
                    await self._hand_back(lane, batch)
                    return
            except _RETRIED:
                pass
            except psycopg.OperationalError as error:
                if self.once or not _is_connection_loss(error):
                    raise
            except psycopg.Error as error:
                await self._blocked(lane, _explained_for_worker(error))
                await self._hand_back(lane, batch)
                return
            else:
                self._count(lane, batch, outcome, kept)
                return
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2.0, pause * 2)

    def _is_there(self, lane: _Lane) -> bool:
        return self.lanes.get(lane.vectorizer.id) is lane and lane.vectorizer.workable

    def _finish_flow(self, lane: _Lane, batch: Batch, outcome: Outcome) -> Flow[bool]:
        kept = yield from queue.finish(lane.vectorizer, batch, outcome, types=self.types)
        values = {
            "vectorizer": lane.vectorizer.id,
            "trouble": lane.trouble,
            "message": lane.reason,
        }
        if lane.trouble is not None:
            yield Statement(_sql.query("report_trouble"), values)
        elif outcome.written:
            # Whoever wrote the reason, perhaps another worker: it no longer holds.
            yield Statement(_sql.query("clear_trouble"), values)
        return kept

    def _count(self, lane: _Lane, batch: Batch, outcome: Outcome, kept: bool) -> None:
        if not kept:
            lane.counts["lost"] += len(outcome.written)
            log.info("a lease was lost, its answers are dropped", extra={"batch": len(batch.ids)})
            return
        lane.counts["embedded"] += len(outcome.written)
        lane.counts["equal"] += len(batch.equal)
        lane.counts["removed"] += len(batch.gone)
        lane.counts["dead"] += len(outcome.buried)
        if self.on_progress is not None:
            counts = {key: value for key, value in lane.counts.items() if key != "lost"}
            self.on_progress(WorkerProgress(name=lane.vectorizer.name, **counts))

    # Trouble

    async def _blocked(self, lane: _Lane, reason: str) -> None:
        lane.wait("blocked", reason)
        await self._report(lane)

    async def _report(self, lane: _Lane) -> None:
        values = {
            "vectorizer": lane.vectorizer.id,
            "trouble": lane.trouble,
            "message": lane.reason,
        }
        log.warning("work waits", extra={"vectorizer": lane.vectorizer.name, "reason": lane.reason})
        try:
            await self.tending.transact(_rows(Statement(_sql.query("report_trouble"), values)))
        except pg.InsufficientPrivilege:
            log.warning("this role may not write the reason into qwen_embed.vectorizer")

    async def _changed(self, lanes: Sequence[_Lane], error: psycopg.Error) -> None:
        # Renamed or dropped since the names were read: read them again; what is gone shows there.
        log.info("names changed", extra={"reason": connect.explain(error)})
        await self._refresh()
        for lane in lanes:
            if self._is_there(lane):
                lane.pause = min(5.0, max(0.1, lane.pause * 2))
                lane.wait_until = time.monotonic() + lane.pause
                if lane.pause >= 1.0:
                    await self._blocked(lane, _explained_for_worker(error))

    # Tending

    async def _tend(self) -> None:
        beat = min(_TEND_SECONDS, self.lease_seconds / 3)
        refreshed = time.monotonic()
        while not self.stopping.is_set() or self.batches:
            if self.batches:
                await self.tending.transact(queue.extend(list(self.batches), self.lease_seconds))
            if time.monotonic() - refreshed >= _TEND_SECONDS and not self.stopping.is_set():
                refreshed = time.monotonic()
                await self._refresh()
                self._index_when_quiet()
            await asyncio.sleep(beat)

    async def _refresh(self) -> None:
        definitions = await self.tending.transact(define_vectorizers())
        if not self.types.oids:
            self.types = await self.tending.transact(vector_types())
        self._require_known(definitions)
        wanted = [d for d in definitions if self.only is None or d.name in self.only]
        known = {definition.id for definition in wanted}
        for gone in set(self.lanes) - known:
            del self.lanes[gone]
        for definition in wanted:
            self._update_lane(definition)
        for definition in wanted:
            await self._mend(definition)
        if any(definition.has_task for definition in wanted):
            self.walk_wanted.set()

    def _require_known(self, definitions: Sequence[Vectorizer]) -> None:
        unknown = (self.only or frozenset()) - {definition.name for definition in definitions}
        if unknown and not self.lanes:
            names = ", ".join(definition.name for definition in definitions) or "none"
            raise DatabaseError(
                f"there is no vectorizer {', '.join(sorted(unknown))}. There are: {names}"
            )

    def _update_lane(self, definition: Vectorizer) -> None:
        lane = self.lanes.get(definition.id)
        if lane is None:
            self.lanes[definition.id] = _Lane(definition)
            return
        if lane.vectorizer.trouble is not None and definition.trouble is None and lane.reason:
            lane.recovered()  # by resume()
        lane.vectorizer = definition

    async def _mend(self, definition: Vectorizer) -> None:
        if not definition.workable:
            return
        try:
            if definition.has_expired:
                await self.tending.transact(queue.reap(definition))
            if definition.capture_changed and definition.problem is None:
                values = {"vectorizer": definition.id}
                await self.tending.transact(_rows(Statement(_sql.query("notice_capture"), values)))
                self.walk_wanted.set()
        except (*_RETRIED, *_CHANGED, pg.InsufficientPrivilege) as error:
            log.info("tending is put off", extra={"reason": connect.explain(error)})

    async def _walk(self) -> None:
        while not self.stopping.is_set():
            await self.walk_wanted.wait()
            self.walk_wanted.clear()
            while await self._walk_all() and not self.stopping.is_set():
                pass

    async def _walk_all(self) -> bool:
        """One portion for each lane; says whether it is worth another round now."""
        again = False
        for lane in list(self.lanes.values()):
            if lane.idle_reason is not None or not lane.vectorizer.has_task:
                continue
            progress = await self._walk_lane(lane)
            if progress == "full":
                await self._sleep(0.05)
            again = again or progress != "nothing"
            self.wake.set()
        return again

    async def _walk_lane(self, lane: _Lane) -> walks.Progress:
        flow = walks.walk(
            lane.vectorizer,
            portion=_PORTION_BATCHES * self.batch_size,
            longest_log=_LONGEST_LOG_BATCHES * self.batch_size,
        )
        try:
            return await self.walking.transact(flow)
        except (*_RETRIED, *_CHANGED) as error:
            log.info("a walk waits", extra={"reason": connect.explain(error)})
        except psycopg.OperationalError:
            raise
        except psycopg.Error as error:
            await self._blocked(lane, _explained_for_worker(error))
        return "nothing"

    # Ending

    async def _nothing_left(self) -> bool:
        """With `once`: whether all that can be done now is done, indexes included."""
        if self.tasks:
            return False
        await self._refresh()
        for lane in list(self.lanes.values()):
            if lane.idle_reason is not None:
                continue
            try:
                left = (
                    await self.tending.transact(
                        _rows(Statement(lane.vectorizer.query("what_is_left")))
                    )
                )[0]
            except (*_CHANGED, *_RETRIED):
                return False
            if left["recorded"] or left["due"] or left["leased"] or left["tasks"]:
                lane.floor.rewind()
                self.walk_wanted.set()
                return False
            await self._build_index(lane)
        return not self.tasks

    def _index_when_quiet(self) -> None:
        if self.once or (self.building is not None and not self.building.done()):
            return
        for lane in self.lanes.values():
            quiet = not (lane.in_flight or lane.hungry or lane.vectorizer.has_task)
            if quiet and not lane.index_done and lane.idle_reason is None:
                self.building = asyncio.create_task(self._build_index(lane))
                return

    async def _build_index(self, lane: _Lane) -> None:
        if lane.index_done or lane.vectorizer.index_kind != "hnsw":
            return
        lane.index_done = True
        try:
            await indexes.abuild_index(self.address, lane.vectorizer.name)
        except DatabaseError as error:
            log.warning(
                "no index", extra={"vectorizer": lane.vectorizer.name, "reason": str(error)}
            )

    async def _end(self, background: Sequence[asyncio.Task[None]]) -> None:
        try:
            if self.tasks and self.stopping.is_set():
                await asyncio.wait(self.tasks, timeout=_GRACE_SECONDS)
        finally:
            ending = [*self.tasks, *background, *([self.building] if self.building else [])]
            for task in ending:
                task.cancel()
            await asyncio.gather(*ending, return_exceptions=True)
            await self._hand_back_all()
            for session in (self.taking, self.finishing, self.tending, self.walking):
                await session.close()
            for embedder in self.embedders.values():
                # A stand-in may have nothing to close.
                close = getattr(embedder, "aclose", None)
                if close is not None:
                    await close()

    async def _hand_back_all(self) -> None:
        # What was cancelled above left its lease behind: free it now instead of when it runs out.
        for lane, batch in self.left_over:
            await self._hand_back(lane, batch)

    async def _hand_back(self, lane: _Lane, batch: Batch) -> None:
        try:
            await self.tending.transact(queue.hand_back(lane.vectorizer, batch))
        except psycopg.Error as error:
            # Then the lease runs out.
            log.info("a batch was not handed back", extra={"reason": connect.explain(error)})

    def _summary(self, seconds: float) -> WorkerSummary:
        total = {
            key: sum(lane.counts[key] for lane in self.lanes.values())
            for key in ("embedded", "equal", "removed", "dead", "lost")
        }
        waiting = {
            lane.vectorizer.name: lane.idle_reason
            for lane in self.lanes.values()
            if lane.idle_reason is not None
        }
        return WorkerSummary(**total, seconds=seconds, waiting=waiting)


def _rows(statement: Statement) -> Flow[list[dict[str, Any]]]:
    return (yield statement)


def _line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return without_secrets(lines[0]) if lines else type(error).__name__


def _is_connection_loss(error: psycopg.OperationalError) -> bool:
    return error.sqlstate is None or error.sqlstate[:2] in {"08", "57", "53"}


def _explained_for_worker(error: psycopg.Error) -> str:
    if isinstance(error, pg.InsufficientPrivilege):
        return (
            f"{connect.explain(error).split('. ')[0]}. The worker must see and write every row: "
            "run it as the owner of source and target, or as a role with BYPASSRLS and the rights."
        )
    return connect.explain(error)
