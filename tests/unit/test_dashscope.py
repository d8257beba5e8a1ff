"""DashScope's two routes: what is sent on each, and how the native one's answers are read."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from qwen_embed_plugins.errors import ConfigurationError, ProviderError
from qwen_embed_plugins.models import Model
from qwen_embed_plugins.provider import ProviderConfig
from qwen_embed_plugins.providers.dashscope import DashScope, DashScopeBeijing, DashScopeSingapore
from qwen_embed_plugins.types import Batch, Role, WireResponse

CLOSED = Model("closed", 4, 8192)


def singapore(base_url: str | None = DashScopeSingapore.base_url, **options: Any) -> DashScope:
    return DashScopeSingapore(ProviderConfig("one", base_url, "a-key", options))


def batch(role: Role, instruction: str | None = None, dimensions: int | None = None) -> Batch:
    return Batch(("a", "b"), role, CLOSED, "text-embedding-v4", instruction, "base64", dimensions)


def sent(provider: DashScope, asked: Batch) -> Any:
    return orjson.loads(provider.build_request(asked).content)


def test_native_query() -> None:
    request = singapore().build_request(batch("query", "Find laws", 2048))
    assert request.url == (
        "https://dashscope-intl.aliyuncs.com/api/v1/services/embeddings/text-embedding"
        "/text-embedding"
    )
    assert request.headers["authorization"] == "Bearer a-key"
    assert orjson.loads(request.content) == {
        "model": "text-embedding-v4",
        "input": {"texts": ["a", "b"]},
        "parameters": {
            "text_type": "query",
            "output_type": "dense",
            "instruct": "Find laws",
            "dimension": 2048,
        },
    }


def test_documents_get_no_instruction_and_no_length_that_was_not_asked_for() -> None:
    parameters = sent(singapore(), batch("document", "left over"))["parameters"]
    assert parameters == {"text_type": "document", "output_type": "dense"}
    assert "instruct" not in sent(singapore(), batch("query"))["parameters"]


def test_the_compatible_route_sends_queries_as_bare_as_documents() -> None:
    provider = singapore(route="compatible")
    assert provider.build_request(batch("query")).url == (
        "https://dashscope-intl.aliyuncs.com/compatible-mode/v1/embeddings"
    )
    query = sent(provider, batch("query", "Find laws", 2048))
    assert query == {
        "model": "text-embedding-v4",
        "input": ["a", "b"],
        "encoding_format": "float",
        "dimensions": 2048,
    }
    assert query == sent(provider, batch("document", dimensions=2048))


def test_routes_are_told_apart_in_what_is_learnt() -> None:
    assert singapore().variant != singapore(route="compatible").variant


@pytest.mark.parametrize(
    ("provider", "host"),
    [
        (DashScopeSingapore, "https://ws-1a.ap-southeast-1.maas.aliyuncs.com"),
        (DashScopeBeijing, "https://ws-1a.cn-beijing.maas.aliyuncs.com"),
    ],
)
def test_a_workspace_has_a_host_of_its_own(provider: type[DashScope], host: str) -> None:
    made = provider(ProviderConfig("one", provider.base_url, "k", {"workspace": "ws-1a"}))
    assert made.url == host


def test_an_address_in_settings_beats_the_workspace() -> None:
    assert singapore("http://127.0.0.1:9/", workspace="ws-1a").url == "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"route": "openai"}, r"route = 'openai'.*native.*compatible"),
        ({"workspace": "evil.example.com/"}, r"workspace = 'evil.example.com/'.*ID"),
    ],
)
def test_options_that_mean_nothing(options: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        singapore(**options)


def parsed(body: Any) -> Any:
    return singapore().parse_response(WireResponse(200, orjson.dumps(body)))


def test_rows_come_by_their_text_index() -> None:
    items = [{"text_index": 1, "embedding": [3, 4]}, {"text_index": 0, "embedding": [1, 2]}]
    answer = parsed({"output": {"embeddings": items}, "usage": {"total_tokens": 7}})
    assert answer.vectors.tolist() == [[1, 2], [3, 4]]
    assert (answer.tokens, answer.encoding) == (7, "float")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"output": {"embeddings": [{"text_index": 5, "embedding": [1]}]}}, "bad_vector"),
        ({"output": {"embeddings": [[1, 2]]}}, "unavailable"),
        ({"output": None}, "unavailable"),
        ({"data": [{"index": 0, "embedding": [1]}]}, "unavailable"),
        ({"code": "InternalError", "message": "down"}, "unavailable"),
    ],
)
def test_a_200_without_rows(body: Any, kind: str) -> None:
    with pytest.raises(ProviderError) as caught:
        parsed(body)
    assert caught.value.kind == kind
