"""From an older schema to this one, and workers of another version beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qwen_embed_plugins import postgres
from qwen_embed_plugins.errors import DatabaseError
from qwen_embed_plugins.postgres import _sql, schema
from tests.integration.conftest import Database, opened_database

if TYPE_CHECKING:
    from tests.postgres_servers import Server

FIRST = Path(__file__).parent / "data" / "schema_0001.sql"


@pytest.fixture
def oldest_schema(every_server: Server) -> Iterator[Database]:
    """A database that version 0001 left behind, restored from its dump."""
    with opened_database(every_server, "template1") as database:
        with database.connect(autocommit=True) as restoring:
            restoring.execute(FIRST.read_text("utf-8"))
        yield database


def test_a_database_of_the_first_version_goes_on(oldest_schema: Database) -> None:
    db = oldest_schema
    older = [m.name for m in _sql.migrations() if m.number > 1]
    assert postgres.install(db.dsn) == tuple(older)
    assert postgres.install(db.dsn) == ()
    docs, odd = postgres.status(db.dsn)
    assert (docs.pending, docs.dead, docs.state) == (4, 1, "active")
    assert odd.state == "paused"
    assert docs.lag is not None
    db.stub.refuse = lambda text: ("bad_input", "filter") if text == "refused" else None
    assert db.work().dead == 1
    # Restored triggers are new ones, so all rows are compared once; what it had is not paid again.
    assert sorted(db.stub.asked) == ["again", "refused", "seven", "uno"]
    db.expect({1: "uno", 5: "again", 6: "six", 7: "seven"})
    assert db.state().pending == 0
    assert postgres.audit(db.dsn, "docs").clean
    assert [letter.key for letter in postgres.dead_letters(db.dsn)] == [{"id": 4}]
    postgres.resume(db.dsn, "odd name")
    db.work()
    assert len(db.stub.asked) == 4
    assert postgres.audit(db.dsn, "odd name").clean
    db.drained()
    hits = postgres.search(db.dsn, "odd name", "u: two", embedder=db.stub)
    assert hits[0].key == {"a": "y", "b": 2}


def test_everything_new_works_on_what_the_first_version_made(oldest_schema: Database) -> None:
    """Triggers, functions and tables of old vectorizers stay as they were until something makes
    them anew."""
    db = oldest_schema
    postgres.install(db.dsn)
    db.rows("INSERT INTO docs VALUES (8, 'eight')")
    db.rows("TRUNCATE pairs")
    db.work()
    assert db.value("SELECT text FROM docs_embedding WHERE id = 8") == "eight"
    postgres.resume(db.dsn, "odd name")
    for name in ("docs", "odd name"):
        postgres.enqueue(db.dsn, name)
        postgres.repair(db.dsn, name)
        postgres.suspend(db.dsn, name)
        postgres.resume(db.dsn, name)
    postgres.redefine(db.dsn, "docs", columns=["body"], condition="other = 0")
    postgres.retry(db.dsn, "docs")
    db.rows("SELECT qwen_embed.capture_by('docs', 'row')")
    db.rows("UPDATE docs SET other = 1 WHERE id = 8")
    db.work()
    assert db.value("SELECT count(*) FROM pairs_embedding") == 0
    assert db.value("SELECT count(*) FROM docs_embedding WHERE id = 8") == 0
    assert postgres.audit(db.dsn, "docs").clean
    postgres.move(db.dsn, "docs", dimensions=64, index_kind="none")
    postgres.cancel_move(db.dsn, "docs")
    missing = postgres.grant(db.dsn, db.value("SELECT current_user"), "worker")
    assert missing == ()
    postgres.uninstall(db.dsn, everything=True, drop_data=True)
    tables = "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    assert db.rows(f"{tables} AND relkind IN ('r', 'v') ORDER BY 1") == [("docs",), ("pairs",)]


def test_what_an_upgrade_leaves_is_what_an_installation_makes(
    oldest_schema: Database, every_server: Server, every_template: str
) -> None:
    """All functions, views, rights and columns that belong to no vectorizer are alike."""
    postgres.install(oldest_schema.dsn)
    with opened_database(every_server, every_template) as fresh:
        public = (
            "ARRAY(SELECT a.privilege_type FROM aclexplode({}) a WHERE a.grantee = 0 ORDER BY 1)"
        )
        ours = "relnamespace = 'qwen_embed'::regnamespace AND relname !~ '_\\d'"
        for what in (
            f"SELECT oid::regprocedure::text, prosrc, prosecdef, {public.format('proacl')} "
            "FROM pg_proc WHERE pronamespace = 'qwen_embed'::regnamespace "
            "AND proname !~ '_\\d' ORDER BY 1",
            f"SELECT relname, relkind, {public.format('relacl')}, obj_description(oid) "
            f"FROM pg_class WHERE {ours} ORDER BY 1",
            "SELECT relname, attname, atttypid::regtype::text, attnotnull, "
            f"{public.format('attacl')}, col_description(c.oid, attnum) "
            f"FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid WHERE {ours} "
            "AND attnum > 0 AND NOT attisdropped ORDER BY 1, 2",
            "SELECT relname, pg_get_constraintdef(k.oid) FROM pg_constraint k "
            f"JOIN pg_class c ON c.oid = k.conrelid WHERE {ours} ORDER BY 1, 2",
            "SELECT relname, pg_get_triggerdef(t.oid) FROM pg_trigger t "
            f"JOIN pg_class c ON c.oid = tgrelid WHERE {ours} AND NOT tgisinternal ORDER BY 1, 2",
        ):
            assert oldest_schema.rows(what) == fresh.rows(what)


def test_a_worker_before_the_upgrade_says_so(oldest_schema: Database) -> None:
    with pytest.raises(DatabaseError) as caught:
        oldest_schema.work()
    known = schema.newest()
    assert str(caught.value) == (
        f"this database has schema 1, this worker needs {known}. "
        "Run `qwen-embed pg install` on it first."
    )


def later(needs: int) -> str:
    return f"INSERT INTO qwen_embed.migration VALUES (9999, '9999_later', 'x', now(), {needs})"


def test_an_old_worker_does_not_begin_on_a_schema_that_it_does_not_know(db: Database) -> None:
    db.create()
    db.rows(later(9999))
    with pytest.raises(DatabaseError, match="pip install --upgrade") as caught:
        db.work()
    assert "schema 9999" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_old_worker_goes_on_beside_a_schema_that_is_fit_for_it(db: Database) -> None:
    db.create()
    db.rows("INSERT INTO docs VALUES (1, 'one')")
    db.rows(later(schema.newest()))
    db.work()
    db.in_step()


def _service(db: Database, meanwhile: Callable[[], object]) -> postgres.WorkerSummary:
    """A worker that runs until it ends by itself, with something done while a request is out."""

    async def during(_: Sequence[str]) -> None:
        if db.stub.calls == 1:
            meanwhile()

    db.stub.during = during
    return asyncio.run(asyncio.wait_for(db.awork(once=False), 60))


def test_a_worker_stops_when_a_newer_schema_is_installed(db: Database) -> None:
    db.create()
    db.rows("INSERT INTO docs VALUES (1, 'one')")
    with pytest.raises(DatabaseError, match="pip install --upgrade"):
        _service(db, lambda: db.rows(later(9999)))
    assert db.value("SELECT count(*) FROM qwen_embed.lease") == 0, "nothing is held"
    assert db.value("SELECT count(*) FROM qwen_embed.worker") == 0


def test_a_worker_stops_when_a_newer_schema_took_a_column_away(db: Database) -> None:
    db.create()
    db.rows("INSERT INTO docs VALUES (1, 'one')")

    def upgrade() -> None:
        db.rows(later(9999))
        db.rows("ALTER TABLE qwen_embed.vectorizer RENAME COLUMN notify TO other")

    with pytest.raises(DatabaseError, match="pip install --upgrade"):
        _service(db, upgrade)


def test_what_a_migration_needs_stands_in_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [m.needs for m in _sql.migrations()] == [m.number for m in _sql.migrations()]

    class File:
        stem = "0007_more"

        def read_text(self, **_: Any) -> str:
            return "-- More.\n-- needs: 5\nSELECT 1;"

    made = _sql._migration(File())  # type: ignore[arg-type]
    assert (made.number, made.needs) == (7, 5)


def test_another_role_installs_as_the_one_that_did(db: Database) -> None:
    """What an installation makes has one owner: some of it runs with its rights."""
    role = f"qe_second_{db.value('SELECT pg_backend_pid()')}"
    db.rows(f"CREATE ROLE {role} LOGIN")
    try:
        second = db.dsn.replace("user=postgres", f"user={role}")
        with pytest.raises(DatabaseError, match="installed qwen_embed here") as caught:
            postgres.install(second)
        assert "SET ROLE" in str(caught.value)
        keeper = f"qe_keeper_{db.value('SELECT pg_backend_pid()')}"
        db.rows(f"CREATE ROLE {keeper}")
        database = db.value("SELECT current_database()")
        db.rows("DROP SCHEMA qwen_embed CASCADE")
        db.rows(f"GRANT CREATE ON DATABASE {database} TO {keeper}")
        db.rows(f"GRANT {keeper} TO {role}")
        try:
            db.rows(f"SET ROLE {keeper}")
            postgres.install(db.conn)
            assert db.value("SELECT current_user") == keeper
            db.rows("RESET ROLE")
            postgres.install(second)
            postgres.install(db.dsn)
            with db.connect() as joined:
                postgres.install(joined)
                user = joined.execute("SELECT current_user").fetchone()
                assert user == ("postgres",), "the caller's transaction keeps its own role"
            owners = db.rows(
                "SELECT DISTINCT pg_get_userbyid(proowner)::text FROM pg_proc "
                "WHERE pronamespace = 'qwen_embed'::regnamespace UNION "
                "SELECT pg_get_userbyid(relowner)::text FROM pg_class "
                "WHERE relnamespace = 'qwen_embed'::regnamespace"
            )
            assert owners == [(keeper,)]
        finally:
            db.rows("RESET ROLE")
            db.rows(f"DROP OWNED BY {keeper} CASCADE")
            db.rows(f"DROP ROLE {keeper}")
    finally:
        db.rows(f"DROP ROLE {role}")
