"""What the error answers that servers really give are taken for."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from qwen_embed_plugins.provider import ProviderConfig
from qwen_embed_plugins.providers.ollama import Ollama
from qwen_embed_plugins.providers.openai_compatible import OpenAICompatible
from qwen_embed_plugins.types import Fault, TransportFailure, WireResponse


def openai(status: int, body: Any, key: str | None = None, **headers: str) -> Fault:
    provider = OpenAICompatible(ProviderConfig("mine", "http://127.0.0.1:8000/v1", api_key=key))
    return provider.classify(WireResponse(status, orjson.dumps(body), headers))


def ollama(status: int, message: str) -> Fault:
    provider = Ollama(ProviderConfig("ollama", "http://127.0.0.1:11434"))
    return provider.classify(WireResponse(status, orjson.dumps({"error": message})))


def wrapped(message: str, kind: str | None = None, code: Any = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (429, wrapped("You exceeded your current quota", "insufficient_quota"), "quota_spent"),
        (429, wrapped("slow down", None, "insufficient_quota"), "quota_spent"),
        (400, wrapped("Access denied", "Arrearage", "Arrearage"), "quota_spent"),
        (400, {"code": "Arrearage", "message": "Access denied"}, "quota_spent"),
        (403, {"message": "no", "code": "AllocationQuota.FreeTierOnly"}, "quota_spent"),
        (402, wrapped("Insufficient credits"), "quota_spent"),
        (403, {"detail": "Insufficient account balance"}, "quota_spent"),
        (429, wrapped("rate limit reached", "rate_limit_error"), "rate_limited"),
        (
            429,
            {"message": "Model is overloaded", "type": "Overloaded", "code": 429},
            "rate_limited",
        ),
        (401, wrapped("Incorrect API key provided", None, "invalid_api_key"), "bad_key"),
        (400, wrapped("Incorrect key", None, "invalid_api_key"), "bad_key"),
        (403, {"detail": "forbidden"}, "bad_key"),
        (401, None, "bad_key"),
        (404, wrapped("The model `x` does not exist.", "NotFoundError", 404), "bad_offer"),
        (400, wrapped("model `x` not found; available: y"), "bad_offer"),
        (400, wrapped("Model x does not exist", None, "model_not_found"), "bad_offer"),
        (400, {"message": "Model does not exist. Please check it carefully."}, "bad_offer"),
        (400, {"detail": {"error": "Model is not available"}}, "bad_offer"),
        (400, wrapped("Unknown model 'x'"), "bad_offer"),
        (
            400,  # Infinity 0.0.78 with two models
            wrapped("Invalid model: Engine for model name `x` not found. Available: ['y', 'z']"),
            "bad_offer",
        ),
        (400, wrapped("Model cannot embed 'the page was not found'"), "bad_input"),
        (
            400,
            {
                "object": "error",
                "message": 'Model "Q" does not support matryoshka representation, changing output '
                "dimensions will lead to poor results.",
                "type": "BadRequestError",
                "param": None,
                "code": 400,
            },
            "bad_offer",
        ),
        (
            400,
            wrapped("This model's maximum context length is 8192 tokens, you requested 9000"),
            "too_large",
        ),
        (400, wrapped("too long", None, "context_length_exceeded"), "too_large"),
        (
            413,
            {
                "message": "`inputs` must have less than 512 tokens. Given: 600",
                "type": "Validation",
            },
            "too_large",
        ),
        (413, None, "too_large"),
        (
            500,
            wrapped(
                "input is too large to process. increase the physical batch size", "server_error"
            ),
            "too_large",
        ),
        (400, wrapped("content filter"), "bad_input"),
        (422, {"detail": "cannot embed this"}, "bad_input"),
        (400, wrapped("embedding contains NaN or Inf values"), "bad_vector"),
        (500, wrapped("Out of range float values are not JSON compliant: nan"), "bad_vector"),
        (424, {"message": "CUDA error", "type": "Backend", "code": 424}, "unavailable"),
        (
            503,
            wrapped("Loading model", "unavailable_error", 503),
            "unavailable",
        ),
        (500, wrapped("internal error"), "unavailable"),
    ],
)
def test_openai_shapes(status: int, body: Any, kind: str) -> None:
    fault = openai(status, body)
    assert fault.kind == kind
    account_wide = kind in ("quota_spent", "bad_key")
    assert fault.scope == ("account" if account_wide else "offer")


@pytest.mark.parametrize(
    ("message", "limit"),
    [
        ("batch size is invalid, it should not be larger than 10.: payload.input", 10),
        ("batch size 33 > maximum allowed batch size 32", 32),
        ("List should have at most 2048 items after validation, not 3000", 2048),
        ("Invalid 'input': array too long. Expected an array with maximum length 2048, but", 2048),
        ("This model's maximum context length is 8192 tokens", None),
        ("input is too large to process. increase the physical batch size", None),
    ],
)
def test_the_number_of_inputs_that_a_message_allows(message: str, limit: int | None) -> None:
    for body in (wrapped(message), {"message": message}, {"detail": message}):
        fault = openai(400, body)
        assert (fault.kind, fault.limit) == ("too_large", limit)


def test_a_quoted_text_takes_neither_account_nor_offer_out() -> None:
    text = "He said: the model was not found, his account balance insufficient_quota Arrearage"
    fault = openai(400, wrapped(f"cannot embed this input: {text}"))
    assert (fault.kind, fault.scope) == ("bad_input", "offer")


def test_the_refused_input_is_named_where_pydantic_names_it() -> None:
    detail = [{"loc": ["body", "input", 3], "msg": "not valid", "type": "value_error"}]
    assert openai(422, {"detail": detail}).text_index == 3
    assert openai(422, {"detail": detail * 2}).text_index is None


@pytest.mark.parametrize(
    ("field", "kind", "asks_for_floats"),
    [
        ("input", "bad_input", False),
        ("dimensions", "bad_offer", False),
        ("user", "bad_offer", False),
        ("encoding_format", "bad_input", True),
    ],
)
def test_a_refused_field_is_no_texts_fault(field: str, kind: str, asks_for_floats: bool) -> None:
    detail = [{"loc": ["body", field], "msg": "Input should be something else", "type": "x"}]
    fault = openai(422, {"detail": detail})
    assert (fault.kind, fault.asks_for_floats) == (kind, asks_for_floats)


@pytest.mark.parametrize(
    ("field", "message", "kind", "limit"),
    [
        ("input", "List should have at most 2048 items after validation", "too_large", 2048),
        ("input", "Input should be a valid string", "bad_input", None),
        ("encoding_format", "Input should be 'float' or 'base64'", "bad_input", None),
        ("dimensions", "Input should be a valid integer", "bad_offer", None),
    ],
)
def test_a_field_is_found_behind_the_form_of_the_body(
    field: str, message: str, kind: str, limit: int | None
) -> None:
    where = ["body", "text", field, "list[constrained-str]"]
    fault = openai(422, {"detail": [{"loc": where, "msg": message, "type": "too_long"}]})
    assert (fault.kind, fault.limit) == (kind, limit)


@pytest.mark.parametrize("where", [None, [], ["body"], ["body", 15], [3], "body", [None, {}]])
def test_complaints_that_name_no_field(where: Any) -> None:
    fault = openai(422, {"detail": [{"loc": where, "msg": "no", "type": "x"}]})
    assert (fault.kind, fault.text_index) == ("bad_input", None)


def test_retry_after_and_status_in_the_message() -> None:
    fault = openai(429, wrapped("wait"), **{"retry-after": "3"})
    assert (fault.retry_after_seconds, fault.message) == (3.0, "HTTP 429: wait")


def test_neither_the_key_nor_a_whole_text_is_in_the_message() -> None:
    key = "no-known-prefix-1234"
    fault = openai(400, wrapped(f"{key} " + "a word " * 500), key=key)
    assert key not in fault.message
    assert len(fault.message) < 300
    cut_through = openai(400, wrapped("x" * 190 + key), key=key)
    assert "no-known" not in cut_through.message


@pytest.mark.parametrize(
    ("page", "said"),
    [
        (b"<html><head><title>\n502 Bad Gateway</title></head>", "titled 502 Bad Gateway"),
        (b"  <!doctype html><p>no title", "HTTP 502: an HTML page"),
    ],
)
def test_of_a_page_the_title_is_told(page: bytes, said: str) -> None:
    provider = OpenAICompatible(ProviderConfig("mine", "http://127.0.0.1:8000/v1"))
    message = provider.classify(WireResponse(502, page)).message
    assert said in message
    assert "<" not in message


def test_base64_refused_is_seen() -> None:
    refused = openai(400, wrapped("encoding_format must be 'float'"))
    assert (refused.kind, refused.asks_for_floats) == ("bad_input", True)
    assert not openai(400, wrapped("cannot embed 'how base64 works'")).asks_for_floats
    assert not openai(500, wrapped("encoding_format")).asks_for_floats


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (400, "the input length exceeds the context length", "too_large"),
        (
            500,
            "input (600 tokens) is too large to process. increase the physical batch",
            "too_large",
        ),
        (400, "embedding contains NaN or Inf values", "bad_vector"),
        (500, "failed to encode response: json: unsupported value: NaN", "bad_vector"),
        (
            503,
            "server busy, please try again.  maximum pending requests exceeded",
            "rate_limited",
        ),
        (503, "starting", "unavailable"),
        (500, "llama runner process has terminated", "unavailable"),
        (400, "this model does not support embeddings", "bad_offer"),
        (404, "model 'qwen3-embedding:8b' not found", "bad_offer"),
        (400, "invalid input type", "bad_input"),
    ],
)
def test_ollama(status: int, message: str, kind: str) -> None:
    assert ollama(status, message).kind == kind


@pytest.mark.parametrize(
    "message",
    [
        "model 'qwen3-embedding:8b' not found",
        'model "qwen3-embedding:8b" not found, try pulling it first',
    ],
)
def test_ollama_says_what_to_pull(message: str) -> None:
    assert "`ollama pull qwen3-embedding:8b`" in ollama(404, message).message


def test_ollama_that_is_not_there() -> None:
    provider = Ollama(ProviderConfig("ollama", "http://127.0.0.1:11434"))
    assert "127.0.0.1:11434" in provider.classify(WireResponse(404, b"404 page")).message
    fault = provider.classify(TransportFailure("connect", "connection refused"))
    assert "ollama serve" in fault.message
    assert "serve" not in provider.classify(TransportFailure("timeout", "60 s")).message
