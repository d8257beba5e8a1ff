"""The models that the package registers: their lengths, and the exact text that each is sent."""

from __future__ import annotations

import numpy as np
import pytest

from qwen_embed_plugins import Model, Offer, Provider
from qwen_embed_plugins.catalogue import ConfiguredOffer
from qwen_embed_plugins.formats import formatted
from qwen_embed_plugins.models import MODELS
from qwen_embed_plugins.plugins import load_plugins
from qwen_embed_plugins.provider import ProviderConfig
from qwen_embed_plugins.types import Role

NAMES = {model.name: model for model in MODELS}


class Plain(Provider):
    name = "plain"


class AddsPrompts(Provider):
    name = "adds-prompts"
    adds_instruction = True


def offer_of(model: Model, provider: type[Provider] = Plain) -> ConfiguredOffer:
    made = provider(ProviderConfig(provider.name))
    return ConfiguredOffer("p/m", made, "p", Offer(model.name, "m"), model, None, private=True)


def test_all_are_registered_and_say_where_they_were_read() -> None:
    registered = load_plugins(found=()).models
    assert registered.keys() >= NAMES.keys()
    assert len(NAMES) == len(MODELS) == 10
    for model in MODELS:
        assert "read 2026-" in model.source, model.name


@pytest.mark.parametrize(
    ("name", "taken", "refused"),
    [
        ("qwen3-embedding-8b", (4096, 1024, 32), (4097, 31)),
        ("dashscope-text-embedding-v4", (2048, 1536, 1024, 64), (4096, 2560, 1000, 32)),
        ("bge-m3", (1024,), (512, 2048)),
        ("jina-embeddings-v3", (1024, 32), (2048, 31)),
        ("nomic-embed-text-v1.5", (768, 64), (1024, 63)),
        ("gemini-embedding-001", (3072, 768, 128), (4096, 127)),
        ("voyage-3.5", (2048, 1024, 256), (4096, 768)),
        ("text-embedding-3-large", (3072, 1024, 256), (4096, 255)),
    ],
)
def test_lengths(name: str, taken: tuple[int, ...], refused: tuple[int, ...]) -> None:
    model = NAMES[name]
    assert all(model.takes_dimensions(length) for length in taken)
    assert not any(model.takes_dimensions(length) for length in refused)
    assert str(model.dimensions) in model.possible_dimensions()


@pytest.mark.parametrize(
    ("name", "role", "instruction", "sent"),
    [
        ("qwen3-embedding-4b", "query", "Find it", "Instruct: Find it\nQuery:hot"),
        ("qwen3-embedding-4b", "query", "", "hot"),
        ("qwen3-embedding-4b", "document", None, "hot"),
        ("nomic-embed-text-v1.5", "query", "Find it", "search_query: hot"),
        # Required, and no instruction: without one the prefix stands all the same.
        ("nomic-embed-text-v1.5", "query", "", "search_query: hot"),
        ("nomic-embed-text-v1.5", "document", None, "search_document: hot"),
        ("bge-m3", "query", "Find it", "hot"),
        ("text-embedding-3-large", "query", "Find it", "hot"),
        ("voyage-3.5", "document", None, "hot"),
    ],
)
def test_what_is_sent(name: str, role: Role, instruction: str | None, sent: str) -> None:
    assert formatted(["hot"], role, instruction, offer_of(NAMES[name])) == [sent]


def test_a_server_that_adds_the_prompt_gets_bare_texts() -> None:
    for model in MODELS:
        for role in ("query", "document"):
            assert formatted(["hot"], role, "Find it", offer_of(model, AddsPrompts)) == ["hot"]


def test_what_only_its_seller_has_is_closed() -> None:
    closed = {model.name for model in MODELS if model.closed}
    assert closed == {
        "dashscope-text-embedding-v4",
        "gemini-embedding-001",
        "voyage-3.5",
        "text-embedding-3-large",
    }
    assert all(NAMES[name].hub_name is None for name in closed)
    assert all(model.hub_name for model in MODELS if not model.closed)


def test_published_cosines_tell_matching_pairs_from_others() -> None:
    for model in MODELS:
        if model.published is not None:
            cosines = np.array(model.published)
            assert cosines.argmax(axis=0).tolist() == [0, 1]
            assert (np.diagonal(cosines) > 0.5).all()
