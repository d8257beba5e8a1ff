"""Any server that speaks OpenAI's embeddings route: settings say where it is.

    [providers.mine]
    kind = "openai-compatible"
    base_url = "http://127.0.0.1:8000/v1"

A service of its own is a subclass that sets `name`, `base_url` and `api_key_env`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from qwen_embed_plugins.hookspecs import hookimpl
from qwen_embed_plugins.provider import Provider
from qwen_embed_plugins.providers import _openai_wire
from qwen_embed_plugins.providers._refusals import fault_of
from qwen_embed_plugins.types import (
    Answer,
    Batch,
    Fault,
    TransportFailure,
    WireRequest,
    WireResponse,
)


class OpenAICompatible(Provider):
    """Sends model, texts and encoding; reads base64 and floats. The model's hub name is its wire
    name unless settings say otherwise."""

    name = "openai-compatible"
    serves_any_model = True
    needs_address = True

    path: ClassVar[str] = "/embeddings"
    """Where the route is, below the base URL."""

    def body(self, batch: Batch) -> dict[str, Any]:
        """The request's body; a subclass may add what its service needs."""
        return _openai_wire.request_body(batch)

    def build_request(self, batch: Batch) -> WireRequest:
        url = self.url + self.path
        return _openai_wire.post_json(url, self.body(batch), key=self.config.api_key)

    def parse_response(self, response: WireResponse) -> Answer:
        return _openai_wire.parse_answer(response, key=self.config.api_key)

    def classify(self, answer: WireResponse | TransportFailure) -> Fault:
        return fault_of(answer, key=self.config.api_key)


@hookimpl
def register_providers(register: Callable[..., None]) -> None:
    register(OpenAICompatible)
