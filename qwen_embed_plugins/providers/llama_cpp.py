"""llama.cpp's server, started with `--embedding`.

[providers.laptop]
kind = "llama-cpp"
base_url = "http://127.0.0.1:8080/v1"

Each text must fit into the physical batch, 512 tokens unless `--ubatch-size` says more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from qwen_embed_plugins.hookspecs import hookimpl
from qwen_embed_plugins.providers._refusals import Refusal
from qwen_embed_plugins.providers.openai_compatible import OpenAICompatible
from qwen_embed_plugins.types import Fault


class LlamaCpp(OpenAICompatible):
    """A text over the physical batch or the context is refused
    (ggml-org/llama.cpp:tools/server/server-context.cpp, read 2026-11)."""

    name = "llama-cpp"
    needs_naming = True
    never_cuts = True

    def refine(self, fault: Fault, status: int, refusal: Refusal) -> Fault:
        if refusal.type == "not_supported_error":  # 501: it was started without `--embedding`
            return replace(fault, kind="bad_offer")
        return fault


@hookimpl
def register_providers(register: Callable[..., None]) -> None:
    register(LlamaCpp)
