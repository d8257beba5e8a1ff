"""DeepInfra. Above a model's native length it pads vectors with zeros (its OpenAPI document, read
2026-11), so no length is asked for."""

from __future__ import annotations

from collections.abc import Callable

from qwen_embed_plugins.hookspecs import hookimpl
from qwen_embed_plugins.providers import _catalogue
from qwen_embed_plugins.providers._openai_service import OpenAIService


class DeepInfra(OpenAIService):
    """OpenAI's wire format. People keep its key under three names."""

    name = "deepinfra"
    base_url = "https://api.deepinfra.com/v1/openai"
    api_key_env = "DEEPINFRA_TOKEN"
    other_key_envs = ("DEEPINFRA_API_TOKEN", "DEEPINFRA_API_KEY")


@hookimpl
def register_providers(register: Callable[..., None]) -> None:
    register(DeepInfra, offers=_catalogue.offers_of("deepinfra"))
