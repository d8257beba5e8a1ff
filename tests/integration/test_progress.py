"""What can be seen of the work: its lag, its speed, what is left of it, and who does it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from qwen_embed_plugins import postgres
from qwen_embed_plugins.postgres import presence

if TYPE_CHECKING:
    from tests.integration.conftest import Database

HOUR = timedelta(hours=1)


def grow_older(db: Database, table: str = "log", column: str = "at") -> None:
    number = db.value("SELECT id FROM qwen_embed.vectorizer WHERE name = 'docs'")
    db.rows(f"UPDATE qwen_embed.{table}_{number} SET {column} = {column} - interval '1 hour'")


def lag(db: Database) -> timedelta:
    found = db.state().lag
    assert found is not None
    return found


def test_lag_counts_what_waits_in_the_log_under_a_lease_and_for_another_try(db: Database) -> None:
    db.create(backfill=False)
    assert db.state().lag is None
    db.rows("INSERT INTO docs VALUES (1, 'one'), (2, 'two')")
    assert lag(db) < HOUR
    grow_older(db)
    assert lag(db) > HOUR
    seen: list[timedelta] = []

    async def during(_: Sequence[str]) -> None:
        seen.append(lag(db))

    db.stub.during = during
    db.stub.refuse = lambda text: ("bad_vector", "odd") if text in ("two", "zwei") else None
    db.work()
    assert seen[0] > HOUR
    state = db.state()
    assert (state.pending, state.leased) == (1, 0)
    assert lag(db) > HOUR, "it was written an hour ago and still has no vector"
    # A later change of that row does not make it younger.
    db.rows("UPDATE docs SET body = 'zwei' WHERE id = 2")
    assert lag(db) > HOUR
    db.work()
    assert lag(db) > HOUR


def test_a_change_that_is_answered_ages_no_more(db: Database) -> None:
    db.create(backfill=False)
    db.rows("INSERT INTO docs VALUES (1, 'one')")
    number = db.value("SELECT id FROM qwen_embed.vectorizer")
    grow_older(db)
    seen: list[timedelta] = []

    async def during(_: Sequence[str]) -> None:
        if db.stub.calls == 1:  # changed under way, which another worker's take marks
            db.rows("UPDATE docs SET body = 'uno'")
            stopping = asyncio.Event()
            other = asyncio.create_task(db.awork(once=False, stopping=stopping))
            await until(db, f"NOT EXISTS (SELECT FROM qwen_embed.log_{number})")
            stopping.set()
            await other
        elif db.stub.calls == 2:
            seen.append(lag(db))

    db.stub.during = during
    asyncio.run(asyncio.wait_for(db.awork(), 60))
    assert len(seen) == 1
    assert seen[0] < HOUR
    db.in_step()


async def until(db: Database, condition: str) -> None:
    while not db.value(f"SELECT {condition}"):  # noqa: ASYNC110  the event is in the database
        await asyncio.sleep(0.05)


def test_a_worker_shows_while_it_runs(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "BUSY_SECONDS", 0.1)
    db.create(backfill=False)
    db.create(name="other", target_name="other", backfill=False)
    db.rows("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 50) i")

    async def play() -> None:
        stopping = asyncio.Event()
        worker = asyncio.create_task(
            db.awork(once=False, stopping=stopping, only=["docs"], lease_seconds=0.9)
        )
        await until(db, "EXISTS (SELECT FROM qwen_embed.progress WHERE rows = 50)")
        await until(db, "EXISTS (SELECT FROM qwen_embed.progress WHERE rows_per_second > 0)")
        (sign,) = postgres.workers(db.dsn)
        assert (sign.alive, sign.vectorizers) == (True, ("docs",))
        assert sign.name.count(":") == 1
        for _ in range(5):
            db.rows("UPDATE docs SET body = body || '!' WHERE id = 1")
            await asyncio.sleep(0.3)
        docs, other = await postgres.aprogress(db.dsn)
        assert (docs.workers, docs.walked, docs.to_walk) == (1, 0, 0)
        assert docs.rows > 50
        assert (other.workers, other.rows, other.rows_per_second) == (0, 0, 0.0)
        assert db.rows("SELECT count(*) FROM qwen_embed.worker") == [(1,)]
        assert db.rows("SELECT count(*) FROM qwen_embed.tally") == [(1,)]
        stopping.set()
        await worker

    asyncio.run(asyncio.wait_for(play(), 60))
    assert postgres.workers(db.dsn) == []
    assert db.value("SELECT count(*) FROM qwen_embed.tally") == 0


def test_a_killed_worker_is_dead_soon_and_forgotten_later(db: Database) -> None:
    db.create(backfill=False)
    db.rows(
        "INSERT INTO qwen_embed.worker (run, name, version, beat_at) VALUES "
        "('a', 'gone:1', '0', now() - interval '2 minutes'), "
        "('b', 'long gone:2', '0', now() - interval '2 hours')",
        *(),
    )
    db.rows("INSERT INTO qwen_embed.tally SELECT 'a', id, 5, 5, 0, 9, 9 FROM qwen_embed.vectorizer")
    assert [sign.alive for sign in postgres.workers(db.dsn)] == [False, False]
    (progress,) = postgres.progress(db.dsn)
    assert (progress.workers, progress.rows_per_second) == (0, 0.0)
    db.rows("INSERT INTO docs VALUES (1, 'one')")
    db.work()
    assert [sign.name for sign in postgres.workers(db.dsn)] == ["gone:1"]
    postgres.drop_vectorizer(db.dsn, "docs")
    assert db.value("SELECT count(*) FROM qwen_embed.tally") == 0


def test_how_far_a_backfill_is_and_how_long_it_takes(db: Database) -> None:
    db.rows("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 400) i")
    db.rows("ANALYZE docs")
    db.create()
    (before,) = postgres.progress(db.dsn)
    assert (before.walked, before.to_walk, before.time_left) == (0, 400, None)

    async def play() -> None:
        stopping = asyncio.Event()

        async def during(_: Sequence[str]) -> None:
            if db.stub.calls == 6:
                stopping.set()

        db.stub.during = during
        await db.awork(once=False, stopping=stopping, batch_size=10, in_flight=1)

    asyncio.run(asyncio.wait_for(play(), 60))
    (half,) = postgres.progress(db.dsn)
    assert 0 < half.walked < 400
    assert half.walked + half.to_walk == 400
    db.rows(
        "INSERT INTO qwen_embed.worker (run, name, version) VALUES ('a', 'it:1', '0')",
    )
    db.rows("INSERT INTO qwen_embed.tally SELECT 'a', id, 5, 5, 0, 4, 9 FROM qwen_embed.vectorizer")
    (half,) = postgres.progress(db.dsn)
    left = half.to_walk + db.state().pending + db.state().leased
    assert half.time_left == timedelta(seconds=left / 4)
    db.stub.during = None
    db.work()
    (after,) = postgres.progress(db.dsn)
    assert (after.walked, after.to_walk, after.time_left) == (0, 0, timedelta(0))


def test_the_rows_of_partitions_are_counted(db: Database) -> None:
    db.rows("CREATE TABLE parts (id int PRIMARY KEY, body text) PARTITION BY RANGE (id)")
    db.rows("CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (100)")
    db.rows("CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (100) TO (200)")
    db.rows("INSERT INTO parts SELECT i, 'text' FROM generate_series(50, 149) i")
    db.rows("ANALYZE parts")
    db.create("parts")
    (progress,) = postgres.progress(db.dsn, "parts")
    assert progress.to_walk == 100


def test_a_role_that_may_not_say_that_it_works_works(db: Database) -> None:
    """A worker that an administrator gave rights by hand, before there was such a table."""
    db.create(backfill=False)
    db.rows("INSERT INTO docs VALUES (1, 'one')")
    db.rows("ALTER TABLE qwen_embed.worker RENAME TO elsewhere")
    assert db.work().embedded == 1
