"""Who gives the measure of a space, and who is kept out of it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest

from qwen_embed_plugins.catalogue import ConfiguredOffer
from qwen_embed_plugins.models import Model
from qwen_embed_plugins.offers import Offer
from qwen_embed_plugins.parity import PROBES, Met, Parity, cosines, known_probes
from qwen_embed_plugins.provider import Provider, ProviderConfig
from qwen_embed_plugins.testing import reference_vector
from qwen_embed_plugins.verdicts import Measure, Verdict

MODEL = Model("toy", dimensions=64, context_tokens=8192)
ROWS = np.stack([reference_vector(text, 64) for text in PROBES])


def offer(name: str) -> ConfiguredOffer:
    provider = Provider(ProviderConfig(name))
    return ConfiguredOffer(
        f"{name}/toy", provider, name, Offer("toy", "toy"), MODEL, Decimal(0), private=True
    )


@pytest.mark.parametrize(
    ("measure", "stays_out"), [("canary", True), ("reading", True), ("verify", False)]
)
def test_who_was_set_aside_later_still_gives_the_measure(measure: Measure, stays_out: bool) -> None:
    """Else the next offer, of a space that was refused, would set it; `verify` alone moves it."""
    first, second = offer("first"), offer("second")
    parity = Parity([first, second], {first.endpoint: ROWS, second.endpoint: ROWS[::-1].copy()})
    assert parity.refuses(second) is not None
    parity.verdicts[first.endpoint] = Verdict("toy", False, "it changed", measure, at=0.0)
    assert parity.refuses(first) is not None
    assert (parity.refuses(second) is not None) is stays_out


def test_the_last_that_is_left_is_compared_with_whom_other_processes_met() -> None:
    """A process that met nobody learns that the one who gave the measure was set aside."""
    first, second = offer("first"), offer("second")
    parity = Parity([first, second])
    aside = Verdict("toy", serves=False, reason="it cuts", measure="reading", at=0.0)
    stored = {first.endpoint: Met(ROWS.tobytes(), 0.0)}
    parity.heed({first.endpoint: aside}, stored)
    assert parity.is_unmet(second)
    compared = parity.meet(second, ROWS[::-1].copy(), stored)
    assert compared is not None
    assert not compared.same_space


@pytest.fixture
def restless_threads() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("restless_threads")
def test_offers_are_met_in_one_thread_while_another_asks_who_serves() -> None:
    offers = [offer(f"server{number}") for number in range(60)]
    left_out = Verdict("toy", serves=False, reason="another space", measure="verify", at=0.0)

    def meet_all(parity: Parity) -> None:
        for one in offers[::-1]:
            parity.met[one.endpoint] = ROWS

    for _ in range(60):
        parity = Parity(offers, verdicts={one.endpoint: left_out for one in offers[1:]})
        other = threading.Thread(target=meet_all, args=(parity,))
        other.start()
        while other.is_alive():
            parity.is_unmet(offers[0])
            assert parity.refuses(offers[0]) is None
        other.join()


@pytest.mark.parametrize("size", [0, 1, 3, 4, 4 * 64 * 4 - 1])
def test_stored_vectors_of_an_odd_size_are_none(size: int) -> None:
    assert known_probes({"a toy": Met(b"x" * size, 0.0)}, [offer("a")]) == {}


def test_what_is_known_of_one_model_says_nothing_of_another_under_the_same_name() -> None:
    one, other = offer("a"), replace(offer("a"), model=replace(MODEL, name="gadget"))
    assert one.endpoint != other.endpoint
    terms = replace(one.offer, wire_name="default")
    assert replace(one, offer=terms).endpoint != replace(other, offer=terms).endpoint
    assert offer("a").endpoint == one.endpoint


def test_no_cosine_is_beyond_one_by_rounding() -> None:
    rows = np.random.RandomState(0).standard_normal((1000, 64)).astype(np.float32)
    assert np.allclose(cosines(rows, rows), 1)
    assert cosines(rows, rows).max() == 1
    assert cosines(rows, -rows).min() == -1
