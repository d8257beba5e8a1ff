"""Offers: one provider's terms for one model, as declared by plugins and overridden by settings."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal


@dataclass(frozen=True, slots=True)
class Offer:
    """What a provider will do for one model, and on which terms.

    `wire_name` is the provider's own name for the model. `price_per_million` is money per million
    input tokens in `currency`; None means that no price is known. Limits left None are unknown
    and therefore not enforced beforehand. `membership` says why the vectors belong to the model's
    space: "declared" (the same open weights) or "unproven" (a closed model: serves only once
    measured or trusted). `source` and `checked` say where the numbers come from, and when.
    """

    model: str
    wire_name: str
    price_per_million: Decimal | None = None
    currency: Literal["USD", "EUR", "CNY"] = "USD"
    max_inputs: int | None = None
    max_input_tokens: int | None = None
    max_batch_tokens: int | None = None
    max_concurrency: int | None = None
    membership: Literal["declared", "unproven"] = "declared"
    precision: str | None = None
    country: str | None = None
    source: str = ""
    checked: str = ""
