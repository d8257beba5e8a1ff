"""Requests and answers of the two wire formats, down to the odd ones that servers really send."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest

from qwen_embed_plugins.errors import ProviderError
from qwen_embed_plugins.models import QWEN3_MODELS
from qwen_embed_plugins.provider import Provider, ProviderConfig
from qwen_embed_plugins.providers._refusals import Refusal
from qwen_embed_plugins.providers.ollama import Ollama
from qwen_embed_plugins.providers.openai_compatible import OpenAICompatible
from qwen_embed_plugins.types import Answer, Batch, Fault, WireResponse

BATCH = Batch(("a", "b"), "document", QWEN3_MODELS[0], "some-model")


def compatible(key: str | None = None) -> OpenAICompatible:
    return OpenAICompatible(ProviderConfig("mine", "http://127.0.0.1:8000/v1/", api_key=key))


def local(**options: Any) -> Ollama:
    return Ollama(ProviderConfig("ollama", "http://127.0.0.1:11434", options=options))


def parsed(provider: Provider, body: Any) -> Answer:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    return provider.parse_response(WireResponse(200, content))


def refused(provider: Provider, body: Any) -> Fault:
    with pytest.raises(ProviderError) as caught:
        parsed(provider, body)
    return caught.value.fault


def data(*rows: Any, **extra: Any) -> dict[str, Any]:
    items = [{"index": index, "embedding": row} for index, row in enumerate(rows)]
    return {"data": items, **extra}


def coded(*numbers: float) -> str:
    return base64.b64encode(np.array(numbers, "<f4").tobytes()).decode()


def test_openai_request() -> None:
    request = compatible("secret").build_request(BATCH)
    assert (request.method, request.url) == ("POST", "http://127.0.0.1:8000/v1/embeddings")
    assert request.headers["authorization"] == "Bearer secret"
    expected = {"model": "some-model", "input": ["a", "b"], "encoding_format": "base64"}
    assert orjson.loads(request.content) == expected
    assert "authorization" not in compatible().build_request(BATCH).headers


def test_ollama_request() -> None:
    request = local(num_ctx=8192, keep_alive="30m").build_request(BATCH)
    assert request.url == "http://127.0.0.1:11434/api/embed"
    assert orjson.loads(request.content) == {
        "model": "some-model",
        "input": ["a", "b"],
        "truncate": False,
        "options": {"num_ctx": 8192},
        "keep_alive": "30m",
    }
    assert "options" not in orjson.loads(local().build_request(BATCH).content)


def test_base64_and_floats_are_read_whatever_was_asked_for() -> None:
    usage = {"prompt_tokens": 7, "total_tokens": 9}
    answer = parsed(compatible(), data(coded(1, 2), coded(3, 4), usage=usage))
    assert (answer.vectors.tolist(), answer.tokens, answer.encoding) == (
        [[1, 2], [3, 4]],
        7,
        "base64",
    )
    floats = parsed(compatible(), data([1, 2.5], [3, -4e-3], usage={"total_tokens": 9}))
    assert floats.vectors.dtype == np.float32
    assert (floats.tokens, floats.encoding) == (9, "float")


def test_no_usage_or_a_zero_is_no_count() -> None:
    for usage in (None, {}, {"prompt_tokens": 0, "total_tokens": 0}, {"prompt_tokens": True}):
        assert parsed(compatible(), data([1, 2], usage=usage)).tokens is None


def test_a_null_number_and_a_null_row_are_nan() -> None:
    vectors = parsed(compatible(), data([1, None], [1, 2], None)).vectors
    assert np.isnan(vectors).any(axis=1).tolist() == [True, False, True]
    assert parsed(local(), {"embeddings": [[1, None], [1, 2]]}).vectors.shape == (2, 2)


def test_words_that_json_lacks_break_their_own_row_only() -> None:
    body = b'{"data":[{"index":0,"embedding":[NaN,1]},{"index":1,"embedding":[-Infinity,1]},'
    body += b'{"index":2,"embedding":[1,2]}]}'
    vectors = parsed(compatible(), body).vectors
    assert np.isfinite(vectors).all(axis=1).tolist() == [False, False, True]


def test_numbers_beyond_float32_become_infinite() -> None:
    assert np.isinf(parsed(compatible(), data([1e300, 1])).vectors[0, 0])


def test_rows_of_several_lengths_are_left_to_the_check_of_the_core() -> None:
    vectors = parsed(compatible(), data([1, 2], [1, 2, 3])).vectors
    with pytest.raises(ValueError, match="inhomogeneous"):
        np.asarray(vectors, dtype=np.float32)


@pytest.mark.parametrize(
    "indexes", [[0, 0], [0, 2], [1, 2], [-1, 0], [0, None], ["0", 1], [0, True]]
)
def test_indexes_that_name_no_order(indexes: list[Any]) -> None:
    items = [{"index": index, "embedding": [1.0, 2.0]} for index in indexes]
    assert refused(compatible(), {"data": items}).kind == "bad_vector"


@pytest.mark.parametrize(
    "row", ["not base64!", "AAA=", coded(1)[:-3], {"a": 1}, 5, ["x", "y"], [[1], [2, 3]], True]
)
def test_rows_that_are_no_vectors(row: Any) -> None:
    assert refused(compatible(), data(row, row)).kind == "bad_vector"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"error": {"message": "Provider returned error", "code": 429}}, "rate_limited"),
        ({"error": {"message": "Insufficient credits", "code": 402}}, "quota_spent"),
        ({"error": {"message": "upstream failed", "code": "x"}}, "unavailable"),
        ({"error": "something"}, "unavailable"),
        ({"object": "list"}, "unavailable"),
        ({"data": {"a": 1}}, "unavailable"),
        ({"data": [1, 2]}, "unavailable"),
        ([], "unavailable"),
        (b"<html>", "unavailable"),
        (b"", "unavailable"),
        (b"{NaN", "unavailable"),
    ],
)
def test_a_200_that_holds_no_vectors(body: Any, kind: str) -> None:
    assert refused(compatible(), body).kind == kind


def test_an_error_in_a_200_means_what_it_means_with_its_own_status() -> None:
    class Service(OpenAICompatible):
        name = "service"

        def refine(self, fault: Fault, status: int, refusal: Refusal) -> Fault:
            return (
                replace(fault, kind="bad_offer")
                if (status, refusal.code) == (418, "418")
                else fault
            )

    provider = Service(ProviderConfig("service", "http://127.0.0.1:8000/v1"))
    body = {"error": {"message": "short and stout", "code": 418}}
    asked = provider.classify(WireResponse(418, orjson.dumps(body)))
    assert refused(provider, body) == asked
    assert asked.kind == "bad_offer"


def test_an_error_in_a_200_never_shows_the_key() -> None:
    body = {"error": {"message": "key odd-key-without-prefix is wrong", "code": 401}}
    fault = refused(compatible("odd-key-without-prefix"), body)
    assert fault.kind == "bad_key"
    assert "odd-key" not in fault.message


def test_ollama_answer() -> None:
    answer = parsed(local(), {"embeddings": [[1.0, 0.0]], "prompt_eval_count": 5})
    assert (answer.tokens, answer.encoding) == (5, "float")
    assert refused(local(), {"embedding": [1.0]}).kind == "unavailable"
    assert refused(local(), b"<html>").kind == "unavailable"
    assert refused(local(), {"embeddings": [1.0, 2.0]}).kind == "bad_vector"


def test_a_named_service_is_a_few_lines() -> None:
    class Service(OpenAICompatible):
        name = "service"
        base_url = "https://api.example.com/v1"
        api_key_env = "SERVICE_KEY"

        def body(self, batch: Batch) -> dict[str, Any]:
            return {**super().body(batch), "user": "us"}

    request = Service(ProviderConfig("service", api_key="k")).build_request(BATCH)
    assert request.url == "https://api.example.com/v1/embeddings"
    assert orjson.loads(request.content)["user"] == "us"
