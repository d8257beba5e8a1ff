"""OpenRouter, a gateway to other services.

By itself it spreads requests over every upstream that has the model, by price: two texts of one
corpus may be embedded by different engines in different precisions. So one upstream is pinned, and
what is learnt of one is not believed of another (`variant`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

from qwen_embed_plugins.hookspecs import hookimpl
from qwen_embed_plugins.providers import _catalogue, _openai_wire
from qwen_embed_plugins.providers._codes import Meaning, meant_by
from qwen_embed_plugins.providers._openai_service import OpenAIService
from qwen_embed_plugins.providers._refusals import Refusal
from qwen_embed_plugins.types import Batch, Fault

# `error.metadata.error_type`, which its documentation calls the value to rely on
# (OpenRouterTeam/docs:api_reference/errors-and-debugging.mdx, read 2026-11).
_MEANINGS = (
    Meaning("payment_required", "quota_spent", "account"),
    Meaning("authentication", "bad_key", "account"),
    Meaning("not_found", "bad_offer"),
    Meaning("token_limit_exceeded|payload_too_large", "too_large"),
    Meaning("content_policy_violation|refusal", "bad_input"),
    Meaning("rate_limit_exceeded", "rate_limited"),
    Meaning("provider_overloaded|provider_unavailable|timeout|server|unmapped", "unavailable"),
)
# A cap on the key, not on the account (danielsmithdevelopment/ClawQL#876); no other key is ours.
_KEY_SPENT = re.compile(r"(?i)^key limit exceeded")
_NO_MODEL = re.compile(r"^\S{1,100} is not a valid model ID")  # maxnowack/anthropic-proxy#4


class OpenRouter(OpenAIService):
    """Options: `upstream` is the slug of the service that computes ("nebius"), with
    `allow_fallbacks` others may stand in for it; `quantizations` and `data_collection` go out as
    they are (openrouter.ai/docs, "Provider selection").

    Floats are asked for, and nothing that the upstream does not know: with `require_parameters` an
    upstream that lacks one would not be found, and without it the parameter would be dropped. What
    it says that it took (`usage.cost`, in US dollars) is what is booked.
    """

    name = "openrouter"
    base_url = "https://openrouter.ai/api/v1"
    api_key_env = "OPENROUTER_API_KEY"
    encoding = "float"
    reads_cost = True
    options: ClassVar[dict[str, type]] = {
        "upstream": str,
        "allow_fallbacks": bool,
        "quantizations": list,
        "data_collection": str,
    }

    @property
    def variant(self) -> str:
        options = self.config.options
        upstream = "any upstream" if options.get("allow_fallbacks") else self._upstream
        return " ".join([upstream, *map(str, options.get("quantizations", ()))])

    @property
    def _upstream(self) -> str:
        return str(self.config.options.get("upstream", "nebius"))

    def body(self, batch: Batch) -> dict[str, Any]:
        return {**_openai_wire.request_body(batch), "provider": self._routing()}

    def _routing(self) -> dict[str, Any]:
        options = self.config.options
        loose = options.get("allow_fallbacks", False)
        # `only` is a fence, `order` a wish: fallbacks need the wish.
        return {
            "order" if loose else "only": [self._upstream],
            "allow_fallbacks": loose,
            "require_parameters": True,
            **{
                name: options[name]
                for name in ("quantizations", "data_collection")
                if name in options
            },
        }

    def refine(self, fault: Fault, status: int, refusal: Refusal) -> Fault:
        if status == 403 and _KEY_SPENT.search(refusal.message):
            return replace(fault, kind="quota_spent", scope="account")
        if status == 403 and fault.kind == "bad_key":
            # A filter's objection to a text, or a right that the key lacks: where the known-good
            # text is refused too, the router blames the offer.
            return replace(fault, kind="bad_input", scope="offer")
        if status == 400 and _NO_MODEL.search(refusal.message):
            return replace(fault, kind="bad_offer")
        return meant_by((refusal.type,), _MEANINGS, fault)


@hookimpl
def register_providers(register: Callable[..., None]) -> None:
    register(OpenRouter, offers=_catalogue.offers_of("openrouter"))
