"""Novita AI."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from qwen_embed_plugins.hookspecs import hookimpl
from qwen_embed_plugins.providers import _catalogue
from qwen_embed_plugins.providers._codes import Meaning, meant_by
from qwen_embed_plugins.providers._openai_service import OpenAIService
from qwen_embed_plugins.providers._refusals import Refusal
from qwen_embed_plugins.types import Fault

# `reason`, as docs.jiekou.ai lists it for a sibling brand (read 2026-11).
_MEANINGS = (
    Meaning("NOT_ENOUGH_BALANCE", "quota_spent", "account"),
    Meaning("FAILED_TO_AUTH", "bad_key", "account"),
)


class Novita(OpenAIService):
    """OpenAI's wire format."""

    name = "novita"
    base_url = "https://api.novita.ai/openai/v1"
    api_key_env = "NOVITA_API_KEY"

    def refine(self, fault: Fault, status: int, refusal: Refusal) -> Fault:
        if status == 403 and fault.kind == "bad_key":
            # A right key without right to this model, or to none before an identity is verified
            # (novita.ai/docs/guides/error, read 2026-11).
            fault = replace(fault, kind="bad_offer", scope="offer")
        return meant_by((refusal.type,), _MEANINGS, fault)


@hookimpl
def register_providers(register: Callable[..., None]) -> None:
    register(Novita, offers=_catalogue.offers_of("novita"))
