"""The built-in offers say where and when their numbers were read."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from qwen_embed_plugins.errors import ConfigurationError
from qwen_embed_plugins.models import QWEN3_MODELS
from qwen_embed_plugins.offers import Grant, Source
from qwen_embed_plugins.providers import lexical, ollama, openai_compatible
from qwen_embed_plugins.providers._catalogue import offer_from, offers_of

SOURCES = {
    "page": Source("https://example.com/prices", "2026-11"),
    "forum": Source("https://example.org/thread", "2026-10", "third party"),
}
TERMS = {"wire_name": "w", "source": "page"}


def test_ollama_serves_the_three_sizes() -> None:
    offers = {offer.model: offer for offer in offers_of("ollama")}
    assert offers.keys() == {model.name for model in QWEN3_MODELS}
    assert offers["qwen3-embedding-0.6b"].wire_name == "qwen3-embedding:0.6b"
    assert all(offer.source and offer.checked for offer in offers.values())
    assert offers_of("nobody") == ()


def test_prices_are_exact() -> None:
    offer = offer_from("m", {**TERMS, "price_per_million": "0.02"}, SOURCES, where="p.m")
    assert offer.price_per_million == Decimal("0.02")


def test_each_fact_has_its_own_source_or_that_of_its_table() -> None:
    shared = {"country": "FR", "source": "forum"}
    terms = {
        **shared,
        **TERMS,
        "price_per_million": {"value": "0.1", "source": "forum"},
        "grant": {"tokens": 1000, "usd": "1.80", "source": "forum"},
        "max_inputs": 10,
    }
    offer = offer_from("m", terms, SOURCES, where="p.m", shared=shared)
    assert (offer.source, offer.checked) == ("https://example.com/prices", "2026-11")
    assert offer.grant == Grant(tokens=1000, usd=Decimal("1.80"))
    unverified = {name for name, source in offer.sources.items() if not source.verified}
    assert unverified == {"price_per_million", "grant", "country"}
    assert offer.sources["max_inputs"].url == "https://example.com/prices"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"price_per_million": 0.02}, "as a string"),
        ({"prise": "1"}, "unknown key 'prise'"),
        ({"source": "nowhere"}, "no source 'nowhere'"),
        ({"max_inputs": {"value": 1, "source": "nobody"}}, "no source 'nobody'"),
        ({"wire_name": None}, "lacks 'wire_name'"),
    ],
)
def test_what_is_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        offer_from("m", {**TERMS, **change}, SOURCES, where="p.m")


def test_plugin_modules_register_one_provider_each() -> None:
    registered: dict[str, int] = {}

    def register(provider: Any, offers: Any = ()) -> None:
        registered[provider.name] = len(offers)

    for module in (ollama, openai_compatible, lexical):
        module.register_providers(register)
    assert registered == {"ollama": 3, "openai-compatible": 0, "lexical": 1}
    models: list[str] = []
    lexical.register_models(lambda model: models.append(model.name))
    assert models == ["lexical"]
