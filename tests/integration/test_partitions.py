"""Partitioned sources: rows through the parent or directly, partitions that come and go."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from qwen_embed_plugins import postgres
from qwen_embed_plugins.errors import DatabaseError

if TYPE_CHECKING:
    from tests.integration.conftest import Database


@pytest.fixture
def db(db_everywhere: Database) -> Database:
    """papers, by range, with sub-partitions and a leaf whose columns stand in another order."""
    database = db_everywhere
    database.rows(
        "CREATE TABLE papers (id int, body text, other int DEFAULT 0, PRIMARY KEY (id)) "
        "PARTITION BY RANGE (id)"
    )
    database.rows("CREATE TABLE p1 PARTITION OF papers FOR VALUES FROM (0) TO (100)")
    database.rows("CREATE TABLE p2 (gone int, other int DEFAULT 0, body text, id int NOT NULL)")
    database.rows("ALTER TABLE p2 DROP COLUMN gone")
    database.rows("ALTER TABLE papers ATTACH PARTITION p2 FOR VALUES FROM (100) TO (200)")
    database.rows(
        "CREATE TABLE p3 PARTITION OF papers FOR VALUES FROM (200) TO (400) PARTITION BY RANGE (id)"
    )
    database.rows("CREATE TABLE p3a PARTITION OF p3 FOR VALUES FROM (200) TO (300)")
    return database


@pytest.fixture
def kept(db: Database) -> Database:
    db.rows("INSERT INTO papers SELECT i, 'text ' || i FROM generate_series(0, 250, 10) i")
    db.create("papers")
    db.work()
    in_step(db)
    return db


def in_step(db: Database) -> None:
    wanted = {key: text for key, text in db.rows("SELECT id, body FROM papers") if text}
    db.expect(wanted, target="papers_embedding")
    db.drained("papers")


def recorded(db: Database) -> list[str]:
    number = db.value("SELECT max(id) FROM qwen_embed.vectorizer")
    rows = db.rows(f"DELETE FROM qwen_embed.log_{number} RETURNING concat(op, k1)")
    return sorted(row[0] for row in rows)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("INSERT INTO papers VALUES (1, 'a'), (101, 'b'), (201, 'c')", ["c1", "c101", "c201"]),
        ("INSERT INTO p2 (id, body) VALUES (102, 'direct')", ["c102"]),
        ("UPDATE papers SET body = 'x' WHERE id IN (0, 100, 200)", ["c0", "c100", "c200"]),
        ("UPDATE p2 SET body = 'x' WHERE id = 110", ["c110"]),
        ("UPDATE papers SET other = other + 1", []),
        ("UPDATE papers SET id = 105 WHERE id = 0", ["c0", "c105"]),
        ("UPDATE p2 SET id = 111 WHERE id = 110", ["c110", "c111"]),
        ("DELETE FROM papers WHERE id IN (10, 210)", ["c10", "c210"]),
        ("DELETE FROM p3a WHERE id = 220", ["c220"]),
        (
            "INSERT INTO papers VALUES (0, 'up'), (3, 'new') "
            "ON CONFLICT (id) DO UPDATE SET body = excluded.body",
            ["c0", "c3"],
        ),
        (
            "MERGE INTO papers p USING (VALUES (0, 'm'), (10, NULL), (199, 'n')) s(id, body) "
            "ON p.id = s.id WHEN MATCHED AND s.body IS NULL THEN DELETE "
            "WHEN MATCHED THEN UPDATE SET body = s.body "
            "WHEN NOT MATCHED THEN INSERT (id, body) VALUES (s.id, s.body)",
            ["c0", "c10", "c199"],
        ),
        # Postgres tells each table that is emptied; one word would do, more do no harm.
        ("TRUNCATE p1", ["t"]),
        ("TRUNCATE p3", ["t"]),
        ("TRUNCATE papers", ["t", "t", "t", "t"]),
    ],
)
def test_each_change_is_recorded(kept: Database, change: str, said: list[str]) -> None:
    db = kept
    db.rows(change)
    assert recorded(db) == said
    db.rows("SELECT qwen_embed.enqueue('papers')")
    db.work()
    in_step(db)


def test_copy_through_the_parent(kept: Database) -> None:
    with kept.conn.cursor().copy("COPY papers (id, body) FROM STDIN") as copy:
        copy.write_row((5, "copied"))
        copy.write_row((205, "copied too"))
    assert recorded(kept) == ["c205", "c5"]


def test_a_truncated_partition_leaves_no_vector(kept: Database) -> None:
    kept.rows("TRUNCATE p2")
    kept.work()
    in_step(kept)


def test_partitions_that_come_later_are_captured(kept: Database) -> None:
    db = kept
    db.rows("CREATE TABLE p4 PARTITION OF papers FOR VALUES FROM (400) TO (500)")
    db.rows("INSERT INTO p4 (id, body) VALUES (401, 'direct'), (402, 'too')")
    db.work()
    in_step(db)
    db.rows("TRUNCATE p4")
    db.work()
    in_step(db)


def test_rows_that_come_with_a_partition_are_embedded(kept: Database) -> None:
    db = kept
    db.rows("CREATE TABLE p5 (LIKE papers INCLUDING ALL)")
    db.rows("INSERT INTO p5 SELECT i, 'brought ' || i FROM generate_series(500, 520) i")
    db.rows("ALTER TABLE papers ATTACH PARTITION p5 FOR VALUES FROM (500) TO (600)")
    db.work()
    in_step(db)
    assert max(map(db.stub.asked.count, db.stub.asked)) == 1, "only the partition is walked over"
    assert db.state("papers").state == "active"


@pytest.mark.parametrize("how", ["DETACH PARTITION p2", "DETACH PARTITION p2 CONCURRENTLY"])
def test_rows_that_leave_with_a_partition_lose_their_vectors(kept: Database, how: str) -> None:
    db = kept
    db.rows(f"ALTER TABLE papers {how}")
    db.work()
    in_step(db)
    db.rows("UPDATE p2 SET body = 'elsewhere'")
    db.rows("TRUNCATE p2")
    db.rows("INSERT INTO p2 (id, body) VALUES (150, 'x')")
    db.work()
    in_step(db)


def test_a_dropped_partition(kept: Database) -> None:
    kept.rows("DROP TABLE p2")
    kept.work()
    in_step(kept)


def test_a_partition_that_was_away_between_two_looks(kept: Database) -> None:
    """The same partition is there at both looks, yet its rows changed without a trigger."""
    db = kept
    with db.connect() as owner:
        owner.execute("ALTER TABLE papers DETACH PARTITION p2")
        owner.execute("UPDATE p2 SET body = 'changed while away' WHERE id = 110")
        owner.execute("DELETE FROM p2 WHERE id = 120")
        owner.execute("INSERT INTO p2 (id, body) VALUES (121, 'came while away')")
        owner.execute("ALTER TABLE papers ATTACH PARTITION p2 FOR VALUES FROM (100) TO (200)")
    asked = len(db.stub.asked)
    db.work()
    in_step(db)
    assert sorted(db.stub.asked[asked:]) == ["came while away", "changed while away"]


def test_a_walk_over_a_partition_that_leaves_meanwhile_ends(kept: Database) -> None:
    db = kept
    db.rows("INSERT INTO qwen_embed.task (vectorizer, kind, part) SELECT 1, 'backfill', 'p2'")
    db.rows("ALTER TABLE papers DETACH PARTITION p2")
    db.work()
    in_step(db)


@pytest.mark.filterwarnings("default")
def test_a_disabled_copy_of_a_trigger_is_noticed_and_repaired(kept: Database) -> None:
    db = kept
    db.rows("ALTER TABLE p3a DISABLE TRIGGER USER")
    db.rows("UPDATE papers SET body = 'unseen' WHERE id = 200")
    state = db.state("papers")
    assert state.state == "broken"
    assert "p3a is disabled" in (state.last_error or "")
    postgres.repair(db.dsn, "papers")
    db.work()
    in_step(db)
    db.rows("TRUNCATE p3a")
    db.work()
    in_step(db)


def test_a_partition_can_be_a_source_itself(db: Database) -> None:
    db.rows("INSERT INTO papers VALUES (110, 'there')")
    db.create("p2")
    db.rows("INSERT INTO papers VALUES (111, 'through the parent')")
    db.rows("INSERT INTO p2 (id, body) VALUES (112, 'direct')")
    db.rows("UPDATE papers SET body = 'changed' WHERE id = 110")
    db.work()
    wanted = {110: "changed", 111: "through the parent", 112: "direct"}
    db.expect(wanted, target="p2_embedding")
    db.rows("TRUNCATE papers")
    db.work()
    db.expect({}, target="p2_embedding")


def test_a_plain_source_that_becomes_a_partition_shows_and_is_repaired(db: Database) -> None:
    db.create("docs")
    db.rows("CREATE TABLE all_docs (LIKE docs INCLUDING ALL) PARTITION BY RANGE (id)")
    db.rows("ALTER TABLE all_docs ATTACH PARTITION docs FOR VALUES FROM (0) TO (100)")
    db.rows("INSERT INTO all_docs VALUES (1, 'past the triggers')")
    assert "has become a partition" in (db.state().last_error or "")
    postgres.repair(db.dsn, "docs")
    db.rows("INSERT INTO all_docs VALUES (2, 'seen')")
    db.work()
    db.in_step()
    assert db.state().state == "active"


def test_dropping_leaves_no_trigger_behind(kept: Database) -> None:
    db = kept
    db.rows("ALTER TABLE papers DETACH PARTITION p2")
    postgres.drop_vectorizer(db.dsn, "papers")
    assert db.value("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'qwen%'") == 0
    postgres.uninstall(db.dsn)
    db.rows("INSERT INTO papers VALUES (7, 'x')")


def test_a_partition_in_a_foreign_table_is_refused(db: Database) -> None:
    db.rows("CREATE FOREIGN DATA WRAPPER w")
    db.rows("CREATE SERVER s FOREIGN DATA WRAPPER w")
    db.rows("CREATE TABLE halves (id int, body text) PARTITION BY RANGE (id)")
    db.rows("CREATE FOREIGN TABLE far PARTITION OF halves FOR VALUES FROM (0) TO (9) SERVER s")
    with pytest.raises(DatabaseError, match="partition that is a foreign table"):
        db.create("halves")


def test_searches_and_the_view_see_all_partitions(kept: Database) -> None:
    db = kept
    hits = postgres.search(db.dsn, "papers", "text 220", k=1, embedder=db.stub)
    assert hits[0].key == {"id": 220}
    assert db.value("SELECT count(*) FROM papers_embedded") == 26


@pytest.mark.parametrize("level", list(psycopg.IsolationLevel))
def test_writers_of_all_levels(kept: Database, level: psycopg.IsolationLevel) -> None:
    db = kept
    with db.connect() as app:
        app.isolation_level = level
        app.execute("UPDATE papers SET body = body || '!' WHERE id < 150")
        db.work()
        app.execute("UPDATE papers SET body = body || '!' WHERE id < 150")
        app.execute("UPDATE papers SET id = 299 WHERE id = 0")
    db.work()
    in_step(db)
