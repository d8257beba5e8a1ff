"""The built-in offers say where and when their numbers were read."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from qwen_embed_plugins.errors import ConfigurationError
from qwen_embed_plugins.models import QWEN3_MODELS
from qwen_embed_plugins.providers import lexical, ollama, openai_compatible
from qwen_embed_plugins.providers._catalogue import offer_from, offers_of

TERMS = {"wire_name": "w", "source": "a page", "checked": "2026-11-23"}


def test_ollama_serves_the_three_sizes() -> None:
    offers = {offer.model: offer for offer in offers_of("ollama")}
    assert offers.keys() == {model.name for model in QWEN3_MODELS}
    assert offers["qwen3-embedding-0.6b"].wire_name == "qwen3-embedding:0.6b"
    assert all(offer.source and offer.checked for offer in offers.values())
    assert offers_of("nobody") == ()


def test_prices_are_exact() -> None:
    offer = offer_from("m", {**TERMS, "price_per_million": "0.02"}, where="p.m")
    assert offer.price_per_million == Decimal("0.02")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"price_per_million": 0.02}, "as a string"),
        ({"prise": "1"}, "unknown key 'prise'"),
        ({"source": ""}, "lacks 'source'"),
        ({"checked": None}, "lacks 'checked'"),
    ],
)
def test_what_is_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        offer_from("m", {**TERMS, **change}, where="p.m")


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
