"""What must not end a worker, nor stop the vectorizers beside the one it happened to."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from qwen_embed_plugins import postgres
from qwen_embed_plugins.errors import DatabaseError
from qwen_embed_plugins.postgres import _flow, session
from qwen_embed_plugins.postgres.tending import Tending
from qwen_embed_plugins.types import EmbedResult
from tests.integration.conftest import Database


def test_answers_that_cannot_be_written_are_kept_and_not_paid_for_again(
    db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    db.create(backfill=False)
    db.rows("INSERT INTO docs VALUES (1, 'a')")
    db.rows("ALTER TABLE docs_embedding ADD extra int NOT NULL")

    async def serve() -> None:
        stopping = asyncio.Event()
        service = asyncio.create_task(db.awork(once=False, stopping=stopping))
        while len(caplog.records) < 4:  # refused four times
            assert not service.done()
            await asyncio.sleep(0.05)
        assert db.state().state == "blocked"
        db.rows("ALTER TABLE docs_embedding DROP extra")
        while not db.value("SELECT count(*) FROM docs_embedding"):
            assert not service.done()
            await asyncio.sleep(0.05)
        assert db.state().state == "active"
        stopping.set()
        await service

    asyncio.run(serve())
    db.in_step()
    assert db.stub.calls == 1


def test_an_embedders_own_error_takes_no_secret_into_the_log(
    db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    db.create()
    db.rows("INSERT INTO docs VALUES (1, 'a')")
    db.stub.fail = lambda: RuntimeError("POST https://user:hunter2@host/")
    db.work()
    assert "hunter2" not in caplog.text
    assert "hunter2" not in str([vars(record) for record in caplog.records])


def test_an_embedder_that_answers_too_few_ends_no_worker(db: Database) -> None:
    db.create()
    db.rows("INSERT INTO docs VALUES (1, 'a'), (2, 'b')")
    whole = db.stub.embed

    async def fewer(texts: Sequence[str], role: Any = "document") -> EmbedResult:
        answer = await whole(texts)
        return replace(answer, vectors=answer.vectors[:1], offers=answer.offers[:1])

    db.stub.embed = fewer  # type: ignore[method-assign]
    assert "docs" in db.work().waiting
    db.stub.embed = whole  # type: ignore[method-assign]
    postgres.resume(db.dsn, "docs")
    db.work()
    db.in_step()


def test_a_worker_that_stood_still_in_a_transaction_goes_on(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that slept: the server has ended the sessions that were in a transaction."""
    db.create()
    db.rows("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 30) i")
    monkeypatch.setattr(session, "_BEGIN", session._BEGIN.replace("'10s'", "'100ms'"))
    original, calls = _flow.arun, iter(range(10**6))

    async def standing_still(connection: Any, flow: Any) -> Any:
        result = await original(connection, flow)
        if next(calls) in {3, 5, 8, 10, 13}:
            await asyncio.sleep(0.4)
        return result

    monkeypatch.setattr(session, "arun", standing_still)
    db.work(batch_size=10, lease_seconds=2.0)
    db.in_step()


def test_an_index_that_its_owner_builds_is_not_dropped(db: Database) -> None:
    db.create(index_kind="hnsw")
    db.rows("CREATE INDEX mine ON docs_embedding USING hnsw (embedding vector_l2_ops)")
    # As it stands while CREATE INDEX CONCURRENTLY is at work.
    db.rows("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'mine'::regclass")
    assert postgres.build_index(db.dsn, "docs")
    assert db.value("SELECT to_regclass('mine') IS NOT NULL")


def test_a_name_near_to_nothing_is_refused_in_words(db: Database) -> None:
    with pytest.raises(DatabaseError, match="has no column zzz"):
        db.create(columns=["zzz"])
    db.create()
    with pytest.raises(DatabaseError, match="filter names zzz"):
        postgres.search(db.dsn, "docs", "x", embedder=db.stub, filter={"zzz": 1})
    with pytest.raises(DatabaseError, match="there is no vectorizer 'q'") as refused:
        postgres.pause(db.dsn, "q")
    assert "NULL" not in str(refused.value)


def test_a_batch_cut_off_by_a_lost_server_is_not_kept_from_everyone(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection goes just as a finish has met a renamed table and reads the names again."""
    db.create(backfill=False)
    db.rows("INSERT INTO docs VALUES (1, 'a')")
    original, losing = Tending.refresh, asyncio.Event()

    async def lost_once(self: Tending) -> None:
        if losing.is_set():
            losing.clear()
            raise psycopg.OperationalError("lost")
        await original(self)

    async def rename(texts: Sequence[str]) -> None:
        db.stub.during = None
        await asyncio.to_thread(db.rows, "ALTER TABLE docs RENAME TO papers")
        losing.set()

    monkeypatch.setattr(Tending, "refresh", lost_once)
    db.stub.during = rename

    async def serve() -> None:
        stopping = asyncio.Event()
        service = asyncio.create_task(db.awork(once=False, stopping=stopping, lease_seconds=1.0))
        for _ in range(300):
            await asyncio.wait([service], timeout=0.05)
            if service.done() or db.value("SELECT count(*) FROM docs_embedding"):
                break
        stopping.set()
        await service

    asyncio.run(serve())
    db.expect({1: "a"})
