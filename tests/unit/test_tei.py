"""TEI's native route: what is sent, and the count that stands in a header."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from qwen_embed_plugins.errors import ProviderError
from qwen_embed_plugins.models import QWEN3_MODELS
from qwen_embed_plugins.provider import ProviderConfig
from qwen_embed_plugins.providers.tei import TEI
from qwen_embed_plugins.types import Answer, Batch, WireRequest, WireResponse

BATCH = Batch(("a", "b"), "document", QWEN3_MODELS[-1], "Qwen/Qwen3-Embedding-0.6B")


def tei(key: str | None = None) -> TEI:
    return TEI(ProviderConfig("mine", "http://127.0.0.1:3000/", key))


def parsed(body: Any, **headers: str) -> Answer:
    return tei().parse_response(WireResponse(200, orjson.dumps(body), headers))


def test_request() -> None:
    request = tei("secret").build_request(BATCH)
    assert request.url == "http://127.0.0.1:3000/embed"
    assert request.headers["authorization"] == "Bearer secret"
    body = {"inputs": ["a", "b"], "truncate": False, "normalize": True}
    assert orjson.loads(request.content) == body
    asked = tei().build_request(replace(BATCH, dimensions=256))
    assert orjson.loads(asked.content) == {**body, "dimensions": 256}
    assert "authorization" not in asked.headers


def test_rows_and_the_header_with_their_tokens() -> None:
    answer = parsed([[1, 2], [3, 4]], **{"x-compute-tokens": "9"})
    assert answer.vectors.tolist() == [[1, 2], [3, 4]]
    assert answer.tokens == 9
    for told in ("", "0", "-3", "many"):
        assert parsed([[1, 2]], **{"x-compute-tokens": told}).tokens is None
    assert parsed([[1, 2]]).tokens is None


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ([], "unavailable"),
        ({"embeddings": [[1]]}, "unavailable"),
        ([1.0, 2.0], "bad_vector"),
    ],
)
def test_a_200_without_rows(body: Any, kind: str) -> None:
    with pytest.raises(ProviderError) as caught:
        parsed(body)
    assert caught.value.kind == kind


INFO = {
    "model_id": "Qwen/Qwen3-Embedding-8B",
    "model_dtype": "float32",
    "max_input_length": 32768,
    "max_batch_tokens": 16384,
    "max_client_batch_size": 32,
    "auto_truncate": True,
    "version": "1.9.3",
}


def inspected(info: Any, status: int = 200) -> tuple[str, ...]:
    inspection = tei("secret").inspect("any", QWEN3_MODELS[0])
    request = next(inspection)
    assert isinstance(request, WireRequest)
    assert (request.method, request.url) == ("GET", "http://127.0.0.1:3000/info")
    with pytest.raises(StopIteration) as done:
        inspection.send(WireResponse(status, orjson.dumps(info)))
    notes: tuple[str, ...] = done.value.value
    return notes


def test_a_server_that_fits_its_model() -> None:
    assert inspected(INFO) == (
        "weights are float32",
        "context 32768 tokens",
        "32 texts a request (--max-client-batch-size)",
    )


def test_what_does_not_fit_is_told() -> None:
    odd = {"model_id": "/data/bge-m3", "model_dtype": "float16", "max_input_length": 8192}
    notes = inspected({**INFO, **odd})
    assert "'/data/bge-m3'" in notes[0]
    assert "Qwen/Qwen3-Embedding-8B" in notes[0]
    assert any("NaN" in note and "--dtype float32" in note for note in notes)
    assert any("8192 of 32768" in note and "refused" in note for note in notes)
    assert not any("--max-batch-tokens" in note for note in notes)


def test_a_context_that_an_option_limits_is_told_with_the_option() -> None:
    notes = inspected({**INFO, "max_input_length": 16384})
    assert any("16384 of" in note and "--max-batch-tokens 32768" in note for note in notes)


def test_an_info_of_another_shape_gives_a_note_and_no_traceback() -> None:
    assert inspected({}) == ()
    assert "no object" in inspected([1])[0]
    assert "HTTP 404" in inspected({"error": "no"}, 404)[0]
