"""How many requests an offer is given at once: more while it takes them well, fewer when not."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_embed_plugins.health import Health
from qwen_embed_plugins.pacing import FEWEST, START, Pacing
from qwen_embed_plugins.types import Fault


def succeed(pacing: Pacing, count: int, *, seconds: float = 1.0, most: int = 64) -> None:
    for number in range(count):
        pacing.succeeded("a", seconds, 1_000, began=number, now=number + 1, most=most)


def test_it_begins_with_a_few_and_grows_to_the_limit() -> None:
    pacing = Pacing()
    assert pacing.places("a", 64) == START
    assert pacing.places("a", 3) == 3
    succeed(pacing, 10)
    assert pacing.places("a", 64) == START + 10
    succeed(pacing, 100)
    assert pacing.places("a", 64) == 64
    assert pacing.places("other", 64) == START, "each offer for itself"


def test_a_push_back_halves_it_once_for_all_that_were_under_way() -> None:
    pacing = Pacing()
    for number in range(8):
        pacing.pushed_back("a", began=0.1 * number, now=1.0, most=8)
    assert pacing.places("a", 8) == 4
    pacing.pushed_back("a", began=2.0, now=3.0, most=8)
    assert pacing.places("a", 8) == 2
    for moment in (4.0, 5.0, 6.0):
        pacing.pushed_back("a", began=moment, now=moment, most=8)
    assert pacing.places("a", 8) == 1, "never none"


def test_after_a_push_back_it_grows_by_one_a_round() -> None:
    pacing = Pacing()
    pacing.pushed_back("a", began=0.0, now=1.0, most=8)
    succeed(pacing, 4, most=8)
    assert pacing.places("a", 8) == 4
    succeed(pacing, 1, most=8)
    assert pacing.places("a", 8) == 5


def test_growing_latency_takes_places_away_down_to_a_few() -> None:
    pacing = Pacing()
    succeed(pacing, 5, seconds=0.1)
    before = pacing.places("a", 64)
    for number in range(300):
        pacing.succeeded("a", 3.0, 1_000, began=100 + number, now=101 + number, most=64)
        if pacing.places("a", 64) == FEWEST:
            break
    assert FEWEST == pacing.places("a", 64) < before


def test_who_is_slow_for_good_is_no_longer_taken_for_crowded() -> None:
    pacing = Pacing()
    succeed(pacing, 5, seconds=0.1)
    succeed(pacing, 4_000, seconds=1.0)
    assert pacing.places("a", 64) == 64


def test_small_answers_say_nothing_of_the_server() -> None:
    pacing = Pacing()
    succeed(pacing, 5, seconds=0.1)
    for number in range(50):
        pacing.succeeded("a", 9.0, 20, began=number, now=number, most=64)
    assert pacing.places("a", 64) > START


@given(
    steps=st.lists(
        st.tuples(st.booleans(), st.floats(0.001, 100), st.integers(0, 10**6)), max_size=200
    ),
    most=st.integers(1, 300),
)
def test_it_is_never_beyond_the_limit_nor_nothing(
    steps: list[tuple[bool, float, int]], most: int
) -> None:
    pacing = Pacing()
    for now, (good, seconds, tokens) in enumerate(steps):
        if good:
            pacing.succeeded("a", seconds, tokens, now - 1, now, most)
        else:
            pacing.pushed_back("a", now - 1, now, most)
        assert 1 <= pacing.places("a", most) <= most


def test_a_limit_that_we_keep_is_ended_by_no_success() -> None:
    health = Health(Random(1))
    health.rests("a", Fault("rate_limited", "20 a minute"), until=60.0)
    health.succeeded("a", "document", 1.0, began=10.0)
    rest = health.paused("a", 20.0)
    assert rest is not None
    assert rest.is_ours
    assert health.paused("a", 60.0) is None


def test_latency_is_kept_apart_for_queries_and_batches() -> None:
    health = Health(Random(1))
    assert not health.has_served("a")
    health.succeeded("a", "document", 9.0, began=0.0)
    health.succeeded("a", "query", 1.0, began=0.0)
    health.succeeded("a", "query", 2.0, began=0.0)
    assert health.latency_seconds("a", "document") == 9.0
    assert health.latency_seconds("a", "query") == pytest.approx(1.2)
    assert health.has_served("a")
