"""Installing, creating and dropping; and one line for whatever goes wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from qwen_embed_plugins import postgres
from qwen_embed_plugins.errors import ConfigurationError, DatabaseError
from qwen_embed_plugins.postgres import _sql, connect

if TYPE_CHECKING:
    from tests.integration.conftest import Database
    from tests.postgres_servers import Server


def refusal(call: Callable[[], Any]) -> str:
    """The one line that a call is refused with."""
    with pytest.raises(DatabaseError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_install_twice(bare: Database) -> None:
    assert postgres.install(bare.dsn) == tuple(m.name for m in _sql.migrations())
    assert postgres.install(bare.dsn) == ()
    assert postgres.install(bare.conn) == ()


@pytest.mark.parametrize("level", ["read committed", "repeatable read"])
def test_many_installs_at_once(bare: Database, level: str) -> None:
    name = bare.value("SELECT current_database()")
    bare.rows(f"ALTER DATABASE {name} SET default_transaction_isolation = '{level}'")
    outcomes: list[object] = []

    def install() -> None:
        try:
            outcomes.append(postgres.install(bare.dsn))
        except DatabaseError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=install) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    everything = tuple(migration.name for migration in _sql.migrations())
    assert sorted(map(str, outcomes)) == sorted([*[str(())] * 7, str(everything)])


def test_install_into_a_session_with_another_default(bare: Database) -> None:
    name = bare.value("SELECT current_database()")
    bare.rows(f"ALTER DATABASE {name} SET search_path = ''")
    bare.rows(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    bare.rows("CREATE SCHEMA s")
    bare.rows("CREATE EXTENSION vector SCHEMA s")
    postgres.install(bare.dsn)
    postgres.install(bare.dsn)


def test_a_newer_schema_is_refused(db: Database) -> None:
    db.rows("INSERT INTO qwen_embed.migration VALUES (9999, '9999_later', 'x')")
    assert "pip install --upgrade" in refusal(lambda: postgres.install(db.dsn))


def test_an_edited_migration_is_refused(db: Database) -> None:
    db.rows("UPDATE qwen_embed.migration SET digest = 'x'")
    assert "another text" in refusal(lambda: postgres.install(db.dsn))


def test_upgrading_keeps_vectorizers(db: Database) -> None:
    db.create()
    db.rows("INSERT INTO docs VALUES (1, 'one')")
    postgres.install(db.dsn)
    db.work()
    db.in_step()


def test_defaults_of_the_installation(db: Database) -> None:
    postgres.install(db.dsn, model="qwen3-embedding-4b", dimensions=256)
    postgres.create_vectorizer(db.dsn, "docs", columns=["body"])
    (made,) = postgres.list_vectorizers(db.dsn)
    assert (made.model, made.dimensions) == ("qwen3-embedding-4b", 256)
    assert "4096" in refusal(
        lambda: postgres.install(db.dsn, model="qwen3-embedding-8b", dimensions=5000)
    )


def test_without_the_right_to_create_the_extension(bare: Database) -> None:
    name = bare.value("SELECT current_database()")
    bare.rows("CREATE ROLE guest LOGIN")
    bare.rows(f"GRANT CREATE ON DATABASE {name} TO guest")
    guest = bare.dsn.replace("user=postgres", "user=guest")
    try:
        message = refusal(lambda: postgres.install(guest))
        assert "CREATE EXTENSION vector" in message
        bare.rows("CREATE EXTENSION vector")
        bare.rows(f"REVOKE CREATE ON DATABASE {name} FROM guest")
        assert "GRANT CREATE ON DATABASE" in refusal(lambda: postgres.install(guest))
    finally:
        bare.rows("DROP OWNED BY guest")
        bare.rows("DROP ROLE guest")


def test_an_owner_without_superuser_does_everything(bare: Database) -> None:
    """The usual managed database: no superuser, only the extension was made by one."""
    name = bare.value("SELECT current_database()")
    bare.rows("CREATE EXTENSION vector")
    bare.rows("CREATE ROLE app_owner LOGIN")
    bare.rows(f"GRANT CREATE ON DATABASE {name} TO app_owner")
    bare.rows("CREATE SCHEMA app AUTHORIZATION app_owner")
    superuser, bare.dsn = bare.dsn, bare.dsn.replace("user=postgres", "user=app_owner")
    try:
        postgres.install(bare.dsn)
        with bare.connect() as owner:
            owner.execute("CREATE TABLE app.docs (id int PRIMARY KEY, body text)")
            owner.execute("INSERT INTO app.docs VALUES (1, 'one')")
        bare.create("app.docs", index_kind="hnsw")
        bare.work()
        bare.expect({1: "one"}, target="app.docs_embedding")
        assert bare.value("SELECT count(*) FROM pg_indexes WHERE indexdef LIKE '%hnsw%'") == 1
        number = bare.value("SELECT id FROM qwen_embed.vectorizer")

        # Rights of its own taken away: writes go through, warn, and are found again.
        bare.rows(f"REVOKE ALL ON qwen_embed.log_{number} FROM app_owner")
        with bare.connect() as owner:
            noticed: list[str] = []
            owner.add_notice_handler(lambda notice: noticed.append(notice.message_primary or ""))
            owner.execute("INSERT INTO app.docs VALUES (2, 'two')")
            owner.execute("UPDATE app.docs SET body = 'uno' WHERE id = 1")
        assert "qwen_embed.repair" in noticed[0]
        bare.rows(f"GRANT ALL ON qwen_embed.log_{number} TO app_owner")
        postgres.repair(bare.dsn, "docs")
        bare.work()
        bare.expect({1: "uno", 2: "two"}, target="app.docs_embedding")
        postgres.drop_vectorizer(bare.dsn, "docs", drop_target=True)
        postgres.uninstall(bare.dsn)
    finally:
        bare.dsn = superuser
        bare.rows("DROP OWNED BY app_owner CASCADE")
        bare.rows("DROP ROLE app_owner")


async def test_our_connections_prepare_nothing(db: Database) -> None:
    """Behind a pooler the next transaction may run in a session that knows of no such statement."""
    asked = "SELECT count(*) FROM pg_prepared_statements"
    with connect.opened(db.dsn) as connection:
        assert [connection.execute(asked).fetchone() for _ in range(9)] == [(0,)] * 9
    async with connect.aopened(db.dsn) as awaited:
        for _ in range(9):
            cursor = await awaited.execute(asked)
            assert await cursor.fetchone() == (0,)


def test_not_installed(bare: Database) -> None:
    bare.rows("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    for call in (
        lambda: postgres.create_vectorizer(bare.dsn, "docs", columns=["body"]),
        lambda: postgres.status(bare.dsn),
        bare.work,
        lambda: postgres.search(bare.dsn, "docs", "x", embedder=bare.stub),
    ):
        message = refusal(call)
        assert f"not installed in database {bare.conn.info.dbname} at " in message
        assert "qwen-embed pg install" in message


def test_wrong_tables(db: Database) -> None:
    assert "Did you mean docs?" in refusal(lambda: db.create("dcos"))
    assert "Did you mean docs?" in refusal(lambda: db.create("doc"))
    assert "Quote its parts" in refusal(lambda: db.create('"nowhere'))
    db.rows("CREATE VIEW v AS SELECT * FROM docs")
    assert "not a table but a view" in refusal(lambda: db.create("v"))
    db.rows("CREATE TABLE keyless (body text)")
    assert "ADD PRIMARY KEY" in refusal(lambda: db.create("keyless"))
    db.rows("CREATE UNIQUE INDEX ON keyless (body)")
    assert "ADD PRIMARY KEY" in refusal(lambda: db.create("keyless")), "body may be null"
    db.rows("ALTER TABLE keyless ALTER body SET NOT NULL, ADD a int NOT NULL")
    db.rows("CREATE UNIQUE INDEX ON keyless (a) WHERE a > 0")
    db.rows("CREATE UNIQUE INDEX ON keyless (lower(body))")
    db.rows("DROP INDEX keyless_body_idx")
    assert "ADD PRIMARY KEY" in refusal(lambda: db.create("keyless")), "parts and expressions"
    db.rows("CREATE MATERIALIZED VIEW m AS SELECT * FROM docs")
    assert "materialized view" in refusal(lambda: db.create("m"))
    db.rows("CREATE FOREIGN DATA WRAPPER w")
    db.rows("CREATE SERVER s FOREIGN DATA WRAPPER w")
    db.rows("CREATE FOREIGN TABLE far (id int, body text) SERVER s")
    assert "foreign table" in refusal(lambda: db.create("far"))
    db.rows("CREATE TABLE child () INHERITS (docs)")
    assert "inherit" in refusal(lambda: db.create("docs"))
    db.rows("CREATE UNLOGGED TABLE fleeting (id int PRIMARY KEY, body text)")
    assert "unlogged" in refusal(lambda: db.create("fleeting"))
    assert "system table" in refusal(lambda: db.create("pg_catalog.pg_class"))


def test_wrong_columns_and_templates(db: Database) -> None:
    assert "Did you mean body?" in refusal(lambda: db.create(columns=["boddy"]))
    assert "Did you mean other?" in refusal(lambda: db.create(template="{oter}"))
    assert "names no column" in refusal(lambda: db.create(template="hello"))
    assert "single {" in refusal(lambda: db.create(template="{body"))
    assert "single }" in refusal(lambda: db.create(template="{body} }"))
    assert "either columns or template" in refusal(lambda: db.create(columns=[]))
    assert "either columns or template" in refusal(
        lambda: postgres.create_vectorizer(db.dsn, "docs", columns=["body"], template="{body}")
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"target": "row"}, "target => 'row'"),
        ({"chunk_tokens": 4}, "chunk_tokens is 4"),
        ({"chunk_overlap": 40}, "chunk_overlap is given without chunk_tokens"),
        ({"index_kind": "flat"}, "index_kind => 'flat'"),
        ({"storage": "bit"}, "storage => 'bit'"),
        ({"dimensions": 2048}, "no vectors of 2048"),
        ({"dimensions": 16}, "Ask for 32 to 1024"),
        (
            {"model": "qwen3-embedding-8b", "dimensions": 4096, "index_kind": "hnsw"},
            "at most 4000",
        ),
        ({"name": ""}, "vectorizer"),
    ],
)
def test_arguments_are_refused_by_name(db: Database, options: dict[str, Any], said: str) -> None:
    assert said in refusal(lambda: db.create(**options))
    assert postgres.status(db.dsn) == []


def test_names_that_are_taken(db: Database) -> None:
    db.create()
    model = db.state().model
    message = refusal(db.create)
    assert f"already a vectorizer 'docs', of public.docs in the space {model}/" in message
    assert "SELECT qwen_embed.drop_vectorizer('docs');" in message, (
        "in SQL, for whom it may concern"
    )
    message = refusal(lambda: db.create(dimensions=48))
    assert f"SELECT qwen_embed.move('docs', model => '{model}', dimensions => 48);" in message
    db.rows("CREATE TABLE other (id int PRIMARY KEY, body text)")
    message = refusal(lambda: db.create("other", name="docs", dimensions=48))
    assert "move" not in message, "its rows are others"
    message = refusal(lambda: db.create(name="second"))
    assert "public.docs_embedding belongs to the vectorizer 'docs'" in message
    assert message.endswith("Give another target_name => ….")
    message = refusal(lambda: db.create(name="second", target_name="docs_embedded"))
    assert "public.docs_embedded belongs to the vectorizer 'docs'" in message, "its view"
    message = refusal(lambda: db.create(name="second", target_name="other"))
    assert "table public.other exists already" in message
    assert "DROP" not in message, "it is the user's"
    db.create(name="second", target_name="second")
    assert "Did you mean 'docs'?" in refusal(lambda: postgres.pause(db.dsn, "dox"))
    assert "Did you mean 'docs'?" in refusal(
        lambda: postgres.search(db.dsn, "dcs", "x", embedder=db.stub)
    )


def test_storage_and_index_follow_the_dimensions(db: Database) -> None:
    for dimensions, storage, index_kind in (
        (1024, "vector", "hnsw"),
        (2560, "halfvec", "hnsw"),
        (4096, "halfvec", "binary"),
    ):
        name = f"v{dimensions}"
        postgres.create_vectorizer(
            db.dsn, "docs", columns=["body"], name=name, target_name=name,
            model="qwen3-embedding-8b", dimensions=dimensions,
        )  # fmt: skip
        made = next(v for v in postgres.list_vectorizers(db.dsn) if v.name == name)
        assert (made.storage, made.index_kind) == (storage, index_kind)


def test_an_unreachable_server_and_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    address = "postgresql://app:hunter2@127.0.0.1:1/db?connect_timeout=2"
    message = refusal(lambda: postgres.status(address))
    assert "hunter2" not in message
    assert "DATABASE_URL" in message
    monkeypatch.setenv("DATABASE_URL", address)
    message = refusal(lambda: postgres.run_worker(once=True))
    assert "hunter2" not in message


@pytest.mark.parametrize(
    "address", ["host=127.0.0.1 password=hunter2 what=1", "postgres//app:hunter2@host/db"]
)
def test_an_address_that_cannot_be_read_is_not_repeated(address: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read") as caught:
        postgres.status(address)
    assert "hunter2" not in str(caught.value)


def test_a_wrong_password_is_not_repeated(server: Server) -> None:
    message = refusal(lambda: postgres.status(server.dsn("no_such_database")))
    assert "no_such_database" in message


def test_the_address_is_found(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://127.0.0.1:1/")
    monkeypatch.setenv("QWEN_EMBED_DSN", db.dsn)
    assert postgres.status(None) == []


def test_create_waits_for_writers_and_gives_way_to_them(db_everywhere: Database) -> None:
    db = db_everywhere
    app = db.connect()
    app.execute("INSERT INTO docs VALUES (1, 'open')")
    made: list[str] = []
    creating = threading.Thread(target=lambda: made.append(db.create()))
    creating.start()
    for number in range(2, 6):
        db.rows("INSERT INTO docs VALUES (%s, 'others go on')", number)
    app.commit()
    app.close()
    creating.join()
    assert made == ["docs"]
    db.work()
    db.in_step()


def test_dropping_and_creating_again(db: Database) -> None:
    db.rows("INSERT INTO docs VALUES (1, 'one')")
    db.create()
    db.work()
    [removal] = postgres.drop_vectorizer(db.dsn, "docs")
    assert removal == "DROP TABLE docs_embedding;"
    assert db.vectors() == {1: "one"}
    left = db.rows(
        "SELECT relname::text FROM pg_class WHERE relnamespace = 'qwen_embed'::regnamespace "
        "AND relname ~ '_\\d' UNION ALL SELECT proname::text FROM pg_proc "
        "WHERE pronamespace = 'qwen_embed'::regnamespace AND proname ~ '_\\d' "
        "UNION ALL SELECT tgname::text FROM pg_trigger WHERE tgname LIKE 'qwen%%'"
    )
    assert left == []
    assert "left: DROP TABLE public.docs_embedding;" in refusal(db.create)
    db.rows(removal)
    db.create()
    db.work()
    db.in_step()
    assert postgres.drop_vectorizer(db.dsn, "docs", drop_target=True) == []
    assert db.value("SELECT to_regclass('docs_embedding')") is None


@pytest.mark.parametrize("rows", ["none", "deleted"])
def test_an_empty_side_table_goes_with_its_vectorizer(db: Database, rows: str) -> None:
    db.create()
    if rows == "deleted":
        db.rows("INSERT INTO docs VALUES (1, 'one')")
        db.work()
        db.rows("DELETE FROM docs")
        db.work()
        assert db.value("SELECT pg_relation_size('docs_embedding')") > 0
    assert postgres.drop_vectorizer(db.dsn, "docs") == []
    assert db.value("SELECT to_regclass('docs_embedding')") is None
    db.create()


@pytest.mark.parametrize(
    "made",
    [
        "CREATE VIEW mine AS SELECT text FROM docs_embedding",
        "CREATE TABLE mine (id int, chunk int, FOREIGN KEY (id, chunk) REFERENCES docs_embedding)",
        "CREATE TABLE mine () INHERITS (docs_embedding)",
    ],
    ids=["view", "foreign key", "child"],
)
def test_an_empty_side_table_that_something_needs_stays(db: Database, made: str) -> None:
    db.create()
    db.rows(made)
    assert postgres.drop_vectorizer(db.dsn, "docs") == ["DROP TABLE docs_embedding;"]
    assert db.rows("SELECT * FROM mine") == []
    assert "was dropped" in db.value("SELECT obj_description('docs_embedding'::regclass)")


def test_rows_that_a_session_cannot_see_keep_a_side_table(db: Database) -> None:
    """A snapshot from before makes no table empty."""
    asked = "SELECT qwen_embed.holds_nothing('docs_embedding')"
    db.create()
    with db.connect() as old:
        old.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        assert old.execute(asked).fetchall() == [(True,)]
        db.rows("INSERT INTO docs VALUES (1, 'one')")
        db.work()
        assert old.execute("SELECT count(*) FROM docs_embedding").fetchall() == [(0,)]
        assert old.execute(asked).fetchall() == [(False,)]


def test_a_table_of_another_role_or_under_a_policy_is_not_called_empty(db: Database) -> None:
    asked = "SELECT qwen_embed.holds_nothing('docs_embedding')"
    db.create()
    db.rows("CREATE ROLE qe_owner")
    try:
        postgres.grant(db.dsn, "qe_owner", "owner")
        db.rows("GRANT SELECT ON docs, docs_embedding TO qe_owner")
        db.rows("SET ROLE qe_owner")
        assert db.value(asked) is False, "not its own"
        db.rows("RESET ROLE")
        db.rows("ALTER TABLE docs_embedding OWNER TO qe_owner")
        db.rows("INSERT INTO docs VALUES (1, 'one')")
        db.work()
        db.rows("DELETE FROM docs")  # hides the vector, which a worker has yet to delete
        db.rows("ALTER TABLE docs_embedding FORCE ROW LEVEL SECURITY")
        db.rows("SET ROLE qe_owner")
        assert db.rows("SELECT * FROM docs_embedding") == []
        assert db.value(asked) is False
    finally:
        db.rows("RESET ROLE")
        db.rows("DROP OWNED BY qe_owner CASCADE")
        db.rows("DROP ROLE qe_owner")


def test_dropping_while_writers_write(db_everywhere: Database) -> None:
    db = db_everywhere
    db.create()
    stop = threading.Event()
    errors: list[Exception] = []

    def write(base: int) -> None:
        with db.connect(autocommit=True) as app:
            number = base
            while not stop.is_set():
                number += 1
                try:
                    app.execute("INSERT INTO docs VALUES (%s, 'text')", [number])
                    app.execute("UPDATE docs SET body = 'more' WHERE id = %s", [number])
                except psycopg.Error as error:
                    errors.append(error)
                    return

    writers = [threading.Thread(target=write, args=(n * 1_000_000,)) for n in range(3)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(3):
            postgres.drop_vectorizer(db.dsn, "docs", drop_target=True)
            db.create()
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert errors == []
    db.work()
    db.in_step()


def test_everything_has_a_comment_and_a_pinned_search_path(db: Database) -> None:
    db.create()
    bare_names = db.rows(
        "SELECT p.proname::text FROM pg_proc p WHERE pronamespace = 'qwen_embed'::regnamespace "
        "AND obj_description(oid, 'pg_proc') IS NULL AND proname !~ '^(key|content)_\\d' "
        "UNION ALL SELECT relname::text FROM pg_class "
        "WHERE relnamespace = 'qwen_embed'::regnamespace AND relkind IN ('r', 'v') "
        "AND obj_description(oid, 'pg_class') IS NULL"
    )
    assert bare_names == []
    unpinned = db.rows(
        "SELECT proname::text FROM pg_proc WHERE pronamespace = 'qwen_embed'::regnamespace "
        "AND proname !~ '^(key|content)_\\d' "
        "AND NOT coalesce(proconfig, '{}') @> '{\"search_path=pg_catalog, pg_temp\"}'"
    )
    assert unpinned == []


def test_what_everybody_may_call(db: Database) -> None:
    db.create()
    open_to_all = {
        name
        for (name,) in db.rows(
            "SELECT proname::text FROM pg_proc WHERE pronamespace = 'qwen_embed'::regnamespace "
            "AND has_function_privilege('public', oid, 'EXECUTE')"
        )
    }
    assert open_to_all == {
        "base_type", "comparison", "definition", "equality", "extension_schema", "filter_condition",
        "filter_literal", "filter_term", "filter_type", "in_one_line", "index_expression",
        "index_operators", "key_attributes", "key_columns", "nearest", "query_text", "reads_less",
        "search", "search_in", "search_statement", "serving", "vector_column",
    }  # fmt: skip
    tables = db.rows(
        "SELECT relname::text FROM pg_class WHERE relnamespace = 'qwen_embed'::regnamespace "
        "AND relkind IN ('r', 'v') AND has_table_privilege('public', oid, 'SELECT')"
    )
    assert tables == []


async def test_the_awaited_names(db: Database) -> None:
    await postgres.ainstall(db.dsn)
    connection = await psycopg.AsyncConnection.connect(db.dsn)
    async with connection:
        name = await postgres.acreate_vectorizer(
            connection, "docs", columns=["body"], dimensions=32, model=db.stub.space.model
        )
        assert [v.name for v in await postgres.alist_vectorizers(connection)] == [name]
    db.rows("INSERT INTO docs VALUES (1, 'one')")
    await db.awork()
    db.in_step()
    await postgres.apause(db.dsn, name)
    assert (await postgres.astatus(db.dsn))[0].state == "paused"
    await postgres.aresume(db.dsn, name)
    assert await postgres.adead_letters(db.dsn) == []
    assert await postgres.aretry(db.dsn, name) == 0
    await postgres.aenqueue(db.dsn, name)
    await postgres.arepair(db.dsn, name)
    await postgres.adrop_vectorizer(db.dsn, name)
    await postgres.auninstall(db.dsn)
