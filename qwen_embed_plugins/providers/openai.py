"""OpenAI."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from qwen_embed_plugins.hookspecs import hookimpl
from qwen_embed_plugins.providers import _catalogue
from qwen_embed_plugins.providers._openai_service import OpenAIService
from qwen_embed_plugins.providers._refusals import Refusal
from qwen_embed_plugins.types import Fault


class OpenAI(OpenAIService):
    """A text over 8,192 tokens is refused (platform.openai.com/docs/api-reference/embeddings, read
    2026-11)."""

    name = "openai"
    base_url = "https://api.openai.com/v1"
    api_key_env = "OPENAI_API_KEY"
    never_cuts = True

    def refine(self, fault: Fault, status: int, refusal: Refusal) -> Fault:
        if refusal.code == "unsupported_country_region_territory":
            # By where the request comes from: the key is good, and no model is served there.
            return replace(fault, kind="bad_offer", scope="account")
        return fault


@hookimpl
def register_providers(register: Callable[..., None]) -> None:
    register(OpenAI, offers=_catalogue.offers_of("openai"))
