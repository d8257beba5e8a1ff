"""What type checkers tell users: never run, but checked by `make lint`, and by the wide tests
against an installed wheel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import psycopg

from qwen_embed_plugins import (
    AsyncEmbedder,
    Embedder,
    EmbedResult,
    NoOfferLeft,
    Offer,
    Provider,
    QwenEmbedError,
    Settings,
    hookimpl,
    postgres,
)
from qwen_embed_plugins.langchain import QwenEmbeddings, QwenRetriever
from qwen_embed_plugins.types import Answer, Batch, WireRequest, WireResponse

if TYPE_CHECKING:
    from typing_extensions import assert_type


def embed() -> None:
    with Embedder(dimensions=1024) as embedder:
        assert_type(embedder, Embedder)
        assert_type(embedder.embed_documents(["a text"]), npt.NDArray[np.float32])
        assert_type(embedder.embed_query("a question"), npt.NDArray[np.float32])
        assert_type(embedder.embed(["a text"]), EmbedResult)
    Embedder(Settings.load(dimensions=512), model="qwen3-embedding-8b")


async def embed_awaited() -> None:
    async with AsyncEmbedder(dimensions=1024) as embedder:
        assert_type(await embedder.embed_documents(["a text"]), npt.NDArray[np.float32])
        assert_type(await embedder.embed_query("a question"), npt.NDArray[np.float32])
        assert_type(await embedder.embed(["a text"], role="query"), EmbedResult)


def what_went_wrong() -> str:
    try:
        embed()
    except NoOfferLeft as error:
        return f"{error.kinds} until {error.retry_at}"
    except QwenEmbedError as error:
        return str(error)
    return ""


def search(connection: psycopg.Connection[Any]) -> Sequence[postgres.Hit]:
    postgres.install(connection)
    name = postgres.create_vectorizer(connection, "docs", columns=["body"])
    assert_type(name, str)
    assert_type(postgres.status(connection, name), list[postgres.VectorizerStatus])
    assert_type(
        postgres.run_worker("postgresql://localhost/shop", once=True), postgres.WorkerSummary
    )
    return postgres.search(connection, "docs", "a question", k=3)


async def search_awaited() -> Sequence[postgres.Hit]:
    assert_type(
        await postgres.astatus("postgresql://localhost/shop"), list[postgres.VectorizerStatus]
    )
    return await postgres.asearch("postgresql://localhost/shop", "docs", "a question")


def chain() -> None:
    keys = {"deepinfra": "a key"}
    assert_type(
        QwenEmbeddings(dimensions=1024, api_keys=keys).embed_documents(["a text"]),
        list[list[float]],
    )
    retriever = QwenRetriever(vectorizer="docs", dsn="postgresql://localhost/shop", k=3)
    for document in retriever.invoke("a question"):
        assert_type(document.page_content, str)


class Acme(Provider):
    name = "acme"
    base_url = "http://127.0.0.1:8000"

    def build_request(self, batch: Batch) -> WireRequest:
        assert_type(batch.texts, Sequence[str])
        return WireRequest(f"{self.url}/embed", b"")

    def parse_response(self, response: WireResponse) -> Answer:
        assert_type(response.content, bytes)
        return Answer([[0.6, 0.8]])


@hookimpl
def register_providers(register: Any) -> None:
    register(Acme, offers=[Offer("qwen3-embedding-8b", wire_name="qwen3-8b", max_inputs=32)])
