"""What became of each text of a call, and how that is told."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np

from qwen_embed_plugins.errors import BudgetExceeded, NoOfferLeft
from qwen_embed_plugins.meters import clock
from qwen_embed_plugins.spaces import shorten
from qwen_embed_plugins.types import (
    Attempt,
    EmbedResult,
    FaultKind,
    TextError,
    TextErrorKind,
    Usage,
)

if TYPE_CHECKING:
    from qwen_embed_plugins.bisect import Piece
    from qwen_embed_plugins.catalogue import ConfiguredOffer
    from qwen_embed_plugins.meters import Refused
    from qwen_embed_plugins.router import EmbedRequest, Router
    from qwen_embed_plugins.spaces import Squares
    from qwen_embed_plugins.types import Matrix

TEXT_FAULTS: dict[FaultKind, TextErrorKind] = {
    "bad_input": "bad_input",
    "too_large": "too_large",
    "bad_vector": "bad_vector",
    # A text that makes a server fail whenever it is sent, while its neighbours pass.
    "unavailable": "bad_input",
}

SETTLED_BY_USER: frozenset[FaultKind] = frozenset({"bad_key", "bad_offer"})
"""Faults that waiting does not mend: such an offer is not one that may yet take a text."""


OUT_WITH_THEIR_ACCOUNT: frozenset[FaultKind] = frozenset({"unavailable", "bad_key", "quota_spent"})
"""Faults that keep a provider from serving another model, too."""


class Outcome:
    """Collects vectors, errors and attempts of one call; `out` has the offers it does without."""

    def __init__(self, router: Router, request: EmbedRequest) -> None:
        self.router = router
        self.request = request
        count = len(request.texts)
        # Not filled: a row is written once, with its vector or, in the end, with NaN.
        self.vectors: Matrix = np.empty((count, request.space.dimensions), np.float32)
        self.offers: list[str | None] = [None] * count
        self.errors: dict[int, TextError] = {}
        self.attempts: list[Attempt] = []
        self.estimated = False
        self.out: dict[str, str] = {}
        self._budget: Refused | None = None

    def store(
        self, places: Sequence[int], matrix: Matrix, squares: Squares, offer: ConfiguredOffer
    ) -> None:
        """Keep checked native vectors, cut to the space's length and normalised; `squares` are the
        squared lengths of what is left of them."""
        if not places:
            return
        dimensions, first = self.request.space.dimensions, places[0]
        if tuple(places) == tuple(range(first, first + len(places))):
            out = self.vectors[first : first + len(places)]
            shorten(matrix, dimensions, squares=squares, out=out)
        else:
            self.vectors[list(places)] = shorten(matrix, dimensions, squares=squares)
        for place in places:
            self.offers[place] = offer.key
        self._report(places)

    def over_budget(self, offer: ConfiguredOffer, refused: Refused) -> None:
        """Note that a budget keeps an offer out of this call."""
        self._budget = refused
        self.out[offer.key] = refused.message

    def give_up(self, piece: Piece) -> None:
        """No offer takes these texts now: say whose fault it is."""
        kind, message = self._why(piece)
        for place in piece.places:
            self.errors[place] = TextError(place, kind, message)
        self._report(piece.places)

    def _report(self, places: Sequence[int]) -> None:
        if self.request.report is not None:
            self.request.report([self.request.texts[place] for place in places])

    def _why(self, piece: Piece) -> tuple[TextErrorKind, str]:
        if piece.unread:
            unread = ", ".join(sorted(piece.unread))
            return "no_offer", f"{unread} failed to show that it reads texts so long; try later"
        if not piece.refused:
            return "no_offer", self._told()
        said = "; ".join(f"{key}: {fault.message}" for key, fault in piece.refused.items())
        waiting = [
            offer.key for offer in self.router.catalogue.offers if self._may_take(offer, piece)
        ]
        if waiting:
            return "no_offer", f"{said}; {', '.join(waiting)} may take it later"
        *_, last = piece.refused.values()
        return TEXT_FAULTS.get(last.kind, "bad_input"), said

    def _may_take(self, offer: ConfiguredOffer, piece: Piece) -> bool:
        """Whether an offer that is out now has served before and has not refused these texts."""
        if self.router.parity.refuses(offer) is not None:
            return False
        if offer.key in piece.refused or not self.router.health.has_served(offer.key):
            return False
        pause = self.router.pause(offer)
        return pause is None or pause.fault.kind not in SETTLED_BY_USER

    def reasons(self) -> dict[str, str]:
        """Why each offer does not serve this call: those that were asked first, then the others."""
        asked = {offer.key: self._reason(offer) for offer in self.router.catalogue.offers}
        return {**asked, **self.router.catalogue.left_out}

    def _told(self) -> str:
        """The reasons in words; services that nobody has set up here are only counted."""
        unnamed = self.router.catalogue.unnamed
        again = self._again()
        said = [
            f"{name}: {why}" + (f" (again at {clock(again[name])})" if name in again else "")
            for name, why in self.reasons().items()
            if name not in unnamed
        ]
        if not said:
            said = ["none is set up; start Ollama, or set the key of a service"]
        if unnamed:
            said.append(f"{len(unnamed)} more are known, see `qwen-embed providers`")
        return "; ".join(said)

    def _reason(self, offer: ConfiguredOffer) -> str:
        refused = self.router.parity.refuses(offer)
        if refused is not None:
            return refused
        if self.request.role not in offer.serve:
            return f"serves no {self.request.role}: serve = {', '.join(map(_quoted, offer.serve))}"
        if not self.router.tariffs.serves(offer, self.router.now()):
            return "its grant is spent or over, no price is known, and a budget is set"
        pause = self.router.pause(offer)
        said = self.out.get(offer.key) or (pause and pause.fault.message)
        return said or "not usable for these texts"

    def _again(self) -> dict[str, float]:
        """When an offer that rests, or that waits for a grant, is asked again."""
        moments: dict[str, float] = {}
        for offer in self.router.catalogue.offers:
            pause, now = self.router.pause(offer), self.router.now()
            if pause is not None:
                moments[offer.key] = pause.until
            elif not self.router.tariffs.serves(offer, now):
                moments[offer.key] = self.router.tariffs.changes_at(offer, now)
        return {key: moment for key, moment in moments.items() if moment < float("inf")}

    def _kinds(self) -> dict[str, FaultKind]:
        """Why the offers that rest do so."""
        pauses = {offer.key: self.router.pause(offer) for offer in self.router.catalogue.offers}
        return {key: pause.fault.kind for key, pause in pauses.items() if pause is not None}

    def _way_out(self) -> str:
        """Another model that would cost nothing, in words; "" if there is none."""
        pauses = [(offer, self.router.pause(offer)) for offer in self.router.catalogue.offers]
        out = {
            offer.provider.config.name
            for offer, pause in pauses
            if pause is not None and pause.fault.kind in OUT_WITH_THEIR_ACCOUNT
        }
        for way in self.router.ways_out(out)[:1]:
            *others, last = way.providers
            providers = f"{', '.join(others)} and {last}" if others else last
            return (
                f'; model = "{way.model}" would be served by {providers}, free; it is another '
                f"space: its vectors cannot stand beside those of {self.request.space.model}"
            )
        return ""

    def retry_at(self) -> float | None:
        """When it is worth another try (seconds since the epoch); None: not before the settings
        change."""
        moments = list(self._again().values())
        if self._budget is not None and self._budget.until is not None:
            moments.append(self._budget.until)
        return min(moments, default=None)

    def result(self) -> EmbedResult:
        """The call's result; raises when no text got a vector and no text is to blame."""
        unserved = [place for place, offer in enumerate(self.offers) if offer is None]
        if unserved:
            self.vectors[unserved] = np.nan
        blameless = all(error.kind == "no_offer" for error in self.errors.values())
        nothing = len(self.errors) == len(self.request.texts) and not self.request.others_served
        if self.errors and nothing and blameless:
            way_out = self._way_out()
            if self._budget is not None:
                raise BudgetExceeded(self._budget.message + way_out, retry_at=self._budget.until)
            message = f"no offer left for {self.request.space}: {self._told()}{way_out}"
            raise NoOfferLeft(
                message,
                reasons=self.reasons(),
                retry_at=self.retry_at(),
                again=self._again(),
                kinds=self._kinds(),
            )
        return EmbedResult(
            vectors=self.vectors,
            errors=tuple(self.errors[place] for place in sorted(self.errors)),
            space=self.request.space,
            usage=Usage(
                tokens=sum(attempt.tokens for attempt in self.attempts),
                texts=len(self.request.texts) - len(self.errors),
                requests=len(self.attempts),
                estimated=self.estimated,
            ),
            cost=sum((attempt.cost for attempt in self.attempts), Decimal(0)),
            attempts=tuple(self.attempts),
            offers=tuple(self.offers),
        )


def _quoted(word: str) -> str:
    return f'"{word}"'
