"""Blocks: what a process has taken of the shared record in advance, for its next attempts.

Reserving from a block and settling into it is arithmetic. One rule makes it safe to lose: a block's
*content* (spare, held by reservations, used but not yet written) is what the file says of it or
less, so that after `kill -9` the file's bound stands for whatever the process did with it. Nothing
moves in or out of a block but through the file, except what an attempt used beyond its bound:
until that is written the block is *behind*.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import NamedTuple

UNITS_PER_USD = 10**12
"""Money is counted in whole units of 1e-12 US dollars: a token at a price per million tokens of up
to six decimals is a whole number of them."""

MOST = 10**18
"""What one attempt can be booked with. No service bills a million dollars for a request, but a
server may say any number, and SQLite's integers end at 9.2e18."""

SHARE = 16
"""A block takes at most this part of what is left of a budget, unless one attempt needs more."""

LARGEST = 32
"""A block is taken for at most so many attempts. It begins with one and doubles while it is in use,
so that processes which come and go, or die, take little along."""


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
    return min(MOST, int((usd * UNITS_PER_USD).to_integral_value(ROUND_CEILING)))


def usd(units_: int) -> Decimal:
    """Units of 1e-12 as US dollars, exactly."""
    return Decimal(units_).scaleb(-12)


def attempt(tokens: int, cost: Decimal) -> Amount:
    """One request with its tokens and its cost in US dollars."""
    return Amount(1, min(MOST, tokens), units(cost) if cost else 0)


class Key(NamedTuple):
    """What a block, and a line of the totals, is for."""

    day: int
    account: str
    offer: str


@dataclass(slots=True, eq=False)
class Block:
    """One process's block for a day and an offer. Its owner's lock guards it."""

    key: Key
    spare: Amount = NOTHING
    held: Amount = NOTHING
    used: Amount = NOTHING
    filed: Amount = NOTHING
    size: int = 1
    """For how many attempts the next filling is."""
    idle: bool = False
    """Untouched since it was last looked at."""

    @property
    def content(self) -> Amount:
        return self.spare + self.held + self.used

    @property
    def behind(self) -> bool:
        """Whether the file knows of less than there is."""
        return not self.filed.covers(self.content)

    @property
    def empty(self) -> bool:
        return self.content == NOTHING == self.filed

    def hold(self, bound: Amount) -> bool:
        """Set an attempt's bound aside, if there is as much."""
        self.idle = False
        if not self.spare.covers(bound):
            return False
        self.spare -= bound
        self.held += bound
        return True

    def settle(self, bound: Amount, used: Amount) -> None:
        """Replace a bound by what was used; what it was too low by comes out of the spare part."""
        self.idle = False
        self.held -= bound
        self.used += used
        self.spare = (self.spare + bound - used).or_nothing()


def filling(bound: Amount, size: int, spare: Amount, left: int | None) -> Amount:
    """What to add to the spare part for so many attempts with this bound, out of the money that is
    left of a budget (None: without limit). Whether it has room for one was seen to before."""
    missing = (bound.times(size) - spare).or_nothing()
    if left is None:
        return missing
    least = max(0, bound.money - spare.money)
    return Amount(missing.requests, missing.tokens, max(least, min(missing.money, left // SHARE)))
