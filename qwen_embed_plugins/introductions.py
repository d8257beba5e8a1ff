"""The introductions under way in one call: probes sent to offers whose vectors nobody has seen."""

from __future__ import annotations

from typing import Any

import numpy as np

from qwen_embed_plugins.bisect import Piece
from qwen_embed_plugins.catalogue import ConfiguredOffer
from qwen_embed_plugins.parity import PROBES


class Introductions:
    """Collects the probes' vectors by offer until all are there. `meeting` is shared with whoever
    must not send texts to an offer before its introduction is over."""

    def __init__(self, meeting: set[str]) -> None:
        self._meeting = meeting
        self._rows: dict[str, dict[int, Any]] = {}

    def begin(self, offer: ConfiguredOffer) -> Piece:
        """Open an introduction; gives the piece that carries its probes."""
        self._meeting.add(offer.key)
        self._rows[offer.key] = {}
        return Piece(tuple(range(len(PROBES))), meets=offer)

    def is_open(self, offer: ConfiguredOffer) -> bool:
        """Whether probes of an offer still matter."""
        return offer.key in self._rows

    def abandon(self, offer: ConfiguredOffer) -> None:
        """The offer failed meanwhile; it may be met another time."""
        self._meeting.discard(offer.key)
        self._rows.pop(offer.key, None)

    def collect(self, piece: Piece, offer: ConfiguredOffer, matrix: Any) -> Any | None:
        """Take in vectors of probes; with the last of them, all: float32 (probes, native)."""
        rows = self._rows.get(offer.key)
        if rows is None:
            return None
        rows.update(zip(piece.places, matrix, strict=True))
        if len(rows) < len(PROBES):
            return None
        self.abandon(offer)
        return np.stack([rows[place] for place in range(len(PROBES))])
