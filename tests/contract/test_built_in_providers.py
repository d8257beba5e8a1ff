"""Every provider that comes with the package keeps the contract of plugins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from qwen_embed_plugins.errors import ProviderError
from qwen_embed_plugins.providers.lexical import LEXICAL, Lexical, lexical_vectors
from qwen_embed_plugins.providers.ollama import Ollama
from qwen_embed_plugins.providers.openai_compatible import OpenAICompatible
from qwen_embed_plugins.testing import (
    Behaviour,
    FakeProvider,
    InProcessContract,
    ProviderContract,
)
from qwen_embed_plugins.types import Batch, Exchange, WireRequest, WireResponse


class TestOllama(ProviderContract):
    provider = Ollama


class TestOpenAICompatible(ProviderContract):
    provider = OpenAICompatible


class TestLexical(InProcessContract):
    provider = Lexical
    model = LEXICAL

    def expected(self, texts: Sequence[str]) -> Any:
        return lexical_vectors(texts)


class TestFake(InProcessContract):
    provider = FakeProvider


class Refreshing(OpenAICompatible):
    """Buys a token with the key, then sends the token alone."""

    name = "refreshing"
    api_key_env = "REFRESHING_KEY"

    def exchange(self, batch: Batch) -> Exchange:
        bought = yield WireRequest(
            f"{self.url}/token", b"{}", {"authorization": f"Bearer {self.config.api_key}"}
        )
        token = bought.content.decode()
        request = self.build_request(batch)
        response = yield replace(request, headers={"authorization": f"Bearer {token}"})
        if response.status != 200:
            raise ProviderError(self.classify(response))
        return self.parse_response(response)

    def build_request(self, batch: Batch) -> WireRequest:
        return replace(super().build_request(batch), headers={})


class TestRefreshing(ProviderContract):
    provider = Refreshing

    def serve(self, request: WireRequest, behaviour: Behaviour) -> WireResponse:
        if request.url.endswith("/token"):
            return WireResponse(200, b"a-token")
        return super().serve(request, behaviour)
