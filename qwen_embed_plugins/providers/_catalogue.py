"""The built-in offers, read from `data/offers.toml`: one table for each provider and model.

Every fact has a source: its own (`{ value = …, source = "id" }`) or that of its table.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import fields
from decimal import Decimal
from functools import lru_cache
from importlib.resources import files
from typing import Any

from qwen_embed_plugins.errors import ConfigurationError, shown
from qwen_embed_plugins.offers import Grant, Offer, Source

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ACCOUNT = "account"
"""The table of a provider whose terms hold for all its offers."""

_FACTS = {item.name for item in fields(Offer)} - {"model", "source", "checked", "sources"}
_MONEY = {"price_per_million", "batch_price_per_million", "usd"}


def offers_of(provider: str) -> tuple[Offer, ...]:
    """The offers of one provider, in the order of the file."""
    tables, sources = _tables()
    terms = tables.get(provider, {})
    shared = terms.get(ACCOUNT, {})
    return tuple(
        offer_from(model, {**shared, **own}, sources, where=f"{provider}.{model}", shared=shared)
        for model, own in terms.items()
        if model != ACCOUNT
    )


def offer_from(
    model: str,
    terms: Mapping[str, Any],
    sources: Mapping[str, Source],
    *,
    where: str,
    shared: Mapping[str, Any] | None = None,
) -> Offer:
    """The offer that a table states; amounts of money are strings. `shared` are those of the terms
    that hold for the whole account: their source is its own.

    Raises `ConfigurationError` if it says something unknown, or not where a fact was read.
    """
    default = _source(terms.get("source"), sources, where)
    account = _source((shared or {}).get("source"), sources, where) if shared else default
    values: dict[str, Any] = {}
    read: dict[str, Source] = {}
    for name, stated in terms.items():
        if name == "source":
            continue
        if name not in _FACTS:
            raise ConfigurationError(f"offers.toml: {where} has the unknown key {name!r}")
        base = account if shared and shared.get(name) is stated else default
        value, read[name] = _fact(stated, base, sources, f"{where}.{name}")
        values[name] = _exact(name, value, where)
    if not isinstance(values.get("wire_name"), str):
        raise ConfigurationError(f"offers.toml: {where} lacks 'wire_name'")
    return Offer(model=model, **values, source=default.url, checked=default.read, sources=read)


def _fact(
    stated: Any, default: Source, sources: Mapping[str, Source], where: str
) -> tuple[Any, Source]:
    if not isinstance(stated, Mapping):
        return stated, default
    source = _source(stated["source"], sources, where) if "source" in stated else default
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


def _source(name: Any, sources: Mapping[str, Source], where: str) -> Source:
    if name not in sources:
        raise ConfigurationError(f"offers.toml: {where}: no source {shown(name)} in [sources]")
    return sources[name]


@lru_cache(maxsize=1)
def _tables() -> tuple[dict[str, dict[str, Any]], dict[str, Source]]:
    text = files("qwen_embed_plugins").joinpath("data/offers.toml").read_text(encoding="utf-8")
    tables = tomllib.loads(text)
    sources = {name: Source(**stated) for name, stated in tables.pop("sources").items()}
    return tables, sources
