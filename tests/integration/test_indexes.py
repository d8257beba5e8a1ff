"""Indexes of every kind: found by the planner, true to an exact search, built and built again."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import errors as pg

from qwen_embed_plugins import postgres
from qwen_embed_plugins.errors import ConfigurationError, DatabaseError
from qwen_embed_plugins.postgres import indexes, tending
from qwen_embed_plugins.postgres._flow import run
from qwen_embed_plugins.postgres.vectors import vector_text
from tests.clustered import clustered, fill, near, nearest

if TYPE_CHECKING:
    from qwen_embed_plugins.types import Matrix, Vector
    from tests.integration.conftest import Database

SEED = 20260730
FORMS = {
    "binary": (4096, {}),
    "prefix": (4096, {"index_kind": "prefix"}),
    "vector": (1024, {}),
    "halfvec": (2560, {}),
}
INDEX = {"binary": "binary", "prefix": "prefix", "vector": "hnsw", "halfvec": "hnsw"}


def found(db: Database, query: Vector, k: int = 10, **options: Any) -> list[int]:
    named = "".join(f", {name} => %s" for name in options)
    rows = db.rows(
        f"SELECT key->>'id' FROM qwen_embed.search('docs', %s::vector, %s{named})",
        vector_text(query),
        k,
        *options.values(),
    )
    return [int(key) for (key,) in rows]


def plan(db: Database, query: Vector, k: int = 10) -> str:
    """The plan of what search() runs, with its settings."""
    statement = db.value(
        "SELECT qwen_embed.search_statement(v.id, '', false) FROM qwen_embed.definition('docs') v"
    )
    with db.conn.transaction():
        db.rows(f"PREPARE ask (vector, int, bigint) AS {statement}")
        db.rows("SET LOCAL plan_cache_mode = force_custom_plan; SET LOCAL enable_sort = off")
        literal = f"'{vector_text(query)}'"
        lines = db.rows(f"EXPLAIN EXECUTE ask ({literal}, {k}, {max(100, 4 * k)})")
        db.rows("DEALLOCATE ask")
    return "\n".join(line for (line,) in lines)


def scans(db: Database) -> int:
    db.rows("SELECT pg_stat_force_next_flush()")
    return int(
        db.value(
            "SELECT coalesce(sum(s.idx_scan), 0) FROM pg_stat_all_indexes s "
            "JOIN pg_class c ON c.oid = s.indexrelid JOIN pg_am a ON a.oid = c.relam "
            "WHERE a.amname = 'hnsw'"
        )
    )


def proven(db: Database, form: str, count: int) -> None:
    """'Must show': the index serves, a selective filter is exact, recall@10 is at least 0.98."""
    dimensions, options = FORMS[form]
    rows = clustered(count, dimensions, seed=SEED)
    queries = near(rows, 50, seed=SEED)
    fill(db, rows, **options)
    assert postgres.build_index(db.dsn, "docs") is True
    before = scans(db)
    answers = [found(db, query) for query in queries]
    assert scans(db) == before + len(queries)
    assert f"Index Scan using docs_embedding_{INDEX[form]}" in plan(db, queries[0])

    truth = nearest(rows, queries, 10)
    hits = sum(len(set(answer) & wanted) for answer, wanted in zip(answers, truth, strict=True))
    assert hits / (10 * len(queries)) >= 0.98
    assert set(found(db, queries[0], exact=True)) == truth[0]

    # One row in a hundred: those are read, and found exactly. Most of them: the index serves again.
    db.rows("ANALYZE docs")
    before = scans(db)
    answer = found(db, queries[1], filter='{"language": 17}')
    assert {(key - 17) // 100 + 1 for key in answer} == nearest(rows[16::100], queries[1:2], 10)[0]
    assert scans(db) == before
    most = json.dumps({"language": list(range(60))})
    mine = [place for place in range(count) if (place + 1) % 100 < 60]
    answer = found(db, queries[2], filter=most)
    expected = {mine[key - 1] + 1 for key in nearest(rows[mine], queries[2:3], 10)[0]}
    assert len(set(answer) & expected) >= 9
    assert scans(db) == before + 1

    rare_rows_are_found(db, rows, queries[2])
    figures = postgres.measure_index(db.dsn, "docs", queries=10)
    assert figures.recall is not None
    assert figures.recall >= 0.98


def rare_rows_are_found(db: Database, rows: Matrix, query: Vector) -> None:
    """Ten rows, the furthest from the query, that the planner takes for most of the table."""
    db.rows("ALTER TABLE docs ALTER rare SET STATISTICS 1000")
    db.rows("UPDATE docs SET rare = true")
    db.rows("ANALYZE docs")
    furthest = sorted(range(len(rows)), key=lambda place: float(rows[place] @ query))[:10]
    keys = [place + 1 for place in furthest]
    db.rows("ALTER TABLE docs SET (autovacuum_enabled = off)")
    db.rows("UPDATE docs SET rare = false WHERE id <> ALL (%s)", keys)
    before = scans(db)
    assert found(db, query, filter='{"rare": true}') == list(reversed(keys))
    assert scans(db) == before + 1


@pytest.mark.parametrize("form", ["prefix", "vector", "halfvec"])
def test_each_form_on_a_small_table(db: Database, form: str) -> None:
    proven(db, form, 4000)


def test_binary_at_full_size(db: Database) -> None:
    proven(db, "binary", 20_000)


@pytest.mark.chaos
@pytest.mark.parametrize("form", ["prefix", "vector", "halfvec"])
def test_each_form_at_full_size(db: Database, form: str) -> None:
    proven(db, form, 20_000)


@pytest.mark.parametrize("where", ["db", "oldest"])
def test_each_kind_on_both_storages(where: str, request: pytest.FixtureRequest) -> None:
    """On the newest and the oldest Postgres, with pgvector in a schema of an odd name."""
    db: Database = request.getfixturevalue(where)
    if where == "oldest":
        db.rows('CREATE SCHEMA "my % ext"')
        db.rows('CREATE EXTENSION vector SCHEMA "my % ext"')
        postgres.install(db.dsn)
        db.rows("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.rows("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 900) i")
    kinds = [
        (storage, kind)
        for storage in ("vector", "halfvec")
        for kind in ("hnsw", "binary", "prefix")
    ]
    for storage, kind in kinds:
        name = f"{storage}_{kind}"
        db.create(name=name, target_name=name, storage=storage, index_kind=kind)
    db.work()
    for storage, kind in kinds:
        name = f"{storage}_{kind}"
        # The worker has built it, and finds it again by its definition.
        assert postgres.build_index(db.dsn, name) is False
        standing = db.value("SELECT qwen_embed.standing_index(qwen_embed.named(%s))::text", name)
        assert standing == f"{name}_{kind}"
        before = scans(db)
        hits = postgres.search(db.conn, name, "text 5", k=3, embedder=db.stub)
        assert scans(db) == before + 1, name
        assert hits[0].key == {"id": 5}
        exact = postgres.search(db.conn, name, "text 5", k=3, exact=True, embedder=db.stub)
        assert scans(db) == before + 1, name
        # One bit of each of 32 random numbers says little; the nearest row is beyond doubt.
        assert kind == "binary" or [hit.key for hit in hits] == [hit.key for hit in exact]


def test_a_table_that_has_grown_since_it_was_counted(db: Database) -> None:
    """An index made on an empty table serves without waiting for autovacuum."""
    fill(db, clustered(1, 64, seed=SEED), index_kind="binary")
    db.rows("DELETE FROM docs_embedding; DELETE FROM docs")
    db.rows("ALTER TABLE docs_embedding SET (autovacuum_enabled = off)")
    assert postgres.build_index(db.dsn, "docs") is True
    for known in ("never", "empty"):
        db.rows("TRUNCATE docs_embedding, docs")
        if known == "empty":
            db.rows("VACUUM ANALYZE docs_embedding")
        db.rows("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 3000) i")
        db.rows(
            "INSERT INTO docs_embedding (id, text, embedding, content_hash, space) "
            "SELECT i, '', ARRAY(SELECT random() - 0.5 + 0 * i "
            "FROM generate_series(1, 64))::vector, '', 'any' FROM generate_series(1, 3000) i"
        )
        before = scans(db)
        assert len(found(db, clustered(1, 64, seed=1)[0])) == 10
        assert scans(db) == before + 1, known


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"dimensions": 4096, "index_kind": "hnsw"},
            "an HNSW index on halfvec holds at most 4000 dimensions, not 4096. Ask for "
            "index_kind => 'binary' or 'prefix', which fit any length.",
        ),
        (
            {"dimensions": 2560, "index_kind": "hnsw", "storage": "vector"},
            "an HNSW index on vector holds at most 2000 dimensions, not 2560. Ask for storage => "
            "'halfvec', or index_kind => 'binary' or 'prefix', which fit any length.",
        ),
        ({"index_kind": "ivf"}, "index_kind => 'ivf' is not supported. Use hnsw, binary,"),
        ({"storage": "bit"}, "storage => 'bit' is not supported. Use vector or halfvec."),
    ],
)
def test_what_cannot_be_indexed(db: Database, options: dict[str, Any], said: str) -> None:
    with pytest.raises(DatabaseError) as caught:
        db.create(model="qwen3-embedding-8b", **options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_chosen(db: Database) -> None:
    cases: tuple[tuple[int, dict[str, Any], str, str], ...] = (
        (2000, {}, "vector", "hnsw"),
        (2001, {}, "halfvec", "hnsw"),
        (4000, {}, "halfvec", "hnsw"),
        (4001, {}, "halfvec", "binary"),
        (2001, {"storage": "vector"}, "vector", "binary"),
        (4096, {"storage": "vector"}, "vector", "binary"),
        (4096, {"index_kind": "none"}, "halfvec", "none"),
        (32, {"storage": "halfvec", "index_kind": "prefix"}, "halfvec", "prefix"),
    )
    for dimensions, given, storage, kind in cases:
        name = f"v{dimensions}{''.join(given.values())}"
        db.create(
            name=name, target_name=name, model="qwen3-embedding-8b", dimensions=dimensions,
            **{"index_kind": None, **given},
        )  # fmt: skip
        made = next(v for v in postgres.list_vectorizers(db.dsn) if v.name == name)
        assert (made.storage, made.index_kind) == (storage, kind), name


@pytest.fixture
def unindexed(db: Database) -> Database:
    """4,000 vectors of 1,024 numbers, whose index takes some seconds to build."""
    fill(db, clustered(4000, 1024, seed=SEED))
    return db


def index_rows(db: Database) -> list[Any]:
    return db.rows(
        "SELECT i.relname, x.indisvalid FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid "
        "JOIN pg_am a ON a.oid = i.relam WHERE a.amname = 'hnsw'"
    )


class Seen:
    """Keeps what is reported, and does something once a build reads rows."""

    def __init__(self, then: Any = None) -> None:
        self.all: list[postgres.IndexProgress] = []
        self._then = then

    def __call__(self, progress: postgres.IndexProgress) -> None:
        self.all.append(progress)
        if progress.phase == "building index: loading tuples" and self._then is not None:
            then, self._then = self._then, None
            then()


def cancel_the_build(db: Database) -> None:
    with db.connect(autocommit=True) as other:
        other.execute(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_progress_create_index "
            "WHERE datname = current_database()"
        )


def test_progress_and_the_session_as_it_was(unindexed: Database) -> None:
    db = unindexed
    # A build outlasts any limit that a role has on its statements.
    db.rows("SET statement_timeout = '150ms'; SET maintenance_work_mem = '2MB'")
    seen = Seen()
    assert postgres.build_index(db.conn, "docs", on_progress=seen) is True
    assert index_rows(db) == [("docs_embedding_hnsw", True)]
    loading = [p for p in seen.all if p.phase == "building index: loading tuples"]
    done = [progress.rows_done for progress in loading]
    assert done == sorted(done)
    assert loading[-1].rows_total is not None
    assert 3000 < loading[-1].rows_total < 5000
    assert db.value("SHOW statement_timeout") == "150ms"
    assert db.value("SHOW maintenance_work_mem") == "2MB"
    db.rows("SET statement_timeout = 0")
    locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
    assert db.value(locks) == 0


def test_memory_for_the_build(unindexed: Database) -> None:
    db = unindexed
    given: list[str] = []
    site = run(db.conn, indexes.find_site("docs"))
    assert 4000 * 4096 < 1024 * site.graph_kib < 4000 * 4096 * 2.5
    db.rows("SET maintenance_work_mem = '1MB'")
    before = run(db.conn, indexes._prepare(site))
    given.append(db.value("SHOW maintenance_work_mem"))
    assert given == [f"{site.graph_kib}kB"]
    assert before["maintenance_work_mem"] == "1MB"
    db.rows("SET maintenance_work_mem = '1GB'")
    run(db.conn, indexes._prepare(site))
    assert db.value("SHOW maintenance_work_mem") == "1GB"


def test_a_cancelled_build_leaves_nothing(unindexed: Database) -> None:
    db = unindexed
    seen = Seen(lambda: cancel_the_build(db))
    with pytest.raises(DatabaseError, match="canceling statement"):
        postgres.build_index(db.dsn, "docs", on_progress=seen)
    assert index_rows(db) == []


def test_an_awaited_build_that_is_cancelled_leaves_nothing(unindexed: Database) -> None:
    async def cancelled() -> None:
        building: asyncio.Task[bool] = asyncio.create_task(
            postgres.abuild_index(
                unindexed.dsn, "docs", on_progress=Seen(lambda: bool(building.cancel()))
            )
        )
        await building

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())
    assert index_rows(unindexed) == []
    assert asyncio.run(postgres.abuild_index(unindexed.dsn, "docs")) is True
    assert index_rows(unindexed) == [("docs_embedding_hnsw", True)]


def test_what_cannot_be_dropped_now_is_built_anew_by_the_next_run(db: Database) -> None:
    """A transaction elsewhere that has written holds up both the build and its undoing."""
    db.rows("INSERT INTO docs VALUES (1, 'one'), (2, 'two')")
    db.create(index_kind="none")
    db.work()
    db.rows("UPDATE qwen_embed.vectorizer SET index_kind = 'binary'")
    waits: list[int | None] = []

    def report(progress: postgres.IndexProgress) -> None:
        waits.append(progress.waits_for)
        if len(waits) == 2:
            cancel_the_build(db)

    with db.connect() as writer:
        writer.execute("UPDATE docs_embedding SET offer = 'other'")
        with pytest.raises(DatabaseError):
            postgres.build_index(db.dsn, "docs", on_progress=report)
        assert waits[0] == writer.info.backend_pid
        assert index_rows(db) == [("docs_embedding_binary", False)]
        assert len(found(db, db.stub.vector("one"), k=2)) == 2
    assert postgres.build_index(db.dsn, "docs") is True
    assert index_rows(db) == [("docs_embedding_binary", True)]


def test_only_one_builds(unindexed: Database) -> None:
    db = unindexed
    outcomes: list[bool] = []
    begun = threading.Event()

    def build() -> None:
        outcomes.append(postgres.build_index(db.dsn, "docs", on_progress=Seen(begun.set)))

    first = threading.Thread(target=build)
    first.start()
    assert begun.wait(30)
    assert postgres.build_index(db.dsn, "docs") is False
    first.join()
    assert outcomes == [True]
    assert index_rows(db) == [("docs_embedding_hnsw", True)]


def test_an_index_of_another_expression_does_not_count(db: Database) -> None:
    db.rows("INSERT INTO docs VALUES (1, 'one')")
    db.create(index_kind="none")
    db.work()
    db.rows("CREATE INDEX own ON docs_embedding USING hnsw (embedding vector_l2_ops)")
    db.rows("UPDATE qwen_embed.vectorizer SET index_kind = 'hnsw'")
    assert postgres.build_index(db.dsn, "docs") is True
    db.rows("DROP INDEX docs_embedding_hnsw")
    db.rows("CREATE INDEX mine ON docs_embedding USING hnsw (embedding vector_cosine_ops)")
    assert postgres.build_index(db.dsn, "docs") is False


def test_a_build_in_a_container_with_little_shared_memory() -> None:
    """Parallel workers share memory through /dev/shm. Without room there it is built by one."""
    site = indexes.IndexSite(
        1, "docs", "vector", "hnsw", 4, 1, "s", "t", 1.0, 1, "t_hnsw", "CREATE", None, None,
        False, True, "public",
    )  # fmt: skip
    flow = indexes._create(site)
    assert next(flow).query.as_string() == "CREATE"
    sent = [
        flow.throw(
            pg.DiskFull('could not resize shared memory segment "/PostgreSQL.1234" to 67128672')
        )
    ]
    sent += [flow.send([]), flow.send([])]
    assert sent[0].query.as_string() == 'DROP INDEX CONCURRENTLY IF EXISTS "s"."t_hnsw"'
    assert sent[1].values == {"name": "max_parallel_maintenance_workers", "value": "0"}
    assert sent[2].query.as_string() == "CREATE"
    with pytest.raises(StopIteration):
        flow.send([])

    flow = indexes._create(site)
    next(flow)
    with pytest.raises(pg.DiskFull):
        flow.throw(pg.DiskFull("could not extend file"))


def test_only_the_owner_builds(db: Database) -> None:
    db.create(index_kind="binary")
    with db.connect(autocommit=True) as other:
        other.execute("CREATE ROLE stranger; GRANT ALL ON SCHEMA qwen_embed TO stranger")
        try:
            other.execute("GRANT ALL ON ALL TABLES IN SCHEMA qwen_embed TO stranger")
            other.execute("GRANT ALL ON ALL FUNCTIONS IN SCHEMA qwen_embed TO stranger")
            other.execute("SET ROLE stranger")
            with pytest.raises(DatabaseError, match="only the owner of docs_embedding"):
                postgres.build_index(other, "docs")
        finally:
            other.execute("RESET ROLE; DROP OWNED BY stranger; DROP ROLE stranger")


def test_not_in_a_transaction(db: Database) -> None:
    db.create(index_kind="binary")
    with db.connect() as other:
        for call in (postgres.build_index, postgres.measure_index):
            with pytest.raises(ConfigurationError, match="autocommit"):
                call(other, "docs")


def test_figures(db: Database) -> None:
    db.rows("INSERT INTO docs SELECT i, 'text ' || mod(i, 150) FROM generate_series(1, 300) i")
    db.create(index_kind="binary", storage="halfvec")
    assert postgres.measure_index(db.dsn, "docs").index is None
    db.work()
    db.rows("SET statement_timeout = '7s'")
    figures = postgres.measure_index(db.conn, "docs", k=5, queries=20)
    assert db.value("SHOW statement_timeout") == "7s"
    assert (figures.name, figures.index_kind) == ("docs", "binary")
    assert (figures.index, figures.k, figures.queries) == ("docs_embedding_binary", 5, 20)
    # Every text is there twice: equally near rows are equally right.
    assert figures.recall is not None
    assert 0.9 < figures.recall <= 1
    assert figures.index_seconds is not None
    assert figures.exact_seconds is not None
    assert figures.size_bytes == db.value("SELECT pg_relation_size('docs_embedding_binary')")
    awaited = asyncio.run(postgres.ameasure_index(db.dsn, "docs", queries=3))
    assert (awaited.queries, awaited.recall is None) == (3, False)


def test_an_index_that_finds_nothing_has_no_recall(db: Database) -> None:
    """An index that lost rows is seen: one over part of the table, taken for whole."""
    db.rows("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 1500) i")
    db.create(index_kind="none")
    db.work()
    db.rows("UPDATE qwen_embed.vectorizer SET index_kind = 'hnsw'")
    db.rows(
        "CREATE INDEX part ON docs_embedding USING hnsw (embedding vector_cosine_ops) "
        "WHERE id <= 750"
    )
    db.rows("UPDATE pg_index SET indpred = NULL WHERE indexrelid = 'part'::regclass")
    figures = postgres.measure_index(db.dsn, "docs", queries=30)
    assert figures.index == "part"
    assert figures.recall is not None
    assert 0.2 < figures.recall < 0.8


def test_measuring_is_bounded_in_time(unindexed: Database) -> None:
    db = unindexed
    postgres.build_index(db.dsn, "docs")
    nothing = postgres.measure_index(db.dsn, "docs", seconds=0.001)
    assert (nothing.queries, nothing.recall, nothing.exact_seconds) == (0, None, None)
    began = time.monotonic()
    some = postgres.measure_index(db.dsn, "docs", queries=1000, seconds=1)
    assert some.queries < 1000
    assert time.monotonic() - began < 30


def test_the_statement(db: Database) -> None:
    db.create(index_kind="binary")
    statement = postgres.index_statement(db.dsn, "docs")
    assert statement is not None
    assert statement.startswith("CREATE INDEX CONCURRENTLY docs_embedding_binary ON ")
    with psycopg.connect(db.dsn, autocommit=True) as other:
        other.execute(statement)
    assert postgres.build_index(db.dsn, "docs") is False
    assert postgres.index_statement(db.dsn, "docs") is None
    db.create(name="bare", target_name="bare", index_kind="none")
    assert postgres.index_statement(db.dsn, "bare") is None


def test_a_worker_that_ends_lets_its_build_end(
    unindexed: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build that began while it was quiet is waited for, not cancelled with the worker."""
    monkeypatch.setattr(tending, "_REFRESH_SECONDS", 0.01)
    begun = asyncio.Event()
    build = indexes.abuild_index

    async def building(*arguments: Any, **named: Any) -> bool:
        begun.set()
        return await build(*arguments, **named)

    nothing_left = tending.Tending.nothing_left

    async def after_it_has_begun(self: tending.Tending) -> bool:
        await asyncio.wait_for(begun.wait(), 30)
        return await nothing_left(self)

    monkeypatch.setattr(indexes, "abuild_index", building)
    monkeypatch.setattr(tending.Tending, "nothing_left", after_it_has_begun)
    unindexed.stub = type(unindexed.stub)("qwen3-embedding-8b", 1024)
    unindexed.work()
    assert index_rows(unindexed) == [("docs_embedding_hnsw", True)]


def test_a_worker_says_that_it_builds(
    db: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, however long it takes; a run with an end would seem to stand still."""
    original = indexes.abuild_index

    async def slow(target: Any, name: str, *, on_progress: Any) -> bool:
        for done in range(3):
            on_progress(indexes.IndexProgress("loading tuples", done, 3, None))
        return await original(target, name)

    monkeypatch.setattr(indexes, "abuild_index", slow)
    db.create(index_kind="hnsw")
    db.rows("INSERT INTO docs VALUES (1, 'one')")
    with caplog.at_level("INFO"):
        db.work()
    said = [record for record in caplog.records if record.message == "building the index"]
    assert [record.__dict__["vectorizer"] for record in said] == ["docs"]
