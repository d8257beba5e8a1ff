"""The built-in offers, read from `data/offers.toml`: one table for each provider and model.

Every fact has a source: its own (`{ value = …, source = "id" }`) or that of its table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from decimal import Decimal
from typing import Any

from qwen_embed_plugins.errors import ConfigurationError, shown
from qwen_embed_plugins.facts import Facts, read_facts
from qwen_embed_plugins.offers import Grant, Offer, Source

FILE = "offers.toml"

ACCOUNT = "account"
"""The table of a provider whose terms hold for all its offers."""

_FACTS = {item.name for item in fields(Offer)} - {"model", "source", "checked", "sources"}
_MONEY = {"price_per_million", "batch_price_per_million", "usd"}


def providers() -> tuple[str, ...]:
    """The providers that have offers, in the order of the file."""
    return tuple(read_facts(FILE).tables)


def offers_of(provider: str) -> tuple[Offer, ...]:
    """The offers of one provider, in the order of the file."""
    facts = read_facts(FILE)
    terms = facts.tables.get(provider, {})
    shared = terms.get(ACCOUNT, {})
    return tuple(
        offer_from(model, {**shared, **own}, facts, where=f"{provider}.{model}", shared=shared)
        for model, own in terms.items()
        if model != ACCOUNT
    )


def offer_from(
    model: str,
    terms: Mapping[str, Any],
    facts: Facts,
    *,
    where: str,
    shared: Mapping[str, Any] | None = None,
) -> Offer:
    """The offer that a table states; amounts of money are strings. `shared` are those of the terms
    that hold for the whole account: their source is its own.

    Raises `ConfigurationError` if it says something unknown, or not where a fact was read.
    """
    default = facts.source(terms.get("source"), where)
    account = facts.source(shared.get("source"), where) if shared else default
    values: dict[str, Any] = {}
    read: dict[str, Source] = {}
    for name, stated in terms.items():
        if name == "source":
            continue
        if name not in _FACTS:
            raise ConfigurationError(f"offers.toml: {where} has the unknown key {name!r}")
        base = account if shared and shared.get(name) is stated else default
        value, read[name] = _fact(stated, base, facts, f"{where}.{name}")
        values[name] = _exact(name, value, where)
    if not isinstance(values.get("wire_name"), str):
        raise ConfigurationError(f"offers.toml: {where} lacks 'wire_name'")
    return Offer(model=model, **values, source=default.url, checked=default.read, sources=read)


def _fact(stated: Any, default: Source, facts: Facts, where: str) -> tuple[Any, Source]:
    if not isinstance(stated, Mapping):
        return stated, default
    source = facts.source(stated["source"], where) if "source" in stated else default
    rest = {name: value for name, value in stated.items() if name != "source"}
    return (rest["value"] if rest.keys() == {"value"} else rest), source


def _exact(name: str, value: Any, where: str) -> Any:
    if name == "grant":
        return Grant(**{key: _exact(key, item, where) for key, item in value.items()})
    if name not in _MONEY:
        return value
    if not isinstance(value, str):
        raise ConfigurationError(
            f"offers.toml: {where}: {name} = {shown(value)}: write it as a string"
        )
    return Decimal(value)
