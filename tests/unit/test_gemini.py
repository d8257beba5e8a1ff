"""The Gemini API's items, its rows, and which quota a refusal is about."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import orjson
import pytest

from qwen_embed_plugins.errors import ProviderError
from qwen_embed_plugins.models import Model
from qwen_embed_plugins.provider import ProviderConfig
from qwen_embed_plugins.providers import _resets
from qwen_embed_plugins.providers.gemini import Gemini
from qwen_embed_plugins.types import Batch, Fault, WireResponse

GEMINI = Gemini(ProviderConfig("gemini", Gemini.base_url, "a-key"))
BATCH = Batch(("a", "b"), "query", Model("gemini", 3072, 2048), "gemini-embedding-001", "Find laws")


def throttled(*quotas: str, **detail: str) -> Fault:
    violations = [{"quotaId": quota} for quota in quotas]
    details: list[dict[str, Any]] = [{"@type": "QuotaFailure", "violations": violations}, detail]
    error = {"code": 429, "message": "You exceeded your current quota", "details": details}
    return GEMINI.classify(WireResponse(429, orjson.dumps({"error": error})))


def test_one_item_for_each_text_and_the_key_in_a_header_of_its_own() -> None:
    request = GEMINI.build_request(BATCH)
    assert request.url == (
        "https://generativelanguage.googleapis.com/v1beta/models/gemini-embedding-001"
        ":batchEmbedContents"
    )
    assert request.headers["x-goog-api-key"] == "a-key"
    assert "authorization" not in request.headers
    item = {"model": "models/gemini-embedding-001", "taskType": "RETRIEVAL_QUERY"}
    assert orjson.loads(request.content) == {
        "requests": [
            {**item, "content": {"parts": [{"text": "a"}]}},
            {**item, "content": {"parts": [{"text": "b"}]}},
        ]
    }


def test_role_and_length_stand_in_every_item() -> None:
    asked = replace(BATCH, role="document", dimensions=768)
    items = orjson.loads(GEMINI.build_request(asked).content)["requests"]
    assert {item["taskType"] for item in items} == {"RETRIEVAL_DOCUMENT"}
    assert {item["outputDimensionality"] for item in items} == {768}


def parsed(body: Any) -> Any:
    return GEMINI.parse_response(WireResponse(200, orjson.dumps(body)))


def test_rows_and_the_count_that_newer_answers_have() -> None:
    rows = [{"values": [1, 2]}, {"values": [3, 4]}]
    assert parsed({"embeddings": rows}).vectors.tolist() == [[1, 2], [3, 4]]
    assert parsed({"embeddings": rows}).tokens is None
    assert parsed({"embeddings": rows, "usageMetadata": {"promptTokenCount": 7}}).tokens == 7


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"embedding": {"values": [1]}}, "unavailable"),
        ({"embeddings": [[1, 2]]}, "unavailable"),
        ({"embeddings": [{"values": "AAAA"}, {"values": {"a": 1}}]}, "bad_vector"),
    ],
)
def test_a_200_without_rows(body: Any, kind: str) -> None:
    with pytest.raises(ProviderError) as caught:
        parsed(body)
    assert caught.value.kind == kind


PER_DAY = "EmbedContentRequestsPerDayPerUserPerProjectPerModel-FreeTier"
PER_MINUTE = "EmbedContentRequestsPerMinutePerUserPerProjectPerModel-FreeTier"


def test_a_minute_is_waited_for_as_told() -> None:
    fault = throttled(PER_MINUTE, retryDelay="46.343954266s")
    assert (fault.kind, fault.scope, fault.until) == ("rate_limited", "offer", None)
    assert fault.retry_after_seconds == pytest.approx(46.343954266)
    assert throttled(PER_MINUTE).retry_after_seconds is None
    assert throttled(PER_MINUTE, retryDelay="soon").retry_after_seconds is None
    assert throttled(PER_MINUTE, retryDelay="999999s").retry_after_seconds == 86_400


@pytest.mark.parametrize(
    ("now", "midnight"),
    [
        ("2026-01-05T07:59:59+00:00", "2026-01-05T08:00:00+00:00"),
        ("2026-01-05T08:00:00+00:00", "2026-01-06T08:00:00+00:00"),
    ],
)
def test_a_spent_day_ends_at_midnight_pacific_time(
    now: str, midnight: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_resets, "time", datetime.fromisoformat(now).timestamp)
    # The delay beside it is that of the minute.
    fault = throttled(PER_MINUTE, PER_DAY, retryDelay="11s")
    assert (fault.kind, fault.scope, fault.retry_after_seconds) == ("quota_spent", "offer", None)
    assert fault.until == datetime.fromisoformat(midnight).timestamp()


def test_prepaid_credits_that_are_gone_take_the_account_out() -> None:
    error = {"message": "Your prepayment credits are depleted.", "status": "RESOURCE_EXHAUSTED"}
    fault = GEMINI.classify(WireResponse(429, orjson.dumps({"error": error})))
    assert (fault.kind, fault.scope) == ("quota_spent", "account")


@pytest.mark.parametrize(
    "details",
    [None, "text", [1, None], [{"violations": [None]}], [{"violations": {"quotaId": "PerDay"}}]],
)
def test_details_of_odd_shapes_are_no_details(details: Any) -> None:
    error = {"message": "wait", "details": details}
    fault = GEMINI.classify(WireResponse(429, orjson.dumps({"error": error})))
    assert fault.kind == "rate_limited"
