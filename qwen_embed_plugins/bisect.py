"""Taking a refused batch apart until the bad texts stand alone. Pure bookkeeping.

A batch that an offer refuses is split in two, and both halves go to the same offer. As long as
one part of a split is accepted, the offer is sound and the other part holds the bad text: it is
split again, down to the single text. If every part of a split is refused alike, the texts are not
yet to blame: a known-good text decides first.

For one bad text among n that costs at most 2·log2(n) requests more; each further bad text adds at
most as many again, and one probe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from qwen_embed_plugins.catalogue import ConfiguredOffer
from qwen_embed_plugins.inquiries import Inquiry
from qwen_embed_plugins.types import Fault


@dataclass(frozen=True, slots=True)
class Piece:
    """Texts of a call that wait for an offer, by their places in the call.

    `refused` holds the offers that will not take these texts, each with its fault; `avoid` those
    that are asked last, since an estimate says that the texts are too long for them; `fits` those
    for which long texts were set apart already. A piece with a `split` goes to that split's offer
    whole; `suspicions` counts how often it failed at an offer that took the known-good text right
    after; a `probe` carries the known-good text alone. With an `inquiry`, the piece carries no text
    of the call but those of the inquiry; its places are theirs. A `bare` piece goes without a
    canary, since it was refused with one, or the offer was looked at just before it. `unread` are
    offers that failed to show that they read texts so long: nothing goes there now.
    """

    places: tuple[int, ...]
    refused: Mapping[str, Fault] = field(default_factory=dict)
    avoid: frozenset[str] = frozenset()
    fits: frozenset[str] = frozenset()
    failures: int = 0
    suspicions: int = 0
    split: Split | None = None
    probe: bool = False
    inquiry: Inquiry | None = None
    bare: bool = False
    unread: frozenset[str] = frozenset()

    @property
    def is_ours(self) -> bool:
        """Whether its texts are our own, so that no text of the call is lost with it."""
        return self.probe or self.inquiry is not None

    @property
    def is_fresh(self) -> bool:
        """Whether nothing is known of its texts, so that they may go anywhere."""
        special = self.split or self.is_ours or self.refused or self.avoid or self.unread
        return not special

    def refused_by(self, offer: ConfiguredOffer, fault: Fault) -> Piece:
        """The piece as it goes on to other offers."""
        return replace(self, refused={**self.refused, offer.key: fault}, split=None)

    def freed(self) -> Piece:
        """The piece without its split, for whichever offer takes it."""
        return replace(self, split=None)


@dataclass(slots=True, eq=False)
class Split:
    """The parts of a refused batch while they are with the offer that refused it.

    `unanswered` counts parts that have no verdict yet; `held` are the refused ones, which wait
    until all verdicts are in; `accepted` says that the offer took a part, or the probe.
    `dissolved` means that the offer failed otherwise meanwhile, so its verdicts say nothing.
    """

    offer: ConfiguredOffer
    unanswered: int
    accepted: bool = False
    held: list[tuple[Piece, Fault]] = field(default_factory=list)
    dissolved: bool = False

    def needs_probe(self) -> bool:
        """All parts were refused, and not merely for the size of the batch: is it the offer?"""
        return not self.accepted and any(
            fault.kind != "too_large" or len(piece.places) == 1 for piece, fault in self.held
        )


def take_apart(piece: Piece, offer: ConfiguredOffer, text_index: int | None) -> list[Piece]:
    """The parts of a refused piece, tied together by a new split.

    Halves; or, when the provider named the text it objects to, that text and the rest.
    """
    places = piece.places
    if text_index is not None and 0 <= text_index < len(places) and len(places) > 1:
        parts = [(places[text_index],), places[:text_index] + places[text_index + 1 :]]
    else:
        middle = len(places) // 2
        parts = [part for part in (places[:middle], places[middle:]) if part]
    split = Split(offer, unanswered=len(parts))
    return [replace(piece, places=part, split=split) for part in parts]
