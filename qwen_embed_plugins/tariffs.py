"""What tokens cost at an offer now: covered by a grant while it lasts, or at the offer's price.

The router knows of a grant only what the ledger last said: it counts as there until a reservation
is refused for it, and is then tried again once in a while.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import TypeAlias

from qwen_embed_plugins.catalogue import ConfiguredOffer
from qwen_embed_plugins.grants import ConfiguredGrant
from qwen_embed_plugins.ledger import Use
from qwen_embed_plugins.meters import Meter, Refused

UNKNOWN_PRICE = Decimal("Infinity")

TRY_AGAIN_SECONDS = 60.0
"""A grant that was spent may have more: another process gave back what it had taken, or the user
corrected it."""

Tier: TypeAlias = tuple[int, float | Decimal]
"""How dear an offer is, to be compared: what never costs anything, then what is given away in the
order in which it would be lost, then by price."""

FREE: Tier = (0, 0.0)
ALL_FREE: Tier = (1, float("inf"))
"""The dearest of what costs nothing."""


@dataclass(frozen=True, slots=True)
class Tariff:
    """What tokens cost: `price` in US dollars per million, 0 under a grant, None where unknown."""

    price: Decimal | None
    grant: ConfiguredGrant | None = None
    lost_at: float = float("inf")

    @property
    def tier(self) -> Tier:
        if self.grant is not None:
            return (1, self.lost_at)
        if self.price == 0:
            return FREE
        return (2, UNKNOWN_PRICE if self.price is None else self.price)


@lru_cache(maxsize=1024)
def _at(price: Decimal | None) -> Tariff:
    """The tariff without a grant, which every request asks for several times."""
    return Tariff(price)


class Tariffs:
    """The tariffs of all offers, shared by flows. `version` changes with each that ends or begins
    anew by what the ledger said; `budgeted` says that there is a budget over all."""

    def __init__(self, budgeted: bool) -> None:
        self._budgeted = budgeted
        self._lock = threading.Lock()
        self._spent: dict[tuple[str, str, str, int], float] = {}
        self.version = 0

    def of(self, offer: ConfiguredOffer, now: float) -> Tariff:
        """What holds now: of several grants the one that is lost first."""
        grants = [grant for grant in offer.grants if self._covers(grant, now)]
        if grants:
            lost_at, first = min(
                ((grant.lost_at(now), place) for place, grant in enumerate(grants)),
            )
            return Tariff(Decimal(0), grants[first], lost_at)
        return _at(offer.price)

    def serves(self, offer: ConfiguredOffer, now: float) -> bool:
        """Whether it may be asked at all: an unknown price is none that a budget could allow, over
        all or of its provider."""
        budgeted = self._budgeted or any(meter.kind == "budget" for meter in offer.limits)
        return not budgeted or self.of(offer, now).price is not None

    def changes_at(self, offer: ConfiguredOffer, now: float) -> float:
        """When the offer's tariff may change by itself."""
        if not offer.grants:
            return float("inf")
        moments = [grant.until for grant in offer.grants if grant.until is not None]
        with self._lock:
            keys = {_key(grant.meter, now) for grant in offer.grants}
            moments += [until for key, until in self._spent.items() if key in keys]
        moments += [grant.lost_at(now) for grant in offer.grants]
        return min((moment for moment in moments if moment > now), default=float("inf"))

    def spent(self, refused: Refused, now: float) -> None:
        """The ledger refused a grant: it is done without for a while, or until its reset."""
        again = now + TRY_AGAIN_SECONDS
        until = again if refused.until is None else min(refused.until, again)
        with self._lock:
            self._spent = {key: end for key, end in self._spent.items() if end > now}
            self._spent[_key(refused.meter, now)] = until
            self.version += 1

    def _covers(self, grant: ConfiguredGrant, now: float) -> bool:
        return grant.covers_at(now) and self._spent.get(_key(grant.meter, now), now) <= now


def _key(meter: Meter, now: float) -> tuple[str, str, str, int]:
    return meter.held_key(now)


def use_of(offer: ConfiguredOffer, tariff: Tariff, tokens: int) -> Use:
    """What an attempt with at most so many tokens may use at an offer."""
    if tariff.grant is None:
        return Use(offer.account, offer.key, tokens, offer.cost(tokens), meters=offer.limits)
    meters = (tariff.grant.meter, *offer.limits)
    return Use(offer.account, offer.key, tokens, Decimal(0), offer.cost(tokens), meters)


def drawn(offer: ConfiguredOffer, tariff: Tariff, tokens: int) -> Use:
    """So many tokens of a grant and nothing else: they were sent already."""
    meters = () if tariff.grant is None else (tariff.grant.meter,)
    return Use(offer.account, offer.key, tokens, Decimal(0), offer.cost(tokens), meters)


def charge(
    offer: ConfiguredOffer, tariff: Tariff, bound: int, tokens: int, told: Decimal | None = None
) -> Charge:
    """What an attempt that counted so many tokens has cost: as the provider told, else by the
    price. What goes beyond the bound that was reserved of a grant may go beyond the grant, and
    counts as paid."""
    if tariff.grant is None:
        return Charge(offer.cost(tokens) if told is None else told, Decimal(0))
    covered = min(tokens, bound)
    return Charge(offer.cost(tokens - covered), offer.cost(covered))


@dataclass(frozen=True, slots=True)
class Charge:
    """US dollars: `cost` is paid, `credit` covered by a grant."""

    cost: Decimal
    credit: Decimal
