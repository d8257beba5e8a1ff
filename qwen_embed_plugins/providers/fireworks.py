"""Fireworks AI."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from qwen_embed_plugins.hookspecs import hookimpl
from qwen_embed_plugins.providers import _catalogue, _openai_wire
from qwen_embed_plugins.providers._openai_service import OpenAIService
from qwen_embed_plugins.providers._refusals import Refusal
from qwen_embed_plugins.types import Batch, Fault

# "Account … is suspended, possibly due to reaching the monthly spending limit or failure to pay
# past invoices" (pollinations/pollinations#12136).
_SUSPENDED = re.compile(r"(?i)^account .{1,80} is suspended")


class Fireworks(OpenAIService):
    """Its body's schema forbids fields that it does not name, `encoding_format` among them
    (docs.fireworks.ai/api-reference, "Create embeddings", read 2026-11)."""

    name = "fireworks"
    base_url = "https://api.fireworks.ai/inference/v1"
    api_key_env = "FIREWORKS_API_KEY"
    encoding = "float"

    def body(self, batch: Batch) -> dict[str, Any]:
        body = {**_openai_wire.request_body(batch), "normalize": True}
        del body["encoding_format"]
        return body

    def refine(self, fault: Fault, status: int, refusal: Refusal) -> Fault:
        if status != 412:
            return fault
        # 412: the account's state, or an adapter that could not be loaded (docs.fireworks.ai,
        # "Inference error codes", read 2026-11).
        if _SUSPENDED.search(refusal.message):
            return replace(fault, kind="quota_spent", scope="account")
        return replace(fault, kind="bad_offer")


@hookimpl
def register_providers(register: Callable[..., None]) -> None:
    register(Fireworks, offers=_catalogue.offers_of("fireworks"))
