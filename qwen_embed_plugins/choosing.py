"""Which offer takes a piece of a call now: ranking, pauses, free places, and what may be paid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qwen_embed_plugins.bisect import Piece
from qwen_embed_plugins.catalogue import ConfiguredOffer
from qwen_embed_plugins.health import Paused
from qwen_embed_plugins.tariffs import ALL_FREE, Tier
from qwen_embed_plugins.types import FaultKind, Role

if TYPE_CHECKING:
    from qwen_embed_plugins.router import Router

OUTAGE_PATIENCE_SECONDS = 5.0
"""How long a call waits for an offer that fails; longer outages are its caller's business."""

LIMIT_PATIENCE_SECONDS = 75.0
"""A bulk job waits at least so long for a limit that the ledger keeps: the minute, and what other
processes take in between."""

OUTAGES: frozenset[FaultKind] = frozenset({"unavailable", "bad_vector"})


NO_CEILING: Tier = (3, 0.0)


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
    tiers: dict[str, Tier] = field(init=False)
    started: float = field(init=False)
    heard: float = field(init=False)
    """When an answer came last, or the call began."""

    _ranked_as: int = field(init=False)
    _ranked_until: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.heard = self.router.now()
        self.rank()

    def rank(self) -> None:
        """Put the offers in order by what they cost now."""
        now, tariffs = self.router.now(), self.router.tariffs
        self._ranked_as = tariffs.version
        self.ranked = self.router.ranked(self.role)
        self.tiers = {offer.key: tariffs.of(offer, now).tier for offer in self.ranked}
        changes = (tariffs.changes_at(offer, now) for offer in self.ranked)
        self._ranked_until = min(changes, default=float("inf"))

    def rank_if_changed(self) -> None:
        """The same if a grant ended meanwhile, or began anew."""
        if self._ranked_as != self.router.tariffs.version or (
            self.router.now() >= self._ranked_until
        ):
            self.rank()

    def choose(self, piece: Piece) -> ConfiguredOffer | Blocked:
        """The offer that takes the piece now, with a place taken there; or why none does."""
        until: float | None = None
        busy = ours = False
        # Dearer offers are not used while a cheaper one is merely full or rate limited.
        limited = (_limited(self.tiers[offer.key]) for offer in self._limited())
        ceiling = min(limited, default=NO_CEILING)
        for offer in self.allowed(piece):
            tier = self.tiers.get(offer.key, NO_CEILING)
            if tier > ceiling and not self._may_pay_more():
                if self.role == "query":
                    until = sooner(until, self.started + self.router.spill_after_seconds)
                continue
            pause = self.router.pause(offer)
            if pause is not None:
                if self._is_worth_waiting_for(pause):
                    until = sooner(until, pause.until)
                if pause.fault.kind == "rate_limited":
                    ceiling = min(ceiling, _limited(tier))
                continue
            if self._waits_for_us(piece, offer):
                ours = True
            elif self._has_place(offer):
                return offer
            else:
                busy = True
            # A bulk job does not touch a grant while one that is lost sooner is merely full.
            ceiling = min(ceiling, tier if self.role == "document" else _limited(tier))
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
            if offer.key in self.tiers  # it may have lost a grant, and have no price to be asked at
            and offer.key not in self.out
            and offer.key not in piece.unread
            and self.router.parity.refuses(offer) is None
        ]
        return sorted(allowed, key=lambda offer: offer.key in piece.avoid)

    def _waits_for_us(self, piece: Piece, offer: ConfiguredOffer) -> bool:
        """Whether the offer waits for a settlement or an inquiry of this very call."""
        asked = offer.key in self.asked and piece.inquiry is None
        return asked or offer.key in self.short_of_money

    def _has_place(self, offer: ConfiguredOffer) -> bool:
        if self.router.places.take(offer.key, self.router.places_at(offer), self.wake):
            return True
        self.wanted.add(offer.key)
        return False

    def _limited(self) -> list[ConfiguredOffer]:
        return [offer for offer in self.ranked if offer.key in self.limited]

    def _may_pay_more(self) -> bool:
        if self.role == "query":
            return self.router.now() >= self.started + self.router.spill_after_seconds
        return self.router.spill_to_paid

    def _is_worth_waiting_for(self, pause: Paused) -> bool:
        # Others may take each place that gets free. A bulk job has time; who asks a query waits no
        # longer for all these pauses together than for one.
        together = self.role == "query" and pause.fault.kind == "rate_limited"
        since = self.heard if together else self.router.now()
        return pause.until - since <= self._patience(pause)

    def _patience(self, pause: Paused) -> float:
        """How many seconds a pause may last for this call to wait for its end."""
        if pause.fault.kind == "rate_limited":
            bulk = pause.is_ours and self.role == "document"
            return max(LIMIT_PATIENCE_SECONDS * bulk, self.router.timeout_seconds)
        return OUTAGE_PATIENCE_SECONDS if pause.fault.kind in OUTAGES else 0.0


def _limited(tier: Tier) -> Tier:
    """The dearest that may be used instead of an offer that keeps to a limit: nothing is paid that
    would not have been, and what is given away may stand in for each other."""
    return ALL_FREE if tier <= ALL_FREE else tier


def sooner(one: float | None, other: float | None) -> float | None:
    """The earlier of two moments, None standing for never."""
    return min((moment for moment in (one, other) if moment is not None), default=None)
