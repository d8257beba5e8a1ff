"""Cloudflare's bodies by model and role, its envelope, and how long its quota is out."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import orjson
import pytest

from qwen_embed_plugins.errors import ConfigurationError, ProviderError
from qwen_embed_plugins.models import QWEN3_MODELS, Model
from qwen_embed_plugins.provider import ProviderConfig
from qwen_embed_plugins.providers import _resets
from qwen_embed_plugins.providers.cloudflare import Cloudflare, body_for
from qwen_embed_plugins.types import Batch, Fault, WireResponse

ACCOUNT = "0123456789abcdef0123456789abcdef"
QWEN3 = "@cf/qwen/qwen3-embedding-0.6b"
QUERY = Batch(("a", "b"), "query", QWEN3_MODELS[-1], QWEN3, "Find laws")


def provider(account_id: str = ACCOUNT) -> Cloudflare:
    options = {"account_id": account_id}
    return Cloudflare(ProviderConfig("cloudflare", Cloudflare.base_url, "a-key", options))


def refused(status: int, code: int, message: str = "no") -> Fault:
    body = {"success": False, "errors": [{"code": code, "message": message}]}
    return provider().classify(WireResponse(status, orjson.dumps(body)))


def test_the_model_stands_in_the_path_and_the_token_in_a_header() -> None:
    request = provider().build_request(QUERY)
    assert request.url == (
        f"https://api.cloudflare.com/client/v4/accounts/{ACCOUNT}/ai/run/{QWEN3}"
    )
    assert request.headers["authorization"] == "Bearer a-key"


def test_only_a_query_with_an_instruction_goes_as_a_query() -> None:
    assert body_for(QUERY) == {"queries": ["a", "b"], "instruction": "Find laws"}
    # Under `queries` the server would put its own instruction before them.
    assert body_for(replace(QUERY, instruction=None)) == {"documents": ["a", "b"]}
    assert body_for(replace(QUERY, role="document")) == {"documents": ["a", "b"]}


def test_models_that_take_text_get_their_prefix_from_us() -> None:
    prefixing = Model(
        "other",
        4,
        512,
        format_query=lambda text, task: f"{task}: {text}",
        format_document=lambda text: f"document: {text}",
    )
    batch = replace(QUERY, model=prefixing, wire_name="@cf/google/embeddinggemma-300m")
    assert body_for(batch) == {"text": ["Find laws: a", "Find laws: b"]}
    assert body_for(replace(batch, role="document")) == {"text": ["document: a", "document: b"]}
    bare = replace(batch, model=Model("bge-m3", 1024, 8192), wire_name="@cf/baai/bge-m3")
    assert body_for(bare) == {"text": ["a", "b"], "truncate_inputs": False}


@pytest.mark.parametrize("account_id", ["", "cfut_lEnKhf2dKKb4x7saUeADGxcg", "../x" * 8])
def test_what_is_no_account_id_is_refused_and_not_shown(account_id: str) -> None:
    with pytest.raises(ConfigurationError, match="32 hexadecimal") as caught:
        provider(account_id)
    assert not account_id or account_id not in str(caught.value)


@pytest.mark.parametrize("code", [3036, 4006])
def test_the_daily_quota_is_out_until_midnight_utc(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    noon = datetime(2026, 2, 28, 12, tzinfo=timezone.utc).timestamp()
    monkeypatch.setattr(_resets, "time", lambda: noon)
    fault = refused(429, code)
    assert (fault.kind, fault.scope, fault.retry_after_seconds) == ("quota_spent", "account", None)
    assert fault.until == datetime(2026, 3, 1, tzinfo=timezone.utc).timestamp()


def test_a_wrong_account_is_named_as_the_cause() -> None:
    assert "account_id" in refused(404, 7003).message


def parsed(body: Any) -> Any:
    return provider().parse_response(WireResponse(200, orjson.dumps(body)))


def test_rows_are_read_from_the_result() -> None:
    answer = parsed({"result": {"data": [[1, 2], [3, 4]], "shape": [2, 2]}, "success": True})
    assert answer.vectors.tolist() == [[1, 2], [3, 4]]
    assert answer.tokens is None


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        *(
            ({"success": False, "errors": [{"code": code, "message": "no"}]}, kind)
            for code, kind in (
                (3040, "rate_limited"),
                (3006, "too_large"),
                (3007, "unavailable"),
                (5016, "bad_offer"),
                (10000, "bad_key"),
            )
        ),
        ({"success": False, "errors": []}, "unavailable"),
        ({"success": True, "result": {"response": [[1, 2]]}}, "unavailable"),
        ({"success": True, "result": None}, "unavailable"),
        ([[1, 2]], "unavailable"),
    ],
)
def test_a_200_without_rows(body: Any, kind: str) -> None:
    with pytest.raises(ProviderError) as caught:
        parsed(body)
    assert caught.value.kind == kind
