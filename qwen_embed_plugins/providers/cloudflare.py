"""Cloudflare Workers AI, by the native route that runs a model of an account.

The account's ID stands in the address: `account_id` in the settings, or `CLOUDFLARE_ACCOUNT_ID`.
What a model takes is its own schema (cloudflare/cloudflare-docs:src/content/workers-ai-models,
read 2026-11): Qwen3-Embedding takes `queries` and an instruction, or `documents`, and builds the
query's prompt itself; the others take `text`, as they are to be embedded.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

from qwen_embed_plugins.errors import ConfigurationError, ProviderError
from qwen_embed_plugins.hookspecs import hookimpl
from qwen_embed_plugins.provider import Provider, ProviderConfig, prefixed
from qwen_embed_plugins.providers import _catalogue
from qwen_embed_plugins.providers._codes import Meaning, meant_by
from qwen_embed_plugins.providers._openai_wire import (
    load_json,
    no_rows,
    post_json,
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

# developers.cloudflare.com/workers-ai/platform/errors, read 2026-11. What the list calls 3036
# arrives as 4006 (seen by many since 2025-10).
_SPENT_TODAY = ("3036", "4006")
_MEANINGS = (
    Meaning("|".join(_SPENT_TODAY), "quota_spent", "account"),
    Meaning("3040", "rate_limited"),
    # 5016, 5018, 3041 and 5035: this model is not for this account.
    Meaning("5007|3042|5016|5018|3041|5035", "bad_offer"),
    Meaning("3006", "too_large"),
    # 7003: "Could not route to …, perhaps your object identifier is invalid?"
    Meaning("10000|7003", "bad_key", "account"),
)


class Cloudflare(Provider):
    """Rows in the order of the texts, without a count of tokens."""

    name = "cloudflare"
    base_url = "https://api.cloudflare.com/client/v4"
    api_key_env = "CLOUDFLARE_API_TOKEN"
    other_key_envs = ("CLOUDFLARE_API_KEY",)
    adds_instruction = True
    encoding = "float"
    options: ClassVar[dict[str, type]] = {"account_id": str}
    option_envs: ClassVar[dict[str, str]] = {"account_id": "CLOUDFLARE_ACCOUNT_ID"}
    required_options = ("account_id",)

    def __init__(self, config: ProviderConfig) -> None:
        super().__init__(config)
        self.account_id = str(config.options.get("account_id", ""))
        if not re.fullmatch(r"[0-9a-fA-F]{32}", self.account_id):
            # Tokens get pasted here (anomalyco/opencode#23773), so the value is not shown.
            raise ConfigurationError(
                "account_id: expected 32 hexadecimal digits, as in the dashboard's address; "
                f"got {len(self.account_id)} characters"
            )

    def build_request(self, batch: Batch) -> WireRequest:
        url = f"{self.url}/accounts/{self.account_id}/ai/run/{batch.wire_name}"
        return post_json(url, body_for(batch), key=self.config.api_key)

    def parse_response(self, response: WireResponse) -> Answer:
        key = self.config.api_key
        body = load_json(response, key=key)
        if isinstance(body, dict) and body.get("success") is False:
            raise ProviderError(self.classify(replace(response, status=500)))
        result = body.get("result") if isinstance(body, dict) else None
        rows = result.get("data") if isinstance(result, dict) else None
        if not isinstance(rows, list):
            raise no_rows("result.data", response, key)
        return Answer(stacked([to_row(row) for row in rows]), None, "float")

    def classify(self, answer: WireResponse | TransportFailure) -> Fault:
        fault = fault_of(answer, key=self.config.api_key)
        if isinstance(answer, TransportFailure):
            return fault
        code = read_refusal(answer).code
        fault = meant_by((code,), _MEANINGS, fault)
        if code in _SPENT_TODAY:
            return replace(fault, retry_after_seconds=None, until=next_midnight())
        if code == "7003":
            return replace(fault, message=f"{fault.message}; is account_id right?")
        return fault


def body_for(batch: Batch) -> dict[str, Any]:
    """The body in the model's own schema. A query without an instruction is bare, as a document is:
    under `queries` the server would take an instruction of its own."""
    if "/qwen3-embedding" not in batch.wire_name:
        texts = prefixed(batch.texts, batch.role, batch.instruction, batch.model)
        body: dict[str, Any] = {"text": texts}
        # Of the schemas read, only this model's has the field.
        return {**body, "truncate_inputs": False} if "/bge-m3" in batch.wire_name else body
    if batch.role == "query" and batch.instruction:
        return {"queries": list(batch.texts), "instruction": batch.instruction}
    return {"documents": list(batch.texts)}


@hookimpl
def register_providers(register: Callable[..., None]) -> None:
    register(Cloudflare, offers=_catalogue.offers_of("cloudflare"))
