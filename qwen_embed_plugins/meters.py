"""Meters: what is counted, of whom, over which time, and against which limit. Pure values.

An attempt moves several: what was used of its offer, the budgets, the grant that covers it, the
limits of its account. The ledger keeps their counts and knows nothing else of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timezone
from decimal import Decimal
from functools import lru_cache
from typing import Literal, NamedTuple

from qwen_embed_plugins.amounts import Amount, usd
from qwen_embed_plugins.windows import UTC_DAY, Daily, Rolling, UnderWay, Window

Kind = Literal["use", "budget", "grant", "credit", "daily", "day", "minute", "flight"]
"""`use` is the record of what was used of an offer and has no limit; `budget` is the user's money;
`grant` (in tokens) and `credit` (in money) are what a provider gives away; the others are its
limits: by calendar days, in any 24 hours, in any minute, under way at once."""

GRANTS = ("grant", "credit")


class Key(NamedTuple):
    """One count: of a meter, in a period of its window. `account` is empty where all accounts are
    counted together, `offer` where all that the account has is."""

    kind: str
    account: str
    offer: str
    period: int


@dataclass(frozen=True, slots=True)
class Meter:
    """A count that attempts share, and how far it may go: `requests`, `tokens`, `money` (in units
    of 1e-12 US dollars) are limits, None where there is none.

    Meters of equal `kind`, `account` and `offer` share one count, whatever their limits. `setting`
    and `table` are where the user finds the limit; that of a minute may hold two, and names them
    itself.
    """

    kind: Kind
    account: str
    offer: str
    window: Window
    requests: int | None = None
    tokens: int | None = None
    money: int | None = None
    setting: str = ""
    table: str = ""

    def held_key(self, moment: float) -> Key:
        """Where an attempt that is reserved now is counted until it is settled."""
        return Key(self.kind, self.account, self.offer, self.window.held_in(moment))

    def used_key(self, moment: float, held: Key) -> Key | None:
        """Where an attempt is counted that was held there and is settled now; None: nowhere."""
        if isinstance(self.window, Rolling):
            return held._replace(period=self.window.used_in(moment))
        return None if isinstance(self.window, UnderWay) else held

    def counts(self, amount: Amount, credit: int) -> Amount:
        """An attempt's amount as this meter counts it. `credit` is the money that a grant covers,
        which is no spending."""
        return replace(amount, money=credit) if self.kind in GRANTS else amount

    def bound(self, amount: Amount, credit: int) -> Amount:
        """The same of an attempt that is to be reserved. No limit per time is too small for a
        single attempt: it then goes alone."""
        amount = self.counts(amount, credit)
        if self.kind in ("use", "budget", *GRANTS):
            return amount
        return Amount(
            _at_most(amount.requests, self.requests),
            _at_most(amount.tokens, self.tokens),
            _at_most(amount.money, self.money),
        )

    def lacks(self, would_be: Amount) -> str | None:
        """The part of an amount that goes beyond its limit."""
        for part in ("requests", "tokens", "money"):
            limit = getattr(self, part)
            if limit is not None and getattr(would_be, part) > limit:
                return part
        return None

    def left(self, counted: Amount) -> tuple[int | None, int | None, int | None]:
        """What is left of each limit: requests, tokens, money; None where there is no limit."""
        return (
            None if self.requests is None else max(0, self.requests - counted.requests),
            None if self.tokens is None else max(0, self.tokens - counted.tokens),
            None if self.money is None else max(0, self.money - counted.money),
        )


@lru_cache(maxsize=1024)
def use_meter(account: str, offer: str) -> Meter:
    """The record of what is used of an offer, by days in UTC."""
    return Meter("use", account, offer, UTC_DAY)


@dataclass(frozen=True, slots=True)
class Refused:
    """A meter does not allow an attempt. `until` is when it may be tried again (None: not by
    waiting); `left` is what is left of the limit that it would go beyond. `only_held`: what was
    used has left room, and what is held may be given back."""

    meter: Meter
    message: str
    until: float | None = None
    left: int = 0
    only_held: bool = False


def refusal(meter: Meter, counted: Amount, bound: Amount, until: float | None) -> Refused | None:
    """Why a meter with so much counted does not allow so much more; None if it does."""
    part = meter.lacks(counted + bound)
    if part is None:
        return None
    left = max(0, getattr(meter, part) - getattr(counted, part))
    would_be = getattr(counted + bound, part)
    return Refused(meter, _message(meter, part, would_be, until), until, left)


def _message(meter: Meter, part: str, would_be: int, until: float | None) -> str:
    limit = getattr(meter, part)
    if meter.kind == "budget":
        renews = f"; it renews at {meter.window}" if isinstance(meter.window, Daily) else ""
        return (
            f"budget {meter.setting} = {_dollars(limit)} US dollars would be overrun "
            f"({usd(would_be):.6f}){renews}; raise it under {meter.table}, or set "
            f'{meter.setting} = "unlimited"'
        )
    again = f" until {clock(until)}" if until is not None else ""
    if meter.kind == "flight":
        return f"{limit} requests are under way, as many as {meter.setting} allows"
    if meter.kind in GRANTS:
        amount = f"{_dollars(limit)} US dollars" if part == "money" else f"{limit} tokens"
        return f"its grant of {amount} is spent{again}"
    setting = f"{part}_per_minute" if meter.kind == "minute" else meter.setting
    return f"{setting} = {limit} is used up{again}"


def clock(moment: float) -> str:
    """A moment as people read it, in UTC.

    >>> clock(0)
    '1970-01-01 00:00:00 UTC'
    """
    return f"{datetime.fromtimestamp(moment, timezone.utc):%Y-%m-%d %H:%M:%S} UTC"


def _dollars(units_: int) -> str:
    """Whole cents at least, and no more digits than there are."""
    amount = usd(units_).normalize()
    exponent = amount.as_tuple().exponent
    return f"{amount if isinstance(exponent, int) and exponent < -2 else round(amount, 2):f}"


def _at_most(amount: int, limit: int | None) -> int:
    return amount if limit is None else min(amount, limit)


def in_dollars(amount: Decimal | None) -> int | None:
    """A limit in US dollars as units of 1e-12, rounded down: None stays without limit."""
    return None if amount is None else int(amount.scaleb(12))
