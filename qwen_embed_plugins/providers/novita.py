"""Novita AI."""

from __future__ import annotations

from collections.abc import Callable

from qwen_embed_plugins.hookspecs import hookimpl
from qwen_embed_plugins.providers import _catalogue
from qwen_embed_plugins.providers._openai_service import OpenAIService


class Novita(OpenAIService):
    """OpenAI's wire format."""

    name = "novita"
    base_url = "https://api.novita.ai/openai/v1"
    api_key_env = "NOVITA_API_KEY"


@hookimpl
def register_providers(register: Callable[..., None]) -> None:
    register(Novita, offers=_catalogue.offers_of("novita"))
