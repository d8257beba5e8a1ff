"""LM Studio's server.

[providers.laptop]
kind = "lm-studio"
base_url = "http://127.0.0.1:1234/v1"
wire_name = "text-embedding-qwen3-embedding-8b"
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from qwen_embed_plugins.hookspecs import hookimpl
from qwen_embed_plugins.providers._refusals import Refusal
from qwen_embed_plugins.providers.openai_compatible import OpenAICompatible
from qwen_embed_plugins.types import Fault


class LMStudio(OpenAICompatible):
    """Names models in its own way, and reports no tokens: its documented `usage` is all zeros."""

    name = "lm-studio"
    needs_naming = True

    def refine(self, fault: Fault, status: int, refusal: Refusal) -> Fault:
        if refusal.message.startswith("No models loaded"):  # lmstudio-bug-tracker#1908
            return replace(fault, kind="bad_offer")
        return fault


@hookimpl
def register_providers(register: Callable[..., None]) -> None:
    register(LMStudio)
