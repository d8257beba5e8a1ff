"""Sessions of a real Postgres that are moved by hand, one statement at a time.

A hand runs a flow of the product (`queue.take`, `queue.finish`, …) through the worker's own
`Session`, in a thread. Before each statement, and before the commit, the flow stops at a gate until
it is let on. A statement that waits for a lock is left waiting: it ends when the lock is free.
"""

from __future__ import annotations

import asyncio
import queue as queues
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Literal

import psycopg
from psycopg import sql

from qwen_embed_plugins.postgres._flow import Flow, Row, Statement
from qwen_embed_plugins.postgres.session import Session

COMMIT = "commit"
PATIENCE_SECONDS = 60
# The worker's own limits are for a busy world; here one session moves at a time.
_UNHURRIED = sql.SQL(
    "SET LOCAL lock_timeout = '60s'; SET LOCAL idle_in_transaction_session_timeout = 0"
)

Stand = Literal["gate", "waiting", "over"]


class CrashedError(Exception):
    """What a flow is told at a gate where its worker dies."""


class Hand:
    """One connection. `waits` asks another connection whether this one waits for a lock."""

    def __init__(self, dsn: str, waits: Callable[[int], str | None]) -> None:
        self._session = Session(dsn)
        self._waits = waits
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._gates: queues.Queue[str] = queues.Queue()
        self._permits: queues.Queue[bool] = queues.Queue()
        self._running: Future[Any] | None = None
        self.pid = 0
        self.next = ""
        """The statement at whose gate the flow stands."""
        self.wait_event: str | None = None

    def begin(self, flow: Flow[Any], name_of: Callable[[Statement], str]) -> None:
        """Open a transaction and go to the first gate."""
        assert self._running is None
        self._gates, self._permits = queues.Queue(), queues.Queue()
        stopped = self._stopping(flow, name_of)
        self._running = asyncio.run_coroutine_threadsafe(
            self._session.transact(stopped), self._loop
        )
        gates = self._gates
        self._running.add_done_callback(lambda _: gates.put("over"))
        assert self.look() == "gate"

    def _stopping(self, flow: Flow[Any], name_of: Callable[[Statement], str]) -> Flow[Any]:
        yield Statement(_UNHURRIED)
        rows = yield Statement(sql.SQL("SELECT pg_catalog.pg_backend_pid() AS pid"))
        self.pid = rows[0]["pid"]
        reply: list[Row] | None = None
        while True:
            try:
                statement = next(flow) if reply is None else flow.send(reply)
            except StopIteration as end:
                self._pass(COMMIT)
                return end.value
            name = name_of(statement)
            if name:
                self._pass(name)
            reply = yield statement

    def _pass(self, name: str) -> None:
        self._gates.put(name)
        if not self._permits.get(timeout=PATIENCE_SECONDS):
            raise CrashedError

    def let_on(self) -> Stand:
        """Send the next statement, or commit; say where that led."""
        self.next = ""
        self._permits.put(True)
        return self.look()

    def look(self) -> Stand:
        """Wait until the flow stands: at a gate, in wait for a lock, or at its end."""
        for turn in range(10_000):
            try:
                name = self._gates.get(timeout=0.02 if turn else 0.005)
            except queues.Empty:
                self.wait_event = self._waits(self.pid)
                if self.wait_event is not None:
                    return "waiting"
            else:
                self.next = "" if name == "over" else name
                return "over" if name == "over" else "gate"
        raise AssertionError(f"{self.next} neither ended nor waits for a lock")

    def result(self) -> Any:
        """What the flow gave, once it is over. Raises what it raised."""
        running, self._running = self._running, None
        assert running is not None
        return running.result(timeout=PATIENCE_SECONDS)

    def break_off(self, cancel: Callable[[int], None]) -> None:
        """Roll the transaction back, wherever it stands."""
        running, self._running = self._running, None
        if running is None:
            return
        if self.next:
            self._permits.put(False)
        else:
            cancel(self.pid)
        error = running.exception(timeout=PATIENCE_SECONDS)
        assert isinstance(error, (CrashedError, psycopg.errors.QueryCanceled)), error
        self.next = ""

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._session.close(), self._loop).result(PATIENCE_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_SECONDS)
        self._loop.close()
