"""The built-in offers, read from `data/offers.toml`: one table for each provider and model."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import fields
from decimal import Decimal
from functools import lru_cache
from importlib.resources import files
from typing import Any

from qwen_embed_plugins.errors import ConfigurationError, shown
from qwen_embed_plugins.offers import Offer

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_KNOWN = {item.name for item in fields(Offer)}


def offers_of(provider: str) -> tuple[Offer, ...]:
    """The offers of one provider, in the order of the file."""
    return tuple(
        offer_from(model, terms, where=f"{provider}.{model}")
        for model, terms in _tables().get(provider, {}).items()
    )


def offer_from(model: str, terms: Mapping[str, Any], *, where: str) -> Offer:
    """The offer that a table states; prices are strings. Raises `ConfigurationError` if it says
    something unknown, or not where and when its numbers were read."""
    unknown = terms.keys() - (_KNOWN - {"model"})
    if unknown:
        raise ConfigurationError(f"offers.toml: {where} has the unknown key {min(unknown)!r}")
    for name in ("wire_name", "source", "checked"):
        if not isinstance(terms.get(name), str) or not terms[name]:
            raise ConfigurationError(f"offers.toml: {where} lacks {name!r}")
    price = terms.get("price_per_million")
    if price is not None and not isinstance(price, str):
        raise ConfigurationError(
            f"offers.toml: {where}: price_per_million = {shown(price)}: write it as a string"
        )
    exact = {} if price is None else {"price_per_million": Decimal(price)}
    return Offer(model=model, **{**terms, **exact})


@lru_cache(maxsize=1)
def _tables() -> dict[str, dict[str, dict[str, Any]]]:
    text = files("qwen_embed_plugins").joinpath("data/offers.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
