"""langchain-tests' own suites, unchanged, against a simulated server; and what they do not ask."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests
from pydantic import SecretStr, ValidationError

from qwen_embed_plugins import ConfigurationError, Embedder, InvalidInput, PartialFailure
from qwen_embed_plugins.langchain import CallSummary, QwenEmbeddings, track_usage
from qwen_embed_plugins.models import DEFAULT_INSTRUCTION, qwen3_query
from qwen_embed_plugins.testing import SimulatedServer, reference_tokens, reference_vector


@pytest.fixture(scope="module")
def running() -> Iterator[SimulatedServer]:
    with SimulatedServer() as server:
        yield server


@pytest.fixture(autouse=True)
def ollama_is_the_server(running: SimulatedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    running.forget()
    monkeypatch.setenv("OLLAMA_HOST", running.url)


class TestUnit(EmbeddingsUnitTests):
    @property
    def embeddings_class(self) -> type[QwenEmbeddings]:
        return QwenEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": "qwen3-embedding-0.6b"}


class TestIntegration(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self) -> type[QwenEmbeddings]:
        return QwenEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": "qwen3-embedding-0.6b"}


@pytest.mark.parametrize("dimensions", [4096, 1024])
def test_both_colours_give_the_right_vectors_as_lists_of_float(dimensions: int) -> None:
    embeddings = QwenEmbeddings(dimensions=dimensions)
    blocking = embeddings.embed_documents(["привет", "мир"])
    assert asyncio.run(embeddings.aembed_documents(["привет", "мир"])) == blocking
    assert asyncio.run(embeddings.aembed_query("мир")) == embeddings.embed_query("мир")
    assert all(type(number) is float for number in blocking[0])
    cut = reference_vector("привет", 4096)[:dimensions]
    assert np.dot(blocking[0], cut) / np.linalg.norm(cut) > 0.999999
    assert np.linalg.norm(blocking[0]) == pytest.approx(1, abs=1e-6)


def test_it_works_inside_a_running_loop() -> None:
    async def run() -> None:
        embeddings = QwenEmbeddings(dimensions=64)
        assert embeddings.embed_query("a") == await embeddings.aembed_query("a")

    asyncio.run(run())


def test_the_instruction_goes_before_queries_only(running: SimulatedServer) -> None:
    embeddings = QwenEmbeddings(instruction="Find recipes")
    embeddings.embed_query("bread")
    embeddings.embed_documents(["bread"])
    assert running.texts_seen == ["Instruct: Find recipes\nQuery:bread", "bread"]


def test_a_ready_embedder_may_be_passed_alone() -> None:
    with Embedder(dimensions=128) as embedder:
        assert len(QwenEmbeddings(embedder=embedder).embed_query("a")) == 128
        with pytest.raises(ConfigurationError, match="leave out dimensions"):
            QwenEmbeddings(embedder=embedder, dimensions=64)


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="dimension"):
        QwenEmbeddings(dimension=64)  # type: ignore[call-arg]


def test_keys_are_sent_and_not_shown(running: SimulatedServer) -> None:
    settings = {
        "providers": {"mine": {"kind": "openai-compatible", "base_url": f"{running.url}/v1"}},
        "use": ["mine"],
    }
    key = "planted-key-4711"
    embeddings = QwenEmbeddings(settings=settings, api_keys={"mine": SecretStr(key)})
    embeddings.embed_query("a")
    assert running.requests[-1].headers["authorization"] == f"Bearer {key}"
    dumped = (repr(embeddings), str(embeddings.model_dump()), embeddings.model_dump_json())
    assert not any(key in text for text in dumped)


def test_an_instruction_may_be_given_for_one_query(running: SimulatedServer) -> None:
    embeddings = QwenEmbeddings(instruction="Find recipes")
    embeddings.embed_query("bread", instruction="Find trains")
    asyncio.run(embeddings.aembed_query("bread", instruction=""))
    embeddings.embed_query("bread")
    assert running.texts_seen == [
        "Instruct: Find trains\nQuery:bread",
        "bread",
        "Instruct: Find recipes\nQuery:bread",
    ]


def test_progress_is_told_to_the_calls_function_or_else_to_the_fields() -> None:
    told: list[str] = []
    texts = ["a", "b", "c"]
    embeddings = QwenEmbeddings(on_progress=lambda done, total: told.append(f"{done} of {total}"))
    InMemoryVectorStore(embeddings).add_texts(texts)
    assert told[-1] == "3 of 3"
    told.clear()
    asyncio.run(embeddings.aembed_documents(texts, on_progress=lambda *_: told.append("own")))
    assert set(told) == {"own"}
    assert "on_progress" not in f"{embeddings!r} {embeddings.model_dump()}"


def priced(running: SimulatedServer) -> QwenEmbeddings:
    table = {"kind": "openai-compatible", "base_url": f"{running.url}/v1", "price_per_million": "1"}
    return QwenEmbeddings(settings={"providers": {"mine": table}, "use": ["mine"]}, dimensions=64)


def last(embeddings: QwenEmbeddings) -> CallSummary:
    assert embeddings.last_call is not None
    return embeddings.last_call


def test_the_last_call_says_what_it_used(running: SimulatedServer) -> None:
    embeddings = priced(running)
    assert not embeddings.last_call
    embeddings.embed_documents(["one", "two"])
    tokens = last(embeddings).usage.tokens
    assert last(embeddings).usage.texts == 2
    assert last(embeddings).cost == Decimal(tokens) / 1_000_000 > 0
    assert sum(attempt.tokens for attempt in last(embeddings).attempts) == tokens
    with pytest.raises(PartialFailure) as caught:
        embeddings.embed_documents(["three", ""])
    assert last(embeddings).cost == caught.value.result.cost > 0
    with pytest.raises(InvalidInput):
        embeddings.embed_documents("no list")  # type: ignore[arg-type]
    assert embeddings.last_call is None, "that of another call is not this one's"


def test_each_thread_and_each_task_sees_its_own_last_call(running: SimulatedServer) -> None:
    embeddings = priced(running)
    embeddings.embed_documents(["mine"])
    barrier = threading.Barrier(4)

    def in_thread(count: int) -> int:
        barrier.wait()
        embeddings.embed_documents([f"{count} {number}" for number in range(count)])
        barrier.wait()
        return last(embeddings).usage.texts

    async def in_task(count: int) -> int:
        assert not embeddings.last_call
        await embeddings.aembed_documents([f"{count} {number}" for number in range(count)])
        await asyncio.sleep(0.01)
        return last(embeddings).usage.texts

    async def in_tasks() -> list[int]:
        return list(await asyncio.gather(*map(in_task, (5, 6, 7))))

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(in_thread, (1, 2, 3, 4))) == [1, 2, 3, 4]
    assert asyncio.run(in_tasks()) == [5, 6, 7]
    assert last(embeddings).usage.texts == 1


def test_usage_is_tracked_through_chains_threads_and_tasks(running: SimulatedServer) -> None:
    embeddings = priced(running)
    store = InMemoryVectorStore(embeddings)
    chain = store.as_retriever(search_kwargs={"k": 1}) | RunnableLambda(len)
    with track_usage() as outer:
        store.add_texts(["one", "two"])
        with track_usage() as used:
            assert chain.batch(["a", "b", "c"]) == [1, 1, 1]
            assert asyncio.run(chain.abatch(["d", "e"])) == [1, 1]
        embeddings.embed_query("not in the inner one")
    embeddings.embed_query("in none")
    assert (used.calls, used.usage.texts) == (5, 5)
    assert (outer.calls, outer.usage.texts) == (7, 8)
    assert used.usage.tokens == sum(reference_tokens(query(text)) for text in "abcde")
    assert used.cost == Decimal(used.usage.tokens) / 1_000_000
    assert "calls=5" in repr(used)


def query(text: str) -> str:
    return qwen3_query(text, DEFAULT_INSTRUCTION)


def test_what_runs_beside_is_not_tracked(running: SimulatedServer) -> None:
    embeddings = priced(running)

    async def tracked(count: int) -> int:
        with track_usage() as used:
            await embeddings.aembed_documents([f"{count} {number}" for number in range(count)])
            await asyncio.sleep(0.01)
        return used.usage.texts

    async def run() -> list[int]:
        return list(await asyncio.gather(*map(tracked, (2, 3, 4))))

    assert asyncio.run(run()) == [2, 3, 4]
