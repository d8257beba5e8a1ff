"""Terms of offers in words: prices, limits and grants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from qwen_embed_plugins.offers import Currency, Grant, Offer
from qwen_embed_plugins.terms import OF_ACCOUNT, has_amounts, is_enforced

LIMITS: Mapping[str, str] = {
    "max_inputs": "{} texts a request",
    "max_input_tokens": "{} tokens a text",
    "max_batch_tokens": "{} tokens a request",
    "max_batch_bytes": "{} bytes a request",
    "max_concurrency": "{} requests at once",
    "requests_per_minute": "{} requests a minute",
    "requests_per_day": "{} requests a day",
    "tokens_per_minute": "{} tokens a minute",
}
"""The fields of `Offer` that bound something, in words."""

LABELS: Mapping[str, str] = {
    "wire_name": "name there",
    "price_per_million": "price",
    "batch_price_per_million": "price of deferred batches",
    "max_inputs": "texts a request",
    "max_input_tokens": "tokens a text",
    "max_batch_tokens": "tokens a request",
    "max_batch_bytes": "bytes a request",
    "max_concurrency": "requests at once",
    "requests_per_minute": "requests a minute",
    "requests_per_day": "requests a day",
    "tokens_per_minute": "tokens a minute",
    "dimensions": "numbers a vector",
    "membership": "membership",
    "precision": "precision",
    "country": "country",
    "grant": "grant",
    "registration": "registration",
    "route_from_russia": "route from Russia",
}
"""The facts of an offer in the order in which they are told. `currency` goes with the prices."""


def price_text(amount: Decimal | None, currency: Currency = "USD") -> str:
    """Money for a million tokens.

    >>> price_text(Decimal("0.05")), price_text(Decimal(0)), price_text(None)
    ('0.05 USD', 'free', 'unknown')
    """
    if amount is None:
        return "unknown"
    return f"{amount} {currency}" if amount else "free"


def count_text(count: int) -> str:
    """A number of tokens or requests, short where it is round.

    >>> count_text(9_300_000), count_text(500_000), count_text(32_768), count_text(10)
    ('9.3M', '500k', '32,768', '10')
    """
    if count >= 1_000_000 and count % 100_000 == 0:
        return f"{count / 1_000_000:g}M"
    if count >= 10_000 and count % 1000 == 0:
        return f"{count // 1000}k"
    return f"{count:,}"


def limit_texts(offer: Offer, star: str = "*") -> list[str]:
    """The limits that are known; a star marks those that nobody has verified."""
    return [
        words.format(count_text(getattr(offer, name)))
        + doubt(offer, name, star)
        + _not_enforced(offer, name)
        for name, words in LIMITS.items()
        if getattr(offer, name) is not None
    ]


def _not_enforced(offer: Offer, limit: str) -> str:
    return "" if limit not in OF_ACCOUNT or is_enforced(offer, limit) else ", not enforced"


def doubt(offer: Offer, fact: str, star: str = "*") -> str:
    """The star of a fact that nobody has verified. What settings say has no source and no star."""
    source = offer.sources.get(fact)
    return "" if source is None or source.verified else star


def grant_text(grant: Grant, *, note: bool = True) -> str:
    """What is given away.

    >>> grant_text(Grant(tokens=1_000_000, days=90))
    '1M tokens within 90 days'
    """
    given = []
    if grant.tokens is not None:
        given.append(f"{count_text(grant.tokens)} tokens")
    if grant.usd is not None:
        given.append(f"{grant.usd} USD")
    if grant.tokens_per_day is not None:
        given.append(f"{count_text(grant.tokens_per_day)} tokens a day")
    said = " and ".join(given) or grant.note or "some"
    if grant.days is not None:
        said += f" within {grant.days} days"
    if grant.reset is not None:
        said += f", renewed at {grant.reset}"
    if grant.shared:
        said += ", all models together"
    return f"{said} ({grant.note})" if note and given and grant.note else said


def claim_text(grant: Grant, provider: str) -> str:
    """What makes a grant count.

    >>> claim_text(Grant(tokens=1_000_000, days=90), "acme")
    'free = true and free_until = the first day after it, in [providers.acme]'
    """
    if not has_amounts(grant):
        return f"state free_tokens, free_usd or free_tokens_per_day in [providers.{provider}]"
    end = " and free_until = the first day after it," if grant.days else ""
    return f"free = true{end} in [providers.{provider}]"


def fact_texts(offer: Offer) -> dict[str, str]:
    """Each known fact of an offer in words, by the field's name."""
    said: dict[str, str] = {}
    for name in LABELS:
        value = getattr(offer, name)
        # That weights are those of the model is what everybody claims, and no fact to be shown.
        if value is not None and value != "declared":
            said[name] = _WORDS.get(name, _plain)(value, offer) + _not_enforced(offer, name)
    return said


def _plain(value: Any, _: Offer) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _price(value: Decimal, offer: Offer) -> str:
    return f"{price_text(value, offer.currency)} for a million tokens" if value else "free"


_WORDS: Mapping[str, Callable[[Any, Offer], str]] = {
    "price_per_million": _price,
    "batch_price_per_million": _price,
    "grant": lambda value, _: grant_text(value),
}
