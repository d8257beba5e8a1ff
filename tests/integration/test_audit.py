"""An audit finds whatever is wrong, calls nothing wrong that is on its way, and repairs."""

from __future__ import annotations

import asyncio
import random
import threading
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import psycopg
import pytest

from qwen_embed_plugins import postgres
from qwen_embed_plugins.errors import ConfigurationError, DatabaseError, InvalidInput

if TYPE_CHECKING:
    from tests.integration.conftest import Database


@pytest.fixture
def kept(db: Database) -> Database:
    db.rows("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 20) i")
    db.create()
    db.work()
    return db


HARM = {
    "missing": "DELETE FROM docs_embedding WHERE id = 3",
    "stale": "UPDATE docs_embedding SET content_hash = '\\x00' WHERE id = 3",
    "orphan": "INSERT INTO docs_embedding SELECT 99, chunk, text, embedding, content_hash, offer, "
    "embedded_at, 0, space FROM docs_embedding WHERE id = 3",
    "wrong_space": "UPDATE docs_embedding SET space = 'other/32' WHERE id = 3",
    "wrong_vector": "UPDATE docs_embedding SET embedding = array_fill(1.0, '{32}')::vector "
    "WHERE id = 3",
    "wrong_vector: its length": "DROP VIEW docs_embedded; ALTER TABLE docs_embedding "
    "ALTER embedding TYPE vector; "
    "UPDATE docs_embedding SET embedding = '[1]' WHERE id = 3",
}


@pytest.mark.parametrize("harm", HARM)
@pytest.mark.parametrize("portion", [1, 7, 2000])
def test_each_kind_is_found_and_repaired(kept: Database, harm: str, portion: int) -> None:
    db = kept
    kind = harm.partition(":")[0]
    for statement in HARM[harm].split("; "):
        db.rows(statement)
    report = postgres.audit(db.dsn, "docs", portion=portion)
    assert (report.counts, report.rows, report.repaired) == ({kind: 1}, 20, 0)
    wanted = "99" if kind == "orphan" else "3"
    assert [(found.kind, found.key) for found in report.examples] == [(kind, {"id": wanted})]
    db.drained()

    report = postgres.audit(db.dsn, "docs", portion=portion, repair=True)
    assert (report.counts, report.repaired) == ({kind: 1}, 1)
    db.work()
    db.in_step()
    assert postgres.audit(db.dsn, "docs").clean


def test_rows_that_need_no_vector_are_clean(kept: Database) -> None:
    db = kept
    db.rows("INSERT INTO docs VALUES (30, NULL), (31, ''), (32, E' \\t'), (33, E'\\u00a0\\u3000')")
    db.rows("INSERT INTO docs VALUES (34, '…')")
    db.work()
    report = postgres.audit(db.dsn, "docs")
    assert (report.counts, report.rows) == ({}, 25)


def test_what_waits_is_no_finding(kept: Database) -> None:
    db = kept
    db.stub.refuse = lambda text: ("bad_input", "no") if text == "refused" else None
    db.rows("UPDATE docs SET body = 'refused' WHERE id = 1")
    db.work()
    db.rows("UPDATE docs SET body = 'changed' WHERE id = 2")
    db.rows("INSERT INTO docs VALUES (40, 'new')")
    db.rows("DELETE FROM docs WHERE id = 3")
    report = postgres.audit(db.dsn, "docs", repair=True)
    assert (report.counts, report.waiting, report.dead) == ({}, 3, 1)
    db.rows("TRUNCATE docs")
    report = postgres.audit(db.dsn, "docs")
    assert (report.counts, report.waiting) == ({}, 19)


def test_what_an_offer_wrote_is_made_again(kept: Database) -> None:
    db = kept
    moment = datetime.now(timezone.utc)
    db.rows("UPDATE docs_embedding SET offer = 'drifted' WHERE id <= 6")
    db.rows("UPDATE docs_embedding SET embedded_at = %s WHERE id <= 2", moment - timedelta(hours=2))
    since = moment - timedelta(hours=1)
    report = postgres.audit(db.dsn, "docs", offer="drifted", since=since)
    assert report.counts == {"doubted": 4}
    db.drained()
    report = postgres.audit(db.dsn, "docs", offer="drifted", since=since, repair=True, portion=3)
    assert report.repaired == 4
    asked = len(db.stub.asked)
    db.work()
    assert sorted(db.stub.asked[asked:]) == ["text 3", "text 4", "text 5", "text 6"]
    assert postgres.audit(db.dsn, "docs", offer="drifted").counts == {"doubted": 2}
    assert postgres.audit(db.dsn, "docs", offer="drifted", since=since).clean
    with pytest.raises(InvalidInput, match=r"no vector of docs is by .*never.* drifted, stub"):
        postgres.audit(db.dsn, "docs", offer="never")


def test_doubt_survives_an_outage_and_a_change(kept: Database) -> None:
    """`again` stays with the key until its vector was made, and a change does not undo it."""
    db = kept
    db.stub.fail = lambda: ConnectionError("down")
    postgres.audit(db.dsn, "docs", offer="stub", repair=True)
    db.work()
    db.rows("UPDATE docs SET body = body || '!' WHERE id = 1")
    db.rows("UPDATE docs SET body = 'text 1' WHERE id = 1")
    db.stub.fail = lambda: None
    asked = len(db.stub.asked)
    db.work()
    assert sorted(db.stub.asked[asked:]) == sorted(f"text {i}" for i in range(1, 21))
    db.in_step()


def test_no_false_alarm_among_writers_and_workers(kept: Database, seeded: random.Random) -> None:
    """Whatever is under way, what is on its way is never called missing, stale or orphaned."""
    db = kept
    over = threading.Event()

    def write() -> None:
        with psycopg.connect(db.dsn, autocommit=True) as app:
            while not over.is_set():
                key = seeded.randrange(40)
                app.execute(
                    seeded.choice(
                        [
                            "INSERT INTO docs VALUES (%(k)s, %(t)s) ON CONFLICT (id) "
                            "DO UPDATE SET body = excluded.body",
                            "DELETE FROM docs WHERE id = %(k)s AND %(t)s <> ''",
                            "UPDATE docs SET id = id + 100, body = %(t)s WHERE id = %(k)s "
                            "AND NOT EXISTS (SELECT FROM docs d WHERE d.id = %(k)s + 100)",
                            "DELETE FROM docs WHERE id = %(k)s + 100 AND %(t)s <> ''",
                        ]
                    ),
                    {"k": key, "t": f"text {seeded.random()}"},
                )

    async def slow(texts: object) -> None:
        await asyncio.sleep(0.01)

    async def play() -> list[postgres.AuditReport]:
        db.stub.during = slow
        stopping = asyncio.Event()
        workers = [
            asyncio.create_task(db.awork(once=False, stopping=stopping, batch_size=7))
            for _ in range(2)
        ]
        reports = [await postgres.aaudit(db.dsn, "docs", portion=5) for _ in range(30)]
        stopping.set()
        await asyncio.gather(*workers)
        return reports

    writer = threading.Thread(target=write)
    writer.start()
    try:
        reports = asyncio.run(play())
    finally:
        over.set()
        writer.join()
    assert [report.counts for report in reports if report.counts] == []
    assert sum(report.waiting for report in reports) > 0
    db.work()
    assert postgres.audit(db.dsn, "docs").clean
    db.in_step()


def test_wrong_calls_are_named(kept: Database) -> None:
    db = kept
    with pytest.raises(DatabaseError, match="Did you mean 'docs'"):
        postgres.audit(db.dsn, "dosc")
    with pytest.raises(InvalidInput, match="offer"):
        postgres.audit(db.dsn, "docs", since=datetime.now(timezone.utc))
    with db.connect() as connection, pytest.raises(ConfigurationError, match="autocommit"):
        postgres.audit(connection, "docs")
    db.rows("DROP TABLE docs_embedding CASCADE")
    with pytest.raises(DatabaseError, match="repair"):
        postgres.audit(db.dsn, "docs")


def test_a_role_that_does_not_see_every_row_is_refused(kept: Database) -> None:
    db = kept
    db.rows("ALTER TABLE docs ENABLE ROW LEVEL SECURITY")
    db.rows("CREATE ROLE half_blind LOGIN")
    try:
        db.rows("GRANT USAGE ON SCHEMA qwen_embed TO half_blind")
        db.rows("GRANT ALL ON ALL TABLES IN SCHEMA qwen_embed, public TO half_blind")
        db.rows("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA qwen_embed TO half_blind")
        with db.connect(autocommit=True) as blind:
            blind.execute("SET ROLE half_blind")
            with pytest.raises(DatabaseError, match="row-level security"):
                postgres.audit(blind, "docs", repair=True)
        db.drained()
    finally:
        db.rows("DROP OWNED BY half_blind")
        db.rows("DROP ROLE half_blind")
