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
from qwen_embed_plugins.providers._refusals import Refusal, fault_of, read_refusal
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

    reads_cost: ClassVar[bool] = False
    """Whether `usage.cost` in an answer is what was paid, in US dollars."""

    def body(self, batch: Batch) -> dict[str, Any]:
        """The request's body; a subclass may add what its service needs."""
        return _openai_wire.request_body(batch)

    def build_request(self, batch: Batch) -> WireRequest:
        url = self.url + self.path
        return _openai_wire.post_json(url, self.body(batch), key=self.config.api_key)

    def parse_response(self, response: WireResponse) -> Answer:
        key = self.config.api_key
        return _openai_wire.parse_answer(
            response, key=key, classify=self.classify, reads_cost=self.reads_cost
        )

    def classify(self, answer: WireResponse | TransportFailure) -> Fault:
        fault = fault_of(answer, key=self.config.api_key)
        if isinstance(answer, TransportFailure):
            return fault
        return self.refine(fault, answer.status, read_refusal(answer))

    def refine(self, fault: Fault, status: int, refusal: Refusal) -> Fault:
        """The fault of a refusal where a service means something else by it than most servers."""
        return fault


@hookimpl
def register_providers(register: Callable[..., None]) -> None:
    register(OpenAICompatible)
