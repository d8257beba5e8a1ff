"""The eight ways in which a careless protocol leaves a stale or missing vector, or harms a writer.

Each test makes the interleaving happen; each was seen to fail with its remedy taken out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql

from qwen_embed_plugins import postgres
from qwen_embed_plugins.postgres import queue
from qwen_embed_plugins.postgres._flow import Flow, Statement
from qwen_embed_plugins.postgres.definition import (
    Vectorizer,
    VectorTypes,
    define_vectorizers,
    vector_types,
)
from qwen_embed_plugins.postgres.session import Session

if TYPE_CHECKING:
    from tests.integration.conftest import Database


@pytest.fixture
def db(db_everywhere: Database) -> Database:
    """On each server: Postgres 16 and 18, and the one that the run was given."""
    return db_everywhere


class Hand:
    """A worker moved by hand, one transaction at a time."""

    def __init__(self, db: Database, session: Session) -> None:
        self.db = db
        self.session = session
        self.vectorizer: Vectorizer
        self.types: VectorTypes

    async def ready(self) -> Hand:
        self.vectorizer = (await self.session.transact(define_vectorizers()))[0]
        self.types = await self.session.transact(vector_types())
        return self

    def taking(self) -> Flow[queue.Taken]:
        return queue.take(self.vectorizer, worker="hand", block=0, limit=100, lease_seconds=60)

    async def take(self) -> queue.Batch:
        batch = (await self.session.transact(self.taking())).batch
        assert batch is not None
        return batch

    def outcome(self, batch: queue.Batch) -> queue.Outcome:
        import numpy as np

        vectors = np.array([self.db.stub.vector(item.text) for item in batch.items])
        return queue.Outcome(
            written=batch.items, vectors=vectors, offers=("stub",) * len(batch.items)
        )

    async def finish(self, batch: queue.Batch) -> bool:
        outcome = self.outcome(batch) if batch.items else queue.Outcome()
        flow = queue.finish(self.vectorizer, batch, outcome, types=self.types)
        return await self.session.transact(flow) is not None

    async def expire(self) -> None:
        self.db.rows("UPDATE qwen_embed.lease SET expires_at = now() - interval '1 s'")
        await self.session.transact(queue.reap(self.vectorizer))


def by_hand(db: Database, *steps: Callable[..., Any]) -> None:
    """Run an async test body with as many hands as it takes parameters."""

    async def play() -> None:
        (body,) = steps
        count = body.__code__.co_argcount
        hands = [await Hand(db, Session(db.dsn)).ready() for _ in range(count)]
        try:
            await body(*hands)
        finally:
            for hand in hands:
                await hand.session.close()

    asyncio.run(play())


def test_1_a_change_between_taking_and_reading_is_read(db: Database) -> None:
    """The row is read by a later statement than the one that took its key."""
    db.rows("INSERT INTO docs VALUES (1, 'first')")
    db.create()
    db.work()
    db.rows("UPDATE docs SET body = 'second' WHERE id = 1")

    async def body(hand: Hand) -> None:
        flow = hand.taking()

        def third_comes_between() -> Flow[queue.Taken]:
            reply: list[Any] | None = None
            while True:
                try:
                    statement = flow.send(reply) if reply is not None else next(flow)
                except StopIteration as end:
                    return end.value  # type: ignore[no-any-return]
                if "content_hash" in statement.query.as_string(None):
                    # Everything before this is done; a statement that had read the row together
                    # with the taking would not see this change, nor would any later take.
                    db.rows("UPDATE docs SET body = 'third' WHERE id = 1")
                reply = yield statement

        taken = await hand.session.transact(third_comes_between())
        assert taken.batch is not None
        assert [item.text for item in taken.batch.items] == ["third"]
        assert await hand.finish(taken.batch)

    by_hand(db, body)
    db.work()
    db.in_step()


def test_1_a_key_merged_by_a_running_statement_brings_its_new_text(db: Database) -> None:
    """The take waits for another's merge of the same key; what it then leases it must read anew."""
    db.rows("INSERT INTO docs VALUES (1, 'first')")
    db.create(backfill=False)
    number = db.value("SELECT id FROM qwen_embed.vectorizer")
    db.rows(f"INSERT INTO qwen_embed.work_{number} (k1) VALUES (1)")

    async def body(hand: Hand) -> None:
        with db.connect() as other:
            # Another worker holds the work row while this one's statement has its snapshot.
            other.execute(f"SELECT FROM qwen_embed.work_{number} FOR UPDATE")
            db.rows("UPDATE docs SET body = 'second' WHERE id = 1")
            taking = asyncio.create_task(hand.take())
            await _until(db, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
            db.rows("UPDATE docs SET body = 'third' WHERE id = 1")
            other.commit()
        batch = await taking
        assert [item.text for item in batch.items] == ["third"]
        assert await hand.finish(batch)

    by_hand(db, body)
    db.work()
    db.in_step()


async def _until(db: Database, question: str) -> None:
    while not db.value(question):  # noqa: ASYNC110  the server tells nobody when it waits
        await asyncio.sleep(0.01)


def test_2_a_late_worker_cannot_pass_a_fence_made_anew(db: Database) -> None:
    """The token comes from a sequence: work made again for the same key is another lease's."""
    db.rows("INSERT INTO docs VALUES (1, 'first')")
    db.create(backfill=False)
    db.rows("UPDATE docs SET body = 'second' WHERE id = 1")

    async def body(late: Hand, quick: Hand) -> None:
        old = await late.take()
        await quick.expire()
        db.rows("UPDATE docs SET body = 'third' WHERE id = 1")
        assert await quick.finish(await quick.take())
        db.rows("UPDATE docs SET body = 'fourth' WHERE id = 1")
        new = await quick.take()
        assert not await late.finish(old)
        assert db.vectors() == {1: "third"}
        assert await quick.finish(new)

    by_hand(db, body)
    db.in_step()


def test_3_a_change_during_the_request_is_not_forgotten(db: Database) -> None:
    db.rows("INSERT INTO docs VALUES (1, 'first')")
    db.create(backfill=False)
    db.rows("UPDATE docs SET body = 'second' WHERE id = 1")

    async def body(slow: Hand, other: Hand) -> None:
        held = await slow.take()
        db.rows("UPDATE docs SET body = 'third' WHERE id = 1")
        # Another worker takes the change from the log and finds the key leased.
        assert (await other.session.transact(other.taking())).batch is None
        assert await slow.finish(held)
        # Newer than nothing: written. Older than the row: due again.
        assert db.vectors() == {1: "second"}
        assert await other.finish(await other.take())

    by_hand(db, body)
    db.in_step()


def test_3_a_change_during_the_request_counts_for_equal_texts_too(db: Database) -> None:
    db.rows("INSERT INTO docs VALUES (1, 'first')")
    db.create()
    db.work()
    db.rows("UPDATE docs SET body = 'x' WHERE id = 1", *())
    db.rows("UPDATE docs SET body = 'first' WHERE id = 1")

    async def body(slow: Hand, other: Hand) -> None:
        held = await slow.take()
        assert held.equal
        assert not held.items
        db.rows("UPDATE docs SET body = 'third' WHERE id = 1")
        assert (await other.session.transact(other.taking())).batch is None
        assert await slow.finish(held)
        assert await other.finish(await other.take())

    by_hand(db, body)
    db.in_step()


def test_4_a_sweep_never_removes_what_a_worker_has_just_stored(db: Database) -> None:
    """TRUNCATE, then the same key again: only the holder of its lease may touch its vector."""
    db.rows("INSERT INTO docs VALUES (1, 'first'), (2, 'gone')")
    db.create()
    db.work()
    db.rows("TRUNCATE docs")
    db.rows("INSERT INTO docs VALUES (1, 'second')")

    async def body(hand: Hand, sweeper: Hand) -> None:
        batch = await hand.take()
        assert db.value("SELECT kind FROM qwen_embed.task") == "orphans"
        # The sweep's statement begins, with a snapshot in which row 1 has no fresh vector yet …
        with db.connect() as blocker:
            blocker.execute("LOCK TABLE docs_embedding IN EXCLUSIVE MODE")
            sweeping = asyncio.create_task(_walk(sweeper))
            await asyncio.sleep(0.05)
            blocker.rollback()
        await asyncio.gather(sweeping, hand.finish(batch))

    by_hand(db, body)
    db.work()
    db.in_step()


async def _walk(hand: Hand) -> None:
    from qwen_embed_plugins.postgres import walks

    await hand.session.transact(walks.walk(hand.vectorizer, portion=10, longest_log=100))


def test_4_walks_write_to_the_log_alone(db: Database) -> None:
    """Whatever the order, a walk's only trace is in the log and in its own task."""
    db.rows("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 20) i")
    db.create()
    db.work()
    before = db.vectors()
    db.rows("ALTER TABLE docs DISABLE TRIGGER USER")
    db.rows("DELETE FROM docs WHERE id > 10")
    postgres.enqueue(db.dsn, "docs")

    async def body(hand: Hand) -> None:
        for _ in range(20):
            await _walk(hand)

    by_hand(db, body)
    assert db.vectors() == before
    number = db.value("SELECT id FROM qwen_embed.vectorizer")
    logged = {key for (key,) in db.rows(f"SELECT k1 FROM qwen_embed.log_{number}")}
    assert logged == set(range(11, 21))


def test_5_a_row_that_vanished_during_the_request_gets_no_vector(db: Database) -> None:
    """TRUNCATE and its whole sweep pass between read and finish: the finish must look again."""
    db.create()
    db.rows("INSERT INTO docs VALUES (1, 'first')")

    async def during(texts: Sequence[str]) -> None:
        if db.stub.calls == 1:
            # In a thread: it waits for the worker's walk, which this very loop has to go on with.
            await asyncio.to_thread(db.rows, "TRUNCATE docs")
            # A second worker does all of the sweep while this answer is still out.
            await asyncio.wait_for(_sweep(db), 20)

    db.stub.during = during
    db.work()
    assert db.stub.calls == 1
    db.expect({})
    db.drained()


def test_5_truncate_takes_dead_letters_along(db: Database) -> None:
    """No vector is left to be found by the walk, only the letter."""
    db.rows("INSERT INTO docs VALUES (1, 'refused'), (2, 'kept')")
    db.create()
    db.stub.refuse = lambda text: ("bad_input", "no") if text == "refused" else None
    assert db.work().dead == 1
    db.rows("BEGIN; TRUNCATE docs; INSERT INTO docs VALUES (2, 'kept'); COMMIT")
    db.work()
    assert postgres.dead_letters(db.dsn) == []
    db.in_step()


def test_5_a_text_refused_after_its_row_vanished_is_no_dead_letter(db: Database) -> None:
    db.create(backfill=False)
    db.rows("INSERT INTO docs VALUES (1, 'refused')")
    db.stub.refuse = lambda text: ("bad_input", "no")

    async def during(texts: Sequence[str]) -> None:
        if db.stub.calls == 1:
            await asyncio.to_thread(db.rows, "TRUNCATE docs")
            await asyncio.wait_for(_sweep(db), 20)

    db.stub.during = during
    db.work()
    assert db.stub.calls == 1
    assert postgres.dead_letters(db.dsn) == []
    db.drained()


async def _sweep(db: Database) -> None:
    hand = await Hand(db, Session(db.dsn)).ready()
    assert (await hand.session.transact(hand.taking())).batch is None
    for _ in range(3):
        await _walk(hand)
    await hand.session.transact(hand.taking())
    await hand.session.close()


def test_6_a_serializable_database_does_not_make_the_worker_harm_writers(db: Database) -> None:
    """Every session is SERIALIZABLE by default; the worker's transactions still are not."""
    name = db.value("SELECT current_database()")
    db.rows(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    db.rows(f"ALTER DATABASE {name} SET default_transaction_read_only = off")
    db.rows("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 50) i")
    db.create()
    seen: set[str] = set()

    async def body(hand: Hand) -> None:
        def ask() -> Flow[None]:
            rows = yield Statement(
                sql.SQL(
                    "SELECT current_setting('transaction_isolation') AS level, "
                    "current_setting('transaction_read_only') AS read_only"
                )
            )
            seen.add(f"{rows[0]['level']} {rows[0]['read_only']}")

        await hand.session.transact(ask())
        # The conflict that a serializable worker would complete: the app reads what the worker
        # writes, and writes what the worker has read.
        batch_before = await _drain(hand)
        assert batch_before
        for turn in range(5):
            with db.connect() as app:
                app.execute("SELECT count(*) FROM docs_embedding")
                app.execute("UPDATE docs SET body = %s WHERE id = 1", [f"turn {turn}"])
                db.rows("UPDATE docs SET body = body || '!' WHERE id = 2")
                assert await hand.finish(await hand.take())
                app.execute("UPDATE docs SET other = 1 WHERE id = 3")
                app.commit()

    by_hand(db, body)
    assert seen == {"read committed off"}
    db.work()
    db.in_step()


async def _drain(hand: Hand) -> bool:
    await _walk(hand)
    for _ in range(20):
        await _walk(hand)
    taken = await hand.session.transact(hand.taking())
    assert taken.batch is not None
    return await hand.finish(taken.batch)


def test_7_a_repeatable_read_update_survives_a_vector_written_meanwhile(db: Database) -> None:
    """Vectors go to a side table: the writer's row is never ours to change."""
    db.rows("INSERT INTO docs VALUES (1, 'first')")
    db.create()
    with db.connect() as app:
        app.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        app.execute("SELECT * FROM docs")
        db.work()
        app.execute("UPDATE docs SET body = 'second' WHERE id = 1")
        app.commit()
    db.work()
    db.in_step()


def test_8_rows_committed_while_the_creator_looks_away_are_embedded(db: Database) -> None:
    """create_vectorizer in a REPEATABLE READ transaction whose snapshot is older than a row."""
    db.rows("INSERT INTO docs VALUES (1, 'seen')")
    with db.connect() as creator:
        creator.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        creator.execute("SELECT count(*) FROM docs")
        db.rows("INSERT INTO docs VALUES (2, 'not seen')")
        creator.execute(
            "SELECT qwen_embed.create_vectorizer('docs', columns => '{body}', dimensions => 32,"
            " model => 'qwen3-embedding-0.6b', index_kind => 'none')"
        )
        assert creator.execute("SELECT count(*) FROM docs").fetchone() == (1,)
        creator.commit()
    db.work()
    db.in_step()


@pytest.mark.parametrize("isolation", list(psycopg.IsolationLevel))
def test_writers_of_all_levels_only_append(db: Database, isolation: psycopg.IsolationLevel) -> None:
    """Two open transactions change the same key's row one after the other; neither meets us."""
    db.rows("INSERT INTO docs VALUES (1, 'a'), (2, 'b')")
    db.create()
    with db.connect() as one, db.connect() as two:
        one.isolation_level = two.isolation_level = isolation
        one.execute("UPDATE docs SET body = 'a2' WHERE id = 1")
        two.execute("UPDATE docs SET body = 'b2' WHERE id = 2")
        db.work(lease_seconds=5)
        one.commit()
        two.commit()
    db.work()
    db.in_step()
