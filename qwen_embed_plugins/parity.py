"""Whether two offers of one space really give the same vectors: each is introduced first.

Open weights are the same everywhere; what servers make of them is not (a missing end token, another
pooling, half precision, a wrong model under the right name). So where several offers may serve a
space, each is asked for the vectors of four short texts before its first batch, once; these are
kept, and compared with those of the offer that was first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from qwen_embed_plugins.catalogue import ConfiguredOffer

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


@dataclass(frozen=True, slots=True)
class Verdict:
    """How an offer compares with the one it was introduced to: the least cosine over the probes."""

    offer: str
    reference: str
    cosine: float

    @property
    def serves(self) -> bool:
        return self.cosine >= SAME_SPACE

    def __str__(self) -> str:
        return f"its vectors are not those of {self.reference}: cosine {self.cosine:.3f}"


@dataclass(slots=True)
class Parity:
    """What is known of the offers of one space, shared by the flows of an embedder.

    `met` holds the probes' vectors by endpoint, the oldest first: the first is what the others are
    compared with. With one offer alone there is nothing to compare, and nobody is asked.
    """

    offers: Sequence[ConfiguredOffer]
    met: dict[str, Matrix] = field(default_factory=dict)
    trusted: frozenset[str] = frozenset()

    def is_unmet(self, offer: ConfiguredOffer) -> bool:
        """Whether the offer must be introduced before it serves."""
        return (
            len(self.offers) > 1
            and offer.key not in self.trusted
            and offer.endpoint not in self.met
        )

    def verdict(self, offer: ConfiguredOffer) -> Verdict | None:
        """How an offer compares; None if it is the first, alone, trusted or yet to be met."""
        if offer.key in self.trusted or offer.endpoint not in self.met:
            return None
        first = self._first_met()
        if first.endpoint == offer.endpoint:
            return None
        cosine = least_cosine(self.met[offer.endpoint], self.met[first.endpoint])
        return Verdict(offer.key, first.key, cosine)

    def refuses(self, offer: ConfiguredOffer) -> Verdict | None:
        """The verdict that keeps an offer from serving, if there is one."""
        verdict = self.verdict(offer)
        return verdict if verdict is not None and not verdict.serves else None

    def meet(self, offer: ConfiguredOffer, vectors: Matrix) -> Verdict | None:
        """Take in an offer's probes; gives how it compares, None for the first one."""
        self.met[offer.endpoint] = vectors
        return self.verdict(offer)

    def _first_met(self) -> ConfiguredOffer:
        by_endpoint = {offer.endpoint: offer for offer in reversed(self.offers)}
        return next(by_endpoint[endpoint] for endpoint in self.met if endpoint in by_endpoint)


def least_cosine(one: Matrix, other: Matrix) -> float:
    """The least cosine between rows of the same place; rows are finite and not zero."""
    first, second = one.astype(np.float64), other.astype(np.float64)
    products = np.einsum("ij,ij->i", first, second)
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return float((products / norms).min())


def known_probes(stored: Mapping[str, bytes], dimensions: int) -> dict[str, Matrix]:
    """Probes' vectors as the state kept them, those of another length left out."""
    met: dict[str, Matrix] = {}
    for endpoint, content in stored.items():
        numbers = np.frombuffer(content, np.float32)
        if numbers.size == len(PROBES) * dimensions:
            met[endpoint] = numbers.reshape(len(PROBES), dimensions)
    return met
