"""Which offer takes a piece of a call now: ranking, pauses, free places, and what may be paid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING

from qwen_embed_plugins.bisect import Piece
from qwen_embed_plugins.catalogue import ConfiguredOffer
from qwen_embed_plugins.health import Paused
from qwen_embed_plugins.routing import UNKNOWN_PRICE
from qwen_embed_plugins.types import FaultKind, Role

if TYPE_CHECKING:
    from qwen_embed_plugins.router import Router

OUTAGE_PATIENCE_SECONDS = 5.0
"""How long a call waits for an offer that fails; longer outages are its caller's business."""

OUTAGES: frozenset[FaultKind] = frozenset({"unavailable", "bad_vector"})


@dataclass(frozen=True, slots=True)
class Blocked:
    """No offer takes a piece now. `until` is when one may; `busy` says that one has no free place,
    `ours` that one waits for something else of this call. With none of these, none ever will."""

    until: float | None = None
    busy: bool = False
    ours: bool = False

    @property
    def for_good(self) -> bool:
        return self.until is None and not self.busy and not self.ours

    def and_also(self, other: Blocked) -> Blocked:
        """What two pieces wait for together."""
        until = sooner(self.until, other.until)
        return Blocked(until, self.busy or other.busy, self.ours or other.ours)


@dataclass(slots=True)
class Chooser:
    """Chooses for one call. `out` holds the offers that it does without, with the reason;
    `limited` those of them that only keep to a rate limit; `asked` those with an open
    inquiry; `short_of_money` those that wait for a reservation to be settled; `wanted` those
    where it waits for a place."""

    router: Router
    role: Role
    wake: Callable[[], None]
    out: dict[str, str]
    limited: set[str] = field(default_factory=set)
    asked: set[str] = field(default_factory=set)
    short_of_money: set[str] = field(default_factory=set)
    wanted: set[str] = field(default_factory=set)
    ranked: list[ConfiguredOffer] = field(init=False)
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.ranked = self.router.ranked(self.role)
        self.started = self.router.now()

    def choose(self, piece: Piece) -> ConfiguredOffer | Blocked:
        """The offer that takes the piece now, with a place taken there; or why none does."""
        until: float | None = None
        busy = ours = False
        # Dearer offers are not used while a cheaper one is merely full or rate limited.
        ceiling = min((_price(offer) for offer in self._limited()), default=UNKNOWN_PRICE)
        for offer in self.allowed(piece):
            if _price(offer) > ceiling and not self._may_pay_more():
                if self.role == "query":
                    until = sooner(until, self.started + self.router.spill_after_seconds)
                continue
            pause = self.router.pause(offer)
            if pause is not None:
                if pause.until - self.router.now() <= self._patience(pause):
                    until = sooner(until, pause.until)
                if pause.fault.kind == "rate_limited":
                    ceiling = min(ceiling, _price(offer))
                continue
            if self._waits_for_us(piece, offer):
                ours = True
            elif self._has_place(offer):
                return offer
            else:
                busy = True
            ceiling = min(ceiling, _price(offer))
        return Blocked(until, busy, ours)

    def allowed(self, piece: Piece) -> list[ConfiguredOffer]:
        """The offers that a piece may go to at all, in the order in which to ask them."""
        if piece.inquiry is not None:
            offers = [piece.inquiry.offer]
        elif piece.split is not None and not piece.split.dissolved:
            offers = [piece.split.offer]
        else:
            offers = [offer for offer in self.ranked if offer.key not in piece.refused]
        allowed = [
            offer
            for offer in offers
            if offer.key not in self.out
            and offer.key not in piece.unread
            and self.router.parity.refuses(offer) is None
        ]
        return sorted(allowed, key=lambda offer: offer.key in piece.avoid)

    def _waits_for_us(self, piece: Piece, offer: ConfiguredOffer) -> bool:
        """Whether the offer waits for a settlement or an inquiry of this very call."""
        asked = offer.key in self.asked and piece.inquiry is None
        return asked or offer.key in self.short_of_money

    def _has_place(self, offer: ConfiguredOffer) -> bool:
        places = offer.offer.max_concurrency or self.router.concurrency
        if self.router.places.take(offer.key, places, self.wake):
            return True
        self.wanted.add(offer.key)
        return False

    def _limited(self) -> list[ConfiguredOffer]:
        return [offer for offer in self.ranked if offer.key in self.limited]

    def _may_pay_more(self) -> bool:
        if self.role == "query":
            return self.router.now() >= self.started + self.router.spill_after_seconds
        return self.router.spill_to_paid

    def _patience(self, pause: Paused) -> float:
        """How many seconds a pause may last for this call to wait for its end."""
        if pause.fault.kind == "rate_limited":
            return self.router.timeout_seconds
        return OUTAGE_PATIENCE_SECONDS if pause.fault.kind in OUTAGES else 0.0


def _price(offer: ConfiguredOffer) -> Decimal:
    return UNKNOWN_PRICE if offer.price is None else offer.price


def sooner(one: float | None, other: float | None) -> float | None:
    """The earlier of two moments, None standing for never."""
    return min((moment for moment in (one, other) if moment is not None), default=None)
