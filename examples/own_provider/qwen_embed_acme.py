"""A provider for Acme, a made-up service with an OpenAI-compatible embeddings route."""

from decimal import Decimal

from qwen_embed_plugins import Offer, hookimpl
from qwen_embed_plugins.providers.openai_compatible import OpenAICompatible


class Acme(OpenAICompatible):
    name = "acme"
    base_url = "https://api.acme.example/v1"
    api_key_env = "ACME_API_KEY"


@hookimpl
def register_providers(register):
    terms = Offer("qwen3-embedding-8b", "acme/qwen3-8b", Decimal("0.04"), max_inputs=64)
    register(Acme, offers=[terms])
