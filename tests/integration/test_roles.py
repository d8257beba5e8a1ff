"""Roles with least rights: who may search, work, make vectorizers, and nothing else.

No role here is a superuser, the one that installs included, as on a managed server.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import errors as pg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from qwen_embed_plugins import postgres
from qwen_embed_plugins.errors import DatabaseError
from tests.integration.conftest import Database

if TYPE_CHECKING:
    from collections.abc import Callable

_numbers = itertools.count(1)
KINDS = ("keeper", "anna", "boris", "web", "embedder")


class Cast:
    """A database and its people. The keeper installed, anna and boris own a schema each, web
    searches, embedder works."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.superuser = db.dsn
        self.names = {kind: f"qe_{kind}_{os.getpid()}_{next(_numbers)}" for kind in KINDS}

    def dsn(self, who: str) -> str:
        return make_conninfo(self.superuser, user=self.names[who])

    def execute(self, who: str, query: str, *values: Any) -> list[tuple[Any, ...]]:
        text = query.format(**self.names) if "{" in query else query
        with psycopg.connect(self.dsn(who), autocommit=True) as connection:
            cursor = connection.execute(text, values or None)
            return cursor.fetchall() if cursor.description is not None else []

    def may_not(self, who: str, query: str, *values: Any) -> None:
        try:
            self.execute(who, query, *values)
        except pg.InsufficientPrivilege:
            return
        pytest.fail(f"{who} was allowed: {query}")

    def work(self, who: str = "embedder", **options: Any) -> postgres.WorkerSummary:
        self.db.dsn = self.dsn(who)
        try:
            return self.db.work(**options)
        finally:
            self.db.dsn = self.superuser

    def create(self, who: str, source: str, **options: Any) -> str:
        self.db.dsn = self.dsn(who)
        try:
            return self.db.create(source, **options)
        finally:
            self.db.dsn = self.superuser


@pytest.fixture
def cast(bare: Database) -> Iterator[Cast]:
    cast = Cast(bare)
    database = bare.value("SELECT current_database()")
    bare.rows("CREATE EXTENSION vector")
    try:
        for name in cast.names.values():
            bare.rows(f"CREATE ROLE {name} LOGIN")
        bare.rows(f"GRANT CREATE ON DATABASE {database} TO {cast.names['keeper']}")
        bare.rows(f"ALTER ROLE {cast.names['embedder']} BYPASSRLS")
        postgres.install(cast.dsn("keeper"))
        for owner in ("anna", "boris"):
            name = cast.names[owner]
            bare.rows(f"CREATE SCHEMA {owner} AUTHORIZATION {name}")
            bare.rows(f"GRANT USAGE ON SCHEMA {owner} TO {cast.names['keeper']}")
            bare.rows(
                f"CREATE TABLE {owner}.docs (id int PRIMARY KEY, body text, other int DEFAULT 0)"
            )
            bare.rows(f"ALTER TABLE {owner}.docs OWNER TO {name}")
        yield cast
    finally:
        for name in cast.names.values():
            bare.rows(f"DROP OWNED BY {name} CASCADE")
            bare.rows(f"DROP ROLE {name}")


@pytest.fixture
def owned(cast: Cast) -> Cast:
    """Both owners have a vectorizer of their table, all roles their rights."""
    for owner in ("anna", "boris"):
        postgres.grant(cast.dsn("keeper"), cast.names[owner], "owner")
        cast.create(owner, f"{owner}.docs", name=owner)
        cast.execute(owner, f"INSERT INTO {owner}.docs VALUES (1, 'one of {owner}')")
    for who, kind in (("web", "app"), ("embedder", "worker")):
        postgres.grant(cast.dsn("keeper"), cast.names[who], kind)  # type: ignore[arg-type]
        for owner in ("anna", "boris"):
            postgres.grant(cast.dsn(owner), cast.names[who], kind, names=[owner])  # type: ignore[arg-type]
    return cast


def step(cast: Cast, owner: str) -> None:
    """All rows of an owner's table have their vectors and nothing waits."""
    wanted = dict(cast.db.rows(f"SELECT id, body FROM {owner}.docs"))
    cast.db.expect(wanted, target=f"{owner}.docs_embedding")
    cast.db.drained(owner)


def query(cast: Cast, text: str) -> str:
    vector = cast.db.stub.vector(text).tolist()
    return "[" + ",".join(map(repr, vector)) + "]"


def test_a_worker_of_another_role_keeps_two_owners_in_step(owned: Cast) -> None:
    assert owned.work().embedded == 2
    step(owned, "anna")
    step(owned, "boris")
    owned.execute("anna", "UPDATE anna.docs SET body = 'uno' WHERE id = 1")
    owned.execute("boris", "DELETE FROM boris.docs")
    owned.execute("boris", "INSERT INTO boris.docs VALUES (2, 'two'), (3, NULL)")
    owned.execute("anna", "TRUNCATE anna.docs")
    owned.execute("anna", "INSERT INTO anna.docs VALUES (5, 'five')")
    owned.db.stub.refuse = lambda text: ("bad_input", "refused") if text == "two" else None
    summary = owned.work()
    assert (summary.dead, summary.waiting) == (1, {})
    assert owned.db.value("SELECT count(*) FROM boris.docs_embedding") == 0
    owned.db.stub.refuse = lambda text: None
    assert postgres.retry(owned.dsn("boris"), "boris") == 1
    assert owned.work().embedded == 1
    owned.db.expect({2: "two"}, target="boris.docs_embedding")
    step(owned, "anna")


def test_an_owner_does_everything_with_its_own(owned: Cast) -> None:
    """Every command of an owner, on a server where the installer is no superuser either."""
    owned.work()
    dsn = owned.dsn("anna")
    for call in (postgres.pause, postgres.resume, postgres.enqueue, postgres.repair):
        call(dsn, "anna")
    assert postgres.retry(dsn, "anna") == 0
    postgres.suspend(dsn, "anna")
    owned.execute("anna", "ALTER TABLE anna.docs ALTER body TYPE varchar(90)")
    postgres.resume(dsn, "anna")
    postgres.redefine(dsn, "anna", columns=["body"], condition="other < 5 AND body <> 'a\\b''c'")
    owned.execute("anna", "INSERT INTO anna.docs VALUES (2, 'two', 9), (3, 'three', 1)")
    owned.execute("anna", "SELECT qwen_embed.notify_workers('anna', true)")
    owned.execute("anna", "SELECT qwen_embed.capture_by('anna', 'row')")
    owned.work()
    assert owned.db.rows("SELECT id FROM anna.docs_embedding ORDER BY id") == [(1,), (3,)]
    assert [letter.name for letter in postgres.dead_letters(dsn)] == []
    postgres.move(dsn, "anna", dimensions=64)
    postgres.cancel_move(dsn, "anna")
    postgres.drop_vectorizer(dsn, "anna", drop_target=True)
    number = owned.create("anna", "anna.docs", name="again", index_kind="hnsw")
    assert number == "again"
    assert postgres.build_index(dsn, "again")
    left = owned.db.rows(
        "SELECT relname::text FROM pg_class WHERE relnamespace = 'qwen_embed'::regnamespace "
        "AND relkind = 'r' AND relname ~ '^(log|work|dead)_' ORDER BY 1"
    )
    assert len(left) == 6, "boris' three, and those of the new one"


def test_a_finished_move_leaves_no_private_table_of_the_old_one(owned: Cast) -> None:
    owned.work()
    number = owned.db.value("SELECT id FROM qwen_embed.vectorizer WHERE name = 'anna'")
    dsn = owned.dsn("anna")
    postgres.move(dsn, "anna", model="qwen3-embedding-0.6b", dimensions=64, index_kind="none")
    stub = type(owned.db.stub)(dimensions=64)
    before, owned.db.stub = owned.db.stub, stub
    owned.work(only=["anna@qwen3-embedding-0.6b/64"])
    owned.db.stub = before
    postgres.finish_move(dsn, "anna")
    assert owned.db.value(f"SELECT to_regclass('qwen_embed.log_{number}')") is None
    assert owned.db.value(f"SELECT to_regproc('qwen_embed.content_{number}')") is None
    assert owned.db.value(f"SELECT to_regproc('qwen_embed.key_{number}_1')") is not None
    assert postgres.drop_old(dsn, "anna")
    assert owned.db.value(f"SELECT to_regproc('qwen_embed.key_{number}_1')") is None


def test_nobody_creates_on_the_table_of_another(owned: Cast) -> None:
    for who in ("boris", "embedder", "web", "keeper"):
        with pytest.raises(DatabaseError, match=r"own|permission denied|may not"):
            owned.create(who, "anna.docs", name="stolen")
    assert owned.db.value("SELECT count(*) FROM qwen_embed.vectorizer") == 2
    owned.execute("anna", "CREATE TABLE anna.more (id int PRIMARY KEY, body text)")
    owned.execute("anna", "GRANT ALL ON anna.more TO {boris}")
    owned.execute("anna", "GRANT ALL ON SCHEMA anna TO {boris}")
    with pytest.raises(DatabaseError, match="you do not own"):
        owned.create("boris", "anna.more", name="stolen")


def test_a_role_that_was_granted_nothing_is_told_what_to_ask_for(cast: Cast) -> None:
    with pytest.raises(DatabaseError, match="permission denied for function") as caught:
        cast.create("anna", "anna.docs")
    assert "pg grant" in str(caught.value)
    postgres.grant(cast.dsn("keeper"), cast.names["anna"], "owner")
    cast.db.rows(f"REVOKE USAGE ON SCHEMA anna FROM {cast.names['keeper']}")
    with pytest.raises(DatabaseError, match="may not look into schema anna") as caught:
        cast.create("anna", "anna.docs")
    assert "GRANT USAGE ON SCHEMA anna TO" in str(caught.value)


def test_an_owner_cannot_touch_what_is_not_its_own(owned: Cast) -> None:
    # By number: by name the schema alone would hide them.
    source, target, view = (
        owned.db.value("SELECT %s::regclass::oid", f"anna.docs{suffix}")
        for suffix in ("", "_embedding", "_embedded")
    )
    for statement in (
        "SELECT qwen_embed.pause('anna')",
        "SELECT qwen_embed.resume('anna')",
        "SELECT qwen_embed.suspend('anna')",
        "SELECT qwen_embed.enqueue('anna')",
        "SELECT qwen_embed.retry('anna')",
        "SELECT qwen_embed.repair('anna')",
        "SELECT qwen_embed.drop_vectorizer('anna')",
        "SELECT qwen_embed.redefine('anna', ARRAY['other'])",
        "UPDATE qwen_embed.vectorizer SET model = 'x' WHERE name = 'anna'",
        f"UPDATE qwen_embed.vectorizer SET source = {source} WHERE name = 'boris'",
        f"UPDATE qwen_embed.vectorizer SET target_table = {target} WHERE name = 'boris'",
        f"UPDATE qwen_embed.vectorizer SET target_view = {view} WHERE name = 'boris'",
        "UPDATE qwen_embed.vectorizer SET replaces = (SELECT id FROM qwen_embed.vectorizer "
        "WHERE name = 'anna') WHERE name = 'boris'",
        "DELETE FROM qwen_embed.vectorizer WHERE name = 'anna'",
        "INSERT INTO qwen_embed.task (vectorizer, kind) SELECT id, 'backfill' "
        "FROM qwen_embed.vectorizer WHERE name = 'anna'",
        "UPDATE qwen_embed.task SET vectorizer = (SELECT id FROM qwen_embed.vectorizer "
        "WHERE name = 'anna')",
        "DELETE FROM qwen_embed.lease",
        "INSERT INTO qwen_embed.grantee VALUES ('postgres', 'worker')",
        "DELETE FROM qwen_embed.migration",
        "SELECT setval(pg_get_serial_sequence('qwen_embed.vectorizer', 'id'), 1)",
        "CREATE TABLE qwen_embed.log_99 (a int)",
        "CREATE FUNCTION qwen_embed.pause(int) RETURNS void LANGUAGE sql AS ''",
        "ALTER FUNCTION qwen_embed.pause(text) RENAME TO mine",
        "SELECT * FROM qwen_embed.visit",
    ):
        owned.may_not("boris", statement.replace("{", "{{").replace("}", "}}"))
    for number in (77, 1):
        with pytest.raises(psycopg.Error, match=r"currval|duplicate key"):
            owned.execute(
                "boris",
                "INSERT INTO qwen_embed.vectorizer OVERRIDING SYSTEM VALUE "
                f"SELECT (jsonb_populate_record(v, jsonb_build_object('id', {number}))).* "
                "FROM qwen_embed.vectorizer v WHERE name = 'boris'",
            )
    number = owned.db.value("SELECT id FROM qwen_embed.vectorizer WHERE name = 'anna'")
    for table in ("log", "work", "dead"):
        owned.may_not("boris", f"SELECT * FROM qwen_embed.{table}_{number}")
        owned.may_not("boris", f"INSERT INTO qwen_embed.{table}_{number} DEFAULT VALUES")
    # Functions with the keeper's rights believe the row, not their caller.
    victim = owned.db.value("SELECT 'anna.docs'::regclass::oid::text")
    forged = f"jsonb_populate_record(v, jsonb_build_object('source', '{victim}'))"
    before = owned.db.rows("SELECT relname, relacl::text FROM pg_class WHERE relname ~ '^log_'")
    for function in ("make_queue", "make_key_functions", "make_capture_functions"):
        owned.execute(
            "boris",
            f"SELECT qwen_embed.{function}({forged}) FROM qwen_embed.vectorizer v "
            "WHERE name = 'boris'",
        )
    assert before == owned.db.rows(
        "SELECT relname, relacl::text FROM pg_class WHERE relname ~ '^log_'"
    )
    owned.work()
    step(owned, "anna")


def test_what_repair_and_resume_would_run_cannot_be_planted(owned: Cast) -> None:
    """A superuser repairs a vectorizer of somebody's: nothing that stands in its row is run."""
    planted = "true) THEN 'x' END; END; CREATE ROLE qe_planted SUPERUSER; --"
    with pytest.raises(psycopg.Error):
        owned.execute(
            "boris", "UPDATE qwen_embed.vectorizer SET condition = %s WHERE name = 'boris'", planted
        )
    # Read without standard strings this is one expression, read with them it is two statements.
    sly = "body <> '\\' ) THEN body END; END; CREATE ROLE qe_planted; --'"
    with psycopg.connect(owned.dsn("boris")) as connection:
        connection.execute("SET standard_conforming_strings = off")
        connection.execute("SET escape_string_warning = off")
        with pytest.raises(psycopg.Error):
            connection.execute(
                sql.SQL(
                    "UPDATE qwen_embed.vectorizer SET condition = {} WHERE name = 'boris'"
                ).format(sql.Literal(sly))
            )
    owned.may_not(
        "boris",
        "UPDATE qwen_embed.vectorizer SET suspended = "
        "jsonb_build_object('content', %s::text, 'view', 'v') WHERE name = 'boris'",
        "BEGIN ATOMIC SELECT 'x'; END; CREATE ROLE qe_planted",
    )


def _let_in(cast: Cast, who: str) -> psycopg.Connection[Any]:
    connection = psycopg.connect(cast.dsn(who))
    connection.execute("SELECT qwen_embed.open_schema(current_user::text)")
    return connection


@pytest.mark.parametrize(
    "made",
    [
        "CREATE FUNCTION qwen_embed.drop_vectorizer(name text) RETURNS void LANGUAGE sql AS ''",
        "CREATE FUNCTION qwen_embed.search(name text, query public.vector, k int) RETURNS int "
        "LANGUAGE sql AS 'SELECT 1'",
        "CREATE TABLE qwen_embed.log_99 (a int)",
        "CREATE VIEW qwen_embed.v AS SELECT 1",
        "CREATE TYPE qwen_embed.t AS ENUM ('a')",
        "CREATE DOMAIN qwen_embed.t AS int",
        "CREATE FUNCTION qwen_embed.content_99(boris.docs) RETURNS text LANGUAGE sql "
        "AS 'SELECT 1::text'",
        "CREATE FUNCTION qwen_embed.content_{boris}(int) RETURNS text LANGUAGE sql "
        "AS 'SELECT 1::text'",
        "CREATE FUNCTION qwen_embed.content_{anna}(boris.docs) RETURNS text LANGUAGE sql "
        "AS 'SELECT 1::text'",
        "CREATE FUNCTION qwen_embed.key_{boris}_1(int) RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE OPERATOR qwen_embed.<+> (FUNCTION = pg_catalog.int4pl, LEFTARG = int, "
        "RIGHTARG = int)",
    ],
)
def test_who_is_let_in_leaves_nothing_of_its_own(owned: Cast, made: str) -> None:
    numbers = {n: str(i) for i, n in owned.db.rows("SELECT id, name FROM qwen_embed.vectorizer")}
    with _let_in(owned, "boris") as connection:
        connection.execute(made.format(**numbers) if "{" in made else made)
        with pytest.raises(pg.InsufficientPrivilege, match="does not belong into the schema"):
            connection.commit()
    # Neither does forcing the check early, nor a savepoint, leave the right.
    with _let_in(owned, "boris") as connection:
        connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
        with pytest.raises(pg.InsufficientPrivilege):
            connection.execute(made.format(**numbers) if "{" in made else made)
        connection.rollback()
    with _let_in(owned, "boris") as connection:
        connection.commit()
        with pytest.raises(pg.InsufficientPrivilege):
            connection.execute(made.format(**numbers) if "{" in made else made)
    assert not owned.db.value(
        "SELECT has_schema_privilege(%s, 'qwen_embed', 'CREATE')", owned.names["boris"]
    )


def test_two_owners_create_at_once(owned: Cast) -> None:
    first = _let_in(owned, "boris")
    with first:
        other = psycopg.connect(owned.dsn("anna"))
        with other:
            other.execute("SET lock_timeout = '200ms'")
            with pytest.raises(pg.LockNotAvailable):
                other.execute("SELECT qwen_embed.open_schema(current_user::text)")
            other.rollback()
    with _let_in(owned, "anna"):
        pass


def test_an_app_searches_and_reads_and_changes_nothing(owned: Cast) -> None:
    owned.work()
    hits = postgres.search(owned.dsn("web"), "anna", "one of anna", embedder=owned.db.stub)
    assert [hit.key for hit in hits] == [{"id": 1}]
    assert owned.execute("web", "SELECT qwen_embed.query_text('anna', 'x')")
    assert owned.execute("web", "SELECT id, text FROM anna.docs_embedded") == [(1, "one of anna")]
    assert {item.name for item in postgres.status(owned.dsn("web"))} == {"anna", "boris"}
    assert postgres.status(owned.dsn("web"), "anna")[0].pending == 0
    number = owned.db.value("SELECT id FROM qwen_embed.vectorizer WHERE name = 'anna'")
    for statement in (
        "INSERT INTO anna.docs_embedding SELECT * FROM anna.docs_embedding",
        "UPDATE anna.docs_embedding SET text = 'x'",
        "DELETE FROM anna.docs_embedding",
        "TRUNCATE anna.docs_embedding",
        "INSERT INTO anna.docs VALUES (9)",
        f"SELECT * FROM qwen_embed.log_{number}",
        f"SELECT * FROM qwen_embed.work_{number}",
        f"SELECT * FROM qwen_embed.dead_{number}",
        f"INSERT INTO qwen_embed.log_{number} (op) VALUES ('t')",
        "SELECT * FROM qwen_embed.vectorizer",
        "SELECT * FROM qwen_embed.dead_letters",
        "SELECT * FROM qwen_embed.lease",
        "SELECT * FROM qwen_embed.task",
        "SELECT qwen_embed.pause('anna')",
        "SELECT qwen_embed.drop_vectorizer('anna')",
        "SELECT qwen_embed.create_vectorizer('anna.docs', ARRAY['body'])",
        "SELECT qwen_embed.open_schema(current_user::text)",
        "SELECT qwen_embed.grant_to(current_user::text, 'owner')",
    ):
        owned.may_not("web", statement)


def test_an_app_sees_nothing_of_a_hidden_row(owned: Cast) -> None:
    owned.execute("anna", "INSERT INTO anna.docs VALUES (2, 'the secret', 7)")
    owned.work()
    owned.execute("anna", "CREATE POLICY visible ON anna.docs USING (other < 5)")
    owned.execute("anna", "ALTER TABLE anna.docs ENABLE ROW LEVEL SECURITY")
    dsn = owned.dsn("web")
    for exact in (False, True):
        hits = postgres.search(dsn, "anna", "the secret", exact=exact, embedder=owned.db.stub)
        assert [hit.key["id"] for hit in hits] == [1]
    hits = postgres.search(dsn, "anna", "the secret", filter={"other": [7]}, embedder=owned.db.stub)
    assert hits == []
    for relation in ("anna.docs", "anna.docs_embedding", "anna.docs_embedded"):
        assert owned.execute("web", f"SELECT id FROM {relation} ORDER BY id") == [(1,)]
    # A cheap function of its own in the condition sees what the policy lets through, no more.
    owned.db.rows(f"CREATE SCHEMA web AUTHORIZATION {owned.names['web']}")
    owned.execute(
        "web",
        "CREATE FUNCTION web.leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS "
        "$$ BEGIN RAISE NOTICE 'saw %', $1; RETURN true; END $$",
    )
    probe = query(owned, "the secret")
    with psycopg.connect(dsn) as connection:
        seen: list[str] = []
        connection.add_notice_handler(lambda notice: seen.append(notice.message_primary or ""))
        for relation in ("anna.docs_embedding", "anna.docs_embedded"):
            connection.execute(f"SELECT 1 FROM {relation} WHERE web.leak(text)")
            connection.execute(
                f"SELECT 1 FROM {relation} WHERE web.leak(text) "
                f"ORDER BY embedding <=> '{probe}' LIMIT 5"
            )
        plans = [
            str(row)
            for analyse in ("EXPLAIN (VERBOSE) ", "EXPLAIN (ANALYZE, VERBOSE) ")
            for relation in ("anna.docs_embedding", "anna.docs_embedded")
            for row in connection.execute(
                f"{analyse} SELECT * FROM {relation} WHERE web.leak(text) "
                f"ORDER BY embedding <=> '{probe}'"
            ).fetchall()
        ]
        statistics = connection.execute(
            "SELECT * FROM pg_stats WHERE tablename = 'docs_embedding'"
        ).fetchall()
    assert set(seen) == {"saw one of anna"}
    assert plans
    assert not [line for line in plans if "the secret" in line]
    assert statistics == []


def test_a_worker_may_write_vectors_and_no_definitions(owned: Cast) -> None:
    owned.work()
    for statement in (
        "UPDATE qwen_embed.vectorizer SET model = 'x'",
        "UPDATE qwen_embed.vectorizer SET paused = true",
        "UPDATE qwen_embed.vectorizer SET target_table = 'boris.docs_embedding'",
        "DELETE FROM qwen_embed.vectorizer",
        "INSERT INTO qwen_embed.vectorizer (name) VALUES ('x')",
        "INSERT INTO qwen_embed.grantee VALUES ('x', 'app')",
        "UPDATE anna.docs SET body = 'x'",
        "DELETE FROM anna.docs",
        "INSERT INTO anna.docs VALUES (7)",
        "TRUNCATE anna.docs_embedding",
        "DROP TABLE anna.docs_embedding",
        "SELECT qwen_embed.drop_vectorizer('anna')",
        "SELECT qwen_embed.create_vectorizer('anna.docs', ARRAY['body'])",
        "SELECT qwen_embed.make_queue(v) FROM qwen_embed.vectorizer v",
        "CREATE TABLE qwen_embed.mine (a int)",
    ):
        owned.may_not("embedder", statement)


def test_a_role_that_is_worker_and_owner_still_changes_only_its_own(owned: Cast) -> None:
    postgres.grant(owned.dsn("keeper"), owned.names["boris"], "worker")
    owned.may_not("boris", "UPDATE qwen_embed.vectorizer SET paused = true WHERE name = 'anna'")
    owned.may_not("boris", "DELETE FROM qwen_embed.vectorizer WHERE name = 'anna'")
    owned.execute("boris", "UPDATE qwen_embed.vectorizer SET last_error = NULL WHERE name = 'anna'")


def test_a_worker_that_does_not_see_all_rows_stops_and_deletes_nothing(owned: Cast) -> None:
    owned.work()
    owned.execute("anna", "CREATE POLICY visible ON anna.docs USING (other < 5)")
    owned.execute("anna", "ALTER TABLE anna.docs ENABLE ROW LEVEL SECURITY")
    owned.execute("anna", "UPDATE anna.docs SET other = 7")
    owned.db.rows(f"ALTER ROLE {owned.names['embedder']} NOBYPASSRLS")
    owned.execute("anna", "UPDATE anna.docs SET body = 'hidden'")
    owned.execute("anna", "SELECT qwen_embed.enqueue('anna')")
    summary = owned.work()
    assert "BYPASSRLS" in summary.waiting["anna"]
    assert "row-level security" in summary.waiting["anna"]
    assert owned.db.rows("SELECT text FROM anna.docs_embedding") == [("one of anna",)]
    assert postgres.status(owned.superuser, "anna")[0].state == "blocked"
    # The two ways out: the attribute, or to be a member of the owner.
    owned.db.rows(f"GRANT {owned.names['anna']} TO {owned.names['embedder']}")
    owned.db.stub.asked.clear()
    owned.work()
    owned.db.expect({1: "hidden"}, target="anna.docs_embedding")


def test_a_later_vectorizer_is_covered(owned: Cast) -> None:
    owned.execute("anna", "CREATE TABLE anna.more (id int PRIMARY KEY, body text)")
    owned.create("anna", "anna.more", name="more")
    owned.execute("anna", "INSERT INTO anna.more VALUES (1, 'later')")
    assert owned.work().waiting == {}
    hits = postgres.search(owned.dsn("web"), "more", "later", embedder=owned.db.stub)
    assert [hit.text for hit in hits] == ["later"]
    # As are what repair() and resume() make anew.
    owned.execute("anna", "DROP TABLE anna.more_embedding CASCADE")
    postgres.repair(owned.dsn("anna"), "more")
    postgres.suspend(owned.dsn("anna"), "more")
    postgres.resume(owned.dsn("anna"), "more")
    assert owned.work().waiting == {}
    hits = postgres.search(owned.dsn("web"), "more", "later", embedder=owned.db.stub)
    assert [hit.text for hit in hits] == ["later"]
    assert owned.execute("web", "SELECT text FROM anna.more_embedded") == [("later",)]


def test_what_is_missing_is_a_statement_that_its_owner_can_run(cast: Cast) -> None:
    postgres.grant(cast.dsn("keeper"), cast.names["anna"], "owner")
    cast.create("anna", "anna.docs", name="anna")
    cast.execute("anna", "INSERT INTO anna.docs VALUES (1, 'one')")
    cast.db.rows(f"ALTER ROLE {cast.names['embedder']} NOBYPASSRLS")
    missing = postgres.grant(cast.dsn("keeper"), cast.names["embedder"], "worker")
    assert any("BYPASSRLS" in line for line in missing)
    for line in missing:
        who, statement = line.split(": ", 1)
        assert statement.endswith((";", ";)"))
        if who == f"as {cast.names['anna']}":
            cast.execute("anna", statement)
        else:
            cast.db.rows(statement.split(" (or", 1)[0])
    assert postgres.grant(cast.dsn("keeper"), cast.names["embedder"], "worker") == ()
    assert cast.work().embedded == 1


def test_an_upgrade_renews_what_was_granted(owned: Cast) -> None:
    owned.db.rows(f"REVOKE ALL ON qwen_embed.status FROM {owned.names['web']}")
    owned.may_not("web", "SELECT * FROM qwen_embed.status")
    postgres.install(owned.dsn("keeper"))
    assert len(postgres.status(owned.dsn("web"))) == 2
    owned.db.rows(f"DROP OWNED BY {owned.names['web']}")
    owned.db.rows(f"DROP ROLE {owned.names['web']}")
    try:
        postgres.install(owned.dsn("keeper"))
    finally:
        owned.db.rows(f"CREATE ROLE {owned.names['web']}")


def test_revoking(owned: Cast) -> None:
    owned.work()
    for who, kind in (("web", "app"), ("embedder", "worker")):
        for granter in ("anna", "boris", "keeper"):
            postgres.revoke(owned.dsn(granter), owned.names[who], kind)  # type: ignore[arg-type]
    postgres.revoke(owned.dsn("keeper"), owned.names["anna"], "owner")
    owned.may_not("web", "SELECT * FROM anna.docs_embedding")
    owned.may_not("web", "SELECT * FROM qwen_embed.status")
    owned.may_not("embedder", "SELECT * FROM qwen_embed.vectorizer")
    owned.may_not("embedder", "SELECT * FROM anna.docs_embedding")
    owned.may_not("anna", "SELECT qwen_embed.pause('anna')")
    assert owned.execute("web", "SELECT id FROM anna.docs") == [(1,)]
    assert owned.db.rows("SELECT kind FROM qwen_embed.grantee") == [("owner",)]
    kept = owned.db.rows(
        "SELECT relname::text FROM pg_class c, aclexplode(relacl) a, pg_roles r "
        "WHERE r.oid = a.grantee AND rolname = %s AND relname <> 'docs'",
        owned.names["embedder"],
    )
    assert kept == []


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda cast: postgres.grant(cast.dsn("keeper"), "nobody_here"), "there is no role"),
        (
            lambda cast: postgres.grant(
                cast.dsn("keeper"),
                cast.names["web"],
                "king",  # type: ignore[arg-type]
            ),
            "Give app, worker or owner",
        ),
        (
            lambda cast: postgres.grant(cast.dsn("keeper"), cast.names["web"], names=["nothing"]),
            "there is no vectorizer 'nothing'",
        ),
        (lambda cast: postgres.grant(cast.dsn("web"), cast.names["web"]), "permission denied"),
    ],
)
def test_what_grant_refuses(cast: Cast, call: Callable[[Cast], object], said: str) -> None:
    with pytest.raises(DatabaseError, match=said):
        call(cast)


def test_functions_with_the_keepers_rights_ignore_the_callers_search_path(owned: Cast) -> None:
    """The classic attack: a schema of the caller's first in its path, with tables and functions
    that pass for those of the catalogue or of ours."""
    owned.db.rows(f"CREATE SCHEMA trap AUTHORIZATION {owned.names['boris']}")
    with psycopg.connect(owned.dsn("boris"), autocommit=True) as connection:
        connection.execute("SET search_path = trap, pg_catalog, qwen_embed")
        for made in (
            "CREATE FUNCTION trap.to_regclass(text) RETURNS regclass LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'trapped as %', current_user; END $$",
            "CREATE FUNCTION trap.pg_get_userbyid(oid) RETURNS name LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'trapped as %', current_user; END $$",
            "CREATE FUNCTION trap.has_schema_privilege(name, text, text) RETURNS boolean "
            "LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped as %', current_user; END $$",
            "CREATE TABLE trap.pg_class (oid oid, relowner oid)",
            "CREATE TABLE trap.pg_proc (oid oid)",
            "CREATE TEMP TABLE pg_class (oid oid, relowner oid)",
        ):
            connection.execute(made)
        connection.execute("SET search_path = pg_temp, trap, pg_catalog, qwen_embed")
        definers = connection.execute(
            "SELECT oid::pg_catalog.regprocedure::text FROM pg_catalog.pg_proc "
            "WHERE pronamespace = 'qwen_embed'::pg_catalog.regnamespace AND prosecdef "
            "AND pg_catalog.has_function_privilege(oid, 'EXECUTE') AND prorettype <> 2279"
        ).fetchall()
        assert definers
        connection.execute("SELECT qwen_embed.open_schema(current_user::text)")
        for function in ("make_queue", "make_key_functions", "make_capture_functions", "counts"):
            connection.execute(
                f"SELECT qwen_embed.{function}(v) FROM qwen_embed.vectorizer v WHERE name = 'boris'"
            )
        connection.execute("INSERT INTO boris.docs VALUES (2, 'two')")
        connection.execute("UPDATE boris.docs SET body = 'three' WHERE id = 2")
    owned.work()
    step(owned, "boris")


def test_a_worker_of_another_role_writes_a_column_and_stops_itself(owned: Cast) -> None:
    with pytest.raises(DatabaseError, match="target => 'column' is for the role that installed"):
        owned.create("anna", "anna.docs", name="second", target="column")
    for statement in (
        "CREATE SCHEMA own",
        "CREATE TABLE own.docs (id int PRIMARY KEY, body text, touched int DEFAULT 0)",
        "INSERT INTO own.docs VALUES (1, 'one')",
    ):
        owned.execute("keeper", statement)
    owned.create("keeper", "own.docs", name="own", columns=["body", "touched"], target="column")
    postgres.grant(owned.dsn("keeper"), owned.names["embedder"], "worker", names=["own"])
    assert owned.work(only=["own"]).embedded == 1
    assert owned.db.value("SELECT embedding IS NOT NULL FROM own.docs")
    owned.execute(
        "keeper",
        "CREATE FUNCTION own.touch() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN new.touched := new.touched + 1; RETURN new; END'",
    )
    owned.execute(
        "keeper",
        "CREATE TRIGGER touch BEFORE UPDATE ON own.docs FOR EACH ROW EXECUTE FUNCTION own.touch()",
    )
    owned.execute("keeper", "UPDATE own.docs SET body = 'two'")
    owned.work(only=["own"])
    state = postgres.status(owned.superuser, "own")[0]
    assert state.state == "paused"
    assert "changes the text that it is of" in str(state.last_error)


@pytest.mark.parametrize("kind", ["app", "worker", "owner"])
def test_a_revoke_takes_nothing_that_is_the_roles_own(owned: Cast, kind: postgres.RoleKind) -> None:
    names = "SELECT count(*) FROM qwen_embed.vectorizer"
    before = owned.execute("keeper", names)
    postgres.revoke(owned.dsn("keeper"), owned.names["keeper"], kind)
    assert owned.execute("keeper", names) == before
    owned.execute("keeper", "SELECT qwen_embed.pause(name) FROM qwen_embed.vectorizer")
