"""What an offer is asked on our own account before it gets texts of a call.

A first meeting carries four short texts by which its vectors are known from then on (`parity.py`);
a reading carries two long ones that show whether it reads to the end (`reading.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qwen_embed_plugins.catalogue import ConfiguredOffer
from qwen_embed_plugins.parity import PROBES
from qwen_embed_plugins.reading import pair
from qwen_embed_plugins.types import Fault


@dataclass(frozen=True, slots=True, eq=False)
class Inquiry:
    """One question to one offer: a reading shares so many tokens, a first meeting none. Each is
    itself alone, since a late answer to one must not be taken for an answer to the next."""

    offer: ConfiguredOffer
    shared_tokens: int = 0

    @property
    def is_reading(self) -> bool:
        return self.shared_tokens > 0

    @property
    def texts(self) -> Sequence[str]:
        return pair(self.shared_tokens) if self.is_reading else PROBES

    def is_answered_by(self, fault: Fault, texts: int) -> bool:
        """Whether a refusal of so many texts of it is an answer too: who refuses a long text alone,
        however it is put, does not cut it."""
        return self.is_reading and texts == 1 and fault.kind in ("too_large", "bad_input")


class Inquiries:
    """The inquiries under way in one call, at most one for each offer. `asked` is shared with
    whoever must not send texts to an offer before its answer is there."""

    def __init__(self, asked: set[str]) -> None:
        self._asked = asked
        self._rows: dict[Inquiry, dict[int, Any]] = {}

    def begin(self, inquiry: Inquiry) -> tuple[int, ...]:
        """Open an inquiry; gives the places of its texts."""
        self._asked.add(inquiry.offer.key)
        self._rows[inquiry] = {}
        return tuple(range(len(inquiry.texts)))

    def is_open(self, inquiry: Inquiry) -> bool:
        """Whether its answer still matters."""
        return inquiry in self._rows

    def close(self, offer: ConfiguredOffer) -> None:
        """The answer is there, or the offer failed and may be asked another time."""
        self._asked.discard(offer.key)
        for inquiry in [item for item in self._rows if item.offer.key == offer.key]:
            del self._rows[inquiry]

    def collect(self, inquiry: Inquiry, places: Sequence[int], matrix: Any) -> Any | None:
        """Take in vectors of its texts; with the last of them, all: float32 (texts, native)."""
        rows = self._rows.get(inquiry)
        if rows is None:
            return None
        rows.update(zip(places, matrix, strict=True))
        if len(rows) < len(inquiry.texts):
            return None
        self.close(inquiry.offer)
        return np.stack([rows[place] for place in range(len(inquiry.texts))])
