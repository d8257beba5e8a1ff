"""Nebius Token Factory."""

from __future__ import annotations

from collections.abc import Callable

from qwen_embed_plugins.hookspecs import hookimpl
from qwen_embed_plugins.providers import _catalogue
from qwen_embed_plugins.providers._openai_service import OpenAIService


class Nebius(OpenAIService):
    """OpenAI's wire format."""

    name = "nebius"
    base_url = "https://api.tokenfactory.nebius.com/v1"
    api_key_env = "NEBIUS_API_KEY"


@hookimpl
def register_providers(register: Callable[..., None]) -> None:
    register(Nebius, offers=_catalogue.offers_of("nebius"))
