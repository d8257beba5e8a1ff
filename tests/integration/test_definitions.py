"""What a vectorizer reads: keys of any kind, conditions, and changing it all afterwards."""

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
    return db_everywhere


KEYS = {
    "smallint": ("smallint", "1", "2"),
    "bigint": ("bigint", "9007199254740993", "-5"),
    "identity": ("bigint GENERATED ALWAYS AS IDENTITY", "DEFAULT", "DEFAULT"),
    "numeric": ("numeric", "1.10", "'NaN'"),
    "double": ("float8", "0.1", "'-0'"),
    "text": ("text", "'a''b{}%s'", "''"),
    "char": ("char(5)", "'ab'", "'abc'"),
    "varchar": ("varchar(9)", "'x'", "'y'"),
    "C text": ('text COLLATE "C"', "'я'", "'z'"),
    "uuid": ("uuid", "gen_random_uuid()", "gen_random_uuid()"),
    "date": ("date", "'2026-01-01'", "'infinity'"),
    "timestamptz": ("timestamptz", "'2026-01-01 10:00+03'", "'-infinity'"),
    "interval": ("interval", "'1 day'", "'25 hours'"),
    "bytea": ("bytea", r"'\xdeadbeef'", r"'\x'"),
    "boolean": ("bool", "true", "false"),
    "inet": ("inet", "'10.0.0.1/24'", "'::1'"),
    "jsonb": ("jsonb", """'{"a": 1}'""", "'null'"),
    "array": ("int[]", "'{1,2}'", "'{}'"),
    "range": ("int4range", "'[1,5)'", "'empty'"),
    "enum": ("mood", "'fine'", "'sad'"),
    "domain": ("code", "'a'", "'b'"),
    "composite": ("point3", "ROW(1, 2, 3)", "ROW(4, 5, NULL)"),
    "bit": ("varbit", "B'101'", "B''"),
}


@pytest.mark.parametrize("kind", KEYS)
def test_keys_of_any_type(db: Database, kind: str) -> None:
    column, first, second = KEYS[kind]
    db.rows("CREATE TYPE mood AS ENUM ('sad', 'fine')")
    db.rows("CREATE DOMAIN code AS varchar(10) NOT NULL CHECK (value <> '')")
    db.rows("CREATE TYPE point3 AS (x int, y int, z int)")
    db.rows(f"CREATE TABLE t (id {column} PRIMARY KEY, body text)")
    db.rows(f"INSERT INTO t VALUES ({first}, 'there before')")
    db.create("t", target_name="docs_embedding")
    db.rows(f"INSERT INTO t VALUES ({second}, 'came later')")
    db.work(batch_size=1)  # each walk begins where the last one ended
    found = sorted(text for (text,) in db.rows("SELECT text FROM docs_embedding"))
    assert found == ["came later", "there before"]
    assert db.value("SELECT count(*) FROM t_embedded") == 2
    assert len(postgres.search(db.dsn, "t", "came later", embedder=db.stub)) == 2
    db.rows("DELETE FROM t WHERE body = 'there before'")
    db.rows("UPDATE t SET body = 'changed'")
    db.work()
    assert db.rows("SELECT text FROM docs_embedding") == [("changed",)]
    db.drained("t")
    db.asked_once()


def test_a_unique_index_serves_where_there_is_no_primary_key(db: Database) -> None:
    db.rows("CREATE TABLE t (wide text NOT NULL, b int NOT NULL, a text NOT NULL, body text)")
    db.rows("CREATE UNIQUE INDEX ON t (wide, b, a)")
    db.rows("CREATE UNIQUE INDEX ON t (a, b) INCLUDE (body)")
    db.create("t", target_name="docs_embedding")
    db.rows("INSERT INTO t VALUES ('w', 1, 'x', 'one'), ('w', 2, 'x', 'two')")
    db.work()
    db.expect({("x", 1): "one", ("x", 2): "two"}, key="a, b")
    db.rows("UPDATE t SET b = 3 WHERE b = 2")
    db.rows("DELETE FROM t WHERE b = 1")
    db.work()
    db.expect({("x", 3): "two"}, key="a, b")
    # A primary key that comes later does not move the key that vectors stand under.
    db.rows("ALTER TABLE t ADD PRIMARY KEY (wide, a)")
    postgres.repair(db.dsn, "t")
    db.rows("UPDATE t SET body = 'three'")
    db.work()
    db.expect({("x", 3): "three"}, key="a, b")
    db.rows("ALTER TABLE t ALTER b DROP NOT NULL")
    assert "no unique index without nulls" in (db.state("t").last_error or "")
    db.rows("INSERT INTO t VALUES ('w', NULL, 'y', 'no key')")
    db.work()
    db.expect({("x", 3): "three"}, key="a, b")


def test_a_condition_decides_which_rows_have_a_vector(db: Database) -> None:
    db.rows("ALTER TABLE docs ADD language text, ADD published bool")
    db.rows("INSERT INTO docs VALUES (1, 'a', 0, 'en', true), (2, 'b', 0, 'de', true)")
    db.rows("INSERT INTO docs VALUES (3, 'c', 0, 'en', NULL)")
    db.create(condition="published AND docs.language = 'en'")
    db.work()
    db.expect({1: "a"})
    db.rows("UPDATE docs SET published = true WHERE id = 3")
    db.rows("UPDATE docs SET language = 'fr' WHERE id = 1")
    db.rows("UPDATE docs SET other = 5")
    assert db.value("SELECT count(*) FROM qwen_embed.log_1") == 2
    db.work()
    db.expect({3: "c"})
    db.rows("ALTER TABLE docs RENAME published TO visible")
    db.rows("UPDATE docs SET visible = NULL")
    db.work()
    db.expect({})


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("publishd", 'column "publishd" does not exist'),
        ("id > 1 AND", "syntax error"),
        ("id IN (SELECT id FROM docs)", "cannot use subquery"),
        ("now() > '2020-01-01'::timestamptz AND id > 0", "must be marked IMMUTABLE"),
        ("count(*) > 1", "aggregate"),
        ("id", "must be type boolean"),
        ("true", "names no column"),
        ("id > 1); DROP TABLE public.docs; SELECT (true", "not one expression"),
        ("id > 1); DROP TABLE public.docs; --", "syntax error"),
        ("id > 1) --", "syntax error"),
    ],
)
def test_conditions_that_cannot_hold_are_refused(db: Database, condition: str, said: str) -> None:
    with pytest.raises(DatabaseError) as refused:
        db.create(condition=condition)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert postgres.status(db.dsn) == []
    assert db.value("SELECT to_regclass('docs') IS NOT NULL")


def test_a_condition_that_fails_for_a_row_fails_no_writer(db: Database) -> None:
    db.create(condition="10 / other > 1")
    db.rows("INSERT INTO docs VALUES (1, 'a', 0)")
    db.rows("UPDATE docs SET other = 0, body = 'b'")


def test_several_vectorizers_on_one_table(db: Database) -> None:
    db.create()
    db.create(name="second", target_name="second", template="{id}: {body}", condition="id > 1")
    db.rows("INSERT INTO docs VALUES (1, 'one'), (2, 'two')")
    db.work()
    db.rows("UPDATE docs SET id = 3 WHERE id = 1")
    db.work()
    db.expect({2: "two", 3: "one"})
    db.expect({2: "2: two", 3: "3: one"}, target="second")
    postgres.drop_vectorizer(db.dsn, "docs")
    db.rows("DELETE FROM docs WHERE id = 2")
    db.work()
    db.expect({3: "3: one"}, target="second")


def test_virtual_generated_columns(db: Database) -> None:
    if db.conn.info.server_version < 180000:
        with pytest.raises(psycopg.errors.SyntaxError):
            db.rows("ALTER TABLE docs ADD v text GENERATED ALWAYS AS (upper(body)) VIRTUAL")
        return
    db.rows("ALTER TABLE docs ADD shouted text GENERATED ALWAYS AS (upper(body)) VIRTUAL")
    db.rows("INSERT INTO docs VALUES (1, 'one')")
    db.create(columns=["shouted"])
    db.work()
    db.expect({1: "ONE"})
    db.rows("UPDATE docs SET body = 'One'")
    db.rows("INSERT INTO docs VALUES (2, 'two')")
    db.work()
    db.expect({1: "ONE", 2: "TWO"})
    db.rows("UPDATE docs SET body = 'three' WHERE id = 1")
    db.work()
    db.expect({1: "THREE", 2: "TWO"})


@pytest.fixture
def kept(db: Database) -> Database:
    db.rows("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 5) i")
    db.create()
    db.work()
    return db


def test_the_way_out_where_a_column_cannot_be_changed(kept: Database) -> None:
    db = kept
    with pytest.raises(psycopg.Error):
        db.rows("ALTER TABLE docs ALTER body TYPE varchar(40)")
    db.rows("GRANT SELECT ON docs_embedded TO PUBLIC")
    with db.connect() as owner:
        owner.execute("SELECT qwen_embed.suspend('docs')")
        owner.execute("ALTER TABLE docs ALTER body TYPE varchar(40) USING 'as ' || body")
        owner.execute("SELECT qwen_embed.resume('docs')")
    db.rows("UPDATE docs SET body = 'captured again' WHERE id = 2")
    db.work()
    db.in_step()
    assert db.state().state == "active"
    assert db.value("SELECT body FROM docs_embedded WHERE id = 1") == "as text 1"


def test_suspended_in_the_open(kept: Database) -> None:
    """Writes go through, nothing is embedded; afterwards every row is compared by hash."""
    db = kept
    postgres.suspend(db.dsn, "docs")
    postgres.suspend(db.dsn, "docs")
    assert db.state().state == "suspended"
    db.rows("ALTER TABLE docs ALTER body TYPE varchar(40)")
    db.rows("ALTER TABLE docs RENAME other TO another")
    db.rows("UPDATE docs SET body = 'unseen' WHERE id = 1")
    db.rows("INSERT INTO docs VALUES (6, 'six')")
    db.rows("DELETE FROM docs WHERE id = 2")
    assert db.work().waiting == {"docs": "suspended"}
    with pytest.raises(DatabaseError, match="resume"):
        postgres.repair(db.dsn, "docs")
    postgres.resume(db.dsn, "docs")
    asked = len(db.stub.asked)
    db.work()
    db.in_step()
    assert sorted(db.stub.asked[asked:]) == ["six", "unseen"], "only what changed is paid for"


def test_a_column_that_went_while_suspended_is_named(kept: Database) -> None:
    db = kept
    postgres.suspend(db.dsn, "docs")
    db.rows("ALTER TABLE docs DROP body, ADD title text, ADD essay text")
    with pytest.raises(DatabaseError, match="redefine"):
        postgres.resume(db.dsn, "docs")
    assert db.state().state == "suspended"
    db.rows("INSERT INTO docs VALUES (7, 0, 'Title', 'Essay')")
    postgres.redefine(db.dsn, "docs", template="{title}: {essay}")
    db.work()
    db.expect({7: "Title: Essay"})
    assert db.state().state == "active"
    assert db.value("SELECT text FROM docs_embedded WHERE id = 7") == "Title: Essay"


@pytest.mark.filterwarnings("default")
def test_a_column_dropped_with_cascade_is_noticed(kept: Database) -> None:
    db = kept
    db.rows("ALTER TABLE docs ADD title text DEFAULT 'new'")
    db.rows("ALTER TABLE docs DROP COLUMN body CASCADE")
    db.rows("INSERT INTO docs (id) VALUES (9)")
    db.rows("UPDATE docs SET title = 'x' WHERE id = 1")
    db.rows("DELETE FROM docs WHERE id = 2")
    assert db.state().state == "broken"
    with pytest.raises(DatabaseError, match=r"no column body.*|redefine"):
        postgres.repair(db.dsn, "docs")
    postgres.redefine(db.dsn, "docs", columns=["title"], condition="id <> 5")
    db.work()
    db.expect({1: "x", 3: "new", 4: "new", 9: "new"})
    assert db.state().state == "active"


def test_redefining_pays_for_what_reads_differently_alone(kept: Database) -> None:
    db = kept
    asked = len(db.stub.asked)
    postgres.redefine(db.dsn, "docs", template="{body}", condition="id > 1")
    db.work()
    assert db.stub.asked[asked:] == []
    db.expect({i: f"text {i}" for i in range(2, 6)})
    postgres.redefine(db.dsn, "docs", columns=["body", "other"])
    db.work()
    db.expect({i: f"text {i}\n0" for i in range(1, 6)})
    with pytest.raises(DatabaseError, match="Did you mean body"):
        postgres.redefine(db.dsn, "docs", columns=["boddy"])


def test_capture_by_row(kept: Database) -> None:
    db = kept
    db.rows("SELECT qwen_embed.capture_by('docs', 'row')")
    db.rows("INSERT INTO docs VALUES (6, 'six'), (7, 'seven')")
    db.rows("DELETE FROM docs WHERE id < 3")
    assert db.value("SELECT count(*) FROM qwen_embed.log_1") == 4
    db.work()
    db.in_step()
    assert db.value("SELECT count(*) FROM qwen_embed.task") == 0
    db.rows("SELECT qwen_embed.capture_by('docs', 'statement')")
    db.rows("INSERT INTO docs VALUES (8, 'eight')")
    db.work()
    db.in_step()


def test_notify_is_a_switch(kept: Database) -> None:
    db = kept

    def heard(change: str) -> int:
        with db.connect(autocommit=True) as listener:
            listener.execute("LISTEN qwen_embed")
            db.rows(change)
            return len(list(listener.notifies(timeout=0.2)))

    assert heard("UPDATE docs SET body = 'a'") == 0
    db.rows("SELECT qwen_embed.notify_workers('docs', true)")
    assert heard("UPDATE docs SET body = 'b'") == 1
    db.rows("SELECT qwen_embed.notify_workers('docs', false)")
    assert heard("UPDATE docs SET body = 'c'") == 0
