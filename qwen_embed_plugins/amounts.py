"""Amounts of what attempts use: requests, tokens and money, counted in whole numbers."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

UNITS_PER_USD = 10**12
"""Money is counted in whole units of 1e-12 US dollars: a token at a price per million tokens of up
to six decimals is a whole number of them."""

MOST = 10**18
"""What one attempt can be booked with. No service bills a million dollars for a request, but a
server may say any number, and SQLite's integers end at 9.2e18."""


@dataclass(frozen=True, slots=True)
class Amount:
    """Requests, tokens and money (in units of 1e-12 US dollars) together."""

    requests: int = 0
    tokens: int = 0
    money: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(
            self.requests + other.requests, self.tokens + other.tokens, self.money + other.money
        )

    def __sub__(self, other: Amount) -> Amount:
        return Amount(
            self.requests - other.requests, self.tokens - other.tokens, self.money - other.money
        )

    def times(self, count: int) -> Amount:
        return Amount(self.requests * count, self.tokens * count, self.money * count)

    def covers(self, other: Amount) -> bool:
        """Whether no part of the other is larger."""
        return (
            self.requests >= other.requests
            and self.tokens >= other.tokens
            and self.money >= other.money
        )

    def or_nothing(self) -> Amount:
        """The same with nothing below zero."""
        return Amount(max(0, self.requests), max(0, self.tokens), max(0, self.money))


NOTHING = Amount()


def units(usd: Decimal) -> int:
    """US dollars as units of 1e-12, rounded up."""
    return min(MOST, int((usd * UNITS_PER_USD).to_integral_value(ROUND_CEILING))) if usd else 0


def usd(units_: int) -> Decimal:
    """Units of 1e-12 as US dollars, exactly."""
    return Decimal(units_).scaleb(-12)
