"""The built-in offers say where and when their numbers were read."""

from __future__ import annotations

from dataclasses import fields
from decimal import Decimal
from typing import Any, get_args

import pytest

from qwen_embed_plugins.errors import ConfigurationError
from qwen_embed_plugins.facts import Facts, read_facts
from qwen_embed_plugins.models import MODELS, QWEN3_MODELS
from qwen_embed_plugins.offers import Evidence, Grant, Offer, Source
from qwen_embed_plugins.providers import _catalogue, lexical, ollama, openai_compatible
from qwen_embed_plugins.providers._catalogue import offer_from, offers_of

SOURCES = {
    "page": Source("https://example.com/prices", "2026-11"),
    "forum": Source("https://example.org/thread", "2026-10", "third party"),
}
FACTS = Facts("offers.toml", {}, SOURCES)
TERMS = {"wire_name": "w", "source": "page"}


KNOWN = {model.name: model for model in (*MODELS, lexical.LEXICAL)}
ALL = [(provider, offer) for provider in _catalogue.providers() for offer in offers_of(provider)]


for_each_offer = pytest.mark.parametrize(
    ("provider", "offer"), ALL, ids=lambda value: getattr(value, "model", value)
)


def test_every_provider_with_offers_is_there() -> None:
    assert set(_catalogue.providers()) == {
        *("ollama", "lexical", "dashscope-singapore", "dashscope-beijing", "scaleway"),
        *("deepinfra", "siliconflow", "siliconflow-com", "fireworks", "openrouter", "nebius"),
        *("novita", "cloudflare", "gemini", "voyage", "jina", "openai"),
    }
    assert {offer.model for _, offer in ALL} == KNOWN.keys()


@pytest.mark.parametrize(
    ("provider", "offer"), ALL, ids=lambda value: getattr(value, "model", value)
)
def test_each_fact_says_where_it_was_read(provider: str, offer: Offer) -> None:
    stated = {
        item.name
        for item in fields(Offer)
        if item.name not in ("model", "source", "checked", "sources")
        and getattr(offer, item.name) != item.default
    }
    assert stated <= offer.sources.keys()
    for name, source in offer.sources.items():
        assert source.read == "2026-11", (provider, name)
        assert source.evidence in get_args(Evidence), (provider, name)
        assert not source.verified or source.url.startswith(("https://", "qwen_embed_plugins/"))


@pytest.mark.parametrize(
    ("provider", "offer"), ALL, ids=lambda value: getattr(value, "model", value)
)
def test_each_offer_fits_its_model(provider: str, offer: Offer) -> None:
    model = KNOWN[offer.model]
    assert model.takes_dimensions(offer.dimensions or model.dimensions)
    assert (offer.max_input_tokens or 0) <= model.context_tokens
    # Nobody says of which open weights it is, if of any.
    is_doubtful = offer.wire_name == "text-embedding-v4" and not model.closed
    assert (offer.membership == "unproven") == is_doubtful


def test_no_source_is_named_in_vain() -> None:
    read = {source.url for _, offer in ALL for source in offer.sources.values()}
    read |= {offer.source for _, offer in ALL}
    assert {source.url for source in read_facts("offers.toml").sources.values()} <= read


def test_terms_that_money_depends_on() -> None:
    offers = {(provider, offer.model): offer for provider, offer in ALL}
    beijing = offers["dashscope-beijing", "dashscope-text-embedding-v4"]
    assert (beijing.price_per_million, beijing.currency) == (Decimal("0.5"), "CNY")
    assert beijing.grant is not None
    assert (beijing.grant.tokens, beijing.grant.days) == (10**6, 90)
    scaleway = offers["scaleway", "qwen3-embedding-8b"]
    assert (scaleway.currency, scaleway.sources["price_per_million"].verified) == ("EUR", False)
    assert scaleway.grant is not None
    assert scaleway.grant.shared
    free = {provider for provider, offer in ALL if offer.price_per_million == 0}
    assert free == {"siliconflow", "novita", "lexical"}
    # Without a price known, a budget keeps an offer out.
    unpriced = {provider for provider, offer in ALL if offer.price_per_million is None}
    assert unpriced == {"ollama", "deepinfra", "openrouter", "jina"}


def test_ollama_serves_the_three_sizes_and_two_others() -> None:
    offers = {offer.model: offer for offer in offers_of("ollama")}
    sizes = {model.name for model in QWEN3_MODELS}
    assert offers.keys() == sizes | {"bge-m3", "nomic-embed-text-v1.5"}
    assert offers["qwen3-embedding-0.6b"].wire_name == "qwen3-embedding:0.6b"
    assert all(offer.source and offer.checked for offer in offers.values())
    assert offers_of("nobody") == ()


def test_prices_are_exact() -> None:
    offer = offer_from("m", {**TERMS, "price_per_million": "0.02"}, FACTS, where="p.m")
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
    offer = offer_from("m", terms, FACTS, where="p.m", shared=shared)
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
        offer_from("m", {**TERMS, **change}, FACTS, where="p.m")


def test_plugin_modules_register_one_provider_each() -> None:
    registered: dict[str, int] = {}

    def register(provider: Any, offers: Any = ()) -> None:
        registered[provider.name] = len(offers)

    for module in (ollama, openai_compatible, lexical):
        module.register_providers(register)
    assert registered == {"ollama": 5, "openai-compatible": 0, "lexical": 1}
    models: list[str] = []
    lexical.register_models(lambda model: models.append(model.name))
    assert models == ["lexical"]
