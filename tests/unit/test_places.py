"""Places at offers: never more than the limit, first come first served, none lost."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from qwen_embed_plugins.places import Places


def flow(woken: list[str], name: str) -> Callable[[], None]:
    def wake() -> None:
        woken.append(name)

    return wake


def test_who_waits_longest_is_served_first() -> None:
    woken: list[str] = []
    places = Places()
    bulk, query = flow(woken, "bulk"), flow(woken, "query")
    assert places.take("a", 2, bulk)
    assert places.take("a", 2, bulk)
    assert not places.take("a", 2, query)
    assert not places.take("a", 2, bulk)
    places.give_back("a")
    assert woken == ["query"]
    assert not places.take("a", 2, bulk), "the place is kept for the query"
    assert places.take("a", 2, query)


def test_a_place_that_is_not_used_goes_to_the_next() -> None:
    woken: list[str] = []
    places = Places()
    first, second, third = (flow(woken, name) for name in ("first", "second", "third"))
    assert places.take("a", 1, first)
    assert not places.take("a", 1, second)
    assert not places.take("a", 1, third)
    places.give_back("a")
    places.wait_only_for(second)
    assert woken == ["second", "third"]
    assert places.take("a", 1, third)
    places.give_back("a")
    assert places.taken() == {}


@given(seed=st.integers(0, 2**32))
def test_under_any_order_the_limit_holds_and_no_place_is_lost(seed: int) -> None:
    random = Random(seed)
    woken: list[str] = []
    places = Places()
    flows = {name: flow(woken, name) for name in "abcd"}
    held: dict[str, int] = dict.fromkeys(flows, 0)
    limit = random.randrange(1, 4)
    for _ in range(60):
        name = random.choice("abcd")
        step = random.randrange(3)
        if step == 0 and places.take("x", limit, flows[name]):
            held[name] += 1
        elif step == 1 and held[name]:
            held[name] -= 1
            places.give_back("x")
        elif step == 2:
            places.wait_only_for(flows[name])
        assert sum(held.values()) <= limit
    for name, wake in flows.items():
        places.wait_only_for(wake)
        for _ in range(held[name]):
            places.give_back("x")
    assert places.taken() == {}


def test_places_that_are_taken_away_go_to_nobody_who_waits() -> None:
    woken: list[str] = []
    places = Places()
    bulk = flow(woken, "bulk")
    assert all(places.take("a", 4, bulk) for _ in range(4))
    assert not places.take("a", 2, bulk)
    places.give_back("a")
    places.give_back("a")
    assert not places.take("a", 2, bulk)
    assert not woken
    places.give_back("a")
    assert woken == ["bulk"]
    assert places.take("a", 2, bulk)


@given(seed=st.integers(0, 2**32))
def test_whatever_becomes_of_the_limit_all_are_served(seed: int) -> None:
    random = Random(seed)
    woken: list[str] = []
    places = Places()
    flows = {name: flow(woken, name) for name in "abc"}
    wanted: dict[str, int] = dict.fromkeys(flows, 10)
    under_way: list[str] = []
    runnable = list(flows)
    while any(wanted.values()) or under_way:
        while runnable:
            name = runnable.pop()
            while wanted[name] and places.take("x", random.randrange(1, 6), flows[name]):
                wanted[name] -= 1
                under_way.append(name)
            if not wanted[name]:
                places.wait_only_for(flows[name])
            runnable, woken[:] = [*runnable, *woken], []
        assert under_way, "somebody waits, and nobody will ever wake it"
        name = under_way.pop(random.randrange(len(under_way)))
        places.give_back("x")
        runnable, woken[:] = [name, *woken], []
    assert places.taken() == {}
