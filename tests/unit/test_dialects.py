"""The simulated server is as strict as the services: another format's words are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from qwen_embed_plugins.testing import Behaviour, Reply
from qwen_embed_plugins.testing.dialects import DIALECTS, Models, answer, recorded

PATHS = {
    "dashscope": "/api/v1/services/embeddings/text-embedding/text-embedding",
    "ollama": "/api/embed",
    "tei": "/embed",
    "cloudflare": "/client/v4/accounts/0/ai/run/@cf/qwen/qwen3-embedding-0.6b",
    "gemini": "/v1beta/models/gemini-embedding-001:batchEmbedContents",
    "voyage": "/v1/embeddings",
    "jina": "/v1/embeddings",
    "openai": "/v1/embeddings",
}
BGE = "/client/v4/accounts/0/ai/run/@cf/baai/bge-m3"


def item(model: str = "models/gemini-embedding-001", **more: Any) -> dict[str, Any]:
    return {"model": model, "content": {"parts": [{"text": "a"}]}, **more}


def dashscope(**parameters: Any) -> dict[str, Any]:
    return {"model": "m", "input": {"texts": ["a"]}, "parameters": parameters}


RIGHT: dict[str, Mapping[str, Any]] = {
    "dashscope": dashscope(text_type="query", instruct="do", dimension=4, output_type="dense"),
    "ollama": {"model": "m", "input": ["a"], "truncate": False},
    "tei": {"inputs": ["a"], "truncate": False, "normalize": True, "dimensions": 4},
    "cloudflare": {"queries": ["a"], "instruction": "do"},
    "gemini": {"requests": [item(taskType="RETRIEVAL_QUERY", outputDimensionality=4)]},
    "voyage": {"model": "m", "input": ["a"], "input_type": "query", "output_dimension": 4},
    "jina": {"model": "m", "input": ["a"], "task": "retrieval.query", "dimensions": 4},
    "openai": {"model": "m", "input": ["a"], "dimensions": 4},
}


def replied(dialect: str, body: Any, path: str | None = None) -> Reply:
    request = recorded(path or PATHS[dialect], {}, body, dialect=dialect)
    return answer(request, Behaviour(), Models(native=8))[0]


def test_every_dialect_is_tried_here() -> None:
    assert PATHS.keys() == RIGHT.keys() == {dialect.name for dialect in DIALECTS}


@pytest.mark.parametrize("dialect", RIGHT)
def test_its_own_words_are_taken(dialect: str) -> None:
    reply = replied(dialect, RIGHT[dialect])
    assert reply.status == 200, reply.body
    assert recorded(PATHS[dialect], {}, RIGHT[dialect], dialect=dialect).texts == ("a",)


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        ("dashscope", dashscope(dimensions=4)),
        ("dashscope", dashscope(text_type="search")),
        ("dashscope", {**dashscope(), "encoding_format": "float"}),
        ("dashscope", {"model": "m", "input": ["a"]}),
        ("tei", {"input": ["a"]}),
        ("tei", {"inputs": ["a"], "model": "m"}),
        ("cloudflare", {"input": ["a"]}),
        ("cloudflare", {"queries": ["a"], "instruct": "do"}),
        ("cloudflare", {"queries": ["a"], "documents": ["b"]}),
        ("gemini", {"requests": [item(dimensions=4)]}),
        ("gemini", {"requests": [item("gemini-embedding-001")]}),
        ("gemini", {"input": ["a"]}),
        ("voyage", {"model": "m", "input": ["a"], "dimensions": 4}),
        ("voyage", {"model": "m", "input": ["a"], "input_type": "passage"}),
        ("jina", {"model": "m", "input": ["a"], "input_type": "query"}),
        ("jina", {"model": "m", "input": ["a"], "task": "query"}),
    ],
)
def test_what_another_format_would_say_is_refused(dialect: str, body: Any) -> None:
    assert replied(dialect, body).status in (400, 422)


def test_the_words_of_one_model_are_not_those_of_another() -> None:
    assert replied("cloudflare", {"text": ["a"], "truncate_inputs": False}, BGE).status == 200
    assert replied("cloudflare", {"queries": ["a"]}, BGE).status == 400


@pytest.mark.parametrize("dialect", ["tei", "ollama", "voyage"])
def test_long_texts_are_cut_unless_the_request_says_otherwise(dialect: str) -> None:
    name = "truncation" if dialect == "voyage" else "truncate"
    field = "inputs" if dialect == "tei" else "input"
    long = {**RIGHT[dialect], field: ["a long text " * 50]}
    short_context = Behaviour(context_tokens=20, too_long="refuse")

    def status(body: Any) -> int:
        request = recorded(PATHS[dialect], {}, body, dialect=dialect)
        return answer(request, short_context, Models(native=8))[0].status

    unsaid = {key: value for key, value in long.items() if key != name}
    assert status(unsaid) == 200
    assert status({**long, name: False}) in (400, 413)


def test_rows_of_a_format_without_indexes_are_never_shuffled() -> None:
    texts = [f"text {number}" for number in range(9)]
    body = {"requests": [item(content={"parts": [{"text": text}]}) for text in texts]}
    request = recorded(PATHS["gemini"], {}, body)
    reply, _ = answer(request, Behaviour(order="shuffled"), Models(native=8))
    usual, _ = answer(request, Behaviour(), Models(native=8))
    assert orjson.loads(reply.body or b"") == orjson.loads(usual.body or b"")
