"""What the attempts of one call may use, and what they used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple, Protocol

from qwen_embed_plugins.catalogue import RESERVED_OVER_ESTIMATE, ConfiguredOffer
from qwen_embed_plugins.effects import Finished, Flow, Reserve, Settle
from qwen_embed_plugins.events import AttemptFinished, BudgetReached, OfferPaused
from qwen_embed_plugins.ledger import Reservation
from qwen_embed_plugins.meters import GRANTS, Meter, Refused
from qwen_embed_plugins.tariffs import Charge, Tariff, charge, drawn, use_of
from qwen_embed_plugins.types import Answer, Attempt, Fault, FaultKind

if TYPE_CHECKING:
    from qwen_embed_plugins.choosing import Chooser
    from qwen_embed_plugins.outcome import Outcome
    from qwen_embed_plugins.router import Router


class Held(NamedTuple):
    """What is held for an attempt: `tokens` is the estimate, half of what is reserved."""

    reservation: Reservation
    tariff: Tariff
    tokens: int


class HasHeld(Protocol):
    """An attempt that is under way."""

    @property
    def held(self) -> Held: ...


SHORTEST_REST_SECONDS = 0.05

LIMITS: Mapping[str, FaultKind] = {
    "minute": "rate_limited",
    "flight": "rate_limited",
    "day": "quota_spent",
    "daily": "quota_spent",
}
"""What a provider would say if it were asked beyond its limit."""


@dataclass(slots=True)
class Spending:
    """Reserves and settles for one call. `under_way` are its attempts."""

    router: Router
    outcome: Outcome
    chooser: Chooser
    under_way: Mapping[int, HasHeld]

    def reserve(self, offer: ConfiguredOffer, tokens: int) -> Flow[Held | Refused | None]:
        """Hold what an attempt with about so many tokens may use. None: it is not to be made now,
        and where it goes instead is to be chosen anew. A refusal: a grant or a budget has no room
        for it, but perhaps for less."""
        tariff = self.router.tariffs.of(offer, self.router.now())
        if tariff.tier > self.chooser.tiers.get(offer.key, tariff.tier):
            self.chooser.rank()  # a grant lapsed this moment: it may not be the cheapest any more
            return None
        reserved = yield Reserve(use_of(offer, tariff, tokens * RESERVED_OVER_ESTIMATE))
        if isinstance(reserved, Reservation):
            return Held(reserved, tariff, tokens)
        return self._refused(offer, reserved)

    def _refused(self, offer: ConfiguredOffer, refused: Refused) -> Refused | None:
        meter = refused.meter
        if self._waits_for_ours(meter):
            # What is held is an upper bound: when a request settles there may be enough again.
            self.chooser.short_of_money.add(offer.key)
        elif meter.kind in LIMITS:
            self._rest(offer, refused, LIMITS[meter.kind])
        else:
            return refused
        return None

    def _waits_for_ours(self, meter: Meter) -> bool:
        """Whether an attempt of this call holds something of a count that it may give back."""
        if meter.kind in ("minute", "day", "daily"):
            return False  # what was sent counts, whatever becomes of it
        uses = (item.held.reservation.use for item in self.under_way.values())
        if meter.kind == "budget" and not meter.account:
            return any(use.cost for use in uses)
        return any(_is_same(meter, other) for use in uses for other in use.meters)

    def _rest(self, offer: ConfiguredOffer, refused: Refused, kind: FaultKind) -> None:
        key = offer.key if refused.meter.offer else offer.account
        # Not at once: the record's clock may be a little behind ours, and asking takes no time.
        until = max(refused.until or 0.0, self.router.now() + SHORTEST_REST_SECONDS)
        fault = Fault(kind, refused.message, until=until)
        self.router.health.rests(key, fault, until)
        self.router.emit(OfferPaused(key, kind, refused.message, until))

    def fits(self, offer: ConfiguredOffer, refused: Refused) -> int:
        """About how many tokens a grant or a budget has room for that has none for an attempt."""
        left = refused.left
        if refused.meter.money is not None:
            price = offer.cost(1_000_000)  # known, else no money would be held
            left = int(left / price / 1_000_000) if price else 0
        return left // RESERVED_OVER_ESTIMATE

    def spent(self, offer: ConfiguredOffer, refused: Refused) -> None:
        """A grant or a budget has room for nothing that this call could send: do without it, for a
        while or for this call."""
        if refused.meter.kind in GRANTS:
            self.router.tariffs.spent(refused, self.router.now())
            self.chooser.rank()
        else:
            self.outcome.over_budget(offer, refused)
            self.router.emit(BudgetReached(refused.meter.setting, refused.message))

    def settle(self, held: Held, finished: Finished, fault: Fault | None) -> Flow[None]:
        """Book what the attempt used, and tell of it."""
        offer, tokens = finished.job.offer, tokens_used(held, finished)
        self.outcome.estimated |= tokens > 0 and reported(finished) is None
        charged = yield from settle(held, finished, tokens)
        count = len(finished.job.batch.texts)
        self.outcome.attempts.append(
            Attempt(offer.key, count, finished.seconds, tokens, charged.cost, fault)
        )
        kind = fault.kind if fault else None
        self.router.emit(
            AttemptFinished(offer.key, count, tokens, charged.cost, finished.seconds, kind)
        )


def reported(finished: Finished) -> int | None:
    """The tokens that the provider counted, if it said so."""
    return finished.outcome.tokens if isinstance(finished.outcome, Answer) else None


def tokens_used(held: Held, finished: Finished) -> int:
    """As the provider counted, else as estimated: without an answer it may have counted the
    request all the same."""
    counted = reported(finished)
    if counted is not None:
        return counted
    answered = isinstance(finished.outcome, Answer)
    return held.tokens if answered or finished.maybe_served else 0


def settle(held: Held, finished: Finished, tokens: int) -> Flow[Charge]:
    """Book an attempt that counted so many tokens; what it has cost."""
    told = finished.outcome.cost if isinstance(finished.outcome, Answer) else None
    offer, tariff, bound = finished.job.offer, held.tariff, held.reservation.use.tokens
    sent = int(was_sent(finished))
    if tariff.grant is not None and tokens > bound:
        more = yield Reserve(drawn(offer, tariff, tokens))
        if isinstance(more, Reservation):
            yield Settle(more, 0, Decimal(0), 0)
        if isinstance(more, Reservation) or more.only_held:
            bound = tokens  # the grant has room for what nobody had thought of
    charged = charge(offer, tariff, bound, tokens, told)
    yield Settle(held.reservation, tokens, charged.cost, sent, charged.credit)
    return charged


def was_sent(finished: Finished) -> bool:
    """Whether the provider may have seen the request."""
    answered = isinstance(finished.outcome, Answer) or finished.answered
    return answered or finished.maybe_served


def _is_same(one: Meter, other: Meter) -> bool:
    """Whether two meters share a count."""
    return (one.kind, one.account, one.offer) == (other.kind, other.account, other.offer)
