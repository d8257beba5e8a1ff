"""LM Studio's server.

[providers.laptop]
kind = "lm-studio"
base_url = "http://127.0.0.1:1234/v1"
wire_name = "text-embedding-qwen3-embedding-8b"
"""

from __future__ import annotations

from collections.abc import Callable

from qwen_embed_plugins.hookspecs import hookimpl
from qwen_embed_plugins.providers.openai_compatible import OpenAICompatible


class LMStudio(OpenAICompatible):
    """Names models in its own way, and reports no tokens: its documented `usage` is all zeros."""

    name = "lm-studio"
    needs_naming = True


@hookimpl
def register_providers(register: Callable[..., None]) -> None:
    register(LMStudio)
