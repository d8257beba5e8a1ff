"""What a worker does beside the batches: leases, walks, changed definitions, broken captures."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Collection, Sequence
from typing import Any

import psycopg
from psycopg import errors as pg

from qwen_embed_plugins.errors import DatabaseError
from qwen_embed_plugins.postgres import _sql, connect, indexes, queue, schema, walks
from qwen_embed_plugins.postgres._flow import Flow, Row, Statement
from qwen_embed_plugins.postgres.definition import (
    Vectorizer,
    VectorTypes,
    define_vectorizers,
    vector_types,
)
from qwen_embed_plugins.postgres.lanes import Lane, Trouble
from qwen_embed_plugins.postgres.presence import Presence
from qwen_embed_plugins.postgres.queue import Batch
from qwen_embed_plugins.postgres.session import CHANGED, RETRIED, Session, is_connection_loss

log = logging.getLogger("qwen_embed_plugins.postgres.worker")

_REFRESH_SECONDS = 2.0
_LONGEST_LOG_BATCHES = 8
_PORTION_BATCHES = 4
_LEAVING_SECONDS = 2.0


class Tending:
    """Keeps the lanes true to the database. Two sessions: one for short things, one for walks."""

    def __init__(
        self,
        address: str,
        *,
        presence: Presence,
        only: Collection[str] | None,
        batch_size: int,
        lease_seconds: float,
        walk_rows_per_second: float | None = None,
    ) -> None:
        self.lanes: dict[int, Lane] = {}
        self.types = VectorTypes("", {})
        self.walk_wanted = asyncio.Event()
        self._address = address
        self._presence = presence
        self._only = frozenset(only) if only is not None else None
        self._batch_size = batch_size
        self._lease_seconds = lease_seconds
        self._walk_rows_per_second = walk_rows_per_second
        self._session, self._walking = Session(address), Session(address)
        self._building: asyncio.Task[None] | None = None

    async def tend(self, tokens: Collection[int], stopping: asyncio.Event) -> None:
        """Beat for the batches under way (`tokens` changes) and refresh, until stopped."""
        beat = min(_REFRESH_SECONDS, self._lease_seconds / 3)
        refreshed = time.monotonic()
        while not stopping.is_set() or tokens:
            if tokens:
                await self._session.transact(queue.extend(list(tokens), self._lease_seconds))
            if time.monotonic() - refreshed >= _REFRESH_SECONDS:
                refreshed = time.monotonic()
                await self.refresh()
                self._index_when_quiet()
            if self._presence.is_due(self.lanes.values()):
                await self._give_sign()
            await asyncio.sleep(beat)

    async def _give_sign(self) -> None:
        try:
            await self._session.transact(self._presence.beat(self.lanes.values()))
        except (*RETRIED, *CHANGED, pg.InsufficientPrivilege) as error:
            log.info("no sign of life", extra={"reason": connect.explain(error)})

    async def leave(self) -> None:
        """Take the sign of life back; what stays of it is taken for dead soon."""
        with contextlib.suppress(psycopg.Error, asyncio.TimeoutError):
            leaving = self._session.transact(self._presence.leave())
            await asyncio.wait_for(leaving, _LEAVING_SECONDS)

    async def require_schema(self) -> None:
        """Raise `DatabaseError`, with what to do, unless the schema is one for this worker."""
        await self._session.transact(schema.require_schema())

    async def refresh(self) -> None:
        """Read all definitions; mend what can be mended. Raises `DatabaseError` if a newer version
        that this one may not work beside was installed meanwhile."""
        try:
            definitions = await self._session.transact(define_vectorizers())
        except CHANGED:
            await self.require_schema()
            raise
        if any(definition.needs > schema.newest() for definition in definitions):
            await self.require_schema()
        if not self.types.oids:
            self.types = await self._session.transact(vector_types())
        self._require_known(definitions)
        wanted = [d for d in definitions if self._only is None or d.name in self._only]
        for gone in set(self.lanes) - {definition.id for definition in wanted}:
            del self.lanes[gone]
        for definition in wanted:
            self._update(definition)
            await self._mend(definition)
        if any(definition.has_task for definition in wanted):
            self.walk_wanted.set()

    def _require_known(self, definitions: Sequence[Vectorizer]) -> None:
        unknown = (self._only or frozenset()) - {definition.name for definition in definitions}
        if unknown and not self.lanes:
            names = ", ".join(definition.name for definition in definitions) or "none"
            raise DatabaseError(
                f"there is no vectorizer {', '.join(sorted(unknown))}. There are: {names}"
            )

    def _update(self, definition: Vectorizer) -> None:
        lane = self.lanes.setdefault(definition.id, Lane(definition))
        if lane.vectorizer.trouble is not None and definition.trouble is None:
            lane.recovered()  # by resume(), or by another worker's success
        lane.vectorizer = definition

    async def _mend(self, definition: Vectorizer) -> None:
        if not definition.workable:
            return
        try:
            if definition.has_expired:
                await self._session.transact(queue.reap(definition))
            if definition.capture_changed and definition.problem is None:
                await self._session.transact(_notice_capture(definition))
                self.walk_wanted.set()
            if definition.partitions_changed and definition.problem is None:
                await self._session.transact(_notice_partitions(definition))
                self.walk_wanted.set()
        except (*RETRIED, *CHANGED, pg.InsufficientPrivilege) as error:
            log.info("tending is put off", extra={"reason": connect.explain(error)})

    async def block(self, lane: Lane, trouble: Trouble, reason: str) -> None:
        """Let a lane rest and say why."""
        lane.rest(trouble, reason)
        log.warning("work waits", extra={"vectorizer": lane.vectorizer.name, "reason": reason})
        try:
            await self._session.transact(lane.tell())
        except pg.InsufficientPrivilege:
            log.warning("this role may not write the reason into qwen_embed.vectorizer")
        except psycopg.Error as error:
            if not (isinstance(error, RETRIED) or is_connection_loss(error)):
                raise
            log.info("the reason is not written", extra={"reason": connect.explain(error)})

    async def names_changed(self, lane: Lane) -> bool:
        """Read the definitions again; whether this one's names are others now, or it is gone. Where
        they cannot be read now, they may be others."""
        before = lane.vectorizer
        try:
            await self.refresh()
        except psycopg.Error as error:
            if not (isinstance(error, RETRIED) or is_connection_loss(error)):
                raise
            return True
        return not self.is_there(lane) or before.names != lane.vectorizer.names

    def is_there(self, lane: Lane) -> bool:
        """Whether a lane's vectorizer still exists and has its tables."""
        return self.lanes.get(lane.vectorizer.id) is lane and lane.vectorizer.workable

    async def hand_back(self, lane: Lane, batch: Batch) -> None:
        """Free an unfinished batch at once; if that fails its lease runs out."""
        try:
            await self._session.transact(queue.hand_back(lane.vectorizer, batch))
        except psycopg.Error as error:
            log.info("a batch was not handed back", extra={"reason": connect.explain(error)})

    async def walk(self, stopping: asyncio.Event, wake: asyncio.Event) -> None:
        """Walk over tables whenever there is a task, until stopped."""
        while not stopping.is_set():
            await self.walk_wanted.wait()
            self.walk_wanted.clear()
            while not stopping.is_set() and await self._walk_all(wake):
                pass

    async def _walk_all(self, wake: asyncio.Event) -> bool:
        """One portion for each lane; says whether another round is worth it now."""
        again = False
        for lane in list(self.lanes.values()):
            if lane.stopped is not None or not lane.vectorizer.has_task:
                continue
            progress = await self._walk_lane(lane)
            again = again or progress != "nothing"
            wake.set()
            if progress == "full":
                await asyncio.sleep(0.05)
            elif progress == "walked" and self._walk_rows_per_second:
                await asyncio.sleep(self._portion(lane) / self._walk_rows_per_second)
        return again

    def _portion(self, lane: Lane) -> int:
        """How many rows a walk looks at in one transaction: of a slowed one, those of a second."""
        # In batches as large as they are taken: a live change waits behind what walks appended.
        portion = _PORTION_BATCHES * lane.rows_to_take(self._batch_size)
        rate = self._walk_rows_per_second
        return portion if rate is None else min(portion, max(1, round(rate)))

    async def _walk_lane(self, lane: Lane) -> walks.Progress:
        flow = walks.walk(
            lane.vectorizer,
            portion=self._portion(lane),
            longest_log=_LONGEST_LOG_BATCHES * lane.rows_to_take(self._batch_size),
        )
        try:
            return await self._walking.transact(flow)
        except (*RETRIED, *CHANGED) as error:
            log.info("a walk waits", extra={"reason": connect.explain(error)})
        except psycopg.Error as error:
            if is_connection_loss(error):
                raise
            await self.block(lane, "blocked", connect.explain_to_worker(error))
        return "nothing"

    async def nothing_left(self) -> bool:
        """Whether all that can be done now is done. Then missing indexes are built, too."""
        await self.refresh()
        for lane in list(self.lanes.values()):
            if lane.stopped is None and await self._has_work(lane):
                lane.floor.rewind()
                self.walk_wanted.set()
                return False
        for lane in list(self.lanes.values()):
            if lane.stopped is None:
                await self._build_index(lane)
        if self._building is not None:
            # Begun while it was quiet: to end now would cancel it.
            await asyncio.wait({self._building})
        return True

    async def _has_work(self, lane: Lane) -> bool:
        question = Statement(lane.vectorizer.query("what_is_left"))
        try:
            (left,) = await self._session.transact(_rows(question))
        except RETRIED:
            return True
        except CHANGED as error:
            await self.block(lane, "blocked", connect.explain_to_worker(error))
            return False
        # Work that another worker holds is waited for: it ends it, or its lease runs out.
        return bool(left["recorded"] or left["due"] or left["leased"] or left["tasks"])

    def _index_when_quiet(self) -> None:
        if self._building is not None and not self._building.done():
            return
        for lane in self.lanes.values():
            quiet = not (lane.in_flight or lane.hungry or lane.vectorizer.has_task)
            if quiet and not lane.index_done and lane.stopped is None:
                self._building = asyncio.create_task(self._build_index(lane))
                return

    async def _build_index(self, lane: Lane) -> None:
        if lane.index_done or lane.vectorizer.index_kind == "none":
            return
        lane.index_done = True
        name, said = lane.vectorizer.name, False

        def say_once(_: indexes.IndexProgress) -> None:
            # It may take minutes, in which a run with an end seems to stand still.
            nonlocal said
            if not said:
                said = True
                log.info("building the index", extra={"vectorizer": name})

        try:
            await indexes.abuild_index(self._address, name, on_progress=say_once)
        except DatabaseError as error:
            reason = {"vectorizer": lane.vectorizer.name, "reason": str(error)}
            log.warning("no index", extra=reason)
            lane.index_done = not is_connection_loss(error.__cause__)

    async def close(self) -> None:
        """End what runs here and close both sessions."""
        if self._building is not None:
            self._building.cancel()
            await asyncio.gather(self._building, return_exceptions=True)
        await self._session.close()
        await self._walking.close()


def _rows(statement: Statement) -> Flow[list[Row]]:
    return (yield statement)


def _notice_capture(definition: Vectorizer) -> Flow[Any]:
    yield Statement(_sql.query("notice_capture"), {"vectorizer": definition.id})


def _notice_partitions(definition: Vectorizer) -> Flow[Any]:
    yield Statement(_sql.query("notice_partitions"), {"vectorizer": definition.id})
