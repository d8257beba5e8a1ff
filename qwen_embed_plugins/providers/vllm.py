"""vLLM's server.

[providers.gpu]
kind = "vllm"
base_url = "http://127.0.0.1:8000/v1"
"""

from __future__ import annotations

from collections.abc import Callable

from qwen_embed_plugins.hookspecs import hookimpl
from qwen_embed_plugins.providers.openai_compatible import OpenAICompatible


class VLLM(OpenAICompatible):
    """A text over the context is refused, since `truncate_prompt_tokens` is left unset
    (vllm-project/vllm:vllm/entrypoints/pooling/base/protocol.py, read 2026-11)."""

    name = "vllm"
    needs_naming = True
    never_cuts = True


@hookimpl
def register_providers(register: Callable[..., None]) -> None:
    register(VLLM)
