"""Searching: right rows, true distances, the index where it is to be used, rights and policies."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from psycopg import errors as pg

from qwen_embed_plugins import postgres
from qwen_embed_plugins.errors import DatabaseError, SpaceMismatch
from qwen_embed_plugins.models import DEFAULT_INSTRUCTION, nomic_query, qwen3_query
from qwen_embed_plugins.postgres.vectors import vector_text

if TYPE_CHECKING:
    from tests.integration.conftest import AsyncQueries, Database, Stub


@pytest.fixture
def filled(db: Database) -> Database:
    db.rows("ALTER TABLE docs ADD language text, ADD year int, ADD about json")
    db.rows(
        "INSERT INTO docs SELECT i, 'text ' || i, 0, (ARRAY['en', 'ru', 'zh'])[1 + i % 3], "
        "2000 + i % 30, '{}' FROM generate_series(1, 600) i"
    )
    db.create(index_kind="hnsw")
    db.work()
    return db


def nearest(db: Database, text: str, k: int, where: Callable[[int], bool] = lambda i: True) -> Any:
    query = db.stub.vector(text)
    distances = [
        (float(1 - np.dot(db.stub.vector(f"text {i}"), query)), i)
        for i in range(1, 601)
        if where(i)
    ]
    return [i for _, i in sorted(distances)[:k]]


@pytest.mark.parametrize("exact", [False, True])
def test_the_nearest_rows_with_true_distances(filled: Database, exact: bool) -> None:
    hits = postgres.search(filled.dsn, "docs", "question", k=5, exact=exact, embedder=filled.stub)
    assert [hit.key["id"] for hit in hits] == nearest(filled, "question", 5)
    for hit in hits:
        wanted = 1 - np.dot(filled.stub.vector(hit.text), filled.stub.vector("question"))
        assert hit.distance == pytest.approx(wanted, abs=1e-5)
        assert hit.chunk == 0


def test_more_rows_than_the_index_looks_at_by_default(filled: Database) -> None:
    hits = postgres.search(filled.dsn, "docs", "question", k=600, embedder=filled.stub)
    assert len(hits) == 600


def test_filters(filled: Database) -> None:
    db = filled

    def found(where: dict[str, Any], k: int = 5) -> list[int]:
        hits = postgres.search(db.dsn, "docs", "q", k=k, filter=where, embedder=db.stub)
        return [hit.key["id"] for hit in hits]

    assert found({"language": "ru"}) == nearest(db, "q", 5, lambda i: i % 3 == 1)
    assert found({"language": ["ru", "zh"], "year": 2004}) == nearest(
        db, "q", 5, lambda i: i % 3 in (1, 2) and i % 30 == 4
    )
    assert found({"id": 7}) == [7]
    assert found({"other": None}) == []
    assert found({"id": []}) == []
    assert found({}) == nearest(db, "q", 5)
    assert found({"body": "text 3'; DROP TABLE docs; --"}) == []


def test_wrong_filters_are_named(filled: Database) -> None:
    db = filled

    def refused(where: Any) -> str:
        with pytest.raises(DatabaseError) as caught:
            postgres.search(db.dsn, "docs", "q", filter=where, embedder=db.stub)
        return str(caught.value)

    assert "The nearest is language" in refused({"languag": "ru"})
    assert "The nearest is language" in refused({"Language": "ru"})
    assert "xyz" in refused({"year": "xyz"})
    with pytest.raises(pg.InvalidParameterValue) as caught:
        db.rows(
            "SELECT * FROM qwen_embed.search('docs', %s::vector, filter => '{\"ctid\": 1}')",
            vector_text(db.stub.vector("q")),
        )
    assert caught.value.sqlstate == "22023"


def test_wrong_queries_are_named(filled: Database) -> None:
    db = filled
    for call, said in (
        ("'[1,2,3]'::vector", "the query has 3 dimensions"),
        ("NULL", "the query has no dimensions"),
    ):
        with pytest.raises(pg.InvalidParameterValue, match=said):
            db.rows(f"SELECT * FROM qwen_embed.search('docs', {call})")
    with pytest.raises(DatabaseError, match="k is 0"):
        postgres.search(db.dsn, "docs", "q", k=0, embedder=db.stub)


def test_an_embedder_of_another_space_is_refused(filled: Database) -> None:
    other = type(filled.stub)(dimensions=64)
    with pytest.raises(SpaceMismatch, match=r"qwen3-embedding-0\.6b/64"):
        postgres.search(filled.dsn, "docs", "q", embedder=other)


def test_awaited(filled: Database, queries: Callable[[Stub], AsyncQueries]) -> None:
    hits = asyncio.run(
        postgres.asearch(filled.dsn, "docs", "q", k=3, embedder=queries(filled.stub))
    )
    assert hits == postgres.search(filled.dsn, "docs", "q", k=3, embedder=filled.stub)


def index_scans(db: Database) -> int:
    db.rows("SELECT pg_stat_force_next_flush()")
    return int(
        db.value(
            "SELECT idx_scan FROM pg_stat_all_indexes WHERE indexrelname = 'docs_embedding_hnsw'"
        )
    )


def test_the_index_is_used_and_settings_are_put_back(filled: Database) -> None:
    db = filled
    # In a small table reading everything is cheaper, and rightly chosen.
    db.rows("INSERT INTO docs (id, body) SELECT i, 'filler' FROM generate_series(1001, 9000) i")
    db.rows(
        "INSERT INTO docs_embedding (id, text, embedding, content_hash, space) "
        "SELECT i, 'filler', "
        "ARRAY(SELECT random() - 0.5 + 0 * i FROM generate_series(1, 32))::vector, '', 'any' "
        "FROM generate_series(1001, 9000) i"
    )
    db.rows("ANALYZE docs, docs_embedding")
    vector = vector_text(db.stub.vector("q"))
    before = index_scans(db)
    with db.conn.transaction():
        db.rows("SET LOCAL hnsw.ef_search = 55")
        db.rows("SELECT * FROM qwen_embed.search('docs', %s::vector)", vector)
        assert db.value("SHOW hnsw.ef_search") == "55"
        assert db.value("SHOW hnsw.iterative_scan") == "off"
    assert index_scans(db) == before + 1

    db.rows("SELECT * FROM qwen_embed.search('docs', %s::vector, exact => true)", vector)
    assert index_scans(db) == before + 1


def test_deleted_rows_are_not_found_before_a_worker_comes(filled: Database) -> None:
    first = nearest(filled, "q", 1)[0]
    filled.rows("DELETE FROM docs WHERE id = %s", first)
    hits = postgres.search(filled.dsn, "docs", "q", k=1, embedder=filled.stub)
    assert hits[0].key["id"] != first
    assert filled.value("SELECT count(*) FROM docs_embedded WHERE id = %s", first) == 0


def test_policies_hold_for_searches_view_and_side_table(filled: Database) -> None:
    db = filled
    role = f"reader_{uuid.uuid4().hex[:8]}"
    db.rows("ALTER TABLE docs ENABLE ROW LEVEL SECURITY")
    db.rows("CREATE POLICY russian ON docs USING (language = 'ru')")
    db.rows(f"CREATE ROLE {role}")
    try:
        db.rows(f"GRANT SELECT ON docs, docs_embedding, docs_embedded TO {role}")
        with db.connect() as app:
            app.execute(f"SET ROLE {role}")
            vector = vector_text(db.stub.vector("q"))
            found = app.execute(
                "SELECT (key->>'id')::int FROM qwen_embed.search('docs', %s::vector, 1000)",
                [vector],
            ).fetchall()
            russian = {i for i in range(1, 601) if i % 3 == 1}
            assert {i for (i,) in found} == russian
            for table in ("docs_embedding", "docs_embedded"):
                seen = app.execute(f"SELECT id FROM {table}").fetchall()
                assert {i for (i,) in seen} == russian, table
            # Settings could be set in a read-only transaction by a plain role, too.
            app.rollback()
            app.read_only = True
            app.execute(f"SET ROLE {role}")
            app.execute("SELECT * FROM qwen_embed.search('docs', %s::vector)", [vector])
    finally:
        db.rows(f"DROP OWNED BY {role}")
        db.rows(f"DROP ROLE {role}")


def test_readers_of_the_source_read_the_vectors(db: Database) -> None:
    role = f"reader_{uuid.uuid4().hex[:8]}"
    db.rows(f"CREATE ROLE {role}")
    try:
        db.rows(f"GRANT SELECT ON docs TO {role}")
        db.rows("INSERT INTO docs VALUES (1, 'one')")
        db.create()
        db.work()
        with db.connect() as app:
            app.execute(f"SET ROLE {role}")
            vector = vector_text(db.stub.vector("q"))
            hits = app.execute("SELECT * FROM qwen_embed.search('docs', %s::vector)", [vector])
            assert len(hits.fetchall()) == 1
            assert app.execute("SELECT body, embedding FROM docs_embedded").rowcount == 1
    finally:
        db.rows(f"DROP OWNED BY {role}")
        db.rows(f"DROP ROLE {role}")


def test_pgvector_in_another_schema(bare: Database) -> None:
    db = bare
    db.rows('CREATE SCHEMA "my ext"')
    db.rows('CREATE EXTENSION vector SCHEMA "my ext"')
    postgres.install(db.dsn)
    db.rows("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.rows("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 50) i")
    db.create(index_kind="hnsw")
    db.create(name="half", target_name="half", storage="halfvec", index_kind="hnsw")
    assert db.work().embedded == 100
    for name in ("docs", "half"):
        hits = postgres.search(db.dsn, name, "text 5", k=2, embedder=db.stub)
        assert hits[0].key == {"id": 5}
        assert hits[0].distance == pytest.approx(0, abs=1e-3)
    assert db.value("SELECT count(*) FROM pg_indexes WHERE indexdef LIKE '%%hnsw%%'") == 2


def test_the_text_of_a_query(db: Database) -> None:
    db.create()
    ask = "SELECT qwen_embed.query_text('docs', %s)"
    assert db.value(ask, "what?") == qwen3_query("what?", DEFAULT_INSTRUCTION)
    db.rows("UPDATE qwen_embed.vectorizer SET instruction = 'Find it'")
    assert db.value(ask, "%s {x}") == qwen3_query("%s {x}", "Find it")
    db.create(name="bge", model="bge-m3", target_name="bge")
    assert db.value("SELECT qwen_embed.query_text('bge', 'what?')") == "what?"
    db.create(name="nomic", model="nomic-embed-text-v1.5", target_name="nomic")
    assert db.value("SELECT qwen_embed.query_text('nomic', 'what?')") == nomic_query("what?", "")


def test_an_interrupted_index_is_built_again(filled: Database) -> None:
    db = filled
    assert postgres.build_index(db.dsn, "docs") is False
    db.rows(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'docs_embedding_hnsw'::regclass"
    )
    assert postgres.build_index(db.dsn, "docs") is True
    assert db.value(
        "SELECT indisvalid FROM pg_index WHERE indexrelid = 'docs_embedding_hnsw'::regclass"
    )


def test_no_index_where_none_is_wanted(db: Database) -> None:
    db.rows("INSERT INTO docs VALUES (1, 'one')")
    db.create(index_kind="none")
    db.work()
    assert db.value("SELECT count(*) FROM pg_indexes WHERE indexdef LIKE '%%hnsw%%'") == 0
    assert postgres.build_index(db.dsn, "docs") is False
    assert len(postgres.search(db.dsn, "docs", "one", embedder=db.stub)) == 1
