"""Offers: one provider's terms for one model, as declared by plugins and overridden by settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

Currency = Literal["USD", "EUR", "CNY"]

USD_PER_UNIT: Mapping[str, Decimal] = {
    "USD": Decimal(1),
    "EUR": Decimal("1.20"),
    "CNY": Decimal("0.15"),
}
"""What a price in another currency counts as. Set a little high on purpose: a budget in dollars
must hold, and these are no market rates. `price_per_million` in settings states the true one."""

Evidence = Literal["documentation", "source code", "issue", "third party", "hearsay"]
"""Where a number was read. Only the first two are the provider's own word."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a fact was read, and when (ISO date or year and month)."""

    url: str
    read: str
    evidence: Evidence = "documentation"

    @property
    def verified(self) -> bool:
        """Whether the provider itself says so; nobody has checked the others."""
        return self.evidence in ("documentation", "source code")


@dataclass(frozen=True, slots=True)
class Grant:
    """What a provider gives away: once (`tokens`, `usd`, for `days` after the account was opened)
    or each day (`tokens_per_day`, from the hour in `reset`).

    `shared` says that all models of the account draw on it. It counts as free only once claimed.
    """

    tokens: int | None = None
    usd: Decimal | None = None
    days: int | None = None
    tokens_per_day: int | None = None
    reset: str | None = None
    shared: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a provider will do for one model, and on which terms.

    `wire_name` is the provider's own name for the model. `price_per_million` is money per million
    input tokens in `currency`; None means that no price is known. `batch_price_per_million` is what
    the provider's own deferred batch service costs; it is shown, not used.

    Limits left None are unknown and therefore not enforced beforehand, but for `max_inputs`, which
    then counts as 32: it, `max_batch_tokens` and `max_batch_bytes` bound a request,
    `max_input_tokens` a text. Limits per time are what the provider states for a new account.

    `dimensions` is the length that this offer gives where it is not the model's own; it is asked
    for by that number. `membership` says why the vectors belong to the model's space: "declared"
    (the same open weights) or "unproven" (a closed model: serves only once measured or trusted).

    `source` and `checked` say where the offer was read, and when; `sources` says so for single
    facts, by the field's name.
    """

    model: str
    wire_name: str
    price_per_million: Decimal | None = None
    currency: Currency = "USD"
    batch_price_per_million: Decimal | None = None
    max_inputs: int | None = None
    max_input_tokens: int | None = None
    max_batch_tokens: int | None = None
    max_batch_bytes: int | None = None
    max_concurrency: int | None = None
    requests_per_minute: int | None = None
    requests_per_day: int | None = None
    tokens_per_minute: int | None = None
    dimensions: int | None = None
    membership: Literal["declared", "unproven"] = "declared"
    precision: str | None = None
    country: str | None = None
    registration: str | None = None
    route_from_russia: str | None = None
    grant: Grant | None = None
    source: str = ""
    checked: str = ""
    sources: Mapping[str, Source] = field(default_factory=dict, hash=False)
