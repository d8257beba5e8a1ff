"""Policies, transactions and moves: a search shows what its caller may see, of one vectorizer."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from qwen_embed_plugins import postgres
from qwen_embed_plugins.errors import DatabaseError
from qwen_embed_plugins.postgres.vectors import vector_text
from tests.clustered import clustered, fill, near, nearest
from tests.integration.conftest import opened_database
from tests.postgres_servers import embedded_server

if TYPE_CHECKING:
    from qwen_embed_plugins.types import Matrix, Vector
    from tests.integration.conftest import Database, Stub

SEED = 20260731
COUNT = 3000
EACH_KIND = pytest.mark.parametrize("indexed", ["hnsw", "binary", "prefix"], indirect=True)
SEARCH = "SELECT (key->>'id')::int, text FROM qwen_embed.search('docs', %s::vector)"


@pytest.fixture
def rows() -> Matrix:
    return clustered(COUNT, 128, seed=SEED)


@pytest.fixture
def indexed(db: Database, rows: Matrix, request: pytest.FixtureRequest) -> Database:
    """3,000 rows with an index; policies show those whose language is below a setting."""
    fill(db, rows, index_kind=request.param)
    assert postgres.build_index(db.dsn, "docs") is True
    db.rows("ALTER TABLE docs ENABLE ROW LEVEL SECURITY")
    db.rows("CREATE POLICY visible ON docs USING (language < current_setting('my.top')::int)")
    db.rows("ANALYZE docs, docs_embedding")
    return db


@pytest.fixture
def reader(indexed: Database) -> Iterator[psycopg.Connection[Any]]:
    """A session of a role that the policies hide half of the rows from."""
    role = f"reader_{uuid.uuid4().hex[:8]}"
    indexed.rows(f"CREATE ROLE {role}")
    indexed.rows(f"GRANT SELECT ON docs, docs_embedding, docs_embedded TO {role}")
    indexed.rows(f"GRANT CREATE ON SCHEMA public TO {role}")
    try:
        with indexed.connect(autocommit=True) as app:
            app.execute(f"SET ROLE {role}")
            app.execute("SET my.top = 50")
            yield app
    finally:
        indexed.rows(f"DROP OWNED BY {role}")
        indexed.rows(f"DROP ROLE {role}")


def is_visible(key: int) -> bool:
    return key % 100 < 50


def scans(app: psycopg.Connection[Any]) -> int:
    app.execute("SELECT pg_stat_force_next_flush()")
    row = app.execute(
        "SELECT coalesce(sum(idx_scan), 0) FROM pg_stat_all_indexes "
        "WHERE indexrelname ~ '_(hnsw|binary|prefix)$'"
    ).fetchone()
    assert row is not None
    return int(row[0])


@EACH_KIND
def test_a_search_finds_what_its_caller_may_see(
    indexed: Database, reader: psycopg.Connection[Any], rows: Matrix
) -> None:
    mine = [place for place in range(COUNT) if is_visible(place + 1)]
    hits = 0
    before = scans(reader)
    queries = near(rows, 10, seed=SEED)
    for query, wanted in zip(queries, nearest(rows[mine], queries, 10), strict=True):
        found = reader.execute(SEARCH, [vector_text(query)]).fetchall()
        assert len(found) == 10
        assert all(is_visible(key) and text == f"text {key}" for key, text in found)
        hits += len({key for key, _ in found} & {mine[place - 1] + 1 for place in wanted})
    # By the index, although half of what it gives is hidden.
    assert scans(reader) == before + 10
    assert hits >= 95


@pytest.mark.parametrize("indexed", ["binary"], indirect=True)
def test_few_visible_rows_are_all_found(
    indexed: Database, reader: psycopg.Connection[Any], rows: Matrix
) -> None:
    query = rows[0]
    furthest = sorted(range(COUNT), key=lambda place: float(rows[place] @ query))[:10]
    keys = [place + 1 for place in furthest]
    indexed.rows("UPDATE docs SET language = CASE WHEN id = ANY (%s) THEN -1 ELSE 1 END", keys)
    reader.execute("SET my.top = 0")
    for _ in range(2):  # as the planner thought it was, and as it is
        found = reader.execute(SEARCH, [vector_text(query)]).fetchall()
        assert [key for key, _ in found] == list(reversed(keys))
        indexed.rows("ANALYZE docs")


@EACH_KIND
def test_nothing_of_a_hidden_row_leaks(
    indexed: Database, reader: psycopg.Connection[Any], rows: Matrix
) -> None:
    """A function or operator of the reader's own, cheap enough to be called first, is shown no
    hidden row: neither by the table, nor by the view, nor in the two-stage expression."""
    told: list[str] = []
    reader.add_notice_handler(lambda notice: told.append(notice.message_primary or ""))
    reader.execute(
        "CREATE FUNCTION public.leak(text, float8) RETURNS boolean LANGUAGE plpgsql "
        "COST 0.0000001 AS $$ BEGIN RAISE NOTICE '% is %', $1, $2; RETURN true; END $$"
    )
    reader.execute(
        "CREATE OPERATOR public.<<<< (LEFTARG = text, RIGHTARG = float8, FUNCTION = public.leak)"
    )
    query = f"'{vector_text(rows[0])}'::vector(128)"
    distance = f"embedding <=> {query}"
    stage = f"(binary_quantize(embedding))::bit(128) <~> binary_quantize({query})"
    for table in ("docs_embedding", "docs_embedded"):
        for condition in (f"leak(text, {distance})", f"text <<<< ({stage})"):
            for order in ("", f"ORDER BY {distance} LIMIT 200", f"ORDER BY {stage} LIMIT 200"):
                reader.execute(f"SELECT id FROM {table} WHERE {condition} {order}")
    reader.execute(f"SELECT id FROM docs_embedding ORDER BY leak(text, {distance})")
    reader.execute(
        f"SELECT * FROM qwen_embed.search('docs', {query}) s WHERE leak(s.text, s.distance)"
    )
    assert told
    assert all(is_visible(int(each.split()[1])) for each in told)

    # An error is a message, too.
    reader.execute("SELECT 1 / (id - 99) FROM docs_embedding")
    reader.execute(f"SELECT id FROM docs_embedding WHERE 1 / ({distance}) > 0 AND id > 1")
    for statement in (
        f"SELECT * FROM qwen_embed.search('docs', {query})",
        f"SELECT id FROM docs_embedding ORDER BY {distance} LIMIT 10",
        f"SELECT id, text FROM docs_embedded ORDER BY {stage} LIMIT 10",
    ):
        plan = reader.execute(f"EXPLAIN (ANALYZE, VERBOSE, BUFFERS) {statement}").fetchall()
        assert not any("text 99" in line or "text 50" in line for (line,) in plan)
        # Row by row: a search must not read the whole source to learn what is visible.
        assert not any("hashed" in line for (line,) in plan)
    statistics = reader.execute("SELECT * FROM pg_stats WHERE tablename = 'docs_embedding'")
    assert statistics.fetchall() == []


def test_the_index_gives_up_and_the_search_does_not(db: Database) -> None:
    rows = clustered(1500, 64, seed=SEED)
    fill(db, rows, index_kind="binary")
    postgres.build_index(db.dsn, "docs")
    db.rows("ANALYZE docs")
    furthest = sorted(range(1500), key=lambda place: float(rows[place] @ rows[0]))[:12]
    db.rows("ALTER TABLE docs SET (autovacuum_enabled = off)")
    db.rows("UPDATE docs SET rare = true")
    db.rows("ANALYZE docs")
    db.rows("UPDATE docs SET rare = false WHERE id <> ALL (%s)", [place + 1 for place in furthest])
    db.rows("SET hnsw.max_scan_tuples = 200")
    found = db.rows(
        "SELECT (key->>'id')::int FROM qwen_embed.search('docs', %s::vector, 12, %s)",
        vector_text(rows[0]),
        json.dumps({"rare": True}),
    )
    assert [key for (key,) in found] == [place + 1 for place in reversed(furthest)]


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("access", ["READ WRITE", "READ ONLY"])
def test_in_the_callers_transaction(db: Database, level: str, access: str) -> None:
    db.rows("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 900) i")
    db.create(index_kind="binary")
    db.work()
    with db.connect(autocommit=True) as app:
        # The library is loaded with the first vector, and brings two of the settings.
        app.execute("SELECT '[1]'::vector")
        before = [app.execute(f"SHOW {name}").fetchone() for name in SETTINGS]
        app.execute(f"BEGIN ISOLATION LEVEL {level} {access}")
        for condition in (None, {"id": [1, 2, "3"]}, {"other": 0}):
            hits = postgres.search(app, "docs", "text 7", filter=condition, embedder=db.stub)
            assert hits
        with pytest.raises(DatabaseError):
            postgres.search(app, "docs", "text 7", filter={"id": "x"}, embedder=db.stub)
        # It was refused within the transaction, which goes on.
        assert postgres.search(app, "docs", "text 7", embedder=db.stub)[0].key == {"id": 7}
        assert [app.execute(f"SHOW {name}").fetchone() for name in SETTINGS] == before
        app.execute("COMMIT")


SETTINGS = ("enable_sort", "jit", "hnsw.ef_search", "hnsw.iterative_scan", "statement_timeout")


def test_wrong_questions(db: Database) -> None:
    db.create()
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="vector is zero"):
        db.rows("SELECT * FROM qwen_embed.search('docs', %s::vector)", str([0.0] * 32))
    with pytest.raises(DatabaseError, match="integer out of range"):
        postgres.search(db.dsn, "docs", "q", k=10**10, embedder=db.stub)
    assert postgres.search(db.dsn, "docs", "q", k=2**31 - 1, embedder=db.stub) == []
    for name in ("docs'; DROP TABLE docs; --", "$1", "%s", "\\", '"docs"'):
        with pytest.raises(DatabaseError, match="there is no vectorizer"):
            postgres.search(db.dsn, name, "q", embedder=db.stub)
    assert db.value("SELECT count(*) FROM docs") == 0


class Meanwhile:
    """An embedder during whose call something happens, once."""

    def __init__(self, stub: Stub, then: Callable[[], object]) -> None:
        self.space = stub.space
        self.calls = 0
        self._stub = stub
        self._then = then

    def embed_query(self, text: str, *, instruction: str | None = None) -> Vector:
        self.calls += 1
        if self.calls == 1:
            self._then()
        return self._stub.vector(text)


@pytest.fixture
def two(db: Database) -> Database:
    """Two vectorizers; the vectors of the second are of other texts."""
    db.rows("ALTER TABLE docs ADD second text")
    db.rows(
        "INSERT INTO docs SELECT i, 'text ' || i, 0, 'second ' || i FROM generate_series(1, 50) i"
    )
    db.create(index_kind="hnsw")
    db.create(name="next", columns=["second"], target_name="next", index_kind="binary")
    db.work()
    return db


def test_a_name_that_moves_while_the_query_is_embedded(two: Database) -> None:
    """A vector is compared with those of the vectorizer that it was made for."""
    db = two

    def move() -> None:
        db.rows("UPDATE qwen_embed.vectorizer SET name = 'old' WHERE name = 'docs'")
        db.rows("UPDATE qwen_embed.vectorizer SET name = 'docs' WHERE name = 'next'")

    embedder = Meanwhile(db.stub, move)
    hits = postgres.search(db.dsn, "docs", "text 5", k=1, embedder=embedder)
    assert (hits[0].text, embedder.calls) == ("text 5", 1)
    assert hits[0].distance == pytest.approx(0, abs=1e-6)
    moved = postgres.search(db.dsn, "docs", "second 5", k=1, embedder=embedder)
    assert moved[0].text == "second 5"


def test_a_vectorizer_that_is_replaced_and_dropped_meanwhile(two: Database) -> None:
    db = two

    def replace() -> None:
        postgres.drop_vectorizer(db.dsn, "docs", drop_target=True)
        db.rows("UPDATE qwen_embed.vectorizer SET name = 'docs' WHERE name = 'next'")

    embedder = Meanwhile(db.stub, replace)
    hits = postgres.search(db.dsn, "docs", "second 5", k=1, embedder=embedder)
    assert (hits[0].text, embedder.calls) == ("second 5", 2)
    gone = Meanwhile(db.stub, lambda: postgres.drop_vectorizer(db.dsn, "docs"))
    with pytest.raises(DatabaseError, match="there is no vectorizer 'docs'"):
        postgres.search(db.dsn, "docs", "q", embedder=gone)


def test_on_a_hot_standby() -> None:
    with embedded_server(18) as server, opened_database(server, "template1") as db:
        postgres.install(db.dsn)
        db.rows("CREATE TABLE docs (id int PRIMARY KEY, body text, other int DEFAULT 0)")
        fill(db, clustered(1000, 64, seed=SEED), index_kind="binary")
        postgres.build_index(db.dsn, "docs")
        query = vector_text(clustered(1000, 64, seed=SEED)[6])
        db.conn.close()
        Path(server_folder(db.dsn), "standby.signal").touch()
        server.stop()
        server.start()
        with db.connect(autocommit=True) as app:
            [recovering] = app.execute("SELECT pg_is_in_recovery()").fetchall()
            assert recovering == (True,)
            found = app.execute(SEARCH, [query]).fetchall()
            assert (len(found), found[0]) == (10, (7, "text 7"))
            filtered = SEARCH.replace("::vector", "::vector, filter => '{\"id\": [7, 9]}'")
            assert len(app.execute(filtered, [query]).fetchall()) == 2
        Path(server_folder(db.dsn), "standby.signal").unlink()
        server.stop()
        server.start()


def server_folder(dsn: str) -> str:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SHOW data_directory").fetchone()
    assert row is not None
    return str(row[0])
