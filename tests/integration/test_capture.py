"""What triggers record, and that they never fail a writer."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

import psycopg
import pytest

from qwen_embed_plugins import postgres

if TYPE_CHECKING:
    from tests.integration.conftest import Database


@pytest.fixture
def db(db_everywhere: Database) -> Database:
    return db_everywhere


def logged(db: Database) -> list[int | None]:
    """The recorded keys in order, None for a TRUNCATE; the log is emptied."""
    number = db.value("SELECT max(id) FROM qwen_embed.vectorizer")
    rows = db.rows(f"DELETE FROM qwen_embed.log_{number} RETURNING op, k1")
    return sorted((key for op, key in rows if op == "c"), key=int) + [
        None for op, _ in rows if op == "t"
    ]


@pytest.fixture
def captured(db: Database) -> Database:
    db.rows("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 5) i")
    db.create()
    return db


def test_insert_update_delete_truncate(captured: Database) -> None:
    db = captured
    db.rows("INSERT INTO docs VALUES (6, 'six'), (7, 'seven')")
    assert logged(db) == [6, 7]
    db.rows("UPDATE docs SET body = 'x' WHERE id <= 2")
    assert logged(db) == [1, 2]
    db.rows("DELETE FROM docs WHERE id = 7")
    assert logged(db) == [7]
    db.rows("TRUNCATE docs")
    assert logged(db) == [None]


@pytest.mark.parametrize(
    "update",
    ["other = other + 1", "body = body", "other = 5, body = body || ''"],
)
def test_updates_that_change_no_text_are_not_recorded(captured: Database, update: str) -> None:
    captured.rows(f"UPDATE docs SET {update}")
    assert logged(captured) == []


def test_a_key_change_records_both_keys(captured: Database) -> None:
    captured.rows("UPDATE docs SET id = 50 WHERE id = 5")
    assert logged(captured) == [5, 50]


def test_what_a_before_trigger_changes_is_recorded(captured: Database) -> None:
    captured.rows(
        "CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN new.body := upper(new.body); RETURN new; END $$"
    )
    captured.rows("CREATE TRIGGER a BEFORE UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION shout()")
    captured.rows("UPDATE docs SET other = 1 WHERE id = 1")
    assert logged(captured) == [1]


def test_on_conflict_merge_and_copy(captured: Database) -> None:
    db = captured
    upsert = "INSERT INTO docs VALUES (1, '{}') ON CONFLICT (id) DO UPDATE SET body = excluded.body"
    db.rows(upsert.format("text 1"))
    assert logged(db) == []
    db.rows(upsert.format("new"))
    assert logged(db) == [1]
    db.rows("INSERT INTO docs VALUES (1, 'no') ON CONFLICT DO NOTHING")
    assert logged(db) == []
    db.rows(
        "MERGE INTO docs d USING (VALUES (2, 'merged'), (3, NULL), (9, 'fresh')) s(id, body) "
        "ON d.id = s.id WHEN MATCHED AND s.body IS NULL THEN DELETE "
        "WHEN MATCHED THEN UPDATE SET body = s.body "
        "WHEN NOT MATCHED THEN INSERT (id, body) VALUES (s.id, s.body)"
    )
    assert logged(db) == [2, 3, 9]
    with db.conn.cursor().copy("COPY docs (id, body) FROM STDIN") as copy:
        copy.write_row((20, "copied"))
        copy.write_row((21, "copied too"))
    assert logged(db) == [20, 21]


def test_cascades(db: Database) -> None:
    db.rows("CREATE TABLE parents (id int PRIMARY KEY)")
    db.rows("ALTER TABLE docs ADD parent int REFERENCES parents ON DELETE CASCADE")
    db.rows("INSERT INTO parents VALUES (1), (2)")
    db.rows(
        "INSERT INTO docs (id, body, parent) SELECT i, 't' || i, 1 + i % 2 "
        "FROM generate_series(1, 4) i"
    )
    db.create()
    db.rows("DELETE FROM parents WHERE id = 1")
    assert logged(db) == [2, 4]
    db.rows("TRUNCATE parents CASCADE")
    assert logged(db) == [None]


def test_a_rollback_to_a_savepoint_takes_the_record_with_it(captured: Database) -> None:
    with captured.connect() as app:
        app.execute("UPDATE docs SET body = 'kept' WHERE id = 1")
        app.execute("SAVEPOINT s")
        app.execute("UPDATE docs SET body = 'undone' WHERE id = 2")
        app.execute("ROLLBACK TO s")
        app.commit()
    assert logged(captured) == [1]


def test_equal_values_that_read_differently_are_changes(db: Database) -> None:
    db.rows("CREATE TABLE prices (id int PRIMARY KEY, price numeric, about json)")
    db.rows("INSERT INTO prices VALUES (1, 1.0, '{\"a\": 1}')")
    db.create("prices", columns=["price", "about"])
    db.rows("UPDATE prices SET price = 1.00")
    assert logged(db) == [1]
    db.rows("UPDATE prices SET about = '{\"a\":  1}'")
    assert logged(db) == [1]
    db.rows("UPDATE prices SET about = about")
    assert logged(db) == []


def test_generated_columns(db: Database) -> None:
    db.rows(
        "CREATE TABLE people (id int PRIMARY KEY, first text, last text, "
        "whole text GENERATED ALWAYS AS (first || ' ' || last) STORED)"
    )
    db.create("people", columns=["whole"], target_name="docs_embedding")
    db.rows("INSERT INTO people VALUES (1, 'Ada', 'Byron')")
    db.work()
    db.rows("UPDATE people SET last = 'Lovelace'")
    db.work()
    db.expect({1: "Ada Lovelace"})


def test_renames_are_followed(captured: Database) -> None:
    """Key column, content column, table, schema: writes go through, vectors follow."""
    db = captured
    db.work()
    db.rows("ALTER TABLE docs RENAME COLUMN id TO number")
    db.rows("UPDATE docs SET body = 'after the key' WHERE number = 1")
    db.rows("INSERT INTO docs VALUES (6, 'new')")
    db.rows("DELETE FROM docs WHERE number = 2")
    db.work()
    db.rows("ALTER TABLE docs RENAME COLUMN body TO contents")
    db.rows("UPDATE docs SET contents = 'after the text' WHERE number = 3")
    db.rows("CREATE SCHEMA elsewhere")
    db.rows("ALTER TABLE docs SET SCHEMA elsewhere")
    db.rows("ALTER TABLE elsewhere.docs RENAME TO papers")
    db.rows("UPDATE elsewhere.papers SET number = 40 WHERE number = 4")
    db.work()
    assert db.state().state == "active"
    db.expect({1: "after the key", 3: "after the text", 40: "text 4", 5: "text 5", 6: "new"})
    db.drained()
    hit = postgres.search(db.dsn, "docs", "new", k=1, embedder=db.stub)[0]
    assert (hit.key, hit.text) == ({"number": 6}, "new")


def test_a_rename_while_a_request_is_out(captured: Database) -> None:
    db = captured

    async def during(texts: object) -> None:
        if db.stub.calls == 1:
            await asyncio.to_thread(db.rows, "ALTER TABLE docs RENAME COLUMN id TO number")

    db.stub.during = during
    db.work(lease_seconds=2)
    db.expect({i: f"text {i}" for i in range(1, 6)})


def test_dropped_columns_and_a_key_that_is_not_first(db: Database) -> None:
    db.rows("CREATE TABLE odd (gone int, body text, also_gone text, a int, b text)")
    db.rows("ALTER TABLE odd ADD PRIMARY KEY (b, a)")
    db.rows("ALTER TABLE odd DROP COLUMN gone, DROP COLUMN also_gone")
    db.create("odd", target_name="docs_embedding")
    db.rows("INSERT INTO odd VALUES ('one', 1, 'x'), ('two', 2, 'y')")
    db.rows("DELETE FROM odd WHERE a = 2")
    db.work()
    db.expect({("x", 1): "one"}, key="b, a")


def test_a_domain_key_that_forbids_null(db: Database) -> None:
    db.rows("CREATE DOMAIN code AS varchar(10) NOT NULL CHECK (value <> '')")
    db.rows("CREATE TABLE coded (id code PRIMARY KEY, body text)")
    db.create("coded", target_name="docs_embedding")
    db.rows("INSERT INTO coded VALUES ('a', 'one')")
    db.rows("TRUNCATE coded")
    db.rows("INSERT INTO coded VALUES ('b', 'two')")
    db.work()
    db.expect({"b": "two"})


def test_a_case_blind_key(db: Database) -> None:
    """A key type whose equality lives outside pg_catalog: a different spelling is the same row."""
    if not db.value("SELECT count(*) FROM pg_available_extensions WHERE name = 'citext'"):
        # The embedded server has no citext; an operator class of our own is the same situation.
        db.rows('CREATE TABLE c (id text COLLATE "C" PRIMARY KEY, body text)')
    else:
        db.rows("CREATE EXTENSION citext")
        db.rows("CREATE TABLE c (id citext PRIMARY KEY, body text)")
    db.create("c", target_name="docs_embedding")
    db.rows("INSERT INTO c VALUES ('Key', 'one')")
    db.work()
    db.rows("UPDATE c SET id = 'key', body = 'two'")
    db.work()
    assert list(db.vectors().values()) == ["two"]


def test_odd_names(db: Database) -> None:
    db.rows('CREATE SCHEMA "Odd schema"')
    db.rows(
        'CREATE TABLE "Odd schema"."Таблица ""1""" ("Key ""a""" uuid, "text" text, '
        '"Body {x} %s \'q\'" text, PRIMARY KEY ("Key ""a""", "text"))'
    )
    source = '"Odd schema"."Таблица ""1"""'
    key = uuid.uuid4()
    db.rows(f"INSERT INTO {source} VALUES (%s, 'k', 'before')", key)
    name = db.create(source, columns=["Body {x} %s 'q'"])
    assert name == 'Таблица "1"'
    db.work()
    where = {"target": '"Odd schema"."Таблица ""1""_embedding"', "key": '"Key ""a""", key_text'}
    db.expect({(key, "k"): "before"}, **where)
    db.rows(f"UPDATE {source} SET \"Body {{x}} %% 'q'\" = 'after'".replace("%%", "%s"))
    db.work()
    db.expect({(key, "k"): "after"}, **where)
    view = '"Odd schema"."Таблица ""1""_embedded"'
    assert db.rows(f'SELECT "text", embedded_text FROM {view}') == [("k", "after")]


def test_a_name_of_63_bytes(db: Database) -> None:
    long = "т" * 31 + "x"
    db.rows(f'CREATE TABLE "{long}" (id int PRIMARY KEY, body text)')
    db.create(f'"{long}"', index_kind="hnsw")
    db.rows(f"INSERT INTO \"{long}\" VALUES (1, 'a')")
    db.work()
    target = db.value("SELECT target_table::text FROM qwen_embed.vectorizer")
    assert target.strip('"').endswith("_embedding")
    db.expect({1: "a"}, target=target)


def test_a_writer_without_rights_here(captured: Database) -> None:
    db = captured
    role = _role(db)
    db.rows(f"GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON docs TO {role}")
    with db.connect() as app:
        app.execute(f"SET ROLE {role}")
        app.execute("SET search_path = nowhere, pg_temp")
        app.execute("SET row_security = off")
        app.execute("UPDATE public.docs SET body = 'by the app' WHERE id = 1")
        app.execute("DELETE FROM public.docs WHERE id = 2")
        app.execute("INSERT INTO public.docs VALUES (8, 'eight')")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.execute("SELECT * FROM qwen_embed.log_1")
    db.rows(f"DROP OWNED BY {role}")
    db.rows(f"DROP ROLE {role}")


def _role(db: Database) -> str:
    name = f"app_{uuid.uuid4().hex[:8]}"
    db.rows(f"CREATE ROLE {name}")
    return name


def test_replicas_and_restores_are_captured(captured: Database) -> None:
    with captured.connect() as restore:
        restore.execute("SET session_replication_role = replica")
        restore.execute("UPDATE docs SET body = 'restored' WHERE id = 1")
    assert logged(captured) == [1]


def test_publishing_all_tables_does_not_stop_the_worker(captured: Database) -> None:
    db = captured
    db.rows("CREATE PUBLICATION everything FOR ALL TABLES")
    db.rows("TRUNCATE docs")
    db.rows("INSERT INTO docs VALUES (1, 'one'), (2, 'two')")
    db.rows("DELETE FROM docs WHERE id = 2")
    db.work()
    db.in_step()


BREAKS = {
    "log dropped": "DROP TABLE qwen_embed.log_{n}",
    "work dropped": "DROP TABLE qwen_embed.work_{n}",
    "trigger dropped": "DROP TRIGGER qwen_embed_{n}_update ON docs",
    "trigger disabled": "ALTER TABLE docs DISABLE TRIGGER qwen_embed_{n}_insert",
    "all triggers disabled": "ALTER TABLE docs DISABLE TRIGGER USER",
    "key function dropped": "DROP FUNCTION qwen_embed.key_{n}_1",
    "content function dropped": "DROP FUNCTION qwen_embed.content_{n}",
    "right revoked": "REVOKE ALL ON qwen_embed.log_{n} FROM postgres",
    "target dropped": "DROP TABLE docs_embedding CASCADE",
}


@pytest.mark.parametrize("harm", BREAKS.values(), ids=BREAKS.keys())
@pytest.mark.filterwarnings("default")
def test_a_broken_capture_lets_writes_through_and_shows(captured: Database, harm: str) -> None:
    db = captured
    db.work()
    number = db.value("SELECT id FROM qwen_embed.vectorizer")
    db.rows(harm.format(n=number))
    db.rows("INSERT INTO docs VALUES (10, 'ten')")
    db.rows("UPDATE docs SET body = 'changed' WHERE id = 1")
    db.rows("UPDATE docs SET id = 30 WHERE id = 3")
    db.rows("DELETE FROM docs WHERE id = 2")
    state = db.state()
    if "REVOKE" not in harm:
        assert state.state == "broken"
        assert state.last_error is not None
        assert "repair" in state.last_error
    db.work()
    if "REVOKE" in harm:
        db.rows(f"GRANT ALL ON qwen_embed.log_{number} TO postgres")
    postgres.repair(db.dsn, "docs")
    assert db.state().state == "backfill"
    db.work()
    db.in_step()
    assert db.state().state == "active"
    db.rows("UPDATE docs SET body = 'captured again' WHERE id = 1")
    db.work()
    db.in_step()


def test_triggers_that_were_off_for_a_moment_are_noticed(captured: Database) -> None:
    """pg_restore --disable-triggers and some loaders do this; nothing is broken afterwards."""
    db = captured
    db.work()
    db.rows("ALTER TABLE docs DISABLE TRIGGER USER")
    db.rows("UPDATE docs SET body = 'unseen' WHERE id = 1")
    db.rows("DELETE FROM docs WHERE id = 2")
    db.rows("ALTER TABLE docs ENABLE TRIGGER USER")
    asked = len(db.stub.asked)
    db.work()
    db.in_step()
    assert db.stub.asked[asked:] == ["unseen"]


def test_a_dropped_source_is_said_and_can_be_dropped(captured: Database) -> None:
    db = captured
    db.work()
    with pytest.raises(psycopg.errors.DependentObjectsStillExist):
        db.rows("DROP TABLE docs")
    db.rows("DROP TABLE docs CASCADE")
    state = db.state()
    assert state.state == "broken"
    assert "drop_vectorizer" in (state.last_error or "")
    assert "dropped" in db.work().waiting["docs"]
    postgres.drop_vectorizer(db.dsn, "docs", drop_target=True)
    assert postgres.status(db.dsn) == []


def test_a_key_that_lost_its_uniqueness_is_broken_not_wrong(captured: Database) -> None:
    captured.rows("ALTER TABLE docs DROP CONSTRAINT docs_pkey")
    assert captured.state().state == "broken"
