"""Which offers of one space may serve it: by declaration, by first meeting, or by measurement.

Open weights are the same everywhere; what servers make of them is not (a missing end token, another
pooling, half precision, a wrong model under the right name). So where several offers may serve a
space, each is asked for the vectors of four short texts before its first batch, once; these are
kept, and compared with those of the offer that was first. A verdict (`verify`, a canary, a reading)
outweighs that comparison.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qwen_embed_plugins.catalogue import ConfiguredOffer
from qwen_embed_plugins.verdicts import Verdict

if TYPE_CHECKING:
    from qwen_embed_plugins.types import Matrix

PROBES = (
    "What is the capital of China?",
    "Explain gravity",
    "The capital of China is Beijing.",
    "Процедура банкротства физических лиц",
)
"""Short texts, two scripts: three of the model card's own examples and a Russian one."""

SAME_SPACE = 0.9
"""Below this cosine two offers do not share a space. Half and 8-bit precision keep 0.999 and more,
4-bit weights 0.97 to 0.99 (curiosity-ai/sentence-transformers-sharp#19); a wrong pooling gave less
than 0.2 (huggingface/text-embeddings-inference#642). Threads read 2026-11."""

REFUSAL_SECONDS = 7 * 86_400
"""An offer that failed its first meeting is met again after so long: servers get mended."""


class Met(NamedTuple):
    """The probes' vectors of an endpoint as the state keeps them, and when they were taken."""

    vectors: bytes
    at: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """How an offer compares with the one it was introduced to: the least cosine over the probes."""

    offer: str
    reference: str
    cosine: float

    @property
    def same_space(self) -> bool:
        return self.cosine >= SAME_SPACE

    def __str__(self) -> str:
        return f"its vectors are not those of {self.reference}: cosine {self.cosine:.3f}"


@dataclass(slots=True)
class Parity:
    """What is known of the offers of one space, shared by the flows of an embedder.

    `met` holds the probes' vectors by endpoint, the oldest first: the first one of an offer that
    belongs to the space is what the others are compared with. With one offer alone there is
    nothing to compare, and nobody is asked. `verified_only` says that settings want every offer
    measured by `verify` before it serves.
    """

    offers: Sequence[ConfiguredOffer]
    met: dict[str, Matrix] = field(default_factory=dict)
    trusted: frozenset[str] = frozenset()
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    verified_only: bool = False
    _cosines: dict[tuple[str, str], tuple[Matrix, Matrix, float]] = field(default_factory=dict)

    def is_unmet(self, offer: ConfiguredOffer) -> bool:
        """Whether the offer must be introduced before it serves."""
        if offer.key in self.trusted or offer.endpoint in (*self.verdicts, *self.met):
            return False
        return len(self.members()) > 1 or self._first_met() is not None

    def members(self) -> list[ConfiguredOffer]:
        """The offers that nothing keeps from serving, introductions aside."""
        return [offer for offer in self.offers if self._by_rule(offer) is None]

    def refuses(self, offer: ConfiguredOffer) -> str | None:
        """Why an offer must not serve this space; None if it may."""
        if (reason := self._by_rule(offer)) is not None:
            return reason
        compared = self.comparison(offer)
        return None if compared is None or compared.same_space else str(compared)

    def _by_rule(self, offer: ConfiguredOffer) -> str | None:
        """Why declaration, settings or a verdict keep it out."""
        if offer.key in self.trusted:
            return None
        verdict = self.verdicts.get(offer.endpoint)
        if verdict is not None:
            if verdict.serves:
                return None
            return f"{verdict.reason} ({verdict.date}; `qwen-embed verify` measures it again)"
        if not offer.is_proven_by_name:
            return (
                f"unproven: nothing has shown that its vectors are {offer.model.name}'s; run "
                "`qwen-embed verify`, or vouch for them with trust = true"
            )
        if self.verified_only:
            return 'not measured yet, and parity = "verified" is set; run `qwen-embed verify`'
        return None

    def comparison(self, offer: ConfiguredOffer) -> Comparison | None:
        """How an offer compares; None if it is the first, alone, trusted, measured otherwise or
        yet to be met."""
        known = offer.key in self.trusted or offer.endpoint in self.verdicts
        if known or offer.endpoint not in self.met:
            return None
        first = self._first_met()
        if first is None or first.endpoint == offer.endpoint:
            return None
        cosine = self._cosine(offer.endpoint, first.endpoint)
        return Comparison(offer.key, first.key, cosine)

    def _cosine(self, one: str, other: str) -> float:
        """The least cosine between two that were met; kept, since every batch asks for it."""
        rows, against = self.met[one], self.met[other]
        known = self._cosines.get((one, other))
        if known is None or known[0] is not rows or known[1] is not against:
            known = self._cosines[one, other] = (rows, against, least_cosine(rows, against))
        return known[2]

    def meet(
        self, offer: ConfiguredOffer, vectors: Matrix, stored: Mapping[str, Met]
    ) -> Comparison | None:
        """Take in an offer's probes; gives how it compares, None for the first one. `stored` are
        all that the state holds: where nobody gave the measure here, another process may have."""
        if self._first_met() is None:
            self.met |= known_probes(stored, self.offers)
        self.met[offer.endpoint] = vectors
        return self.comparison(offer)

    def heed(self, verdicts: Mapping[str, Verdict], stored: Mapping[str, Met]) -> None:
        """Take in what the state holds by now: newer verdicts, and newer vectors of those that are
        known here, by which a mended server is known from then on."""
        for endpoint, verdict in verdicts.items():
            own = self.verdicts.get(endpoint)
            if own is None or own.at < verdict.at:
                self.verdicts[endpoint] = verdict
        known = known_probes(stored, self.offers)
        # Who has met nobody takes in all, as a new process does: else one that alone is left, since
        # a verdict took out who gave the measure, would not be compared with anyone.
        unmet = not self.met
        self.met |= {place: rows for place, rows in known.items() if unmet or place in self.met}

    def _first_met(self) -> ConfiguredOffer | None:
        by_endpoint = {offer.endpoint: offer for offer in reversed(self.offers)}
        # A list: another thread may meet someone meanwhile.
        known = (by_endpoint[place] for place in list(self.met) if place in by_endpoint)
        return next(filter(self._gave_the_measure, known), None)

    def _gave_the_measure(self, offer: ConfiguredOffer) -> bool:
        """Whether what an offer gave at its first meeting belongs to the space. So it does if the
        offer was set aside later, for a change or for cutting texts: else the next offer, of a
        space that was refused, would set the measure."""
        verdict = self.verdicts.get(offer.endpoint)
        if verdict is not None and not verdict.serves:
            return verdict.measure != "verify"
        return self._by_rule(offer) is None

    def forget_old_refusals(self, met_at: Mapping[str, float], now: float) -> None:
        """Let offers that failed their first meeting long ago be met again."""
        for offer in self.offers:
            compared = self.comparison(offer)
            old = now - met_at.get(offer.endpoint, now) > REFUSAL_SECONDS
            if compared is not None and not compared.same_space and old:
                del self.met[offer.endpoint]


def cosines(one: Matrix, other: Matrix) -> Matrix:
    """The cosines between rows of the same place, over the numbers that both have.

    Rows are finite and not zero. A shorter row is compared with the prefix of a longer one, which
    is a vector too where the model was trained for it.
    """
    length = min(one.shape[1], other.shape[1])
    first, second = one[:, :length].astype(np.float64), other[:, :length].astype(np.float64)
    products = np.einsum("ij,ij->i", first, second)
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    # Rounding makes 1.0000000000000009 of equal rows.
    return np.asarray(np.clip(products / norms, -1.0, 1.0))


def least_cosine(one: Matrix, other: Matrix) -> float:
    """The least cosine between rows of the same place."""
    return float(cosines(one, other).min())


def known_probes(stored: Mapping[str, Met], offers: Iterable[ConfiguredOffer]) -> dict[str, Matrix]:
    """Probes' vectors as the state kept them, those of another length left out."""
    lengths = {offer.endpoint: offer.dimensions for offer in offers}
    met: dict[str, Matrix] = {}
    for endpoint, (content, _) in stored.items():
        length = lengths.get(endpoint, 0)
        if length and len(content) == len(PROBES) * length * np.float32().nbytes:
            met[endpoint] = np.frombuffer(content, np.float32).reshape(len(PROBES), length)
    return met
