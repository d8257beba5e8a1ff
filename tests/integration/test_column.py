"""Vectors in a column of the user's own table: what is promised holds, what it costs is bounded."""

from __future__ import annotations

import asyncio
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import psycopg
import pytest

from qwen_embed_plugins import postgres
from qwen_embed_plugins.errors import DatabaseError
from qwen_embed_plugins.postgres import _flow, column
from qwen_embed_plugins.postgres.queue import content_hash
from tests.integration.conftest import DIMENSIONS, Database


def in_column(db: Database, **options: Any) -> None:
    db.create(**{"target": "column", **options})


def number(db: Database, name: str = "docs") -> int:
    return int(db.value("SELECT id FROM qwen_embed.vectorizer WHERE name = %s", name))


def in_step(db: Database, *, text: str = "body", vector: str = "embedding") -> None:
    """Each row of docs with a text has its vector and its mark, no other has one; all is done."""
    marks = dict(db.rows(f"SELECT k1, content_hash FROM qwen_embed.mark_{number(db)}"))
    for key, body, stored in db.rows(f"SELECT id, {text}, {vector}::float4[] FROM docs"):
        if body:
            assert stored is not None, key
            np.testing.assert_allclose(stored, db.stub.vector(body), atol=1e-3)
            assert marks.pop(key) == content_hash(body)
        else:
            assert stored is None
    assert marks == {}
    db.drained()


def test_backfill_then_changes(db: Database) -> None:
    db.rows("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 170) i")
    in_column(db)
    summary = db.work()
    assert (summary.embedded, summary.waiting) == (170, {})
    in_step(db)
    db.rows("UPDATE docs SET body = 'new ' || id WHERE id <= 10")
    db.rows("UPDATE docs SET body = '' WHERE id = 11")
    db.rows("UPDATE docs SET body = NULL WHERE id = 12")
    db.rows("DELETE FROM docs WHERE id > 160")
    db.rows("UPDATE docs SET id = id + 1000 WHERE id BETWEEN 20 AND 25")
    db.rows("UPDATE docs SET other = 7")
    assert db.work().embedded == 16
    in_step(db)
    postgres.enqueue(db.dsn, "docs")
    assert db.work().embedded == 0
    assert db.state().target == "docs"
    assert postgres.list_vectorizers(db.dsn)[0].target == "docs"


def test_the_same_text_again_without_its_vector_is_made_again(db: Database) -> None:
    """Its old hash stands beside no vector: present is what is in the column."""
    in_column(db)
    db.rows("INSERT INTO docs VALUES (1, 'a')")
    db.work()
    with db.conn.transaction():
        db.rows("DELETE FROM docs")
        db.rows("INSERT INTO docs VALUES (1, 'a')")
    db.work()
    in_step(db)
    db.rows("TRUNCATE docs")
    db.rows("INSERT INTO docs VALUES (2, 'b')")
    db.work()
    in_step(db)


@pytest.mark.parametrize(
    "arriving",
    [
        "UPDATE docs SET id = 2, body = 'b' WHERE id = 1",
        "WITH gone AS (DELETE FROM docs WHERE id = 1 RETURNING *) "
        "INSERT INTO docs (id, body, embedding) SELECT 2, 'b', embedding FROM gone",
        "INSERT INTO docs (id, body, embedding) SELECT 2, 'b', embedding FROM docs WHERE id = 1",
    ],
)
def test_a_vector_that_came_with_a_row_is_not_that_of_the_row_before(
    db: Database, arriving: str
) -> None:
    """The mark at the key is of the same text, but the vector in the row is another's."""
    in_column(db)
    db.rows("INSERT INTO docs VALUES (1, 'a'), (2, 'b')")
    db.work()
    with db.conn.transaction():
        db.rows("DELETE FROM docs WHERE id = 2")
        db.rows(arriving)
    db.work()
    in_step(db)


def test_a_vector_that_came_from_another_partition_is_not_that_of_the_row_before(
    db: Database,
) -> None:
    """A row that moves between partitions is deleted and inserted, vector and all."""
    db.rows("DROP TABLE docs")
    db.rows("CREATE TABLE docs (id int PRIMARY KEY, body text) PARTITION BY RANGE (id)")
    db.rows("CREATE TABLE p1 PARTITION OF docs FOR VALUES FROM (0) TO (50)")
    db.rows("CREATE TABLE p2 PARTITION OF docs FOR VALUES FROM (50) TO (100)")
    in_column(db, index_kind=None)
    db.rows("INSERT INTO docs VALUES (1, 'a'), (70, 'b')")
    db.work()
    with db.conn.transaction():
        db.rows("DELETE FROM docs WHERE id = 70")
        db.rows("UPDATE docs SET id = 70, body = 'b' WHERE id = 1")
    db.work()
    in_step(db)


def test_a_vector_that_somebody_else_wrote_is_found_and_replaced(db: Database) -> None:
    """The hash beside the key is of the vector, too."""
    in_column(db)
    db.rows("INSERT INTO docs VALUES (1, 'a'), (2, 'b'), (3, 'c')")
    db.work()
    db.rows("UPDATE docs SET embedding = (SELECT embedding FROM docs WHERE id = 1) WHERE id = 2")
    report = postgres.audit(db.dsn, "docs")
    found = [(finding.kind, finding.key) for finding in report.examples]
    assert found == [("stale", {"id": "2"})]
    postgres.enqueue(db.dsn, "docs")
    assert db.work().embedded == 1
    in_step(db)


def test_a_vector_that_a_trigger_changes_on_its_way_is_paid_once(db: Database) -> None:
    db.rows(
        "CREATE FUNCTION public.halve_vector() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "new.embedding := ARRAY(SELECT x / 2 FROM unnest(new.embedding::float4[]) x); RETURN new; "
        "END $$"
    )
    in_column(db)
    db.rows(
        "CREATE TRIGGER halves BEFORE UPDATE OF embedding ON docs "
        "FOR EACH ROW WHEN (new.embedding IS NOT NULL) EXECUTE FUNCTION public.halve_vector()"
    )
    db.rows("INSERT INTO docs VALUES (1, 'a')")
    assert db.work().embedded == 1
    postgres.enqueue(db.dsn, "docs")
    assert db.work().embedded == 0


def test_search_index_and_filter(db: Database) -> None:
    db.rows("INSERT INTO docs SELECT i, 'text ' || i, i % 2 FROM generate_series(1, 300) i")
    in_column(db, index_kind="hnsw")
    db.work()
    assert db.value("SELECT count(*) FROM pg_indexes WHERE indexname = 'docs_hnsw'") == 1
    assert not postgres.build_index(db.dsn, "docs")
    hits = postgres.search(db.dsn, "docs", "text 7", embedder=db.stub, k=3)
    assert (hits[0].key, hits[0].chunk, hits[0].text) == ({"id": 7}, 0, "text 7")
    odd = postgres.search(db.dsn, "docs", "text 8", embedder=db.stub, k=300, filter={"other": 1})
    assert {hit.key["id"] % 2 for hit in odd} == {1}
    assert len(odd) == 150
    exact = postgres.search(db.dsn, "docs", "text 9", embedder=db.stub, k=1, exact=True)
    assert exact[0].key == {"id": 9}


def test_a_plain_role_searches_what_it_may_read(db: Database) -> None:
    in_column(db)
    db.rows("INSERT INTO docs VALUES (1, 'seen', 1), (2, 'hidden', 2)")
    db.work()
    postgres.install(db.dsn)  # takes rights from everybody, and gives these back
    db.rows("ALTER TABLE docs ENABLE ROW LEVEL SECURITY")
    db.rows("CREATE POLICY odd_ones ON docs FOR SELECT USING (other = 1)")
    role = f"reader_{db.value('SELECT current_database()')}"
    db.rows(f'CREATE ROLE "{role}"')
    try:
        db.rows(f'GRANT SELECT ON docs TO "{role}"')
        with db.connect() as connection:
            connection.execute(f'SET ROLE "{role}"')
            hits = postgres.search(connection, "docs", "hidden", embedder=db.stub)
        assert [hit.text for hit in hits] == ["seen"]
    finally:
        db.rows(f'DROP OWNED BY "{role}"')
        db.rows(f'DROP ROLE "{role}"')


def test_renames_are_followed(db: Database) -> None:
    in_column(db, index_kind="hnsw", target_name="vec")
    db.rows("INSERT INTO docs VALUES (1, 'a')")
    db.work()
    db.rows('ALTER TABLE docs RENAME COLUMN vec TO "Odd %name"')
    db.rows("INSERT INTO docs VALUES (2, 'b')")
    db.work()
    in_step(db, vector='"Odd %name"')
    assert postgres.search(db.dsn, "docs", "b", embedder=db.stub)[0].key == {"id": 2}

    async def rename(texts: Sequence[str]) -> None:
        db.stub.during = None
        await asyncio.to_thread(db.rows, 'ALTER TABLE docs RENAME COLUMN "Odd %name" TO again')

    db.stub.during = rename
    db.rows("INSERT INTO docs VALUES (3, 'c')")
    db.work()
    in_step(db, vector="again")
    assert db.stub.asked == ["a", "b", "c"]


def test_a_column_that_is_there_is_used(db: Database) -> None:
    db.rows(f"ALTER TABLE docs ADD embedding vector({DIMENSIONS})")
    db.rows("INSERT INTO docs VALUES (1, 'a')")
    in_column(db)
    db.work()
    in_step(db)


@pytest.mark.parametrize(
    ("before", "options", "said"),
    [
        (
            "ALTER TABLE docs ADD embedding vector(7)",
            {},
            r"is public.vector\(7\), not public.vector\(32\)",
        ),
        ("ALTER TABLE docs ADD embedding text", {}, r"is text, not public.vector\(32\)"),
        (
            "ALTER TABLE docs ADD embedding halfvec(32)",
            {},
            r"is public.halfvec\(32\), not public.vector",
        ),
        (f"ALTER TABLE docs ADD embedding vector({DIMENSIONS}) NOT NULL", {}, "is NOT NULL"),
        ("SELECT 1", {"target_name": "body"}, "a text that it is part of"),
        ("SELECT 1", {"chunk_tokens": 50}, "one vector a row"),
        ("SELECT 1", {"target": "columns"}, "'columns' is not supported"),
    ],
)
def test_what_cannot_hold_vectors_is_refused(
    db: Database, before: str, options: dict[str, Any], said: str
) -> None:
    db.rows(before)
    with pytest.raises(DatabaseError, match=said) as refused:
        in_column(db, **options)
    assert "\n" not in str(refused.value)


def test_create_says_what_it_costs(db: Database) -> None:
    notices: list[str] = []
    db.conn.add_notice_handler(lambda notice: notices.append(str(notice.message_primary)))
    db.rows(
        "SELECT qwen_embed.create_vectorizer('docs', columns => ARRAY['body'], target => 'column', "
        "model => 'qwen3-embedding-0.6b', dimensions => 32)"
    )
    assert any("50 rows at a time" in notice for notice in notices)


def test_drop_leaves_the_column_unless_told(db: Database) -> None:
    in_column(db)
    in_column(db, name="second", target_name="other_embedding")
    with pytest.raises(DatabaseError, match="holds the vectors of 'docs'"):
        in_column(db, name="third")
    db.rows("INSERT INTO docs VALUES (1, 'a')")
    db.work()
    postgres.drop_vectorizer(db.dsn, "docs")
    postgres.drop_vectorizer(db.dsn, "second", drop_target=True)
    columns = {
        row[0]
        for row in db.rows(
            "SELECT attname FROM pg_attribute WHERE attrelid = 'docs'::regclass "
            "AND attnum > 0 AND NOT attisdropped"
        )
    }
    assert columns == {"id", "body", "other", "embedding"}
    left = db.rows(
        "SELECT relname FROM pg_class WHERE relnamespace = 'qwen_embed'::regnamespace "
        r"AND relname ~ '_\d+$' UNION ALL "
        "SELECT proname FROM pg_proc WHERE pronamespace = 'qwen_embed'::regnamespace "
        r"AND proname ~ '_\d+$'"
    )
    assert left == []


def test_a_dropped_column_is_noticed_and_mended(db: Database) -> None:
    in_column(db)
    db.rows("INSERT INTO docs VALUES (1, 'a')")
    db.work()
    with pytest.raises(psycopg.errors.DependentObjectsStillExist):
        db.rows("ALTER TABLE docs DROP embedding")
    db.rows("ALTER TABLE docs DROP embedding CASCADE")
    assert db.state().state == "broken"
    assert "qwen_embed.repair('docs')" in str(db.state().last_error)
    postgres.repair(db.dsn, "docs")
    db.work()
    in_step(db)


def test_few_rows_are_locked_at_a_time(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    original = _flow.arun

    def counting(flow: Any) -> Any:
        reply = None
        try:
            statement = next(flow)
            while True:
                query = statement.query.as_string(None)
                reply = yield statement
                if "SKIP LOCKED" in query and "NO KEY UPDATE" in query:
                    sizes.append(len(reply))
                statement = flow.send(reply)
        except StopIteration as end:
            return end.value

    async def watched(connection: Any, flow: Any) -> Any:
        return await original(connection, counting(flow))

    monkeypatch.setattr("qwen_embed_plugins.postgres.session.arun", watched)
    db.rows("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 130) i")
    in_column(db)
    db.work()
    assert sorted(sizes) == [30, 50, 50]


def test_rows_that_an_app_holds_wait_and_are_not_paid_again(db: Database) -> None:
    db.rows("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 60) i")
    in_column(db)

    async def serve() -> None:
        stopping = asyncio.Event()
        with db.connect() as app:
            app.execute("UPDATE docs SET other = 1 WHERE id IN (3, 33)")
            service = asyncio.create_task(db.awork(once=False, stopping=stopping))
            await until(db, "SELECT count(embedding) = 58 FROM docs", service)
            # It gives them back after a while, and has kept their vectors.
            work = f"qwen_embed.work_{number(db)}"
            await until(db, f"SELECT count(*) = 2 FROM {work} WHERE token IS NULL", service)
        await until(db, "SELECT count(embedding) = 60 FROM docs", service)
        stopping.set()
        await service

    asyncio.run(serve())
    in_step(db)
    db.asked_once()


async def until(db: Database, query: str, service: asyncio.Task[Any]) -> None:
    for _ in range(1200):
        if await asyncio.to_thread(db.value, query):
            return
        if service.done():
            service.result()
            raise AssertionError("the worker ended")
        await asyncio.sleep(0.05)
    raise AssertionError(query)


def test_a_text_that_dies_loses_its_old_vector(db: Database) -> None:
    in_column(db)
    db.rows("INSERT INTO docs VALUES (1, 'a'), (2, 'b')")
    db.work()
    db.stub.refuse = lambda text: ("bad_input", "refused") if text == "bad" else None
    db.rows("UPDATE docs SET body = 'bad' WHERE id = 1")
    db.rows("UPDATE docs SET body = 'c' WHERE id = 2")
    assert db.work().dead == 1
    assert db.rows("SELECT id FROM docs WHERE embedding IS NULL") == [(1,)]
    db.rows("UPDATE docs SET body = 'good' WHERE id = 1")
    db.work()
    assert postgres.dead_letters(db.dsn) == []
    in_step(db)


def test_a_row_whose_vector_the_table_refuses_harms_no_other(db: Database) -> None:
    db.rows("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 120) i")
    in_column(db)
    db.rows(
        "ALTER TABLE docs ADD CONSTRAINT none CHECK (embedding IS NULL OR id NOT IN (7, 8, 90))"
    )
    summary = db.work()
    assert (summary.embedded, summary.dead, summary.waiting) == (117, 3, {})
    assert {letter.key["id"] for letter in postgres.dead_letters(db.dsn)} == {7, 8, 90}
    db.asked_once()
    db.drained()


TRIGGER = """
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN new.touched := new.touched + 1; RETURN new; END $$;
CREATE TRIGGER touch BEFORE UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION touch()
"""
AFTER = """
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN UPDATE docs SET touched = touched + 1 WHERE id = new.id; RETURN NULL; END $$;
CREATE TRIGGER touch AFTER UPDATE ON docs FOR EACH ROW WHEN (old.touched = new.touched)
EXECUTE FUNCTION touch()
"""


def test_a_users_own_update_trigger_runs_and_costs_nothing(db: Database) -> None:
    db.rows("ALTER TABLE docs ADD touched int DEFAULT 0")
    db.conn.execute(TRIGGER)
    db.rows("INSERT INTO docs VALUES (1, 'a')")
    in_column(db)
    db.work()
    assert db.work().embedded == 0
    assert db.value("SELECT touched FROM docs") == 1
    in_step(db)


@pytest.mark.parametrize("trigger", [TRIGGER, AFTER], ids=["before", "after"])
def test_our_own_write_that_changes_the_text_pauses(db: Database, trigger: str) -> None:
    """A template that names what a trigger sets at each update would be paid for for ever."""
    db.rows("ALTER TABLE docs ADD touched int DEFAULT 0")
    db.conn.execute(trigger)
    db.rows("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 5) i")
    in_column(db, columns=["body", "touched"])
    summary = db.work()
    assert "changes the text that it is of" in summary.waiting["docs"]
    state = db.state()
    assert state.state == "paused"
    assert "redefine" in str(state.last_error)
    assert len(db.stub.asked) == 5
    assert db.rows("SELECT sum(touched), count(embedding) FROM docs") == [(0, 0)]
    db.rows("INSERT INTO docs VALUES (9, 'later')")
    db.work()
    assert len(db.stub.asked) == 5
    postgres.redefine(db.dsn, "docs", columns=["body"])
    postgres.resume(db.dsn, "docs")
    db.work()
    in_step(db)


Body: TypeAlias = Callable[[psycopg.Connection[Any], random.Random], None]


class Writers:
    """Threads that change rows of docs until told to stop, and count what the server refused."""

    def __init__(self, db: Database, *bodies: Body, seed: int | None = None) -> None:
        self.db = db
        self.ended = threading.Event()
        self.refused: Counter[str] = Counter()
        self.commits = 0
        self.seed = random.randrange(2**32) if seed is None else seed
        sys.stdout.write(f"seed {self.seed}\n")
        self.threads = [
            threading.Thread(target=self._run, args=(body, random.Random(self.seed + place)))
            for place, body in enumerate(bodies)
        ]

    def _run(self, body: Body, rng: random.Random) -> None:
        with self.db.connect() as connection:
            while not self.ended.is_set():
                try:
                    body(connection, rng)
                    connection.commit()
                    self.commits += 1
                except psycopg.Error as error:
                    self.refused[str(error.sqlstate)] += 1
                    connection.rollback()

    def __enter__(self) -> Writers:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join()


def repeatable(connection: psycopg.Connection[Any], rng: random.Random) -> None:
    """Reads, thinks, updates: our write in between makes it try again."""
    connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    key = rng.randrange(1, 201)
    connection.execute("SELECT body FROM docs WHERE id = %s", (key,))
    time.sleep(0.005)
    connection.execute("UPDATE docs SET body = %s WHERE id = %s", (f"r {rng.random()}", key))


def in_any_order(connection: psycopg.Connection[Any], rng: random.Random) -> None:
    """Many rows one after another, in random order, each locked until the end."""
    share = rng.choice([range(1, 101), range(101, 201)])
    for key in rng.sample(list(share), 8):
        connection.execute("UPDATE docs SET body = %s WHERE id = %s", (f"m {rng.random()}", key))
        time.sleep(0.001)


def run_against(db: Database, seconds: float, *bodies: Any) -> Writers:
    async def serve() -> Writers:
        stopping = asyncio.Event()
        workers = [
            asyncio.create_task(
                db.awork(once=False, stopping=stopping, batch_size=20, poll_seconds=0.01)
            )
            for _ in range(2)
        ]
        with Writers(db, *bodies) as writers:
            await asyncio.sleep(seconds)
        stopping.set()
        await asyncio.gather(*workers)
        return writers

    return asyncio.run(serve())


def test_writers_see_serialization_failures_at_most(db: Database) -> None:
    db.rows("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 200) i")
    in_column(db)
    writers = run_against(db, 4.0, repeatable, repeatable)
    sys.stdout.write(f"{writers.commits} commits, refused: {dict(writers.refused)}\n")
    assert set(writers.refused) <= {"40001"}
    assert writers.commits > 50
    db.work()
    in_step(db)


def test_writers_of_many_rows_never_deadlock_with_us(db: Database) -> None:
    """One writer alone cannot deadlock with itself: what would be seen here were ours."""
    db.rows("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 200) i")
    in_column(db)
    writers = run_against(db, 4.0, in_any_order)
    assert writers.refused == {}
    assert writers.commits > 20
    db.work()
    in_step(db)


def test_a_partitioned_source(db: Database) -> None:
    db.rows("CREATE TABLE papers (id int PRIMARY KEY, body text) PARTITION BY RANGE (id)")
    db.rows("CREATE TABLE p1 PARTITION OF papers FOR VALUES FROM (0) TO (50)")
    db.rows("CREATE TABLE p2 PARTITION OF papers FOR VALUES FROM (50) TO (100)")
    db.rows("INSERT INTO papers SELECT i, 'paper ' || i FROM generate_series(40, 60) i")
    with pytest.raises(DatabaseError, match="papers is partitioned: no index"):
        in_column(db, source="papers", index_kind="hnsw")
    in_column(db, source="papers", index_kind=None)
    db.rows("UPDATE papers SET id = 70 WHERE id = 41")
    db.work()
    assert db.rows("SELECT count(*), count(embedding) FROM papers") == [(21, 21)]
    assert postgres.search(db.dsn, "papers", "paper 41", embedder=db.stub)[0].key == {"id": 70}
    db.drained("papers")


def test_an_answer_after_a_lost_lease_is_dropped(db: Database) -> None:
    in_column(db, backfill=False)
    db.rows("INSERT INTO docs VALUES (1, 'old')")

    async def lose(texts: Sequence[str]) -> None:
        db.stub.during = None
        await asyncio.to_thread(db.rows, "DELETE FROM qwen_embed.lease")
        await asyncio.to_thread(db.rows, f"UPDATE qwen_embed.work_{number(db)} SET token = NULL")
        await asyncio.to_thread(db.rows, "UPDATE docs SET body = 'new'")

    db.stub.during = lose
    summary = db.work()
    assert (summary.lost, summary.embedded) == (1, 1)
    in_step(db)


def test_an_audit_reads_a_column_as_well(db: Database) -> None:
    db.rows("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 30) i")
    in_column(db)
    db.work()
    db.rows("UPDATE docs SET embedding = NULL WHERE id = 4")
    db.rows(
        f"INSERT INTO qwen_embed.mark_{number(db)} VALUES (99, '\\x00', '\\x00', 'x/1', 'stub')"
    )
    postgres.enqueue(db.dsn, "docs")
    db.work()
    in_step(db)


def test_rows_at_once_is_what_the_page_says() -> None:
    assert column.ROWS_AT_ONCE == 50
