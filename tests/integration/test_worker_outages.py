"""A server that goes away, comes back, only reads for a while, or stands still."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import psycopg
import pytest
from psycopg import sql

from qwen_embed_plugins import postgres
from qwen_embed_plugins.errors import DatabaseError
from qwen_embed_plugins.postgres import connect, indexes
from qwen_embed_plugins.postgres._flow import Flow, Statement
from qwen_embed_plugins.postgres.session import Session
from tests.integration.conftest import Database, installed_template, opened_database
from tests.postgres_servers import EmbeddedServer, embedded_server


@pytest.fixture(scope="module")
def own() -> Iterator[EmbeddedServer]:
    """A server that these tests may take away from under their workers."""
    with embedded_server(18) as server:
        with server.admin() as admin:  # a crash must take back nothing that a test has written
            admin.execute("ALTER SYSTEM SET synchronous_commit = on")
            admin.execute("SELECT pg_reload_conf()")
        yield server


@pytest.fixture(scope="module")
def own_template(own: EmbeddedServer) -> Iterator[str]:
    yield from installed_template(own)


@pytest.fixture
def db(own: EmbeddedServer, own_template: str) -> Iterator[Database]:
    with opened_database(own, own_template) as database:
        database.rows("CREATE TABLE docs (id int PRIMARY KEY, body text, other int DEFAULT 0)")
        database.create(backfill=False)
        database.rows("INSERT INTO docs VALUES (1, 'a'), (2, 'b')")
        yield database


def reconnect(db: Database) -> None:
    """After its server was away, the test's own connection is another."""
    db.conn.close()
    db.conn = psycopg.connect(db.dsn, autocommit=True)


@contextlib.asynccontextmanager
async def service(
    db: Database, *, lease_seconds: float = 120.0
) -> AsyncIterator[asyncio.Task[postgres.WorkerSummary]]:
    """A worker that runs until the end of the block."""
    stopping = asyncio.Event()
    running = asyncio.create_task(
        db.awork(once=False, stopping=stopping, lease_seconds=lease_seconds)
    )
    try:
        yield running
    finally:
        stopping.set()
        await asyncio.wait_for(running, 60)


async def until(
    condition: Callable[[], bool], running: asyncio.Task[postgres.WorkerSummary]
) -> None:
    while not condition():
        assert not running.done(), running.result()
        await asyncio.sleep(0.05)


def during_the_request(db: Database, happens: Callable[[], None]) -> threading.Event:
    """What happens while the first request is out; gives what tells that it has."""
    over = threading.Event()

    async def once(texts: Sequence[str]) -> None:
        db.stub.during = None
        await asyncio.to_thread(happens)
        over.set()

    db.stub.during = once
    return over


def stored(db: Database) -> bool:
    return bool(db.value("SELECT count(*) = 2 FROM docs_embedding"))


@pytest.mark.parametrize("leave", ["stop", "crash"])
def test_answers_paid_for_before_a_restart_are_written_after_it(
    db: Database, own: EmbeddedServer, leave: str
) -> None:
    def restart() -> None:
        getattr(own, leave)()
        time.sleep(1.0)
        own.start()
        reconnect(db)

    restarted = during_the_request(db, restart)

    async def play() -> None:
        async with service(db) as running:
            await until(restarted.is_set, running)
            await until(lambda: stored(db), running)

    asyncio.run(play())
    db.in_step()
    assert db.stub.calls == 1


def test_a_server_that_only_reads_for_a_while_ends_no_service(
    db: Database, own: EmbeddedServer
) -> None:
    """A failover: the answer comes back to a standby, which is promoted later."""

    def become_a_standby() -> None:
        own.stop()
        own.start_standby()
        reconnect(db)

    is_standby = during_the_request(db, become_a_standby)

    async def play() -> None:
        async with service(db) as running:
            try:
                await until(is_standby.is_set, running)
                await asyncio.wait([running], timeout=3.0)  # beats, asks and finishes, all in vain
                assert not running.done(), running.result()
                assert not stored(db)
            finally:
                await asyncio.to_thread(own.promote)
            await until(lambda: stored(db), running)
            db.rows("INSERT INTO docs VALUES (3, 'c')")
            await until(lambda: bool(db.vectors().get(3)), running)

    asyncio.run(play())
    db.in_step()
    assert db.stub.calls == 2


def test_a_run_with_an_end_says_that_the_server_only_reads(
    db: Database, own: EmbeddedServer
) -> None:
    own.stop()
    own.start_standby()
    try:
        with pytest.raises(DatabaseError, match=r"standby.*primary") as refused:
            db.work()
        assert "\n" not in str(refused.value)
    finally:
        own.promote()
        reconnect(db)
    db.work()
    db.in_step()


@contextlib.contextmanager
def frozen(db: Database, own: EmbeddedServer) -> Iterator[Callable[[], None]]:
    """Gives a call that stops the server's processes, as a network that swallows everything would;
    they go on at the end."""
    stopped: list[int] = []

    def freeze() -> None:
        sessions = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
        for pid in [own.pid, *(pid for (pid,) in db.rows(sessions))]:
            with contextlib.suppress(ProcessLookupError):  # a session that has just ended
                os.kill(pid, signal.SIGSTOP)
                stopped.append(pid)
        assert own.pid in stopped

    try:
        yield freeze
    finally:
        for pid in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def test_the_first_signal_ends_a_worker_whose_server_stands_still(
    db: Database, own: EmbeddedServer
) -> None:
    asked = asyncio.Event()

    async def never_answered(texts: Sequence[str]) -> None:
        asked.set()
        await asyncio.sleep(600)

    db.stub.during = never_answered

    async def play(freeze: Callable[[], None]) -> None:
        stopping = asyncio.Event()
        running = asyncio.create_task(db.awork(once=False, stopping=stopping))
        await asked.wait()
        freeze()
        await asyncio.sleep(1.0)  # every loop has sent something and waits
        stopping.set()
        done, _ = await asyncio.wait([running], timeout=60)
        assert done, "the worker waits for its server for ever"

    with frozen(db, own) as freeze:
        asyncio.run(play(freeze))


def test_the_first_signal_ends_a_worker_that_still_waits_for_its_server(
    db: Database, own: EmbeddedServer
) -> None:
    async def play() -> None:
        stopping = asyncio.Event()
        running = asyncio.create_task(db.awork(once=False, stopping=stopping))
        await asyncio.sleep(0.5)
        stopping.set()
        done, _ = await asyncio.wait([running], timeout=60)
        assert done, "the worker waits for its server for ever"
        assert running.result().embedded == 0

    with frozen(db, own) as freeze:
        freeze()
        asyncio.run(play())


def test_an_index_whose_build_lost_the_server_is_built_again(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    db.rows("UPDATE qwen_embed.vectorizer SET index_kind = 'hnsw'")
    whole = indexes.abuild_index

    async def lost(target: Any, /, name: str, **named: Any) -> bool:
        monkeypatch.setattr(indexes, "abuild_index", whole)
        with connect.explained(db.dsn):
            raise psycopg.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(indexes, "abuild_index", lost)
    built = (
        "SELECT EXISTS (SELECT FROM pg_index WHERE indrelid = %s::regclass AND NOT indisprimary)"
    )

    async def play() -> None:
        async with service(db) as running:
            await until(lambda: bool(db.value(built, "docs_embedding")), running)

    asyncio.run(play())


def test_a_session_whose_opening_was_cut_off_begins_its_transactions_all_the_same(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Session._prepare_begin

    async def cut_off(self: Session, connection: object) -> object:
        monkeypatch.setattr(Session, "_prepare_begin", whole)
        raise psycopg.errors.QueryCanceled("statement timeout")

    monkeypatch.setattr(Session, "_prepare_begin", cut_off)
    asked = Statement(sql.SQL("SHOW row_security"))

    async def play() -> str:
        opened = Session(db.dsn)
        try:
            with pytest.raises(psycopg.errors.QueryCanceled):
                await opened.transact(one(asked))
            return await opened.transact(one(asked))
        finally:
            await opened.close()

    assert asyncio.run(play()) == "off"


def one(statement: Statement) -> Flow[str]:
    (row,) = yield statement
    return str(next(iter(row.values())))
