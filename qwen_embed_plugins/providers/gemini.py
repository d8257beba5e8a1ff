"""The Gemini API of Google AI Studio: `batchEmbedContents`, one item for each text.

Several `parts` of one item would become one vector (ai.google.dev/api/embeddings, read 2026-11).
What becomes of a text over the limit is not documented.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta, timezone
from typing import Any

import orjson

from qwen_embed_plugins.hookspecs import hookimpl
from qwen_embed_plugins.provider import LONGEST_RETRY_AFTER_SECONDS, Provider
from qwen_embed_plugins.providers import _catalogue
from qwen_embed_plugins.providers._openai_wire import (
    load_json,
    no_rows,
    rows_in,
    stacked,
    to_row,
)
from qwen_embed_plugins.providers._refusals import fault_of, read_refusal
from qwen_embed_plugins.providers._resets import next_midnight
from qwen_embed_plugins.types import (
    Answer,
    Batch,
    Fault,
    TransportFailure,
    WireRequest,
    WireResponse,
)

_TASK_TYPES = {"query": "RETRIEVAL_QUERY", "document": "RETRIEVAL_DOCUMENT"}

# Days end at midnight Pacific time (ai.google.dev/gemini-api/docs/rate-limits, read 2026-11). That
# of the winter all year: an hour late in summer, and never early.
_PACIFIC = timezone(timedelta(hours=-8))

_TOO_MANY = re.compile(r"at most (\d{1,6}) requests can be in one batch")
_TOO_LARGE = re.compile(r"(?i)payload size exceeds|input token count")
_PREPAID = re.compile(r"(?i)^your prepayment credits are depleted")
_LOCATION = re.compile(r"(?i)^user location is not supported")


class Gemini(Provider):
    """Rows in the order of the texts. The server knows the role by `taskType`; it has no place for
    an instruction."""

    name = "gemini"
    base_url = "https://generativelanguage.googleapis.com/v1beta"
    api_key_env = "GOOGLE_API_KEY"
    other_key_envs = ("GEMINI_API_KEY",)
    adds_instruction = True
    encoding = "float"

    def build_request(self, batch: Batch) -> WireRequest:
        headers = {"content-type": "application/json"}
        if self.config.api_key:
            headers["x-goog-api-key"] = self.config.api_key
        url = f"{self.url}/models/{batch.wire_name}:batchEmbedContents"
        body = {"requests": [item_for(text, batch) for text in batch.texts]}
        return WireRequest(url, orjson.dumps(body), headers)

    def parse_response(self, response: WireResponse) -> Answer:
        key = self.config.api_key
        body = load_json(response, key=key)
        items = rows_in(body.get("embeddings")) if isinstance(body, dict) else None
        if items is None:
            raise no_rows("embeddings", response, key)
        rows = [to_row(item.get("values")) for item in items]
        return Answer(stacked(rows), _tokens(body), "float")

    def classify(self, answer: WireResponse | TransportFailure) -> Fault:
        fault = fault_of(answer, key=self.config.api_key)
        if isinstance(answer, TransportFailure):
            return fault
        message = read_refusal(answer).message
        details = list(_details(answer))
        if answer.status == 429:
            return _throttled(fault, message, details)
        if any(str(detail.get("reason")).startswith("API_KEY_") for detail in details):
            return replace(fault, kind="bad_key", scope="account")
        return _of_request(fault, message) if answer.status == 400 else fault


def item_for(text: str, batch: Batch) -> dict[str, Any]:
    """One text as an item of the batch; the model's name stands in each."""
    item: dict[str, Any] = {
        "model": f"models/{batch.wire_name}",
        "content": {"parts": [{"text": text}]},
        "taskType": _TASK_TYPES[batch.role],
    }
    return item if batch.dimensions is None else {**item, "outputDimensionality": batch.dimensions}


def _tokens(body: Mapping[str, Any]) -> int | None:
    """`usageMetadata` is younger than the route, and may be missing."""
    usage = body.get("usageMetadata")
    count = usage.get("promptTokenCount") if isinstance(usage, dict) else None
    return count if type(count) is int and count > 0 else None


def _details(answer: WireResponse) -> Iterator[Mapping[str, Any]]:
    """The typed details of Google's error model (google/rpc/error_details.proto)."""
    try:
        body = orjson.loads(answer.content)
    except orjson.JSONDecodeError:
        return
    error = body.get("error") if isinstance(body, dict) else None
    details = error.get("details") if isinstance(error, dict) else None
    yield from rows_in(details) or ()


def _throttled(fault: Fault, message: str, details: list[Mapping[str, Any]]) -> Fault:
    """What is exceeded stands in the names of quotas alone: the message is the same for a minute
    and for a day."""
    if _PREPAID.search(message):
        return replace(fault, kind="quota_spent", scope="account")
    if any("PerDay" in name for name in _quotas(details)):
        fault = replace(fault, kind="quota_spent", scope="offer", retry_after_seconds=None)
        return replace(fault, until=next_midnight(_PACIFIC))
    told = [seconds for detail in details if (seconds := _retry_delay(detail)) is not None]
    wait = told[0] if told else fault.retry_after_seconds
    return replace(fault, kind="rate_limited", scope="offer", retry_after_seconds=wait)


def _quotas(details: list[Mapping[str, Any]]) -> Iterator[str]:
    for detail in details:
        for violation in rows_in(detail.get("violations")) or ():
            yield str(violation.get("quotaId"))


def _retry_delay(detail: Mapping[str, Any]) -> float | None:
    found = re.fullmatch(r"(\d{1,6}(\.\d{1,9})?)s", str(detail.get("retryDelay")))
    return min(float(found[1]), LONGEST_RETRY_AFTER_SECONDS) if found else None


def _of_request(fault: Fault, message: str) -> Fault:
    if found := _TOO_MANY.search(message):
        return replace(fault, kind="too_large", limit=int(found[1]))
    if _TOO_LARGE.search(message):
        return replace(fault, kind="too_large")
    if _LOCATION.search(message):
        return replace(fault, kind="bad_offer", scope="account")
    return fault


@hookimpl
def register_providers(register: Callable[..., None]) -> None:
    register(Gemini, offers=_catalogue.offers_of("gemini"))
