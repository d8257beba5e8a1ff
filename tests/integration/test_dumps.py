"""A database that was dumped and restored goes on as if nothing had happened."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from qwen_embed_plugins import postgres
from tests.integration.conftest import Database
from tests.postgres_tools import tool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.postgres_servers import Server


@pytest.fixture
def db(db_everywhere: Database) -> Database:
    return db_everywhere


@pytest.fixture
def copy(every_server: Server) -> Iterator[Database]:
    with every_server.database("template0") as name:
        database = Database(every_server.dsn(name))
        try:
            yield database
        finally:
            database.conn.close()


def restore(db: Database, copy: Database) -> None:
    """pg_dump | psql, stopping at the first error."""
    version = db.conn.info.server_version // 10000
    dump = subprocess.run([tool("pg_dump", version), db.dsn], capture_output=True, check=True)
    subprocess.run(
        [tool("psql", version), "--quiet", "-v", "ON_ERROR_STOP=1", "-f", "-", copy.dsn],
        input=dump.stdout, capture_output=True, check=True,
    )  # fmt: skip


CONTENT = {
    "docs": "CASE WHEN id <> 7 THEN body END",
    "early": "'[' || body || ']'",
    "papers": "body",
}


def test_the_worker_goes_on_after_a_restore(db: Database, copy: Database) -> None:
    # Columns that were dropped make the numbers of the others change on the way.
    db.rows("CREATE TABLE early (gone int, id int PRIMARY KEY, also_gone text, body text)")
    db.rows("ALTER TABLE early DROP gone, DROP also_gone")
    db.rows("CREATE TABLE papers (id int, body text, PRIMARY KEY (id)) PARTITION BY RANGE (id)")
    db.rows("CREATE TABLE p1 PARTITION OF papers FOR VALUES FROM (0) TO (50)")
    db.rows("CREATE TABLE p2 PARTITION OF papers FOR VALUES FROM (50) TO (100)")
    db.rows("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 20) i")
    db.rows("INSERT INTO early SELECT i, 'early ' || i FROM generate_series(1, 20) i")
    db.rows("INSERT INTO papers SELECT i, 'paper ' || i FROM generate_series(40, 60) i")
    db.create("docs", condition="id <> 7")
    db.create("early", template="[{body}]")
    db.create("papers")
    db.rows("CREATE TABLE shelf (gone int, id int PRIMARY KEY, body text)")
    db.rows("ALTER TABLE shelf DROP gone")
    db.rows("INSERT INTO shelf SELECT i, 'shelf ' || i FROM generate_series(1, 20) i")
    db.create("shelf", target="column")
    db.work()
    db.rows("UPDATE docs SET body = 'waits' WHERE id = 1")
    db.rows("DELETE FROM early WHERE id = 2")

    restore(db, copy)
    copy.stub = db.stub
    assert {(s.name, s.pending) for s in postgres.status(copy.dsn)} == {
        ("docs", 1), ("early", 1), ("papers", 0), ("shelf", 0),
    }  # fmt: skip
    asked = len(db.stub.asked)
    copy.work()
    assert db.stub.asked[asked:] == ["waits"], "what was embedded before is not paid for again"

    copy.rows("UPDATE docs SET body = 'after' WHERE id = 3")
    copy.rows("INSERT INTO early VALUES (30, 'new')")
    copy.rows("TRUNCATE p2")
    copy.rows("INSERT INTO p1 VALUES (1, 'direct')")
    copy.work()
    for name in ("docs", "early", "papers"):
        wanted = copy.rows(f"SELECT id, {CONTENT[name]} FROM {name}")
        wanted = [(key, text) for key, text in wanted if text is not None]
        copy.expect(dict(wanted), target=f"{name}_embedding")
        copy.drained(name)
        assert copy.state(name).state == "active"
        assert postgres.audit(copy.dsn, name).clean
    (hit,) = postgres.search(copy.dsn, "early", "[new]", k=1, embedder=db.stub)
    assert hit.key == {"id": 30}
    assert copy.value("SELECT count(*) FROM shelf WHERE embedding IS NOT NULL") == 20
    copy.rows("ALTER TABLE shelf RENAME embedding TO vec")
    copy.rows("UPDATE shelf SET body = 'moved' WHERE id = 5")
    copy.work()
    (hit,) = postgres.search(copy.dsn, "shelf", "moved", k=1, embedder=db.stub)
    assert hit.key == {"id": 5}
    postgres.suspend(copy.dsn, "early")
    postgres.resume(copy.dsn, "early")
    for name in ("docs", "early", "papers", "shelf"):
        postgres.drop_vectorizer(copy.dsn, name, drop_target=True)
    postgres.uninstall(copy.dsn)
