"""`QwenRetriever` over a real table: langchain-tests' own suite, and what it does not ask."""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import ConfigurableField
from langchain_tests.integration_tests import RetrieversIntegrationTests
from psycopg.pq import TransactionStatus
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from pydantic import SecretStr, ValidationError

from qwen_embed_plugins import ConfigurationError, DatabaseError, Embedder, SpaceMismatch, postgres
from qwen_embed_plugins.langchain import QwenRetriever, track_usage
from qwen_embed_plugins.models import DEFAULT_INSTRUCTION, qwen3_query
from qwen_embed_plugins.testing import SimulatedServer, reference_vector
from tests.integration.conftest import DIMENSIONS, MODEL, Database, opened_database

if TYPE_CHECKING:
    from tests.postgres_servers import Server

PRODUCTS = """
CREATE TABLE products (
    id int PRIMARY KEY, name text, description text, language text, price numeric(8, 2),
    added date, tags text[], drawing vector(2));
INSERT INTO products
SELECT i, 'Product ' || i, 'Made for ' || i, (ARRAY['en', 'ru'])[1 + i % 2], i + 0.5,
    date '2026-01-01' + i, ARRAY['t' || i], '[1,2]' FROM generate_series(1, 12) i
"""
INSTRUCTION = "Given a wish, find the product"


class Shop:
    """A database with a table of products that has embedded itself, and who embeds."""

    def __init__(self, db: Database, model_server: SimulatedServer, state: Path) -> None:
        self.db = db
        self.model_server = model_server
        self.settings = {
            "providers": {"ollama": {"base_url": model_server.url}},
            "use": ["ollama"],
            "state": str(state),
        }

    def work(self) -> postgres.WorkerSummary:
        return postgres.run_worker(
            self.db.dsn, once=True, settings=self.settings, poll_seconds=0.02
        )

    def retriever(self, **fields: Any) -> QwenRetriever:
        given = {"vectorizer": "products", "dsn": self.db.dsn, "settings": self.settings}
        return QwenRetriever(**{**given, **fields})

    def nearest(self, text: str, ids: range = range(1, 13)) -> list[tuple[str, float]]:
        """The keys in the order that the search must have, with the cosine similarities."""
        query = vector_of(qwen3_query(text, INSTRUCTION))
        texts = {i: f"Product {i}\nMade for {i}" for i in ids}
        scores = {str(i): float(vector_of(text) @ query) for i, text in texts.items()}
        return sorted(scores.items(), key=lambda item: -item[1])


def vector_of(text: str) -> Any:
    cut = reference_vector(text, 1024)[:DIMENSIONS]
    return cut / np.linalg.norm(cut)


@pytest.fixture(scope="module")
def shop(server: Server, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    state = tmp_path_factory.mktemp("shop") / "state.db"
    with SimulatedServer() as model_server, opened_database(server, template) as db:
        shop = Shop(db, model_server, state)
        db.rows(PRODUCTS)
        db.create("products", columns=["name", "description"])
        db.rows("UPDATE qwen_embed.vectorizer SET instruction = %s", INSTRUCTION)
        assert shop.work().embedded == 12
        yield shop


class TestStandard(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _shop(self, shop: Shop) -> None:
        self.shop = shop

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return QwenRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        shop = self.shop
        return {"vectorizer": "products", "dsn": shop.db.dsn, "settings": shop.settings}

    @property
    def retriever_query_example(self) -> str:
        return "a warm jacket"


def ids(documents: list[Document]) -> list[str | None]:
    return [document.id for document in documents]


def test_documents_have_text_key_score_and_row_in_both_colours(shop: Shop) -> None:
    retriever = shop.retriever(k=3)
    documents = retriever.invoke("a jacket")
    assert asyncio.run(retriever.ainvoke("a jacket")) == documents
    wanted = shop.nearest("a jacket")[:3]
    assert ids(documents) == [key for key, _ in wanted]
    first, number = documents[0], int(wanted[0][0])
    assert first.page_content == f"Product {number}\nMade for {number}"
    score = first.metadata.pop("relevance_score")
    assert score == pytest.approx(wanted[0][1], abs=1e-5)
    assert first.metadata == {
        "chunk": 0,
        "id": number,
        "name": f"Product {number}",
        "description": f"Made for {number}",
        "language": "en" if number % 2 == 0 else "ru",
        "price": number + 0.5,
        "added": f"2026-01-{1 + number:02}",
        "tags": [f"t{number}"],
    }


def test_the_query_is_embedded_as_the_vectorizer_says(shop: Shop) -> None:
    shop.model_server.forget()
    shop.retriever().invoke("a jacket")
    assert shop.model_server.texts_seen == [qwen3_query("a jacket", INSTRUCTION)]


def test_metadata_columns_may_be_fewer_but_have_the_key(shop: Shop) -> None:
    for columns, expected in ((["name", "price"], {"name", "price"}), ([], set())):
        [document] = shop.retriever(k=1, metadata_columns=columns).invoke("a")
        assert document.metadata.keys() == expected | {"id", "chunk", "relevance_score"}


def test_filters_of_the_field_and_of_the_call_hold_together(shop: Shop) -> None:
    retriever = shop.retriever(filter={"language": "en"})
    even = [key for key, _ in shop.nearest("a") if int(key) % 2 == 0]
    assert ids(retriever.invoke("a")) == even
    few = {"id": [2, 3, 4]}
    assert ids(retriever.invoke("a", filter=few)) == [key for key in even if key in "24"]
    assert (
        ids(asyncio.run(retriever.ainvoke("a", filter={"language": "ru"}, k=2)))
        == [key for key, _ in shop.nearest("a") if int(key) % 2][:2]
    )


def test_documents_below_the_threshold_are_left_out(shop: Shop) -> None:
    ranked = shop.nearest("a")
    between = (ranked[3][1] + ranked[4][1]) / 2
    retriever = shop.retriever(score_threshold=between)
    assert ids(retriever.invoke("a")) == [key for key, _ in ranked[:4]]
    assert ids(asyncio.run(retriever.ainvoke("a"))) == [key for key, _ in ranked[:4]]
    assert len(retriever.invoke("a", score_threshold=-1)) == 10
    assert retriever.invoke("a", score_threshold=0.999) == []


def test_awaiting_goes_through_no_thread(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("the blocking way was taken")

    monkeypatch.setattr("langchain_core.retrievers.run_in_executor", fail)
    monkeypatch.setattr("psycopg.Connection.connect", fail)
    assert len(asyncio.run(shop.retriever(k=2).ainvoke("a"))) == 2


def test_many_at_once_share_one_embedder(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def make(*settings: Any, **space: Any) -> Embedder:
        made.append(space)
        return Embedder(*settings, **space)

    monkeypatch.setattr("qwen_embed_plugins.langchain.retriever.Embedder", make)
    retriever = shop.retriever(k=1)
    texts = [f"query {number}" for number in range(12)]
    wanted = [[shop.nearest(text)[0][0]] for text in texts]
    with track_usage() as used:
        assert [ids(found) for found in retriever.batch(texts)] == wanted
        assert [ids(found) for found in asyncio.run(retriever.abatch(texts))] == wanted
    assert (used.calls, used.usage.texts, float(used.cost)) == (24, 24, 0.0)
    assert made == [{"model": MODEL, "dimensions": DIMENSIONS}]
    retriever.invoke("one more")
    assert retriever.last_call is not None
    assert retriever.last_call.usage.texts == 1


def test_a_ready_embedder_of_the_space_may_be_given(shop: Shop) -> None:
    with Embedder(shop.settings, model=MODEL, dimensions=DIMENSIONS) as embedder:
        retriever = shop.retriever(embedder=embedder, settings=None, k=2)
        wanted = [key for key, _ in shop.nearest("a")[:2]]
        assert ids(retriever.invoke("a")) == ids(asyncio.run(retriever.ainvoke("a"))) == wanted
    with Embedder(shop.settings, model=MODEL, dimensions=64) as embedder:
        retriever = shop.retriever(embedder=embedder)
        with pytest.raises(SpaceMismatch, match=f"{MODEL}/{DIMENSIONS}"):
            retriever.invoke("a")
        with pytest.raises(SpaceMismatch, match=f"{MODEL}/{DIMENSIONS}"):
            asyncio.run(retriever.ainvoke("a"))


def test_connections_of_a_pool_are_taken_and_given_back(shop: Shop) -> None:
    wanted = [key for key, _ in shop.nearest("a")[:2]]

    async def run() -> None:
        async with AsyncConnectionPool(shop.db.dsn, min_size=1, max_size=1, open=False) as pool:
            retriever = shop.retriever(dsn=None, async_pool=pool, k=2)
            assert [ids(found) for found in await retriever.abatch(["a"] * 3)] == [wanted] * 3
            with pytest.raises(ConfigurationError, match="give a pool as well"):
                retriever.invoke("a")

    asyncio.run(run())
    with ConnectionPool(shop.db.dsn, min_size=1, max_size=1, open=True) as pool:
        retriever = shop.retriever(dsn=None, pool=pool, k=2)
        assert [ids(found) for found in retriever.batch(["a"] * 3)] == [wanted] * 3
        with pool.connection() as connection:
            assert connection.info.transaction_status == TransactionStatus.IDLE
        with pytest.raises(DatabaseError, match="Did you mean 'products'"):
            shop.retriever(dsn=None, pool=pool, vectorizer="product").invoke("a")
        with pytest.raises(ConfigurationError, match="give an async_pool as well"):
            asyncio.run(retriever.ainvoke("a"))
        with pytest.raises(ConfigurationError, match="leave one of them out"):
            shop.retriever(pool=pool)
        with pytest.raises(ConfigurationError, match="cannot be pickled"):
            pickle.dumps(retriever)
    with pytest.raises(DatabaseError, match="closed"):
        retriever.invoke("a")


def test_fields_may_be_configured_for_each_call(shop: Shop) -> None:
    retriever = shop.retriever().configurable_fields(k=ConfigurableField(id="k"))
    assert len(retriever.invoke("a", config={"configurable": {"k": 3}})) == 3


def test_the_address_may_stand_in_the_environment(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWEN_EMBED_DSN", shop.db.dsn)
    assert len(shop.retriever(dsn=None, k=2).invoke("a")) == 2


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"vectorizer": "product"}, "there is no vectorizer 'product'. Did you mean 'products'?"),
        ({"metadata_columns": ["pirce"]}, "products has not. The nearest is price."),
        ({"metadata_columns": ["zzz"]}, "It has: id, name, description"),
        ({"filter": {"langauge": "en"}}, "The nearest is language"),
    ],
)
def test_mistakes_are_named_before_anything_is_paid(
    shop: Shop, fields: dict[str, Any], said: str
) -> None:
    shop.model_server.forget()
    retriever = shop.retriever(**fields)
    with pytest.raises(DatabaseError) as caught:
        retriever.invoke("a")
    assert said in str(caught.value)
    with pytest.raises(DatabaseError) as caught:
        asyncio.run(retriever.ainvoke("a"))
    assert said in str(caught.value)
    assert not shop.model_server.requests


@pytest.mark.parametrize(
    "fields", [{"k": 0}, {"vectorizer": ""}, {"score_threshold": 2}, {"table": "products"}]
)
def test_fields_are_checked_when_it_is_made(shop: Shop, fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        shop.retriever(**fields)


def test_columns_that_are_no_list_are_refused(shop: Shop) -> None:
    with pytest.raises(ConfigurationError, match='expected a list of column names, or "\\*"'):
        postgres.search(
            shop.db.dsn,
            "products",
            "a",
            columns="name",
            settings=shop.settings,
        )


def test_a_role_gets_the_columns_and_rows_that_it_may_read(shop: Shop) -> None:
    db, role = shop.db, f"qe_reader_{os.getpid()}"
    db.rows(f"CREATE ROLE {role} LOGIN")
    try:
        columns = "id, name, description, language"
        db.rows(f"GRANT SELECT ({columns}) ON products TO {role}")
        db.rows(f"GRANT SELECT ON products_embedding TO {role}")
        db.rows("ALTER TABLE products ENABLE ROW LEVEL SECURITY")
        db.rows(f"CREATE POLICY russian ON products TO {role} USING (language = 'ru')")
        retriever = shop.retriever(dsn=SecretStr(f"{db.dsn} user={role}"))
        documents = retriever.invoke("a")
        assert ids(documents) == [key for key, _ in shop.nearest("a") if int(key) % 2]
        for document in documents:
            assert document.metadata.keys() - {"relevance_score", "chunk"} == {*columns.split(", ")}
    finally:
        db.rows("DROP POLICY IF EXISTS russian ON products")
        db.rows("ALTER TABLE products DISABLE ROW LEVEL SECURITY")
        db.rows(f"DROP OWNED BY {role}")
        db.rows(f"DROP ROLE {role}")


@pytest.fixture
def other(shop: Shop, db: Database) -> Shop:
    """A database of the test's own, with the same model server."""
    return Shop(db, shop.model_server, Path(shop.settings["state"]))  # type: ignore[arg-type]


def test_odd_names_and_keys_of_several_columns(other: Shop) -> None:
    db = other.db
    db.rows('CREATE SCHEMA "My Shop"')
    db.rows(
        'CREATE TABLE "My Shop"."Odd %s ""Things""" ("The Day" timestamptz, "code%" char(4), '
        '"chunk" text, body text, "relevance_score" text, PRIMARY KEY ("The Day", "code%"))'
    )
    db.rows(
        'INSERT INTO "My Shop"."Odd %s ""Things""" VALUES '
        "('2026-02-03 04:05:06.789+00', 'a''b', 'mine', 'one', 'high'), "
        "('2026-02-03 04:05:06.789+00', 'c', 'mine', 'two', 'low')"
    )
    db.create('"My Shop"."Odd %s ""Things"""', name="odd")
    assert other.work().embedded == 2
    found = {
        document.page_content: document
        for document in other.retriever(vectorizer="odd").invoke("a")
    }
    assert found["one"].metadata.keys() == {
        "The Day", "code%", "chunk", "body", "relevance_score",
    }  # fmt: skip
    assert found["one"].metadata["chunk"] == "mine", "a column goes before a name of ours"
    assert found["one"].metadata["relevance_score"] == "high"
    assert found["two"].metadata["code%"] == "c   "
    assert found["two"].id is not None
    assert '"code%": "c   "' in found["two"].id


def test_chunks_are_documents_with_ids_of_their_own(other: Shop) -> None:
    db = other.db
    db.create(chunk_tokens=16)
    db.rows("INSERT INTO docs VALUES (7, %s)", "Some words of a sentence. " * 30)
    other.work()
    count = db.value("SELECT count(*) FROM docs_embedding")
    assert count > 2
    documents = other.retriever(vectorizer="docs", k=100, metadata_columns=["other"]).invoke("a")
    assert {document.id for document in documents} == {
        "7", *(f"7#{number}" for number in range(1, count)),
    }  # fmt: skip
    for document in documents:
        chunk = document.metadata["chunk"]
        assert document.id == (f"7#{chunk}" if chunk else "7")
        assert document.metadata["other"] == 0
        assert len(document.page_content) < 200


def test_vectors_in_a_column_stay_out_of_the_metadata(other: Shop) -> None:
    other.db.rows("INSERT INTO docs VALUES (1, 'one')")
    other.db.create(target="column")
    other.work()
    [document] = other.retriever(vectorizer="docs").invoke("a")
    assert document.metadata.keys() == {"id", "body", "other", "chunk", "relevance_score"}


def test_it_follows_a_move_to_another_length(other: Shop) -> None:
    db = other.db
    db.rows("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 5) i")
    db.create()
    other.work()
    retriever = other.retriever(vectorizer="docs", k=5)
    assert len(retriever.invoke("a")) == 5
    postgres.move(db.dsn, "docs", dimensions=64)
    other.work()
    postgres.finish_move(db.dsn, "docs")
    postgres.drop_old(db.dsn, "docs")
    documents = retriever.invoke("a")
    query = reference_vector(qwen3_query("a", DEFAULT_INSTRUCTION), 1024)[:64]
    texts = [f"text {i}" for i in range(1, 6)]
    cuts = {text: reference_vector(text, 1024)[:64] for text in texts}
    best = max(texts, key=lambda text: float(cuts[text] @ query / np.linalg.norm(cuts[text])))
    assert documents[0].page_content == best


def test_it_is_named_what_is_missing_without_the_extra() -> None:
    program = (
        "import sys\n"
        "sys.modules['psycopg'] = None\n"
        "from qwen_embed_plugins.langchain import QwenEmbeddings\n"
        "from qwen_embed_plugins import ConfigurationError\n"
        "try:\n"
        "    from qwen_embed_plugins.langchain import QwenRetriever\n"
        "except ConfigurationError as error:\n"
        "    print(error)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert "pip install 'qwen-embed-plugins[postgres]'" in answer.stdout


def test_a_column_may_be_renamed_while_the_query_is_embedded(other: Shop) -> None:
    db = other.db
    db.rows("INSERT INTO docs VALUES (1, 'one')")
    db.create()
    other.work()
    names = iter(["renamed", "again"])
    before = "other"

    def rename(_: Any) -> None:
        nonlocal before
        after = next(names, before)
        if after != before:
            db.rows(f"ALTER TABLE docs RENAME {before} TO {after}")
        before = after

    other.model_server.respond = rename
    try:
        [document] = other.retriever(vectorizer="docs").invoke("a")
    finally:
        other.model_server.respond = None
    assert document.metadata.keys() - {"chunk", "relevance_score"} == {"id", "body", "again"}
    with pytest.raises(DatabaseError, match="The nearest is again"):
        other.retriever(vectorizer="docs", metadata_columns=["aagain"]).invoke("a")
