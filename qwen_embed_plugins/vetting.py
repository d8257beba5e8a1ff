"""What an offer must show before it serves a call, and while it does; what follows from its answer.

Before: a first meeting where several offers share a space, a reading before long texts. While: now
and then a canary, whose vector must still be the one that the offer gave when it was met.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qwen_embed_plugins import canary, reading
from qwen_embed_plugins.catalogue import ConfiguredOffer
from qwen_embed_plugins.effects import Finished, Flow, KeepProbes, KeepVerdict, Learn
from qwen_embed_plugins.events import VerdictChanged
from qwen_embed_plugins.inquiries import Inquiries, Inquiry
from qwen_embed_plugins.jobs import counted_tokens
from qwen_embed_plugins.parity import least_cosine
from qwen_embed_plugins.types import Answer, Fault
from qwen_embed_plugins.verdicts import Measure, Verdict

if TYPE_CHECKING:
    from qwen_embed_plugins.router import EmbedRequest, Router
    from qwen_embed_plugins.types import Matrix, Role

log = logging.getLogger("qwen_embed_plugins")

READS = "reads_tokens"
"""Capability: the longest pair (shared tokens) whose ends had vectors of their own."""

CUTS = "cuts_at_tokens"
"""Capability: the shortest pair whose ends were not read."""

REFUSES = "refuses_at_tokens"
"""Capability: the shortest pair that was refused. So long a text is not cut; of shorter ones that
says nothing, since the model may read less than a gateway before it lets pass."""

SHORTENS = "dimensions"
"""Capability: what becomes of a wish for fewer numbers, in `verify`'s words; for people."""

SEEN = "seen_at"
"""Capability: when its vectors were last seen to be the known ones, in seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Doubt(Fault):
    """An objection of our own: by its count of tokens the offer cut a text."""


class Vetting:
    """The vetting of offers in one call; what it learns is the router's and the state's."""

    def __init__(self, router: Router, request: EmbedRequest, asked: set[str]) -> None:
        self.router = router
        self.role: Role = request.role
        self.space = request.space
        self.inquiries = Inquiries(asked)

    # Before an offer serves

    def question(
        self, offer: ConfiguredOffer, texts: Sequence[str], *, look_due: bool
    ) -> Inquiry | None:
        """What the offer must be asked before it gets these texts. `look_due` says that it is time
        for a look at its vectors, and that no canary can go along."""
        if look_due or self.router.parity.is_unmet(offer):
            return Inquiry(offer)
        shared = self._unproven_length(offer, texts)
        if not shared:
            return None
        # What takes no plain text says nothing by refusing a long one.
        return Inquiry(offer, shared if offer.endpoint in self.router.parity.met else 0)

    def _unproven_length(self, offer: ConfiguredOffer, texts: Sequence[str]) -> int:
        """The length up to which the offer has yet to show that it reads; 0 if it has."""
        if offer.provider.never_cuts or offer.trusted:
            return 0
        longest = self._length_to_prove(offer, texts)
        if len(self.router.parity.members()) > 1:
            # Where another may serve instead, one that cuts is left out before any long text comes.
            longest = max(longest, reading.first_proof(_limit(offer)))
        needed = self._unrefused(offer, longest)
        cuts_at = self._tokens(offer, CUTS)
        known = needed <= self._tokens(offer, READS) or 0 < cuts_at <= needed
        return 0 if known or self._failed_to_read(offer, needed) else needed

    def _length_to_prove(self, offer: ConfiguredOffer, texts: Sequence[str]) -> int:
        return reading.length_to_prove(texts, _limit(offer), self.router.count_tokens)

    def _unrefused(self, offer: ConfiguredOffer, shared_tokens: int) -> int:
        """The proof of this length, or the next shorter one where the offer refuses it."""
        refused = self._tokens(offer, REFUSES)
        if 0 < refused <= shared_tokens:
            return reading.shorter_proof(refused, _limit(offer))
        return shared_tokens

    def reads_whatever_comes(self, offer: ConfiguredOffer) -> bool:
        """Whether nothing speaks against any text's length, so that none needs to be looked at."""
        return not self._tokens(offer, CUTS) and offer.endpoint not in self.router.unread

    def is_unread(self, offer: ConfiguredOffer, text: str) -> bool:
        """Whether the offer has just failed to show that it reads texts as long as this one."""
        return self._failed_to_read(offer, self._length_to_prove(offer, (text,)))

    def _failed_to_read(self, offer: ConfiguredOffer, shared_tokens: int) -> bool:
        unread = self.router.unread.get(offer.endpoint)
        return (
            unread is not None
            and unread.tokens <= shared_tokens
            and self.router.now() < unread.until
        )

    def failed(self, inquiry: Inquiry) -> None:
        """An inquiry got no answer. A long pair may be what the offer fails at, so it is left in
        peace with pairs for a while, longer each time; short texts go there meanwhile."""
        self.inquiries.close(inquiry.offer)
        if inquiry.is_reading:
            unread, endpoint = self.router.unread, inquiry.offer.endpoint
            tokens, now = inquiry.shared_tokens, self.router.now()
            unread[endpoint] = reading.Unread.after(unread.get(endpoint), tokens, now)

    def is_cut(self, offer: ConfiguredOffer, text: str) -> bool:
        """Whether the offer is known to cut texts as long as this one."""
        cuts_at = self._tokens(offer, CUTS)
        return cuts_at > 0 and self._length_to_prove(offer, (text,)) >= cuts_at

    def _tokens(self, offer: ConfiguredOffer, name: str) -> int:
        return int(self.router.capabilities.get((offer.endpoint, name), 0))

    # Its answers

    def answered(self, inquiry: Inquiry, places: Sequence[int], matrix: Any) -> Flow[None]:
        """Take in good vectors of an inquiry's texts; with the last of them, conclude."""
        vectors = self.inquiries.collect(inquiry, places, matrix)
        if vectors is None:
            return
        if inquiry.is_reading:
            yield from self._read(inquiry, vectors)
        else:
            yield from self._met(inquiry.offer, vectors)

    def refused_length(self, inquiry: Inquiry) -> Flow[None]:
        """A reading was refused as too long: who refuses does not cut."""
        self.inquiries.close(inquiry.offer)
        yield from self.learn(inquiry.offer, REFUSES, str(inquiry.shared_tokens))

    def _met(self, offer: ConfiguredOffer, vectors: Matrix) -> Flow[None]:
        known = self.router.parity.met.get(offer.endpoint)
        if known is not None:
            yield from self._looked_at(offer, least_cosine(vectors, known))
            return
        stored = yield KeepProbes(offer.endpoint, vectors)
        yield from self.learn(offer, SEEN, str(self.router.now()))
        # Other flows may have asked at the same time: it is said once.
        said = offer.endpoint in self.router.parity.met
        compared = self.router.parity.meet(offer, vectors, stored or {})
        if said or compared is None or compared.cosine >= self.router.min_parity:
            return
        serves = compared.same_space
        consequence = "it serves all the same" if serves else "it is left out"
        log.warning("%s: %s; %s", offer.key, compared, consequence)
        self.router.emit(VerdictChanged(offer.key, str(self.space), serves, compared.cosine))

    def _read(self, inquiry: Inquiry, vectors: Matrix) -> Flow[None]:
        offer, shared = inquiry.offer, inquiry.shared_tokens
        self.router.unread.pop(offer.endpoint, None)
        if not reading.is_cut(vectors):
            yield from self.learn(offer, READS, str(shared))
            return
        yield from self.learn(offer, CUTS, str(shared))
        if shared <= _limit(offer):
            reason = (
                f"it cuts texts without a word: two that differ after about {shared} tokens got "
                f"the same vector, while {_limit(offer)} are its limit; give it more context, or "
                "make it refuse what is too long"
            )
            yield from self._set_aside(offer, "reading", reason, None)

    def learn(self, offer: ConfiguredOffer, name: str, value: str) -> Flow[None]:
        self.router.capabilities[offer.endpoint, name] = value
        yield Learn(offer.endpoint, name, value)

    # While it serves

    def doubt(self, offer: ConfiguredOffer, texts: Sequence[str], tokens: int) -> Doubt | None:
        """What the offer's own count of tokens says against it; None if nothing does."""
        if offer.key in self.router.miscounting:
            return None
        if reading.counts_too_few(texts, tokens, self.router.count_tokens):
            # Texts so short are never cut: it counts something else than tokens.
            self.router.miscounting.add(offer.key)
            return None
        caps = self._caps(offer, texts)
        said = reading.counted_less(texts, tokens, caps, self.router.count_tokens)
        return None if said is None else Doubt("too_large", said)

    def _caps(self, offer: ConfiguredOffer, texts: Sequence[str]) -> frozenset[int]:
        """Counts that would be a cap met: none where the offer has shown that it reads so far."""
        if offer.provider.never_cuts:
            return frozenset()
        needed = self._unrefused(offer, self._length_to_prove(offer, texts))
        if needed <= self._tokens(offer, READS):
            return frozenset()
        return reading.COMMON_CAPS | {_limit(offer)}

    def withdraws(self, fault: Fault, offer: ConfiguredOffer) -> bool:
        """Whether an objection of ours has lost its ground: the offer's counts mean nothing."""
        return isinstance(fault, Doubt) and offer.key in self.router.miscounting

    def calibrate(self, finished: Finished) -> Flow[None]:
        """Take in how many tokens the provider counted for a sound answer that nothing speaks
        against."""
        answer, offer = finished.outcome, finished.job.offer
        if not isinstance(answer, Answer) or not answer.tokens:
            return
        if offer.key in self.router.miscounting:
            return
        calibration = self.router.calibration
        counted = counted_tokens(self.router, finished.job)
        moved = calibration.observe(offer.endpoint, answer.tokens, counted)
        if moved is not None:
            yield from self.learn(offer, calibration.name, moved)

    def canary(self, offer: ConfiguredOffer, texts: Sequence[str]) -> int | None:
        """The probe that a batch of these texts may carry, if one fits and something is known to
        compare it with."""
        if offer.endpoint not in self.router.parity.met:
            return None
        if self.role == "query" and offer.provider.adds_instruction:
            return None  # the server would take it for a query
        return canary.choose(frozenset(texts))

    def canary_due(self, offer: ConfiguredOffer) -> bool:
        """Count a batch of the offer; whether it should carry a canary."""
        if offer.trusted:
            return False
        seen = float(self.router.capabilities.get((offer.endpoint, SEEN), 0))
        known = offer.endpoint in self.router.parity.met
        unseen = known and self.router.now() - seen > canary.UNSEEN_SECONDS
        return self.router.canaries.due(offer.key) or unseen

    def look_at(self, offer: ConfiguredOffer, probe: int, row: Matrix | None) -> Flow[None]:
        """Compare a canary's vector with the known one; an offer that has changed is set aside. A
        broken vector (None) is a failure like any other's."""
        met = self.router.parity.met.get(offer.endpoint)
        if met is not None and row is not None:
            yield from self._looked_at(offer, canary.cosine(row, met, probe))

    def _looked_at(self, offer: ConfiguredOffer, near: float) -> Flow[None]:
        """Judge an offer that was met before by how near its vectors still are to those."""
        if near >= self.router.min_parity:
            yield from self.learn(offer, SEEN, str(self.router.now()))
            return
        reason = (
            f"its vectors have changed since it was met: cosine {near:.3f} for a known text; what "
            "it gave since the change belongs to another space"
        )
        yield from self._set_aside(offer, "canary", reason, near)

    def _set_aside(
        self, offer: ConfiguredOffer, measure: Measure, reason: str, cosine: float | None
    ) -> Flow[None]:
        """Leave the offer out from now on, say so once, and remember it for other processes."""
        reason = f"{reason}; once it is mended, `qwen-embed verify` lets it in again"
        verdict = Verdict(
            offer.model.name,
            serves=False,
            reason=reason,
            measure=measure,
            at=self.router.now(),
            reference=offer.key if cosine is not None else None,
            cosine_min=cosine,
        )
        known = self.router.parity.verdicts.get(offer.endpoint)
        self.router.parity.verdicts[offer.endpoint] = verdict
        if known is None or known.serves:
            log.warning("%s is set aside: %s", offer.key, reason)
            self.router.emit(VerdictChanged(offer.key, str(self.space), False, cosine))
        yield KeepVerdict(offer.endpoint, verdict)


def _limit(offer: ConfiguredOffer) -> int:
    return offer.offer.max_input_tokens or offer.model.context_tokens
