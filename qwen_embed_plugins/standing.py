"""How meters stand: what is used of each, what is held besides, and what is left. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from qwen_embed_plugins.amounts import NOTHING, Amount, usd
from qwen_embed_plugins.blocks import Left
from qwen_embed_plugins.ledger import Counted, Slice
from qwen_embed_plugins.meters import Key, Meter
from qwen_embed_plugins.windows import Daily, Rolling

if TYPE_CHECKING:
    from qwen_embed_plugins.books import Count
    from qwen_embed_plugins.catalogue import ConfiguredOffer

ANYTHING = Amount(1, 1, 1)
"""The least that an attempt could use."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A meter and its count at a moment. What is `held`, for attempts under way or in advance,
    counts like what is used until it is given back. `renews_at` (seconds since the epoch) is when
    the count begins anew; of a limit in any minute or day, when it has room again (None if it has).
    """

    meter: Meter
    used: Amount
    held: Amount
    renews_at: float | None

    @property
    def left(self) -> Left:
        """What is left of each limit: requests, tokens, money; None where there is no limit."""
        return self.meter.left(self.used + self.held)

    @property
    def is_used_up(self) -> bool:
        """Whether nothing is left of one of its limits."""
        return 0 in self.left


class Record:
    """All counts of the books, as of one moment `now` (seconds since the epoch)."""

    def __init__(self, counts: Iterable[Count], now: float) -> None:
        self.now = now
        self._counts: Mapping[Key, Count] = {count.key: count for count in counts}

    def of(self, meter: Meter) -> Standing:
        """How a meter stands; nothing is used of one that the books do not know."""
        key = meter.held_key(self.now)
        count = self._counts.get(key)
        used, held = (count.used, count.held) if count else (NOTHING, NOTHING)
        if not isinstance(meter.window, Rolling):
            return Standing(meter, used, held, meter.window.ends(self.now))
        slices = list(self._slices(key, meter.window.first_live(self.now)))
        used = sum((amount for _, amount in slices), NOTHING)
        refused = Counted(used, held, slices).refusal(meter, ANYTHING, self.now)
        return Standing(meter, used, held, refused.until if refused is not None else None)

    def _slices(self, key: Key, first: int) -> Iterator[Slice]:
        """What a count over the last minute or day still remembers, the oldest first."""
        live = (of for of in self._counts if of[:3] == key[:3] and of.period >= first)
        for of in sorted(live):
            yield Slice(of.period, self._counts[of].used)


@dataclass(frozen=True, slots=True)
class Free:
    """What is left of grants for the offers of one space. `once_tokens` are given once,
    `daily_tokens` again each day, `credit` is money (in units of 1e-12 US dollars), and
    `credit_tokens` what it pays for. `endless` are the offers that cost nothing without a grant."""

    once_tokens: int = 0
    daily_tokens: int = 0
    credit: int = 0
    credit_tokens: int = 0
    endless: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        """All of them together."""
        return self.once_tokens + self.daily_tokens + self.credit_tokens


def free(offers: Iterable[ConfiguredOffer], record: Record) -> Free:
    """What is free now at these offers, which must be of one space: quotas of two spaces do not add
    up. A grant that several of them draw on counts once."""
    once: dict[Key, int] = {}
    daily: dict[Key, int] = {}
    credit: dict[Key, int] = {}
    prices: dict[Key, Decimal] = {}
    endless = []
    for offer in offers:
        if offer.price == 0 and not offer.grants:
            endless.append(offer.key)
        for grant in offer.grants:
            key = grant.meter.held_key(record.now)
            _, tokens, money = record.of(grant.meter).left
            if not grant.covers_at(record.now):
                continue
            # Tables of one account may state different amounts: each goes as far as its own.
            if tokens is not None:
                given = daily if isinstance(grant.meter.window, Daily) else once
                given[key] = max(given.get(key, 0), tokens)
            if money is not None and offer.price:
                credit[key] = max(credit.get(key, 0), money)
                # By the dearest of the offers that draw on it: never too much is promised.
                prices[key] = max(prices.get(key, Decimal(0)), offer.price)
    bought = (int(usd(money) * 1_000_000 / prices[key]) for key, money in credit.items())
    return Free(
        sum(once.values()), sum(daily.values()), sum(credit.values()), sum(bought), tuple(endless)
    )
