"""Every provider that comes with the package keeps the contract of plugins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qwen_embed_plugins.providers.lexical import LEXICAL, Lexical, lexical_vectors
from qwen_embed_plugins.providers.ollama import Ollama
from qwen_embed_plugins.providers.openai_compatible import OpenAICompatible
from qwen_embed_plugins.testing import FakeProvider, InProcessContract, ProviderContract


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
