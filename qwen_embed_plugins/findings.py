"""What was seen of offers, in plain words, and what follows: which of them serve the space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qwen_embed_plugins.catalogue import ConfiguredOffer
from qwen_embed_plugins.examination import EQUAL, HALF_PRECISION, SPACED, TEXTS, Observed
from qwen_embed_plugins.models import Model
from qwen_embed_plugins.parity import SAME_SPACE, cosines

if TYPE_CHECKING:
    pass

CARD_TOLERANCE = 0.03
"""Engines differ by 0.002 in the card's example (transformers and vLLM for the 0.6B, from its
card); 4-bit weights by more."""

UNRELATED = 0.3


class Near(NamedTuple):
    """Cosines between the same texts' vectors of two offers: the least, and their mean."""

    least: float
    mean: float


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether an offer serves the space by what was seen, why, and what else is worth saying."""

    serves: bool
    reason: str
    near: Near | None
    findings: tuple[str, ...]


def nearness(one: Observed, other: Observed) -> Near | None:
    """How near two offers' vectors are, over the texts that both embedded rightly."""
    if one.documents is None or other.documents is None:
        return None
    whole = np.isfinite(one.documents).all(axis=1) & np.isfinite(other.documents).all(axis=1)
    if not whole.any():
        return None
    values = cosines(one.documents[whole], other.documents[whole])
    return Near(float(values.min()), float(values.mean()))


def card_distance(observed: Observed, model: Model) -> float | None:
    """The greatest difference to the card's published cosines; None where none are published."""
    if model.published is None or observed.matrix is None:
        return None
    return float(np.abs(observed.matrix - np.asarray(model.published)).max())


def choose_reference(seen: Mapping[ConfiguredOffer, Observed]) -> ConfiguredOffer | None:
    """The offer that the others are measured by: of those whose vectors are the model's by
    declaration and whole, the one that most others agree with; then the one nearest to the card;
    then the first."""
    whole = [
        offer for offer, observed in seen.items() if offer.is_proven_by_name and _is_whole(observed)
    ]

    def worth(offer: ConfiguredOffer) -> tuple[int, float, int]:
        near = (nearness(seen[offer], seen[other]) for other in whole if other is not offer)
        friends = sum(item is not None and item.least >= SAME_SPACE for item in near)
        distance = card_distance(seen[offer], offer.model)
        return friends, -(distance if distance is not None else 0.0), -whole.index(offer)

    return max(whole, key=worth, default=None)


def _is_whole(observed: Observed) -> bool:
    known = observed.documents is not None and observed.fault is None
    return known and observed.cut_at is None and not observed.mixed_up


def judge(
    offer: ConfiguredOffer,
    observed: Observed,
    reference: tuple[ConfiguredOffer, Observed] | None,
    min_parity: float,
) -> Judgement:
    """Decide on one offer that answered; its own reference when it is the measure itself."""
    near = nearness(observed, reference[1]) if reference is not None else None
    name = reference[0].key if reference is not None else ""
    findings = _findings(offer, observed, near, min_parity, name)
    trouble = _trouble(offer, observed, near, name, min_parity)
    if trouble is not None:
        return Judgement(False, trouble, near, findings)
    if reference is None:
        return Judgement(True, "nothing to compare it with; its answers are sound", None, findings)
    if reference[0] is offer:
        return Judgement(True, "the measure of the others", near, findings)
    shares = f"shares the space of {name}"
    reason = shares if near is None else f"{shares}: cosine {near.least:.4f} at least"
    return Judgement(True, reason, near, findings)


def _trouble(
    offer: ConfiguredOffer, observed: Observed, near: Near | None, name: str, min_parity: float
) -> str | None:
    """Why an offer must not serve, if it must not."""
    if observed.fault is not None:
        return f"its answers fail the checks: {observed.fault.message}"
    if observed.cut_at is not None:
        return (
            f"it cuts texts without a word: two that differ after about {observed.cut_at} tokens "
            "got the same vector"
        )
    if observed.mixed_up:
        return "it mixes texts up: one text got another one's vector"
    if near is None:
        return None if not name else "none of its vectors could be compared"
    if near.least < SAME_SPACE:
        said = f"its vectors are not those of {name}: cosine {near.mean:.3f} on average"
        return f"{said}, {near.least:.3f} at worst, {_likely(near)}"
    if not offer.is_proven_by_name and near.least < min_parity:
        return (
            f"a closed model joins only above min_parity = {min_parity:g}, its cosine to {name} is "
            f"{near.least:.3f}"
        )
    return None


def _likely(near: Near) -> str:
    if near.mean < UNRELATED:
        return "as of another model, another pooling, or a missing end token"
    return "as of a wrong end token, another pooling, or another version of the model"


def _findings(
    offer: ConfiguredOffer, observed: Observed, near: Near | None, min_parity: float, name: str
) -> tuple[str, ...]:
    said: list[str] = []
    said.extend(_on_rows(observed))
    if near is not None and SAME_SPACE <= near.least < min_parity:
        said.append(
            f"its vectors differ from those of {name} more than min_parity = {min_parity:g} allows "
            f"without a word (cosine {near.least:.3f}): coarser weights, perhaps"
        )
    said.extend(_on_card(offer.model, observed))
    said.extend(_on_habits(offer, observed))
    return tuple(said)


def _on_rows(observed: Observed) -> list[str]:
    said = []
    for row, fault in observed.bad.items():
        if TEXTS[row] == HALF_PRECISION:
            said.append(
                f"{fault} for a text that begins with 'importance of': as in half precision "
                "(fp16); run the model in bf16 or fp32"
            )
        else:
            said.append(f"{fault} (text {row + 1} of {len(TEXTS)})")
    return said


def _on_card(model: Model, observed: Observed) -> list[str]:
    distance = card_distance(observed, model)
    if distance is None or distance <= CARD_TOLERANCE or observed.matrix is None:
        return []
    return [
        f"the card's example comes out otherwise, by up to {distance:.2f}: other weights, a wrong "
        "end token, another pooling, or no instruction before queries"
    ]


_SHORTENING = {
    "ignored": "asked for {wish} numbers, it gives another length; the native one is cut here",
    "not normalised": "asked for {wish} numbers, it cuts and does not normalise again; done here",
    "other numbers": "asked for {wish} numbers, it gives others than the first of the native ones",
}


def _on_habits(offer: ConfiguredOffer, observed: Observed) -> list[str]:
    said = []
    if abs(observed.norm - 1) > 1e-3:
        said.append(f"vectors are not normalised (length {observed.norm:.3g}); done here")
    if observed.shortening in _SHORTENING:
        said.append(_SHORTENING[observed.shortening].format(wish=observed.wish))
    if not observed.same_alone and not observed.mixed_up:
        said.append("a text alone and among others has two vectors")
    if _strips(observed):
        said.append("white space at the ends of a text is stripped")
    if observed.refused_at is not None:
        limit = offer.offer.max_input_tokens or offer.model.context_tokens
        said.append(
            f"texts of about {int(observed.refused_at * 1.25)} tokens are refused, within a limit "
            f"of {limit}"
        )
    if observed.unread is not None:
        said.append(f"long texts could not be tried: {observed.unread.message}")
    return said


def _strips(observed: Observed) -> bool:
    if observed.documents is None:
        return False
    spaced, plain = TEXTS.index(SPACED), TEXTS.index(SPACED.strip())
    rows = observed.documents[[spaced]], observed.documents[[plain]]
    return bool(cosines(*rows)[0] > EQUAL)
