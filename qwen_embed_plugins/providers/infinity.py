"""Infinity, michaelfeil's server.

[providers.gpu]
kind = "infinity"
base_url = "http://127.0.0.1:7997"

Its routes have no `/v1` before them unless `INFINITY_URL_PREFIX` says so. It strips white space
from both ends of a text and cuts it to the model's context (michaelfeil/infinity:libs/infinity_emb,
read at 0.0.77).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from qwen_embed_plugins.hookspecs import hookimpl
from qwen_embed_plugins.providers._refusals import Refusal
from qwen_embed_plugins.providers.openai_compatible import OpenAICompatible
from qwen_embed_plugins.types import Answer, Fault, WireResponse


class Infinity(OpenAICompatible):
    """Its `usage` counts characters by default, so no tokens are read from it."""

    name = "infinity"
    needs_naming = True

    def parse_response(self, response: WireResponse) -> Answer:
        return super().parse_response(response)._replace(tokens=None)

    def refine(self, fault: Fault, status: int, refusal: Refusal) -> Fault:
        if status == 400 and refusal.message.startswith(("Invalid model", "ModelNotDeployedError")):
            return replace(fault, kind="bad_offer")
        return fault


@hookimpl
def register_providers(register: Callable[..., None]) -> None:
    register(Infinity)
