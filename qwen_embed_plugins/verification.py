"""`verify`: every offer of a space is examined, measured by one of them, and given a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from qwen_embed_plugins.catalogue import RESERVED_OVER_ESTIMATE, ConfiguredOffer
from qwen_embed_plugins.effects import (
    Finished,
    Flow,
    KeepProbes,
    KeepVerdict,
    Learn,
    Reserve,
    Start,
    Wait,
)
from qwen_embed_plugins.errors import ConfigurationError, NoOfferLeft
from qwen_embed_plugins.events import AttemptFinished, VerdictChanged
from qwen_embed_plugins.examination import (
    Examination,
    Observed,
    Question,
    examination,
    instruction_of,
)
from qwen_embed_plugins.findings import Judgement, Near, choose_reference, judge
from qwen_embed_plugins.formats import formatted
from qwen_embed_plugins.jobs import likely_tokens, make_job
from qwen_embed_plugins.ledger import Reservation
from qwen_embed_plugins.meters import GRANTS, Refused
from qwen_embed_plugins.parity import PROBES, least_cosine
from qwen_embed_plugins.spending import Held, settle, tokens_used
from qwen_embed_plugins.tariffs import use_of
from qwen_embed_plugins.types import Fault
from qwen_embed_plugins.verdicts import Verdict
from qwen_embed_plugins.vetting import CUTS, READS, REFUSES, SEEN, SHORTENS

if TYPE_CHECKING:
    from qwen_embed_plugins.router import Router
    from qwen_embed_plugins.spaces import EmbeddingSpace
    from qwen_embed_plugins.types import Matrix

PATIENCE_SECONDS = 60.0
"""How long one request of an examination waits for a rate limit, each time."""

ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class OfferReport:
    """What `verify` says of one offer. `fault` is set when it could not be examined; then nothing
    is decided, and what was known of it stands."""

    offer: str
    serves: bool
    reason: str
    near: Near | None = None
    matrix: tuple[tuple[float, ...], ...] | None = None
    findings: tuple[str, ...] = ()
    fault: Fault | None = None
    tokens: int = 0
    cost: Decimal = Decimal(0)
    requests: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of `verify`: one entry for each configured offer, in the settings' order.

    `published` are the cosines on the model's card, queries by documents, None where there are
    none; `reference` is the offer that the others were measured by.
    """

    space: EmbeddingSpace
    reference: str | None
    published: tuple[tuple[float, float], tuple[float, float]] | None
    offers: tuple[OfferReport, ...]

    @property
    def all_serve(self) -> bool:
        """Whether every offer was examined and may serve."""
        return all(entry.serves and entry.fault is None for entry in self.offers)


@dataclass(slots=True, eq=False)
class _UnderExamination:
    """One offer's examination and what it has used so far."""

    offer: ConfiguredOffer
    steps: Examination
    question: Question | None = None
    observed: Observed | None = None
    attempts: int = 0
    tokens: int = 0
    cost: Decimal = Decimal(0)
    requests: int = 0


@dataclass(slots=True)
class Verification:
    """The flow of one `verify`: all offers at once, each asked one thing after another.

    `against` names an offer or a provider to measure by; `longest` bounds the long texts in tokens.
    """

    router: Router
    space: EmbeddingSpace
    against: str | None = None
    longest: int | None = None
    under_way: dict[int, tuple[_UnderExamination, Held]] = field(default_factory=dict)
    waiting: list[tuple[float, int, _UnderExamination]] = field(default_factory=list)

    def run(self) -> Flow[Report]:
        """Examine, judge, remember. Raises `ConfigurationError` when `against` names no offer,
        `NoOfferLeft` when the one that it names gave no vectors."""
        self._named()
        all_of_them = [
            _UnderExamination(offer, examination(offer, self.longest))
            for offer in self.router.catalogue.offers
        ]
        for item in all_of_them:
            item.question = next(item.steps)
            yield from self._ask(item)
        while self.under_way or self.waiting:
            finished = yield Wait(self.waiting[0][0] if self.waiting else None)
            if finished is not None:
                yield from self._take_in(finished)
            while self.waiting and self.waiting[0][0] <= self.router.now():
                yield from self._ask(heappop(self.waiting)[2])
        return (yield from self._conclude(all_of_them))

    # Asking

    def _ask(self, item: _UnderExamination) -> Flow[None]:
        """Send the open question; without the money for it, the examination ends."""
        question, offer = item.question, item.offer
        if question is None:
            return
        instruction = instruction_of(question.role)
        texts = formatted(question.texts, question.role, instruction, offer)
        job = make_job(self.router, offer, texts, question.role, instruction, question.dimensions)
        tokens = likely_tokens(self.router, job)
        held = yield from self._reserve(offer, tokens)
        if isinstance(held, Refused) and held.meter.kind in ("minute", "flight"):
            heappush(self.waiting, (held.until or self.router.now(), job.id, item))
            return
        if isinstance(held, Refused):
            item.question, item.observed = None, Observed(Fault("quota_spent", held.message))
            return
        self.under_way[job.id] = (item, held)
        yield Start(job)

    def _reserve(self, offer: ConfiguredOffer, tokens: int) -> Flow[Held | Refused]:
        """Hold what a question may use: of a grant, or at the price where no grant has as much."""
        while True:
            tariff = self.router.tariffs.of(offer, self.router.now())
            reserved = yield Reserve(use_of(offer, tariff, tokens * RESERVED_OVER_ESTIMATE))
            if isinstance(reserved, Reservation):
                return Held(reserved, tariff, tokens)
            if reserved.meter.kind not in GRANTS:
                refused: Refused = reserved
                return refused
            self.router.tariffs.spent(reserved, self.router.now())

    def _take_in(self, finished: Finished) -> Flow[None]:
        item, held = self.under_way.pop(finished.job.id)
        yield from self._settle(item, finished, held)
        outcome = finished.outcome
        if isinstance(outcome, Fault) and (yield from self._try_again(item, finished, outcome)):
            return
        item.attempts = 0
        try:
            item.question = item.steps.send(finished)
        except StopIteration as stop:
            item.question, item.observed = None, stop.value
        else:
            yield from self._ask(item)

    def _try_again(self, item: _UnderExamination, finished: Finished, fault: Fault) -> Flow[bool]:
        """Ask the same once more where that helps: in floats, or after a rate limit's pause."""
        item.attempts += 1
        if fault.asks_for_floats and finished.job.batch.encoding == "base64":
            yield from self._learn(item.offer, "encoding", "float")
            yield from self._ask(item)
            return True
        pause = fault.retry_after_seconds if fault.retry_after_seconds is not None else 2.0
        if fault.kind != "rate_limited" or item.attempts > ATTEMPTS or pause > PATIENCE_SECONDS:
            return False
        heappush(self.waiting, (self.router.now() + pause, finished.job.id, item))
        return True

    def _settle(self, item: _UnderExamination, finished: Finished, held: Held) -> Flow[None]:
        tokens = tokens_used(held, finished)
        cost = (yield from settle(held, finished, tokens)).cost
        item.tokens, item.cost, item.requests = (
            item.tokens + tokens,
            item.cost + cost,
            item.requests + 1,
        )
        kind = finished.outcome.kind if isinstance(finished.outcome, Fault) else None
        count = len(finished.job.batch.texts)
        self.router.emit(
            AttemptFinished(item.offer.key, count, tokens, cost, finished.seconds, kind)
        )

    def _learn(self, offer: ConfiguredOffer, name: str, value: str) -> Flow[None]:
        self.router.capabilities[offer.endpoint, name] = value
        yield Learn(offer.endpoint, name, value)

    # Concluding

    def _conclude(self, items: Sequence[_UnderExamination]) -> Flow[Report]:
        seen = {
            item.offer: item.observed
            for item in items
            if item.observed is not None and _is_decisive(item.observed)
        }
        reference = self._named_measure(seen) or choose_reference(seen)
        measure = (reference, seen[reference]) if reference is not None else None
        if len(seen) == 1:
            measure = None
        entries = []
        for item in items:
            if item.offer in seen and (measure is not None or not _needs_measuring(item.offer)):
                judgement = judge(item.offer, seen[item.offer], measure, self.router.min_parity)
                yield from self._remember(item.offer, seen[item.offer], judgement, reference)
                entries.append(_entry(item, judgement))
            else:
                entries.append(_undecided(item))
        model = self.router.catalogue.model
        name = reference.key if reference is not None else None
        return Report(self.space, name, model.published, tuple(entries))

    def _named(self) -> list[ConfiguredOffer]:
        """The offers that `against` names; none if it is not given. Raises if it names nobody."""
        offers = self.router.catalogue.offers
        named = [o for o in offers if self.against in (o.key, o.provider.config.name)]
        if self.against is None or named:
            return named
        known = ", ".join(offer.provider.config.name for offer in offers)
        raise ConfigurationError(
            f"against = {self.against!r}: no such offer is configured; here are: {known or 'none'}"
        )

    def _named_measure(self, seen: Mapping[ConfiguredOffer, Observed]) -> ConfiguredOffer | None:
        """The offer to measure by as `against` names it; None if it is not given. Raises
        `NoOfferLeft` when that one gave no vectors: then nothing is decided of anybody."""
        named = self._named()
        for offer in named:
            if offer in seen and seen[offer].documents is not None:
                return offer
        if not named:
            return None
        raise NoOfferLeft(
            f"against = {self.against!r}: its vectors could not be had, so nothing can be measured "
            "by it; run verify without it to see why",
            reasons={offer.key: "its vectors could not be had" for offer in named},
        )

    def _remember(
        self,
        offer: ConfiguredOffer,
        observed: Observed,
        judgement: Judgement,
        reference: ConfiguredOffer | None,
    ) -> Flow[None]:
        """Keep the verdict, and the vectors by which later canaries know the offer."""
        verdict = Verdict(
            offer.model.name,
            serves=judgement.serves,
            reason=judgement.reason,
            measure="verify",
            at=self.router.now(),
            reference=reference.key if reference is not None else None,
            cosine_min=judgement.near.least if judgement.near else None,
            cosine_mean=judgement.near.mean if judgement.near else None,
            findings=judgement.findings,
            since=self.router.now() if self._has_changed(offer, observed) else 0.0,
        )
        before = self.router.parity.verdicts.get(offer.endpoint)
        verdict = verdict.following(before)
        self.router.parity.verdicts[offer.endpoint] = verdict
        yield KeepVerdict(offer.endpoint, verdict)
        if before is None or before.serves != verdict.serves:
            self.router.emit(
                VerdictChanged(offer.key, str(self.space), verdict.serves, verdict.cosine_min)
            )
        yield from self._relearn(offer, observed)

    def _has_changed(self, offer: ConfiguredOffer, observed: Observed) -> bool:
        """Whether an offer gives other vectors than those that it was known by."""
        known, probes = self.router.parity.met.get(offer.endpoint), _probes(observed)
        if known is None or probes is None:
            return False
        return least_cosine(probes, known) < self.router.min_parity

    def _relearn(self, offer: ConfiguredOffer, observed: Observed) -> Flow[None]:
        probes = _probes(observed)
        if probes is not None:
            self.router.parity.met[offer.endpoint] = probes
            yield KeepProbes(offer.endpoint, probes)
            yield from self._learn(offer, SEEN, str(self.router.now()))
        lengths = {READS: observed.read, CUTS: observed.cut_at, REFUSES: observed.refused_at}
        for name, length in lengths.items():
            yield from self._learn(offer, name, str(length or 0))
        if observed.shortening is not None:
            yield from self._learn(offer, SHORTENS, observed.shortening)
        self.router.unread.pop(offer.endpoint, None)


def _probes(observed: Observed) -> Matrix | None:
    """The vectors that it gave for the probes; None if it did not give all of them rightly."""
    if observed.documents is None or any(row < len(PROBES) for row in observed.bad):
        return None
    return observed.documents[: len(PROBES)]


def _is_decisive(observed: Observed) -> bool:
    """Whether enough was seen to judge: all its answers, or one that is itself a judgement. An
    outage, a limit or a wrong key says nothing of its vectors."""
    return observed.fault is None or observed.fault.kind == "bad_vector"


def _entry(item: _UnderExamination, judgement: Judgement) -> OfferReport:
    matrix = item.observed.matrix if item.observed is not None else None
    return OfferReport(
        item.offer.key,
        judgement.serves,
        judgement.reason,
        judgement.near,
        None if matrix is None else tuple(tuple(map(float, row)) for row in matrix),
        judgement.findings,
        None,
        item.tokens,
        item.cost,
        item.requests,
    )


def _needs_measuring(offer: ConfiguredOffer) -> bool:
    """Whether sound answers alone say nothing of the space that it serves."""
    return not (offer.is_proven_by_name or offer.trusted)


def _undecided(item: _UnderExamination) -> OfferReport:
    fault = item.observed.fault if item.observed is not None else None
    fault = fault or Fault("unavailable", "there is nothing to measure it by")
    return OfferReport(
        item.offer.key,
        serves=False,
        reason=f"could not be examined: {fault.message}",
        fault=fault,
        tokens=item.tokens,
        cost=item.cost,
        requests=item.requests,
    )
