"""What services that speak OpenAI's wire format share, apart from servers of one's own."""

from __future__ import annotations

from qwen_embed_plugins.providers.openai_compatible import OpenAICompatible


class OpenAIService(OpenAICompatible):
    """A service at a known address with a list of models: a subclass sets `name`, `base_url` and
    `api_key_env`."""

    serves_any_model = False
    needs_address = False
