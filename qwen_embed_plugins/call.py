"""The flow of one call: from texts to checked vectors, over whichever offers serve.

The call keeps a pool of pieces (runs of texts that wait for an offer). It starts batches while
offers have room, takes whatever finishes first, and puts back what has to go elsewhere, until
nothing is left that any offer could still take. Which offer takes a piece is decided in
`choosing.py`, how much of it one request holds in `batching.py`; how a refused batch is taken
apart is in `bisect.py`, and what became of each text in `outcome.py`.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qwen_embed_plugins.batching import cut, is_cuttable, set_long_apart
from qwen_embed_plugins.bisect import Piece, Split, take_apart
from qwen_embed_plugins.catalogue import ConfiguredOffer
from qwen_embed_plugins.checks import Checked, examine
from qwen_embed_plugins.choosing import OUTAGES, Blocked, Chooser
from qwen_embed_plugins.effects import Finished, Flow, Job, Start, Wait, Wake
from qwen_embed_plugins.events import OfferPaused
from qwen_embed_plugins.formats import formatted
from qwen_embed_plugins.inquiries import Inquiry
from qwen_embed_plugins.jobs import likely_tokens, make_job
from qwen_embed_plugins.meters import Refused
from qwen_embed_plugins.outcome import Outcome
from qwen_embed_plugins.parity import PROBES
from qwen_embed_plugins.spending import Held, Spending
from qwen_embed_plugins.tokens import TokenCounter
from qwen_embed_plugins.types import Answer, EmbedResult, Fault, Role
from qwen_embed_plugins.vetting import Vetting

if TYPE_CHECKING:
    from qwen_embed_plugins.router import EmbedRequest, Router

log = logging.getLogger("qwen_embed_plugins")

KNOWN_GOOD = "The capital of China is Beijing."
"""The probe text: short, plain, from the model card. Who refuses this refuses everything."""

SUSPICIONS = 3
"""A text is blamed for an offer's failures only after so many of them, with the known-good text
taken after each: a server that fails every second time must not condemn anyone."""

PIECE_TEXTS = 2_048
"""So many texts of a call at most wait as one piece."""

FAILURES_IN_A_ROW = 3
"""After so many a call does without an offer, or suspects a text of causing them."""

RATE_LIMITS_IN_A_ROW = 10
"""Waiting for a limit is worth more patience than an outage, but not for ever."""


@dataclass(frozen=True, slots=True)
class _UnderWay:
    piece: Piece
    held: Held
    began: float
    canary: int | None = None


class EmbedCall:
    """The state of one call. Methods that yield are parts of its flow."""

    def __init__(self, router: Router, request: EmbedRequest, wake: Wake) -> None:
        self.router = router
        self.request = request
        self.model = router.catalogue.model
        self.outcome = Outcome(router, request)
        self.chooser = Chooser(router, request.role, wake, self.outcome.out)
        self.vetting = Vetting(router, request, self.chooser.asked)
        self.pool: deque[Piece] = deque()
        places = range(len(request.texts))
        starts = places[::PIECE_TEXTS]
        self.untouched = deque(Piece(tuple(places[at : at + PIECE_TEXTS])) for at in starts)
        """Pieces that come into the pool as it empties: what is done to a piece for each batch that
        is taken from it must not grow with the job."""
        self.under_way: dict[int, _UnderWay] = {}
        self.spending = Spending(router, self.outcome, self.chooser, self.under_way)
        self.room: dict[str, int] = {}
        """For how many tokens a grant or a budget has room at an offer, where a batch has more."""
        self.failures: Counter[str] = Counter()
        self.failed_at: dict[str, float] = {}
        self.accepted: set[str] = set()

    def run(self) -> Flow[EmbedResult]:
        try:
            while self.pool or self.under_way or self.untouched:
                self._fill_pool()
                yield from self.router.recall()
                blocked = yield from self._dispatch()
                if self.under_way or blocked.busy or blocked.until is not None:
                    finished = yield Wait(blocked.until, alone=not blocked.busy)
                    if finished is not None:
                        yield from self._take_in(finished)
        finally:
            # Places are shared with other flows; one that ends early must not keep them.
            self.router.places.wait_only_for(self.chooser.wake)
            for item in self.under_way.values():
                self.router.places.give_back(item.held.reservation.use.offer)
        return self.outcome.result()

    # Choosing an offer

    def _dispatch(self) -> Flow[Blocked]:
        """Start what can be started; say what the rest waits for."""
        self.chooser.wanted.clear()
        self.chooser.rank_if_changed()
        waiting = yield from self._start_what_can_be()
        self.router.places.wait_only_for(self.chooser.wake, self.chooser.wanted)
        return waiting

    def _start_what_can_be(self) -> Flow[Blocked]:
        waiting = Blocked()
        for _ in range(len(self.pool)):
            first = self.pool.popleft()
            if self._is_moot(first):
                continue
            dissolved = first.split is not None and first.split.dissolved
            piece: Piece | None = first.freed() if dissolved else first
            while piece is not None:
                choice = self.chooser.choose(piece)
                if isinstance(choice, Blocked):
                    self._wait_or_give_up(piece, choice)
                    waiting = waiting.and_also(choice)
                    break
                piece = yield from self._start(piece, choice)
        return waiting

    def _fill_pool(self) -> None:
        """Keep a piece in the pool that any offer may take, while there are more."""
        if self.untouched and not any(piece.is_fresh for piece in self.pool):
            self.pool.append(self.untouched.popleft())

    def _is_moot(self, piece: Piece) -> bool:
        """Whether a piece of ours waits for something that has been decided meanwhile."""
        if piece.inquiry is not None:
            if not self._has_texts_left():
                self.vetting.inquiries.close(piece.inquiry.offer)
            return not self.vetting.inquiries.is_open(piece.inquiry)
        return piece.probe and piece.split is not None and piece.split.dissolved

    def _has_texts_left(self) -> bool:
        """Whether a text of the call still has no verdict: else nobody needs to be asked."""
        if self.untouched:
            return True
        pieces = (*self.pool, *(item.piece for item in self.under_way.values()))
        return any(piece.inquiry is None for piece in pieces)

    def _wait_or_give_up(self, piece: Piece, blocked: Blocked) -> None:
        if not blocked.for_good:
            self.pool.append(piece)
        elif piece.inquiry is not None:
            self.vetting.inquiries.close(piece.inquiry.offer)
        elif piece.split is not None and not piece.split.dissolved:
            self._dissolve(piece.split, piece)
        elif not piece.probe:
            self.outcome.give_up(piece)

    # Starting a batch

    def _start(self, piece: Piece, offer: ConfiguredOffer) -> Flow[Piece | None]:
        """Start a batch from the front of the piece; gives what is left of it. What the offer has
        yet to show is asked first, and the piece goes on waiting."""
        piece, too_long = set_long_apart(
            piece, self._texts, offer, self.chooser.allowed, self.router.count_tokens
        )
        if too_long is not None:
            self.pool.append(too_long)
        due = self._may_carry_more(piece) and self.vetting.canary_due(offer)
        whole, rest = self._cut(piece, offer, spare=due)
        batch_piece = self._without_what_may_be_cut(whole, offer)
        if batch_piece.places != whole.places:
            # Those wait in the pool already, should the others have to go back.
            left = rest.places if rest is not None else ()
            piece = replace(piece, places=(*batch_piece.places, *left))
        if not batch_piece.places and not piece.probe:
            self.router.places.give_back(offer.key)
            return rest
        texts, canary = self._texts(batch_piece), None
        if not piece.is_ours:
            if due and len(texts) < self._max_inputs(offer):
                canary = self.vetting.canary(offer, texts)
            inquiry = self.vetting.question(offer, texts, look_due=due and canary is None)
            if inquiry is not None:
                # Bare: what is due is seen by the inquiry, and must not be due again after it.
                self.pool.append(replace(piece, bare=piece.bare or due))
                piece = Piece(self.vetting.inquiries.begin(inquiry), inquiry=inquiry)
                canary, (batch_piece, rest) = None, self._cut(piece, offer)
        sent = yield from self._send(batch_piece, offer, canary)
        return rest if sent else piece

    def _cut(
        self, piece: Piece, offer: ConfiguredOffer, *, spare: bool = False
    ) -> tuple[Piece, Piece | None]:
        """The part of a piece that one request may hold, with a place to spare if asked for."""
        limit = max(1, self._max_inputs(offer) - spare)
        room, count = self.room.get(offer.key), self._counter(offer)
        # No more than may go: all that is left of a long call would be gone through for each batch.
        some = len(piece.places) > limit
        first = self._texts(replace(piece, places=piece.places[:limit]) if some else piece)
        return cut(piece, first, offer, limit, room, count)

    def _counter(self, offer: ConfiguredOffer) -> TokenCounter:
        """Counts a text as the offer is likely to."""
        count = self.router.count_tokens
        return lambda text: self.router.likely_tokens(offer, count(text))

    def _max_inputs(self, offer: ConfiguredOffer) -> int:
        learnt = self.router.capabilities.get((offer.endpoint, "max_inputs"))
        return offer.max_inputs if learnt is None else min(offer.max_inputs, int(learnt))

    def _may_carry_more(self, piece: Piece) -> bool:
        return not (piece.is_ours or piece.bare) and piece.split is None

    def _without_what_may_be_cut(self, piece: Piece, offer: ConfiguredOffer) -> Piece:
        """The piece without texts that this offer is known to cut, which go elsewhere or fail, and
        without those for which it failed to show that it does not, which may come back."""
        if piece.is_ours or self.vetting.reads_whatever_comes(offer):
            return piece
        kept = []
        for place, text in zip(piece.places, self._texts(piece), strict=True):
            if self.vetting.is_cut(offer, text):
                about = self.router.count_tokens(text)
                message = f"about {about} tokens; it cuts texts so long without a word"
                alone = replace(piece, places=(place,))
                self.pool.append(alone.refused_by(offer, Fault("too_large", message)))
            elif self.vetting.is_unread(offer, text):
                alone = replace(piece, places=(place,)).freed()
                self.pool.append(replace(alone, unread=piece.unread | {offer.key}))
            else:
                kept.append(place)
        return replace(piece, places=tuple(kept))

    def _send(self, piece: Piece, offer: ConfiguredOffer, canary: int | None) -> Flow[bool]:
        """Reserve and start one request, in the place that was taken; False if it is not to be made
        now."""
        held = None
        try:
            # Made before money is held for it: a plugin's code runs in it, and may fail.
            job = self._job(piece, offer, canary)
            tokens = likely_tokens(self.router, job)
            held = yield from self.spending.reserve(offer, tokens)
        finally:
            if not isinstance(held, Held):
                self.router.places.give_back(offer.key)
        if not isinstance(held, Held):
            self._not_now(piece, offer, held)
            return False
        self.room.pop(offer.key, None)
        self.under_way[job.id] = _UnderWay(piece, held, self.router.now(), canary)
        yield Start(job)
        return True

    def _not_now(self, piece: Piece, offer: ConfiguredOffer, refused: Refused | None) -> None:
        """A reservation was refused; if by a grant or a budget, less is tried while less is
        possible."""
        if refused is None:
            return
        fits = self.spending.fits(offer, refused)
        if fits and is_cuttable(piece) and len(piece.places) > 1:
            # Smaller in any case: an instruction or a canary that goes along counts as well.
            count = self._counter(offer)
            self.room[offer.key] = min(fits, sum(map(count, self._texts(piece))) - 1)
            return
        self.room.pop(offer.key, None)
        self.spending.spent(offer, refused)
        if offer.key in self.outcome.out:
            self.vetting.inquiries.close(offer)

    def _job(self, piece: Piece, offer: ConfiguredOffer, canary: int | None) -> Job:
        role: Role = "document" if piece.is_ours else self.request.role
        instruction = self.request.instruction if role == "query" else None
        texts = formatted(self._texts(piece), role, instruction, offer)
        if canary is not None:
            texts += formatted([PROBES[canary]], "document", None, offer)
        return make_job(self.router, offer, texts, role, instruction)

    def _texts(self, piece: Piece) -> list[str]:
        if piece.probe:
            return [KNOWN_GOOD]
        if piece.inquiry is not None:
            return [piece.inquiry.texts[place] for place in piece.places]
        return [self.request.texts[place] for place in piece.places]

    # Taking in what came back

    def _take_in(self, finished: Finished) -> Flow[None]:
        item = self.under_way.pop(finished.job.id)
        offer = finished.job.offer
        self.router.places.give_back(offer.key)
        self.chooser.short_of_money.clear()
        self.chooser.heard = self.router.now()
        checked = examine(finished, self.request.space.dimensions)
        checked = self._doubted(item.piece, checked, finished)
        yield from self.spending.settle(item.held, finished, checked.fault)
        if checked.fault is not None:
            if checked.refuses_texts:
                yield from self._refusal(item, finished.job, checked.fault)
            else:
                self._failure(item, finished, checked.fault)
            return
        if item.canary is not None:
            # Should it have changed, it is refused from here on, and so is what came along.
            yield from self.vetting.look_at(offer, item.canary, checked.last_row())
            checked = checked.without_last_row()
        yield from self._accepted(item, finished, checked)

    def _doubted(self, piece: Piece, checked: Checked, finished: Finished) -> Checked:
        """The same, or an objection if the count of tokens shows that a text was cut."""
        answer, job = finished.outcome, finished.job
        if checked.fault is not None or not isinstance(answer, Answer) or answer.tokens is None:
            return checked
        doubt = self.vetting.doubt(job.offer, job.batch.texts, answer.tokens)
        if doubt is None or piece.is_ours:  # ours are read for other signs
            return checked
        return Checked(doubt, refuses_texts=True)

    def _accepted(self, item: _UnderWay, finished: Finished, checked: Checked) -> Flow[None]:
        """The answer as a whole is sound: note it, and keep its good rows."""
        job, offer = finished.job, finished.job.offer
        self.failures[offer.key] = 0
        self.accepted.add(offer.key)
        if not checked.bad_rows:
            for key in (offer.key, offer.account):
                self.router.health.succeeded(key, job.batch.role, finished.seconds, item.began)
            most = self.router.most_at_once(offer)
            now, tokens = self.router.now(), item.held.tokens
            self.router.pacing.succeeded(offer.key, finished.seconds, tokens, item.began, now, most)
        if checked.answered_in_floats and job.batch.encoding == "base64":
            yield from self.vetting.learn(offer, "encoding", "float")
        if not item.piece.is_ours:
            yield from self.vetting.calibrate(finished)
        if item.piece.inquiry is not None:
            yield from self._inquired(item.piece, item.piece.inquiry, checked)
        elif self.router.parity.refuses(offer) is not None:
            # It was found out meanwhile that these are not the space's vectors.
            self._release(item.piece)
            return
        elif not item.piece.probe:
            self._keep(item, offer, checked)
        self._answered(item.piece)

    def _inquired(self, piece: Piece, inquiry: Inquiry, checked: Checked) -> Flow[None]:
        """Vectors of an inquiry's texts are here."""
        message = next(iter(checked.bad_rows.values()), None)
        if checked.doubtful_rows and not inquiry.is_reading:
            message = "two different texts got the same vector"
        if message is not None:
            self.vetting.inquiries.close(inquiry.offer)
            self._pause(inquiry.offer, Fault("bad_vector", message), self.router.now())
            return
        yield from self.vetting.answered(inquiry, piece.places, checked.matrix)

    def _keep(self, item: _UnderWay, offer: ConfiguredOffer, checked: Checked) -> None:
        """Store the good rows; texts whose rows are bad go to other offers, and doubtful ones are
        asked again alone, where no other text's vector can be taken for theirs."""
        piece = item.piece
        unkept = {*checked.bad_rows, *checked.doubtful_rows}
        if not unkept:
            self.outcome.store(piece.places, checked.matrix, checked.squares, offer)
            return
        good = [row for row in range(len(piece.places)) if row not in unkept]
        for row in checked.doubtful_rows:
            if row not in checked.bad_rows:
                self.pool.append(replace(piece, places=(piece.places[row],)).freed())
        places = [piece.places[row] for row in good]
        self.outcome.store(places, checked.matrix[good], checked.squares[good], offer)
        for row, message in checked.bad_rows.items():
            fault = Fault("bad_vector", message)
            if self.router.health.gave_bad_vector(offer.key):
                self._pause(offer, fault, item.began)
            alone = replace(piece, places=(piece.places[row],)).refused_by(offer, fault)
            self.pool.append(alone)

    def _refusal(self, item: _UnderWay, job: Job, fault: Fault) -> Flow[None]:
        """The provider objects to what was sent: send it another way, or look for the bad text."""
        piece = item.piece if item.canary is None else replace(item.piece, bare=True)
        if (yield from self._adapted(piece, job, fault)) or item.canary is not None:
            self.pool.appendleft(piece)
        elif piece.inquiry is not None and piece.inquiry.is_answered_by(fault, len(piece.places)):
            yield from self.vetting.refused_length(piece.inquiry)
        else:
            self._refused(piece, job.offer, fault)

    def _failure(self, item: _UnderWay, finished: Finished, fault: Fault) -> None:
        """The offer failed, whatever was sent: pause it, and let the texts go elsewhere."""
        piece, offer = item.piece, finished.job.offer
        self._pause(offer, fault, item.began)
        if fault.kind == "rate_limited":
            most = self.router.most_at_once(offer)
            self.router.pacing.pushed_back(offer.key, item.began, self.router.now(), most)
        if fault.kind in OUTAGES:
            piece = replace(piece, failures=piece.failures + 1)
        if piece.failures >= FAILURES_IN_A_ROW and offer.key in self.accepted:
            # The offer takes other texts: perhaps one of these is what makes it fail.
            self.failures[offer.key] = 0
            self.router.health.forgive(offer.key)
            self._refused(replace(piece, failures=0), offer, fault)
            return
        if (
            piece.failures >= FAILURES_IN_A_ROW
            and finished.answered
            and not piece.probe
            and self.chooser.allowed(piece) == [offer]
        ):
            # It answers, has taken nothing yet, and no other is there: the known-good text decides.
            self.failures[offer.key] = FAILURES_IN_A_ROW - 1
            piece = replace(piece, failures=0, split=None)
            self._judge(Split(offer, unanswered=0, held=[(piece, fault)]))
            return
        now = self.router.now()
        last = self.failed_at.get(offer.key, item.began)
        if item.began >= last or now < last:
            # Else it was under way when the last failure showed: the same one, seen again. One that
            # is still to come was seen before the clock was set back.
            self.failures[offer.key] += 1
            self.failed_at[offer.key] = now
        if self.failures[offer.key] >= self._failures_allowed(fault):
            self.outcome.out[offer.key] = fault.message
            if fault.kind == "rate_limited":
                self.chooser.limited.add(offer.key)
        if piece.inquiry is not None and fault.kind != "rate_limited":
            self.vetting.failed(piece.inquiry)
        elif piece.inquiry is not None:
            # Asked again in time: to begin anew might use up each minute's limit for ever.
            self.pool.append(piece)
        else:
            self._release(piece)

    def _failures_allowed(self, fault: Fault) -> int:
        return RATE_LIMITS_IN_A_ROW if fault.kind == "rate_limited" else FAILURES_IN_A_ROW

    def _adapted(self, piece: Piece, job: Job, fault: Fault) -> Flow[bool]:
        """Learn from a refusal that says what the offer would take; True if the same texts may
        now be sent another way."""
        if fault.asks_for_floats and job.batch.encoding == "base64":
            yield from self.vetting.learn(job.offer, "encoding", "float")
            return True
        if fault.limit is not None and 0 < fault.limit < len(job.batch.texts):
            yield from self.vetting.learn(job.offer, "max_inputs", str(fault.limit))
            return piece.split is None
        return False

    def _pause(self, offer: ConfiguredOffer, fault: Fault, began: float) -> None:
        key = offer.account if fault.scope == "account" else offer.key
        if fault.kind == "bad_key":
            fault = replace(fault, message=f"{fault.message}; {offer.key_remedy}")
        pause = self.router.health.failed(key, fault, self.router.now(), began)
        self.router.emit(OfferPaused(key, fault.kind, fault.message, pause.until))

    # Taking refused batches apart

    def _refused(self, piece: Piece, offer: ConfiguredOffer, fault: Fault) -> None:
        split = piece.split
        apart = piece.inquiry is not None and piece.inquiry.goes_apart(fault)
        if apart and len(piece.places) > 1:
            self.pool.extendleft(replace(piece, places=(place,)) for place in piece.places)
        elif piece.is_ours:
            self.vetting.inquiries.close(offer)
            self._offer_at_fault(offer, fault, split)
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
            if self.vetting.withdraws(fault, split.offer):
                self.pool.append(piece.freed())
            elif len(piece.places) > 1:
                parts = take_apart(piece, split.offer, fault.text_index)
                self.pool.extendleft(reversed(parts))
            elif fault.kind == "unavailable" and piece.suspicions + 1 < SUSPICIONS:
                again = replace(piece.freed(), failures=FAILURES_IN_A_ROW - 1)
                self.pool.append(replace(again, suspicions=piece.suspicions + 1))
            else:
                self.pool.append(piece.refused_by(split.offer, fault))

    def _offer_at_fault(self, offer: ConfiguredOffer, fault: Fault, split: Split | None) -> None:
        """The offer refuses even a text of ours: no text of the call is to blame."""
        message = f"it refuses even a plain text: {fault.message}"
        self._pause(offer, Fault("bad_offer", message), self.router.now())
        if split is not None:
            self._dissolve(split)

    def _release(self, piece: Piece) -> None:
        """Let a piece go elsewhere, and with it all that its split holds."""
        if piece.split is not None and not piece.split.dissolved:
            self._dissolve(piece.split, piece)
        elif not piece.probe:
            self.pool.appendleft(piece.freed())

    def _dissolve(self, split: Split, piece: Piece | None = None) -> None:
        """Give the texts of a split free for other offers."""
        split.dissolved = True
        pieces = [held for held, _ in split.held]
        if piece is not None and not piece.is_ours:
            pieces.append(piece)
        split.held = []
        self.pool.extendleft(held.freed() for held in pieces)
