"""Offers, servers and a ledger on paper, for rehearsals: nothing is sent and nothing is kept.

A job may be too large to be gone through text by text. Then each text on paper stands for `weight`
texts like it, and each request for a bundle of requests. The offers' limits are put accordingly, so
that the real router, which sees ordinary texts and requests, decides what it would decide; only the
ledger counts bundles.

How exact that is: with a weight of 1, entirely. Else what happens within one bundle is not seen. A
grant or a budget is used up to the last `weight` texts; at a limit of requests a day half a bundle
may be lost or won; a limit per minute becomes one over as many minutes as a bundle needs, which is
the same rate but lets the first bundle pass at once; known texts that go along with batches count
by bundles. With a hundred bundles and more each of these is less than 1 % of the job.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qwen_embed_plugins.amounts import Amount
from qwen_embed_plugins.catalogue import ConfiguredOffer
from qwen_embed_plugins.effects import Job
from qwen_embed_plugins.ledger import MemoryLedger, Reservation, Use, attempt
from qwen_embed_plugins.meters import Key, Meter, Refused
from qwen_embed_plugins.parity import PROBES
from qwen_embed_plugins.simulated import Served
from qwen_embed_plugins.tokens import estimate_tokens
from qwen_embed_plugins.types import Answer
from qwen_embed_plugins.windows import MINUTE, Rolling

if TYPE_CHECKING:
    from qwen_embed_plugins.types import Matrix, Vector

DIMENSIONS = 2
"""Vectors on paper are as short as checks allow that tell one from another: at 4,096 numbers a
rehearsal would need hundreds of megabytes. What they say of the space is decided beforehand."""

REQUEST_SECONDS = 1.0
"""How long a request is assumed to take: what was measured ends with its process."""

FULL = 32
"""So many texts a request on paper holds at most, where each stands for several."""


@dataclass(frozen=True, slots=True)
class Bundles:
    """The scale of a rehearsal. By offer: for how many `requests` one on paper stands, how many
    texts such a one holds if it is `full`, and how many `seconds` it takes then. `stretched` says
    by how much, at most, the minutes of limits are longer."""

    offers: tuple[ConfiguredOffer, ...]
    weight: int
    requests: Mapping[str, int]
    seconds: Mapping[str, float]
    full: Mapping[str, int]
    stretched: float


def on_paper(
    offers: Iterable[ConfiguredOffer],
    weight: int,
    tokens: float,
    max_inputs: Callable[[ConfiguredOffer], int],
    at_once: Callable[[ConfiguredOffer], int],
) -> Bundles:
    """The offers with short vectors, and with limits for bundles: each text stands for `weight`
    texts of about so many tokens; `max_inputs` is what an offer takes in a request, `at_once` how
    many requests it has under way."""
    offers = tuple(offers)
    fills = {offer.key: _fill(offer, max_inputs(offer), tokens) for offer in offers}
    requests = {key: max(1, min(weight, FULL * weight // fill)) for key, fill in fills.items()}
    seconds = {key: REQUEST_SECONDS * bundle for key, bundle in requests.items()}
    stretches: dict[tuple[str, str, str], float] = {}
    for offer in offers if weight > 1 else ():
        for meter in offer.limits:
            if meter.window != MINUTE:
                continue
            bundle, a_minute = (
                requests[offer.key],
                _requests_a_minute(meter, fills[offer.key] * tokens),
            )
            needed = math.ceil(a_minute / bundle) * bundle / a_minute
            # A fraction that floats hold exactly: periods are counted in steps of it.
            needed = math.ceil(needed * 1024) / 1024
            stretches[_name(meter)] = max(needed, stretches.get(_name(meter), 1.0))
            if a_minute < at_once(offer) * MINUTE.seconds / REQUEST_SECONDS:
                # The limit takes the time, not the requests.
                seconds[offer.key] = REQUEST_SECONDS
    return Bundles(
        tuple(
            _on_paper(offer, requests[offer.key], weight, max_inputs(offer), stretches)
            for offer in offers
        ),
        weight,
        requests,
        seconds,
        {key: max(1, round(fill * requests[key] / weight)) for key, fill in fills.items()},
        max(stretches.values(), default=1.0),
    )


def _fill(offer: ConfiguredOffer, inputs: int, tokens: float) -> int:
    """About how many texts of so many tokens one request holds."""
    limits: list[float] = [inputs]
    if offer.max_batch_tokens is not None:
        limits.append(offer.max_batch_tokens / tokens)
    if offer.offer.max_batch_bytes is not None:
        limits.append(offer.offer.max_batch_bytes / (4 * tokens))
    return max(1, int(min(limits)))


def _on_paper(
    offer: ConfiguredOffer,
    bundle: int,
    weight: int,
    inputs: int,
    stretches: Mapping[tuple[str, str, str], float],
) -> ConfiguredOffer:
    def fewer(limit: int | None) -> int | None:
        return None if limit is None else max(1, round(limit * bundle / weight))

    terms = replace(
        offer.offer,
        dimensions=None,
        max_inputs=fewer(inputs),
        max_batch_tokens=fewer(offer.max_batch_tokens),
        max_batch_bytes=fewer(offer.offer.max_batch_bytes),
    )
    model = replace(offer.model, dimensions=DIMENSIONS, min_dimensions=None, lengths=())
    limits = tuple(_for_bundles(meter, bundle, stretches) for meter in offer.limits)
    return replace(offer, offer=terms, model=model, limits=limits)


def _for_bundles(
    meter: Meter, bundle: int, stretches: Mapping[tuple[str, str, str], float]
) -> Meter:
    if bundle > 1 and meter.kind == "flight" and meter.requests is not None:
        return replace(meter, requests=meter.requests * bundle)
    stretch = stretches.get(_name(meter))
    if stretch is None:
        return meter
    return replace(
        meter,
        window=Rolling(MINUTE.seconds * stretch),
        requests=None if meter.requests is None else round(meter.requests * stretch),
        tokens=None if meter.tokens is None else round(meter.tokens * stretch),
    )


def _requests_a_minute(meter: Meter, tokens: float) -> float:
    limits = [] if meter.requests is None else [float(meter.requests)]
    if meter.tokens is not None:
        limits.append(meter.tokens / tokens)
    return min(limits, default=math.inf)


def _name(meter: Meter) -> tuple[str, str, str]:
    """What meters have in common that share a count."""
    return meter.kind, meter.account, meter.offer


@dataclass(slots=True)
class Tally:
    """What an offer was used for. `cost` was paid and `credit` covered by grants, both in US
    dollars; `covered` are the tokens that grants covered. `own_tokens` are those of texts of ours,
    by which an offer is met or shows that it reads to the end."""

    tokens: int = 0
    covered: int = 0
    own_tokens: int = 0
    cost: Decimal = Decimal(0)
    credit: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class _Bundle(Use):
    requests: int = 1

    @property
    def amount(self) -> Amount:
        return attempt(self.tokens, self.cost, self.requests)


class _Open(NamedTuple):
    """A bundle that is under way: for how many texts each of its own stands, for how many requests
    it does, whether it is an inquiry of ours, and when it ends."""

    held: Reservation
    weight: int
    requests: int
    ours: bool
    ends: float


class BundledLedger:
    """A ledger on paper, where each request counts as its bundle. `is_ours` tells, by offer,
    whether what is reserved now is an inquiry of ours, which is made once and not in bundles."""

    def __init__(
        self,
        ledger: MemoryLedger,
        bundles: Bundles,
        now: Callable[[], float],
        is_ours: Callable[[str], bool],
    ) -> None:
        self._ledger = ledger
        self._now = now
        self._bundles = bundles
        self._is_ours = is_ours
        self._open: dict[int, _Open] = {}
        self.tallies: dict[str, Tally] = {}
        self.spared: Counter[str] = Counter()
        """The requests that a last bundle of a day did not hold, by offer."""

    def reserve(self, use: Use) -> Reservation | Refused:
        ours = self._is_ours(use.offer)
        weight = 1 if ours else self._bundles.weight
        requests = 1 if ours else self._bundles.requests[use.offer]
        bundle = _Bundle(
            use.account,
            use.offer,
            use.tokens * weight,
            use.cost * weight,
            use.credit * weight,
            use.meters,
            requests,
        )
        outcome = self._ledger.reserve(bundle)
        if isinstance(outcome, Refused) and self._nearly_fits(outcome, requests):
            # The last requests of a day go for a whole bundle: half a bundle is lost or won.
            self.spared[use.offer] += requests - outcome.left
            requests = outcome.left
            outcome = self._ledger.reserve(replace(bundle, requests=requests))
        if isinstance(outcome, Refused):
            return replace(
                outcome, left=outcome.left // weight, until=self._until(outcome, outcome.until)
            )
        ends = self._now() + self._bundles.seconds[use.offer]
        self._open[outcome.id] = _Open(outcome, weight, requests, ours, ends)
        return Reservation(outcome.id, use)

    def _nearly_fits(self, refused: Refused, requests: int) -> bool:
        by_day = refused.meter.kind in ("day", "daily")
        return by_day and requests > 1 and 2 * refused.left >= requests

    def _until(self, refused: Refused, until: float | None) -> float | None:
        """Others may end at any moment, those on paper do not: there is no need to poll."""
        if refused.meter.kind != "flight" or until is None:
            return until
        return max(until, min((item.ends for item in self._open.values()), default=until))

    def top_up(self, use: Use) -> Refused | None:
        return self._ledger.top_up(use)

    def settle(
        self,
        reservation: Reservation,
        tokens: int,
        cost: Decimal,
        *,
        requests: int = 1,
        credit: Decimal = Decimal(0),
    ) -> bool:
        held, weight, bundle, ours, _ = self._open.pop(reservation.id)
        use, requests = reservation.use, requests * bundle
        tally = self.tallies.setdefault(use.offer, Tally())
        tally.tokens += tokens * weight
        tally.own_tokens += tokens * ours
        if use.credit or any(meter.kind == "grant" for meter in use.meters):
            tally.covered += min(tokens, use.tokens) * weight
        tally.cost += cost * weight
        tally.credit += credit * weight
        return self._ledger.settle(
            held,
            tokens * weight,
            cost * weight,
            requests=requests,
            credit=credit * weight,
        )

    def abandon(self, reservation: Reservation) -> None:
        use = reservation.use
        self.settle(reservation, use.tokens, use.cost, credit=use.credit)

    def counts(self) -> list[tuple[Key, Amount]]:
        return self._ledger.counts()

    def write(self) -> None:
        pass

    def after_fork(self) -> None:
        self._ledger.after_fork()

    def close(self) -> None:
        pass


@dataclass(slots=True)
class PaperServer:
    """Plays all servers: gives vectors that pass every check, and counts tokens as told for the
    texts of the job, else `factor` of our estimate. `requests` are those it stands for, by offer in
    the order of first use."""

    bundles: Bundles
    counts: Mapping[str, float]
    factor: float = 1.0
    requests: Counter[str] = field(default_factory=Counter)
    _ours: dict[str, int] = field(default_factory=dict)
    _counted: float = 0.0

    def respond(self, job: Job) -> Served:
        texts, key = job.batch.texts, job.offer.key
        rows = np.ones((len(texts), DIMENSIONS), np.float32)
        rows[:, 1] = np.arange(1, len(texts) + 1)
        for row, text in enumerate(texts):
            if text not in self.counts:
                rows[row] = _direction(self._number(text))
        bundle, share = self.bundles.requests[key], 1.0
        if texts[0] not in self.counts:
            bundle, seconds = 1, REQUEST_SECONDS
        else:
            share = min(1.0, len(texts) / self.bundles.full[key])
            seconds = max(REQUEST_SECONDS, self.bundles.seconds[key] * share)
        self.requests[key] += math.ceil(bundle * share)
        # Rounded as they add up, lest the sum be another.
        before = round(self._counted)
        self._counted += sum(map(self._count, texts))
        return Served(Answer(rows, max(1, round(self._counted) - before)), seconds)

    def _count(self, text: str) -> float:
        count = self.counts.get(text)
        return estimate_tokens(text) * self.factor if count is None else count

    def _number(self, text: str) -> int:
        known = (place for place, probe in enumerate(PROBES) if text.endswith(probe))
        place = next(known, None)
        return (
            self._ours.setdefault(text, len(PROBES) + len(self._ours)) if place is None else place
        )


def probe_rows(agrees: bool) -> Matrix:
    """The vectors of the four known texts as every server on paper gives them; or others."""
    rows = np.stack([_direction(place) for place in range(len(PROBES))])
    return rows if agrees else -rows


def _direction(number: int) -> Vector:
    """Far from those of neighbouring numbers (by the golden angle)."""
    return np.array([math.cos(2.4 * number), math.sin(2.4 * number)], np.float32)
