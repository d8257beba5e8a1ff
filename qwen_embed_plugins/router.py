"""The flow of one call: from texts to checked vectors, over whichever offers serve.

The call keeps a pool of pieces (runs of texts that wait for an offer). It starts batches while
offers have room, takes whatever finishes first, and puts back what has to go elsewhere, until
nothing is left that any offer could still take. How a refused batch is taken apart is in
`bisect.py`; what flows share is in `health.py`; what became of each text is in `outcome.py`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import count
from typing import Any

from qwen_embed_plugins.bisect import Piece, Split, take_apart
from qwen_embed_plugins.catalogue import Catalogue, ConfiguredOffer
from qwen_embed_plugins.effects import (
    Finished,
    Flow,
    Job,
    Learn,
    Reserve,
    Settle,
    Start,
    Wait,
    Wake,
)
from qwen_embed_plugins.errors import ConfigurationError, without_secrets
from qwen_embed_plugins.events import AttemptFinished, BudgetReached, Event, OfferPaused
from qwen_embed_plugins.health import Health, Paused
from qwen_embed_plugins.ledger import Refused, Reservation
from qwen_embed_plugins.outcome import Outcome
from qwen_embed_plugins.routing import UNKNOWN_PRICE, Candidate, Policy
from qwen_embed_plugins.spaces import EmbeddingSpace
from qwen_embed_plugins.tokens import estimate_all, estimate_tokens
from qwen_embed_plugins.types import Answer, Attempt, Batch, EmbedResult, Fault, FaultKind, Role
from qwen_embed_plugins.vectors import BadAnswer, as_matrix, equal_rows, row_faults

KNOWN_GOOD = "The capital of China is Beijing."
"""The probe text: short, plain, from the model card. Who refuses this refuses everything."""

SUSPICIONS = 3
"""A text is blamed for an offer's failures only after so many of them, with the known-good text
taken after each: a server that fails every second time must not condemn anyone."""

FAILURES_IN_A_ROW = 3
"""After so many a call does without an offer, or suspects a text of causing them."""

RATE_LIMITS_IN_A_ROW = 10
"""Waiting for a limit is worth more patience than an outage, but not for ever."""

RESERVED_OVER_ESTIMATE = 2
"""A reservation is an upper bound; the estimate can be half the truth (code, rare scripts)."""

BYTES_PER_NUMBER = 32
"""Generous: a float64 takes up to 25 characters in JSON."""

ANSWER_SLACK_BYTES = 1 << 20

OUTAGE_PATIENCE_SECONDS = 5.0
"""How long a call waits for an offer that fails; longer outages are its caller's business."""

REFUSALS: frozenset[FaultKind] = frozenset({"bad_input", "too_large", "bad_vector"})
"""What a provider says of the texts. (A bad vector that only we noticed is the offer's failure.)"""

OUTAGES: frozenset[FaultKind] = frozenset({"unavailable", "bad_vector"})


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """What one call asks for. Its texts are distinct, and none is empty."""

    texts: Sequence[str]
    role: Role
    space: EmbeddingSpace
    instruction: str | None = None


@dataclass(slots=True)
class Router:
    """What the flows of one embedder share. Values and in-memory state, no I/O."""

    catalogue: Catalogue
    policy: Policy
    query_policy: Policy
    health: Health
    capabilities: dict[tuple[str, str], str]
    now: Callable[[], float]
    emit: Callable[[Event], None]
    concurrency: int = 8
    timeout_seconds: float = 60.0
    spill_after_seconds: float = 2.0
    spill_to_paid: bool = False
    job_ids: Iterator[int] = field(default_factory=count)

    def flow(self, request: EmbedRequest, wake: Wake) -> Flow[EmbedResult]:
        """The flow of one call. It raises `NoOfferLeft` or `BudgetExceeded` when no text at all
        got a vector and none is to blame for it."""
        return _EmbedCall(self, request, wake).run()

    def ranked(self, role: Role) -> list[ConfiguredOffer]:
        """The offers in the order in which this role asks them."""
        policy = self.query_policy if role == "query" else self.policy
        candidates = [
            Candidate(offer, self.health.latency_seconds(offer.key))
            for offer in self.catalogue.offers
        ]
        try:
            # Only what it was given: a policy ranks and leaves out, it does not make offers.
            return [candidates[candidates.index(chosen)].offer for chosen in policy(candidates)]
        except Exception as error:
            name = getattr(policy, "__name__", "the policy")
            said = without_secrets(f"{type(error).__name__}: {error}")
            raise ConfigurationError(
                f"policy {name} must give the candidates in some order ({said}); choose another "
                "policy"
            ) from error

    def pause(self, offer: ConfiguredOffer) -> Paused | None:
        """The pause that an offer is in, by itself or with its account."""
        now = self.now()
        return self.health.paused(offer.key, now) or self.health.paused(offer.account, now)


@dataclass(frozen=True, slots=True)
class _Blocked:
    """No offer takes a piece now. `until` is when one may, `busy` says that one has no free place;
    with neither, none will in this call."""

    until: float | None = None
    busy: bool = False


@dataclass(frozen=True, slots=True)
class _UnderWay:
    piece: Piece
    reservation: Reservation
    tokens: int
    began: float


class _EmbedCall:
    """The state of one call. Methods that yield are parts of its flow."""

    def __init__(self, router: Router, request: EmbedRequest, wake: Wake) -> None:
        self.router = router
        self.request = request
        self.wake = wake
        self.model = router.catalogue.model
        self.ranked = router.ranked(request.role)
        self.started = router.now()
        self.pool: deque[Piece] = deque()
        if request.texts:
            self.pool.append(Piece(tuple(range(len(request.texts)))))
        self.under_way: dict[int, _UnderWay] = {}
        self.failures: Counter[str] = Counter()
        self.failed_at: dict[str, float] = {}
        self.accepted: set[str] = set()
        self.short_of_money: set[str] = set()
        self.outcome = Outcome(router, request)

    def run(self) -> Flow[EmbedResult]:
        try:
            while self.pool or self.under_way:
                blocked = yield from self._dispatch()
                if self.under_way or blocked.busy or blocked.until is not None:
                    finished = yield Wait(blocked.until)
                    if finished is not None:
                        yield from self._take_in(finished)
        finally:
            # Places are shared with other flows; one that ends early must not keep them.
            for job in self._jobs_left():
                self.router.health.release(job)
        return self.outcome.result()

    def _jobs_left(self) -> list[str]:
        return [item.reservation.offer for item in self.under_way.values()]

    # Choosing an offer

    def _dispatch(self) -> Flow[_Blocked]:
        """Start what can be started; say when it is worth looking again."""
        until: float | None = None
        busy = False
        for _ in range(len(self.pool)):
            first = self.pool.popleft()
            if first.probe and first.split is not None and first.split.dissolved:
                continue
            piece: Piece | None = first
            while piece is not None:
                if len(self.under_way) >= self.router.concurrency:
                    self.pool.appendleft(piece)
                    return _Blocked(until, busy)
                choice = self._choose(piece)
                if isinstance(choice, _Blocked):
                    self._wait_or_give_up(piece, choice)
                    busy = busy or choice.busy
                    until = _sooner(until, choice.until)
                    break
                piece = yield from self._start(piece, choice)
        return _Blocked(until, busy)

    def _choose(self, piece: Piece) -> ConfiguredOffer | _Blocked:
        """The offer that takes the piece now, with a place taken there; or why none does."""
        until: float | None = None
        busy = False
        cheapest_waiting = UNKNOWN_PRICE
        for offer in self._allowed(piece):
            if offer.key in self.short_of_money:
                busy = True
                continue
            if _price(offer) > cheapest_waiting and not self._may_pay_more():
                if self.request.role == "query":
                    until = _sooner(until, self.started + self.router.spill_after_seconds)
                continue
            pause = self.router.pause(offer)
            if pause is not None:
                if pause.until - self.router.now() <= self._patience(pause):
                    until = _sooner(until, pause.until)
                    if pause.fault.kind == "rate_limited":
                        cheapest_waiting = min(cheapest_waiting, _price(offer))
                continue
            places = offer.offer.max_concurrency or self.router.concurrency
            if self.router.health.acquire(offer.key, places, self.wake):
                return offer
            busy = True
            cheapest_waiting = min(cheapest_waiting, _price(offer))
        return _Blocked(until, busy)

    def _allowed(self, piece: Piece) -> list[ConfiguredOffer]:
        if piece.split is not None and not piece.split.dissolved:
            offers = [piece.split.offer]
        else:
            offers = [offer for offer in self.ranked if offer.key not in piece.refused]
        allowed = [offer for offer in offers if offer.key not in self.outcome.out]
        return sorted(allowed, key=lambda offer: offer.key in piece.avoid)

    def _may_pay_more(self) -> bool:
        """Whether a dearer offer may be used while a cheaper one is only full or rate limited."""
        if self.request.role == "query":
            return self.router.now() >= self.started + self.router.spill_after_seconds
        return self.router.spill_to_paid

    def _patience(self, pause: Paused) -> float:
        """How many seconds a pause may last for this call to wait for its end."""
        if pause.fault.kind == "rate_limited":
            return self.router.timeout_seconds
        return OUTAGE_PATIENCE_SECONDS if pause.fault.kind in OUTAGES else 0.0

    def _wait_or_give_up(self, piece: Piece, blocked: _Blocked) -> None:
        if blocked.busy or blocked.until is not None:
            self.pool.append(piece)
        elif piece.split is not None and not piece.split.dissolved:
            self._dissolve(piece.split, piece)
        elif not piece.probe:
            self.outcome.give_up(piece)

    # Starting a batch

    def _start(self, piece: Piece, offer: ConfiguredOffer) -> Flow[Piece | None]:
        """Start a batch from the front of the piece; gives what is left of it."""
        piece, too_long = self._set_long_apart(piece, offer)
        if too_long is not None:
            self.pool.append(too_long)
        if not piece.places and not piece.probe:
            self.router.health.release(offer.key)
            return None
        batch_piece, rest = self._cut(piece, offer)
        started = False
        try:
            # Made before money is held for it: a plugin's code runs in it, and may fail.
            job = self._job(batch_piece, offer)
            tokens = estimate_all(self._texts(batch_piece))
            bound = tokens * RESERVED_OVER_ESTIMATE
            reserved = yield Reserve(offer.key, bound, offer.cost(bound))
            started = isinstance(reserved, Reservation)
        finally:
            if not started:
                self.router.health.release(offer.key)
        if isinstance(reserved, Refused):
            if any(item.reservation.cost for item in self.under_way.values()):
                # What is held is an upper bound: when a request settles there may be enough again.
                self.short_of_money.add(offer.key)
                return piece
            self.outcome.over_budget(offer, reserved)
            self.router.emit(BudgetReached(reserved.budget, reserved.message))
            return piece
        self.under_way[job.id] = _UnderWay(batch_piece, reserved, tokens, self.router.now())
        yield Start(job)
        return rest

    def _job(self, piece: Piece, offer: ConfiguredOffer) -> Job:
        texts = self._texts(piece)
        role: Role = "document" if piece.probe else self.request.role
        instruction = self.request.instruction if role == "query" else None
        format_query = self.model.format_query
        if instruction and format_query and not offer.provider.adds_instruction:
            texts = [format_query(text, instruction) for text in texts]
        encoding = self.router.capabilities.get((offer.endpoint, "encoding"))
        batch = Batch(
            texts,
            role,
            self.model,
            offer.offer.wire_name,
            instruction,
            "float" if encoding == "float" else "base64",
        )
        size = len(texts) * self.model.dimensions * BYTES_PER_NUMBER + ANSWER_SLACK_BYTES
        return Job(next(self.router.job_ids), offer, batch, self.router.timeout_seconds, size)

    def _texts(self, piece: Piece) -> list[str]:
        if piece.probe:
            return [KNOWN_GOOD]
        return [self.request.texts[place] for place in piece.places]

    def _cut(self, piece: Piece, offer: ConfiguredOffer) -> tuple[Piece, Piece | None]:
        """The part of a piece that one request to the offer may hold, and the rest."""
        if piece.split is not None or piece.probe:
            return piece, None
        size = self._batch_size(piece, offer)
        rest = piece.places[size:]
        return (
            replace(piece, places=piece.places[:size]),
            replace(piece, places=rest, failures=0) if rest else None,
        )

    def _batch_size(self, piece: Piece, offer: ConfiguredOffer) -> int:
        learnt = self.router.capabilities.get((offer.endpoint, "max_inputs"))
        size = min(
            offer.max_inputs,
            max(1, int(learnt)) if learnt else offer.max_inputs,
        )
        if offer.offer.max_batch_tokens is None:
            return size
        tokens = 0
        for number, place in enumerate(piece.places[:size]):
            tokens += estimate_tokens(self.request.texts[place])
            if tokens > offer.offer.max_batch_tokens:
                return max(1, number)
        return size

    def _set_long_apart(self, piece: Piece, offer: ConfiguredOffer) -> tuple[Piece, Piece | None]:
        """Part a piece into what suits the offer and what looks too long for it, if another offer
        takes longer texts.

        An estimate routes and never refuses: without such an offer all stay together, and the
        provider's own answer decides.
        """
        limit = offer.offer.max_input_tokens
        if limit is None or piece.split is not None or piece.probe:
            return piece, None
        if offer.key in piece.avoid or offer.key in piece.fits:
            return piece, None
        piece = replace(piece, fits=piece.fits | {offer.key})
        is_long = [estimate_tokens(self.request.texts[place]) > limit for place in piece.places]
        if not any(is_long) or not self._roomier(piece, limit):
            return piece, None
        pairs = list(zip(piece.places, is_long, strict=True))
        long_places = tuple(place for place, long in pairs if long)
        return (
            replace(piece, places=tuple(place for place, long in pairs if not long)),
            replace(piece, places=long_places, avoid=piece.avoid | {offer.key}),
        )

    def _roomier(self, piece: Piece, limit: int) -> bool:
        limits = (offer.offer.max_input_tokens for offer in self._allowed(piece))
        return any(other is None or other > limit for other in limits)

    # Taking in what came back

    def _take_in(self, finished: Finished) -> Flow[None]:
        item = self.under_way.pop(finished.job.id)
        offer = finished.job.offer
        self.router.health.release(offer.key)
        self.short_of_money.clear()
        verdict = examine(finished, self.request.space.dimensions)
        yield from self._settle(item, finished, verdict.fault)
        if verdict.fault is not None:
            refused = verdict.fault is finished.outcome and verdict.fault.kind in REFUSALS
            if refused:
                yield from self._refusal(item.piece, finished.job, verdict.fault)
            else:
                self._failure(item, finished, verdict.fault)
            return
        self.failures[offer.key] = 0
        self.accepted.add(offer.key)
        if not verdict.bad_rows:
            for key in (offer.key, offer.account):
                self.router.health.succeeded(key, finished.seconds, item.began)
        if verdict.answered_in_floats and finished.job.batch.encoding == "base64":
            yield from self._learn(offer, "encoding", "float")
        if not item.piece.probe:
            self._keep(item, offer, verdict)
        self._answered(item.piece)

    def _settle(self, item: _UnderWay, finished: Finished, fault: Fault | None) -> Flow[None]:
        answer = finished.outcome if isinstance(finished.outcome, Answer) else None
        if answer is not None and answer.tokens is not None:
            tokens = answer.tokens
        else:
            # Without an answer a provider may have counted the request all the same.
            tokens = item.tokens if answer is not None or finished.maybe_served else 0
            self.outcome.estimated |= tokens > 0
        offer = finished.job.offer
        cost = offer.cost(tokens)
        yield Settle(item.reservation, tokens, cost)
        count_ = len(finished.job.batch.texts)
        self.outcome.attempts.append(
            Attempt(offer.key, count_, finished.seconds, tokens, cost, fault)
        )
        kind = fault.kind if fault else None
        self.router.emit(AttemptFinished(offer.key, count_, tokens, cost, finished.seconds, kind))

    def _keep(self, item: _UnderWay, offer: ConfiguredOffer, verdict: Verdict) -> None:
        """Store the good rows; texts whose rows are bad go to other offers, and doubtful ones are
        asked again alone, where no other text's vector can be taken for theirs."""
        piece = item.piece
        unkept = {*verdict.bad_rows, *verdict.doubtful_rows}
        good = [row for row in range(len(piece.places)) if row not in unkept]
        for row in verdict.doubtful_rows:
            if row not in verdict.bad_rows:
                self.pool.append(replace(piece, places=(piece.places[row],)).freed())
        self.outcome.store([piece.places[row] for row in good], verdict.matrix[good], offer)
        for row, message in verdict.bad_rows.items():
            fault = Fault("bad_vector", message)
            if self.router.health.gave_bad_vector(offer.key):
                self._pause(offer, fault, item.began)
            alone = replace(piece, places=(piece.places[row],)).refused_by(offer, fault)
            self.pool.append(alone)

    def _refusal(self, piece: Piece, job: Job, fault: Fault) -> Flow[None]:
        """The provider objects to what was sent: send it another way, or look for the bad text."""
        if (yield from self._adapted(piece, job, fault)):
            self.pool.appendleft(piece)
        else:
            self._refused(piece, job.offer, fault)

    def _failure(self, item: _UnderWay, finished: Finished, fault: Fault) -> None:
        """The offer failed, whatever was sent: pause it, and let the texts go elsewhere."""
        piece, offer = item.piece, finished.job.offer
        self._pause(offer, fault, item.began)
        if fault.kind in OUTAGES:
            piece = replace(piece, failures=piece.failures + 1)
        if piece.failures >= FAILURES_IN_A_ROW and offer.key in self.accepted:
            # The offer takes other texts: perhaps one of these is what makes it fail.
            self.failures[offer.key] = 0
            self._refused(replace(piece, failures=0), offer, fault)
            return
        if (
            piece.failures >= FAILURES_IN_A_ROW
            and finished.answered
            and not piece.probe
            and self._allowed(piece) == [offer]
        ):
            # It answers, has taken nothing yet, and no other is there: the known-good text decides.
            self.failures[offer.key] = FAILURES_IN_A_ROW - 1
            piece = replace(piece, failures=0, split=None)
            self._judge(Split(offer, unanswered=0, held=[(piece, fault)]))
            return
        if item.began >= self.failed_at.get(offer.key, item.began):
            # Else it was under way when the last failure showed: the same one, seen again.
            self.failures[offer.key] += 1
            self.failed_at[offer.key] = self.router.now()
        if self.failures[offer.key] >= self._failures_allowed(fault):
            self.outcome.out[offer.key] = fault.message
        if piece.split is not None and not piece.split.dissolved:
            self._dissolve(piece.split, piece)
        elif not piece.probe:
            self.pool.appendleft(piece.freed())

    def _failures_allowed(self, fault: Fault) -> int:
        return RATE_LIMITS_IN_A_ROW if fault.kind == "rate_limited" else FAILURES_IN_A_ROW

    def _adapted(self, piece: Piece, job: Job, fault: Fault) -> Flow[bool]:
        """Learn from a refusal that says what the offer would take; True if the same texts may
        now be sent another way."""
        if fault.asks_for_floats and job.batch.encoding == "base64":
            yield from self._learn(job.offer, "encoding", "float")
            return True
        if fault.limit is not None and 0 < fault.limit < len(piece.places):
            yield from self._learn(job.offer, "max_inputs", str(fault.limit))
            return piece.split is None
        return False

    def _learn(self, offer: ConfiguredOffer, name: str, value: str) -> Flow[None]:
        self.router.capabilities[offer.endpoint, name] = value
        yield Learn(offer.endpoint, name, value)

    def _pause(self, offer: ConfiguredOffer, fault: Fault, began: float) -> None:
        key = offer.account if fault.scope == "account" else offer.key
        pause = self.router.health.failed(key, fault, self.router.now(), began)
        self.router.emit(OfferPaused(key, fault.kind, fault.message, pause.until))

    # Taking refused batches apart

    def _refused(self, piece: Piece, offer: ConfiguredOffer, fault: Fault) -> None:
        split = piece.split
        if piece.probe and split is not None:
            self._offer_at_fault(split, fault)
        elif split is not None and not split.dissolved:
            split.unanswered -= 1
            split.held.append((piece, fault))
            self._judge(split)
        elif len(piece.places) > 1:
            self.pool.extendleft(reversed(take_apart(piece, offer, fault.text_index)))
        else:
            self._judge(Split(offer, unanswered=0, held=[(piece, fault)]))

    def _answered(self, piece: Piece) -> None:
        split = piece.split
        if split is not None and not split.dissolved:
            split.accepted = True
            split.unanswered -= not piece.probe
            self._judge(split)

    def _judge(self, split: Split) -> None:
        """Once all parts of a split have their verdict: blame texts, split on, or ask the probe."""
        if split.unanswered or not split.held:
            return
        if split.needs_probe():
            self.pool.appendleft(Piece((), split=split, probe=True))
            return
        held, split.held = split.held, []
        for piece, fault in held:
            if len(piece.places) > 1:
                parts = take_apart(piece, split.offer, fault.text_index)
                self.pool.extendleft(reversed(parts))
            elif fault.kind == "unavailable" and piece.suspicions + 1 < SUSPICIONS:
                again = replace(piece.freed(), failures=FAILURES_IN_A_ROW - 1)
                self.pool.append(replace(again, suspicions=piece.suspicions + 1))
            else:
                self.pool.append(piece.refused_by(split.offer, fault))

    def _offer_at_fault(self, split: Split, fault: Fault) -> None:
        """The offer refuses even the known-good text: no text is to blame."""
        message = f"it refuses even a plain text: {fault.message}"
        self._pause(split.offer, Fault("bad_offer", message), self.router.now())
        self._dissolve(split)

    def _dissolve(self, split: Split, piece: Piece | None = None) -> None:
        """Give the texts of a split free for other offers."""
        split.dissolved = True
        pieces = [held for held, _ in split.held]
        if piece is not None and not piece.probe:
            pieces.append(piece)
        split.held = []
        self.pool.extendleft(held.freed() for held in pieces)


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer after the checks: a fault, or the matrix with what is wrong in single rows."""

    fault: Fault | None = None
    matrix: Any = None
    bad_rows: Mapping[int, str] = field(default_factory=dict)
    doubtful_rows: Sequence[int] = ()
    answered_in_floats: bool = False


def examine(finished: Finished, dimensions: int) -> Verdict:
    """Check what came back against what was sent, for vectors that will be cut to `dimensions`."""
    if isinstance(finished.outcome, Fault):
        return Verdict(finished.outcome)
    answer, model = finished.outcome, finished.job.offer.model
    count_ = len(finished.job.batch.texts)
    try:
        matrix = as_matrix(answer.vectors, count_, model)
    except BadAnswer as error:
        return Verdict(Fault("bad_vector", str(error)))
    bad_rows = row_faults(matrix, model, dimensions)
    if len(bad_rows) == count_ > 1:
        return Verdict(Fault("bad_vector", f"in all {count_} answers {bad_rows[0]}"))
    return Verdict(None, matrix, bad_rows, equal_rows(matrix, model), answer.encoding == "float")


def _price(offer: ConfiguredOffer) -> Decimal:
    return UNKNOWN_PRICE if offer.price is None else offer.price


def _sooner(one: float | None, other: float | None) -> float | None:
    return min((moment for moment in (one, other) if moment is not None), default=None)
