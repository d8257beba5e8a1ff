"""The simulation is worth what it finds: faults planted into the product, found by schedules.

Each is a mistake that somebody could make. A test fails if the schedules do NOT see it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen_embed_plugins import call as calls
from qwen_embed_plugins import drivers, outcome, spending, tariffs
from qwen_embed_plugins.amounts import NOTHING
from qwen_embed_plugins.bisect import Piece
from qwen_embed_plugins.blocks import Block
from qwen_embed_plugins.call import EmbedCall
from qwen_embed_plugins.choosing import Chooser
from qwen_embed_plugins.grants import ConfiguredGrant
from qwen_embed_plugins.ledger import Hold, MemoryLedger
from qwen_embed_plugins.meters import GRANTS
from qwen_embed_plugins.parity import Parity
from qwen_embed_plugins.places import Places
from qwen_embed_plugins.vetting import Vetting
from qwen_embed_plugins.windows import Rolling
from tests.simulation.running import first_broken

Plant = Callable[[pytest.MonkeyPatch], None]

SEEDS = 2000


def replacing(owner: Any, name: str, made: Callable[[Any], Any]) -> Plant:
    """Puts what is made of the original in its place."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(owner, name, made(getattr(owner, name)))

    return plant


def parity_never_refuses(_: Any) -> Any:
    return lambda self, offer: None


def no_canary(_: Any) -> Any:
    return lambda self, offer: False


def norm_forgotten(_: Any) -> Any:
    def shorten(matrix: Any, dimensions: int, *, squares: Any, out: Any = None) -> Any:
        shortened = np.asarray(matrix[:, :dimensions], np.float32)
        if out is not None:
            out[:] = shortened
        return shortened

    return shorten


def instruction_twice(original: Any) -> Any:
    def formatted(texts: Any, role: Any, instruction: Any, offer: Any) -> Any:
        return original(original(texts, role, instruction, offer), role, instruction, offer)

    return formatted


def documents_stripped(original: Any) -> Any:
    def formatted(texts: Any, role: Any, instruction: Any, offer: Any) -> Any:
        return [text.rstrip("e") for text in original(texts, role, instruction, offer)]

    return formatted


def length_not_native(original: Any) -> Any:
    def make(router: Any, offer: Any, texts: Any, role: Any, instruction: Any = None) -> Any:
        return original(router, offer, texts, role, instruction, 4)

    return make


def no_reading(_: Any) -> Any:
    return lambda self, offer, texts: 0


def neighbour_blamed(original: Any) -> Any:
    """The part that was accepted is taken for the one that was not."""

    def refused_by(self: Piece, offer: Any, fault: Any) -> Any:
        places = tuple(max(0, place - 1) for place in self.places)
        return original(replace(self, places=places), offer, fault)

    return refused_by


def one_refusal_condemns(_: Any) -> Any:
    def refused(self: EmbedCall, piece: Piece, offer: Any, fault: Any) -> None:
        self.pool.append(piece.refused_by(offer, fault))

    return refused


def rows_mixed_up(original: Any) -> Any:
    def store(self: Any, places: Any, matrix: Any, squares: Any, offer: Any) -> None:
        original(self, places[::-1], matrix, squares, offer)

    return store


def settled_as_nothing(original: Any) -> Any:
    def settle(self: Any, held: Any, tokens: int, cost: Any, **rest: Any) -> Any:
        return original(self, held, 0, Decimal(0), **rest)

    return settle


def lost_answers_are_free(_: Any) -> Any:
    return lambda held, finished: getattr(finished.outcome, "tokens", None) or 0


def abandoned_as_nothing(_: Any) -> Any:
    def abandon(self: Any, reservation: Any) -> None:
        self.settle(reservation, 0, Decimal(0), requests=0)

    return abandon


def without(*kinds: str) -> Callable[[Any], Any]:
    """A ledger that does not look at the limits of such meters."""

    def made(original: Any) -> Any:
        def refusal(self: MemoryLedger, hold: Hold, now: float) -> Any:
            return None if hold.meter.kind in kinds else original(self, hold, now)

        return refusal

    return made


def one_too_many(original: Any) -> Any:
    def refusal(self: MemoryLedger, hold: Hold, now: float) -> Any:
        if hold.meter.kind in ("minute", "day", "flight"):
            hold = hold._replace(bound=NOTHING)
        return original(self, hold, now)

    return refusal


def minute_of_59_seconds(_: Any) -> Any:
    return lambda self, moment: int((moment + self.seconds - 1.0) // self.step)


def limits_not_asked(original: Any) -> Any:
    def use_of(offer: Any, tariff: Any, tokens: int) -> Any:
        use = original(offer, tariff, tokens)
        return replace(use, meters=tuple(meter for meter in use.meters if meter.kind in GRANTS))

    return use_of


def half_is_reserved(original: Any) -> Any:
    return lambda offer, tariff, tokens: original(offer, tariff, tokens // 4)


def lapsed_grants_last(_: Any) -> Any:
    return lambda self, moment: True


def no_ceiling(_: Any) -> Any:
    return lambda self: True


def unknown_prices_serve(_: Any) -> Any:
    return lambda self, offer, now: True


def places_kept(_: Any) -> Any:
    return lambda self, key: None


def nobody_woken(original: Any) -> Any:
    def pass_on(self: Places, queue: Any) -> None:
        original(self, queue)

    return pass_on


def key_in_messages(_: Any) -> Any:
    return lambda text, known=(): text


def whole_texts_in_errors(original: Any) -> Any:
    def give_up(self: Any, piece: Piece) -> None:
        original(self, piece)
        for place in piece.places:
            error = self.errors[place]
            self.errors[place] = error._replace(message=self.request.texts[place])

    return give_up


def block_settles_nothing(_: Any) -> Any:
    def settle(self: Block, bound: Any, used: Any) -> None:
        self.held -= bound
        self.spare += bound

    return settle


def grant_order_ignored(_: Any) -> Any:
    return property(lambda self: (1, -self.lost_at) if self.grant else (0, 0.0))


PLANTS: dict[str, tuple[set[str], Plant]] = {
    "parity never refuses": (
        {"space"},
        replacing(Parity, "refuses", parity_never_refuses),
    ),
    "no canary is ever sent": ({"space"}, replacing(Vetting, "canary_due", no_canary)),
    "unit length is forgotten": (
        {"native"},
        replacing(outcome, "shorten", norm_forgotten),
    ),
    "the instruction goes twice": (
        {"native"},
        replacing(calls, "formatted", instruction_twice),
    ),
    "documents are altered": (
        {"native"},
        replacing(calls, "formatted", documents_stripped),
    ),
    "a shorter length is asked for": ({"native"}, replacing(calls, "make_job", length_not_native)),
    "nobody must show that it reads": (
        {"cut"},
        replacing(Vetting, "_unproven_length", no_reading),
    ),
    "rows in the wrong order": ({"native"}, replacing(outcome.Outcome, "store", rows_mixed_up)),
    "a neighbour is blamed": (
        {"blame", "native"},
        replacing(Piece, "refused_by", neighbour_blamed),
    ),
    "a refusal condemns the batch": (
        {"blame"},
        replacing(EmbedCall, "_refused", one_refusal_condemns),
    ),
    "settling books nothing": (
        {"count", "limit"},
        replacing(MemoryLedger, "settle", settled_as_nothing),
    ),
    "a lost answer is free": (
        {"count"},
        replacing(spending, "tokens_used", lost_answers_are_free),
    ),
    "what is given up is free": (
        {"count"},
        replacing(MemoryLedger, "abandon", abandoned_as_nothing),
    ),
    "grants have no end": ({"limit"}, replacing(MemoryLedger, "_refusal", without(*GRANTS))),
    "budgets have no end": ({"limit"}, replacing(MemoryLedger, "_refusal", without("budget"))),
    "a minute has 59 seconds": ({"limit"}, replacing(Rolling, "used_in", minute_of_59_seconds)),
    "one more than the limit": ({"limit"}, replacing(MemoryLedger, "_refusal", one_too_many)),
    "limits are not asked": (
        {"limit"},
        replacing(spending, "use_of", limits_not_asked),
    ),
    "too little is reserved": (
        {"limit", "count"},
        replacing(spending, "use_of", half_is_reserved),
    ),
    "a lapsed grant is drawn on": (
        {"pay"},
        replacing(ConfiguredGrant, "covers_at", lapsed_grants_last),
    ),
    "a bulk call pays when the free one is full": (
        {"pay"},
        replacing(Chooser, "_may_pay_more", no_ceiling),
    ),
    "an unknown price serves under a budget": (
        {"pay"},
        replacing(tariffs.Tariffs, "serves", unknown_prices_serve),
    ),
    "grants go in the wrong order": (
        {"pay"},
        replacing(tariffs.Tariff, "tier", grant_order_ignored),
    ),
    "places are not given back": ({"end"}, replacing(Places, "give_back", places_kept)),
    "nobody is woken for a place": ({"end"}, replacing(Places, "_pass_on", nobody_woken)),
    "keys stay in messages": ({"secret"}, replacing(drivers, "without_secrets", key_in_messages)),
    "errors quote whole texts": (
        {"secret"},
        replacing(outcome.Outcome, "give_up", whole_texts_in_errors),
    ),
}


@pytest.mark.parametrize("bug", PLANTS)
def test_a_planted_bug_is_found(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    laws, plant = PLANTS[bug]
    plant(monkeypatch)
    assert first_broken(range(SEEDS)) in laws


def test_a_planted_bug_of_the_shared_ledger_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    replacing(Block, "settle", block_settles_nothing)(monkeypatch)
    assert first_broken(range(50), tmp_path) in ("count", "limit")
