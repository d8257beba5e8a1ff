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
from qwen_embed_plugins.types import Answer, Batch, WireResponse

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
