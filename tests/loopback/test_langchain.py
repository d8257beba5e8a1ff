"""langchain-tests' own suites, unchanged, against a simulated server; and what they do not ask."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests
from pydantic import SecretStr, ValidationError

from qwen_embed_plugins import ConfigurationError, Embedder
from qwen_embed_plugins.langchain import QwenEmbeddings
from qwen_embed_plugins.testing import SimulatedServer, reference_vector


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
