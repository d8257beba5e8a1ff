"""The examination of one offer: what it is asked, and what is seen in its answers. No I/O.

Plain texts in several languages and of several lengths, the model card's two queries, one text
alone, a shorter length, and pairs of long texts that differ at their ends.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from qwen_embed_plugins import reading
from qwen_embed_plugins.batching import batch_size
from qwen_embed_plugins.catalogue import ConfiguredOffer
from qwen_embed_plugins.checks import examine
from qwen_embed_plugins.effects import Finished
from qwen_embed_plugins.models import DEFAULT_INSTRUCTION, Model
from qwen_embed_plugins.parity import PROBES, cosines
from qwen_embed_plugins.spaces import shorten
from qwen_embed_plugins.tokens import estimate_tokens
from qwen_embed_plugins.types import Answer, Fault, Role
from qwen_embed_plugins.vectors import row_faults

if TYPE_CHECKING:
    from qwen_embed_plugins.types import Matrix

GRAVITY = (
    "Gravity is a force that attracts two bodies towards each other. It gives weight to physical "
    "objects and is responsible for the movement of planets around the sun."
)
"""The model card's second document (QwenLM/Qwen3-Embedding README, read 2026-11)."""

HALF_PRECISION = "importance of sleep for the memory of children"
"""The 8B in fp16 gives NaN for texts that begin like this (QwenLM/Qwen3-Embedding#164)."""

SPACED = "  The kettle is on the stove. \n"

TEXTS = (
    *PROBES,
    GRAVITY,
    HALF_PRECISION,
    "重力は二つの物体を互いに引き寄せる力である。",
    "申请应向居住地的法院提交，并附上收入和财产的文件。",
    "Der Antrag wird beim zuständigen Gericht gestellt.",
    "قدّم المواطن طلبًا إلى المحكمة في مكان إقامته.",
    "def area(radius):\n    return 3.14159 * radius ** 2\n",
    "yes",
    GRAVITY * 8,
    SPACED,
    SPACED.strip(),
)
"""What each offer embeds as documents: short and middling, nine languages and scripts, code."""

CARD_QUERIES = PROBES[:2]
CARD_DOCUMENTS = (PROBES[2], GRAVITY)
"""The card's example: its cosines are published (`Model.published`)."""

ALONE = 7
"""The place of the text that is also sent by itself."""

SAME_ROW = 0.995
"""A text alone and among others: rounding, not more."""

EQUAL = 0.999999


@dataclass(frozen=True, slots=True)
class Question:
    """Texts to be sent in one request, not formatted yet."""

    texts: Sequence[str]
    role: Role = "document"
    dimensions: int | None = None


@dataclass(slots=True)
class Observed:
    """What was seen of one offer. `fault` ended the examination before it was complete.

    `documents` is float32 (texts, native), with NaN rows where one was bad; `matrix` holds the
    cosines of the card's queries by documents. `cut_at` is the shortest length, in tokens shared by
    a pair, beyond which nothing was read; `read` the longest that was; `refused_at` one that it
    would not take.
    """

    fault: Fault | None = None
    documents: Matrix | None = None
    bad: dict[int, str] = field(default_factory=dict)
    norm: float = 1.0
    matrix: Matrix | None = None
    same_alone: bool = True
    mixed_up: bool = False
    shortening: Literal["right", "ignored", "not normalised", "other numbers", "refused"] | None = (
        None
    )
    wish: int | None = None
    cut_at: int | None = None
    read: int | None = None
    refused_at: int | None = None
    unread: Fault | None = None


Examination: TypeAlias = Generator[Question, Finished, Observed]


class _Ended(Exception):
    """The offer failed; what was seen until then stands."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


def examination(offer: ConfiguredOffer, longest: int | None) -> Examination:
    """Ask one offer everything; `longest` bounds the long texts, in tokens."""
    seen = Observed()
    try:
        yield from _texts(offer, seen)
        yield from _card(offer, seen)
        yield from _one_alone(offer, seen)
        yield from _shorter(offer, seen)
        yield from _long_ones(offer, seen, longest)
    except _Ended as ended:
        seen.fault = ended.fault
    return seen


Asking: TypeAlias = Generator[Question, Finished, Any]


def _vectors(
    offer: ConfiguredOffer,
    texts: Sequence[str],
    role: Role = "document",
    *,
    bad: dict[int, str] | None = None,
    equal: set[int] | None = None,
) -> Any:
    """The checked vectors of some texts, in as many requests as the offer's limits ask for, those
    that it names on being asked among them. What is wrong with single rows goes into `bad`; which
    ones equal others, into `equal`."""
    rows: list[Any] = []
    most = offer.max_inputs
    while len(rows) < len(texts):
        rest = texts[len(rows) :]
        size = batch_size(rest, offer, most, estimate_tokens)
        finished = yield Question(rest[:size], role)
        checked = examine(finished, offer.dimensions)
        if checked.fault is not None:
            if checked.fault.kind != "too_large" or size == 1:
                raise _Ended(checked.fault)
            most = min(checked.fault.limit or size // 2, size - 1)
            continue
        if bad is not None:
            bad.update({len(rows) + row: said for row, said in checked.bad_rows.items()})
        if equal is not None:
            equal.update(len(rows) + row for row in checked.doubtful_rows)
        rows.extend(checked.matrix)
    return np.stack(rows)


def _texts(offer: ConfiguredOffer, seen: Observed) -> Asking:
    equal: set[int] = set()
    matrix = yield from _vectors(offer, TEXTS, bad=seen.bad, equal=equal)
    seen.mixed_up = bool(equal - {TEXTS.index(SPACED), TEXTS.index(SPACED.strip())})
    good = [row for row in range(len(TEXTS)) if row not in seen.bad]
    if not good:
        raise _Ended(Fault("bad_vector", f"in all {len(TEXTS)} answers {seen.bad[0]}"))
    seen.norm = float(np.median(np.linalg.norm(matrix[good], axis=1)))
    matrix[list(seen.bad)] = np.nan
    seen.documents = matrix


def _card(offer: ConfiguredOffer, seen: Observed) -> Asking:
    """The cosines of the card's example."""
    assert seen.documents is not None  # noqa: S101 (asked before)
    bad: dict[int, str] = {}
    queries = yield from _vectors(offer, CARD_QUERIES, "query", bad=bad)
    if bad:
        raise _Ended(Fault("bad_vector", f"{next(iter(bad.values()))}, for a plain query"))
    documents = seen.documents[[TEXTS.index(text) for text in CARD_DOCUMENTS]]
    if not np.isfinite(documents).all():
        return
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, documents)]
    seen.matrix = np.asarray(unit[0] @ unit[1].T)


def _one_alone(offer: ConfiguredOffer, seen: Observed) -> Asking:
    """Whether a text has the same vector alone as among others, or another text's."""
    assert seen.documents is not None  # noqa: S101 (asked before)
    bad: dict[int, str] = {}
    row = yield from _vectors(offer, TEXTS[ALONE : ALONE + 1], bad=bad)
    if bad:
        return
    near = cosines(np.repeat(row, len(TEXTS), axis=0), seen.documents)
    seen.same_alone = not near[ALONE] < SAME_ROW
    others = np.delete(near, ALONE)
    seen.mixed_up |= not seen.same_alone and bool((others >= SAME_ROW).any())


def _shorter(offer: ConfiguredOffer, seen: Observed) -> Asking:
    """What becomes of a wish for fewer numbers. Nothing relies on it, but people should know."""
    wish = shorter_length(offer.model)
    if wish is None or offer.offer.dimensions is not None:
        return
    seen.wish = wish
    finished = yield Question((GRAVITY,), "document", wish)
    if isinstance(finished.outcome, Answer):
        assert seen.documents is not None  # noqa: S101 (asked before)
        native = seen.documents[TEXTS.index(GRAVITY)][None, :]
        seen.shortening = _shortening(finished.outcome, native, wish)
    else:
        seen.shortening = "refused"


def shorter_length(model: Model) -> int | None:
    """A length below the native one that the model's vectors may have."""
    if model.min_dimensions is not None:
        return max(model.min_dimensions, model.dimensions // 4)
    return max((length for length in model.lengths if length < model.dimensions), default=None)


def _shortening(
    answer: Answer, native: Matrix, wish: int
) -> Literal["right", "ignored", "not normalised", "other numbers", "refused"] | None:
    try:
        given = np.asarray(answer.vectors, dtype=np.float32)
    except (TypeError, ValueError):
        return None
    if given.ndim != 2 or len(given) != 1:
        return None
    if given.shape[1] != wish:
        return "ignored"
    if row_faults(given, wish, dense=False) or not np.isfinite(native).all():
        return None
    if cosines(given, shorten(native, wish))[0] < SAME_ROW:
        return "other numbers"
    return "right" if abs(float(np.linalg.norm(given)) - 1) < 1e-3 else "not normalised"


def _long_ones(offer: ConfiguredOffer, seen: Observed, longest: int | None) -> Asking:
    """Whether the ends of long texts are read: a length where many servers cut, then one near the
    offer's own limit."""
    limit = offer.offer.max_input_tokens or offer.model.context_tokens
    near_limit = int(limit * reading.WITHIN)
    lengths = (reading.first_proof(limit), min(near_limit, longest or near_limit))
    for shared in sorted(set(lengths)):
        try:
            vectors = yield from _vectors(offer, reading.pair(shared))
        except _Ended as ended:
            if ended.fault.kind in ("too_large", "bad_input"):
                seen.refused_at = shared
            else:
                seen.unread = ended.fault
            return
        if reading.is_cut(vectors):
            seen.cut_at = shared
            return
        seen.read = shared


def instruction_of(role: Role) -> str | None:
    """The instruction with which the card's queries were measured."""
    return DEFAULT_INSTRUCTION if role == "query" else None
