"""langchain-postgres' `PGVectorStore` over a table that embeds itself: what `docs/langchain.md`
says works does, and what it says does not, does not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_postgres import PGEngine, PGVectorStore
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from tests.integration.conftest import Database, Stub

T = TypeVar("T")


class StubEmbeddings(Embeddings):
    """The stub's vectors as LangChain asks for them."""

    def __init__(self, stub: Stub) -> None:
        self.stub = stub

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        numbers: list[float] = self.stub.vector(text).tolist()
        return numbers


def address(db: Database, driver: str) -> URL:
    given = conninfo_to_dict(db.dsn)
    query = {"host": str(given["host"])} if str(given["host"]).startswith("/") else {}
    return URL.create(
        f"postgresql+{driver}",
        username=str(given.get("user", "")) or None,
        password=str(given.get("password", "")) or None,
        host=None if query else str(given["host"]),
        port=int(str(given["port"])) if given.get("port") else None,
        database=str(given["dbname"]),
        query=query,
    )


@pytest.fixture
def filled(db: Database) -> Database:
    db.rows("ALTER TABLE docs ADD language text")
    db.rows(
        "INSERT INTO docs SELECT i, 'text ' || i, 0, (ARRAY['en', 'ru'])[1 + i % 2] "
        "FROM generate_series(1, 60) i"
    )
    return db


def nearest(db: Database, text: str, k: int, language: str | None = None) -> list[str]:
    query = db.stub.vector(text)
    rows = db.rows(
        "SELECT id, body FROM docs WHERE %s::text IS NULL OR language = %s", *[language] * 2
    )
    scores = [(float(np.dot(db.stub.vector(body), query)), str(key)) for key, body in rows]
    return [key for _, key in sorted(scores, reverse=True)[:k]]


STORE = {
    "id_column": "id",
    "content_column": "text",
    "embedding_column": "embedding",
    "metadata_columns": ["language", "other"],
}


def opened(
    db: Database,
    table: str,
    ask: Callable[[PGVectorStore], Awaitable[T]],
    driver: str = "psycopg",
    **options: Any,
) -> T:
    """What a store over this table answers."""

    async def run() -> T:
        pool = create_async_engine(address(db, driver), poolclass=NullPool)
        try:
            store = await PGVectorStore.create(
                PGEngine.from_engine(pool), StubEmbeddings(db.stub), table, **{**STORE, **options}
            )
            return await ask(store)
        finally:
            await pool.dispose()

    return asyncio.run(run())


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
@pytest.mark.parametrize("storage", ["vector", "halfvec"])
def test_the_view_is_read(filled: Database, storage: str, driver: str) -> None:
    filled.create(storage=storage, index_kind="hnsw")
    filled.work()

    async def ask(store: PGVectorStore) -> list[Document]:
        russian = await store.asimilarity_search("q", k=5, filter={"language": "ru"})
        assert [each.id for each in russian] == nearest(filled, "q", 5, "ru")
        return await store.asimilarity_search("q", k=5)

    found = opened(filled, "docs_embedded", ask, driver)
    assert [each.id for each in found] == nearest(filled, "q", 5)
    first = found[0]
    assert first.page_content == f"text {first.id}"
    assert first.metadata == {"language": "ru" if int(first.id or 0) % 2 else "en", "other": 0}
    filled.rows("DELETE FROM docs WHERE id = %s", first.id)
    again = opened(filled, "docs_embedded", ask, driver)
    assert [each.id for each in again] == nearest(filled, "q", 5)


def test_the_side_table_shows_deleted_rows_until_a_worker_comes(filled: Database) -> None:
    filled.create(index_kind="none")
    filled.work()
    gone = nearest(filled, "q", 1)[0]
    filled.rows("DELETE FROM docs WHERE id = %s", gone)

    def found() -> list[Document]:
        return opened(
            filled,
            "docs_embedding",
            lambda store: store.asimilarity_search("q"),
            metadata_columns=["offer"],
        )

    assert found()[0].id == gone
    assert found()[0].metadata == {"offer": "stub"}
    filled.work()
    assert gone not in {each.id for each in found()}


def test_scores_and_diversity_are_had_too(filled: Database) -> None:
    filled.create(index_kind="none")
    filled.work()
    [(first, distance), *_] = opened(
        filled, "docs_embedded", lambda store: store.asimilarity_search_with_score("q", k=3)
    )
    wanted = 1 - np.dot(filled.stub.vector(first.page_content), filled.stub.vector("q"))
    assert distance == pytest.approx(wanted, abs=1e-5)
    diverse = opened(
        filled, "docs_embedded", lambda store: store.amax_marginal_relevance_search("q", k=3)
    )
    assert len({each.id for each in diverse}) == 3


@pytest.mark.parametrize("table", ["docs_embedded", "docs_embedding"])
def test_it_takes_no_writes(filled: Database, table: str) -> None:
    filled.create(index_kind="none")
    filled.work()
    columns = {"metadata_columns": ["offer"]}

    def add(store: PGVectorStore) -> Awaitable[Any]:
        return store.aadd_texts(["new"], ids=[99])

    with pytest.raises(DBAPIError, match="docs_embedd"):
        opened(filled, table, add, **columns)  # type: ignore[arg-type]


def test_a_filter_needs_an_index_that_goes_on(filled: Database) -> None:
    db = filled
    db.rows("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(61, 600) i")
    far = [int(key) for key in nearest(db, "q", 600)[-5:]]
    db.rows("UPDATE docs SET language = CASE WHEN id = ANY (%s) THEN 'ru' ELSE 'en' END", far)
    db.create(index_kind="hnsw")
    db.work()
    database = db.value("SELECT current_database()")
    for setting in ("enable_sort", "enable_seqscan", "enable_hashjoin", "enable_bitmapscan"):
        db.rows(f"ALTER DATABASE {database} SET {setting} = off")

    def found() -> list[str | None]:
        documents = opened(
            db,
            "docs_embedded",
            lambda store: store.asimilarity_search("q", k=5, filter={"language": "ru"}),
        )
        return [each.id for each in documents]

    assert len(found()) < 5
    db.rows(f"ALTER DATABASE {database} SET hnsw.iterative_scan = 'strict_order'")
    assert found() == nearest(db, "q", 5, "ru")


def test_a_column_called_text_moves_ours_aside(db: Database) -> None:
    db.rows("ALTER TABLE docs ADD text text")
    db.rows("INSERT INTO docs (id, body, text) VALUES (1, 'one', 'mine')")
    db.create(index_kind="none")
    db.work()
    columns = {"content_column": "embedded_text", "metadata_columns": ["text"]}
    [found] = opened(db, "docs_embedded", lambda store: store.asimilarity_search("q"), **columns)  # type: ignore[arg-type]
    assert (found.page_content, found.metadata) == ("one", {"text": "mine"})


@pytest.mark.parametrize(
    ("storage", "index_kind", "is_used"),
    [("vector", "hnsw", True), ("halfvec", "hnsw", True), ("halfvec", "binary", False)],
)
def test_whose_index_its_query_can_use(
    filled: Database, storage: str, index_kind: str, is_used: bool
) -> None:
    filled.create(storage=storage, index_kind=index_kind)
    filled.work()
    filled.rows("SET enable_sort = off; SET enable_seqscan = off; SET enable_hashjoin = off")
    query = str(filled.stub.vector("q").tolist())
    plan = filled.rows(
        "EXPLAIN SELECT id, text, embedding, cosine_distance(embedding, %s) AS distance "
        "FROM public.docs_embedded ORDER BY embedding <=> %s LIMIT 4",
        query,
        query,
    )
    assert (f"docs_embedding_{index_kind}" in str(plan)) == is_used
