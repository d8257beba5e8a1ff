"""The model is worth what it finds: mistakes planted into the protocol break a law.

Where each of them bites, the real protocol is made to pass, and withstands. And what is a matter of
one query is planted into the real queries, too: there it does what the model says.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.model.explorer import explore
from tests.model.instances import BUGS, SMALL
from tests.model.planted import planted
from tests.model.schedules import Begin, in_single_statements
from tests.model.states import Bug, Instance, Step
from tests.model.world import World


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug: Bug, begin: Begin) -> None:
    world, law = BUGS[bug]
    careless = replace(SMALL[world], bug=bug)
    explored = explore(World(careless))
    assert explored.violation is not None, f"not found in {explored.states} states"
    print(f"{bug}: found after {explored.states} states\n{explored.violation}")
    assert explored.violation.law == law
    trace = in_single_statements(careless, explored.violation.trace)
    withstands(begin, SMALL[world], trace)
    if planted(bug) is not None:
        bites(begin, careless, trace, law)


def withstands(begin: Begin, instance: Instance, trace: list[Step]) -> None:
    """The product as it is, led the same way as far as it can be led, comes to good rest."""
    schedule = begin(instance)
    assert len(schedule.follow(trace).lines) > len(trace) // 2
    schedule.rest()
    assert schedule.play.is_quiet()
    assert schedule.play.is_in_step()


def bites(begin: Begin, careless: Instance, trace: list[Step], law: str) -> None:
    """The product with the bug in its query goes the whole way, as the model does."""
    schedule = begin(careless)
    assert len(schedule.follow(trace).lines) == len(trace)
    if law == "every vector is of its text":
        assert schedule.play.is_quiet()
        # That a doubt had no effect no table tells.
        assert any(schedule.state.doubted) or not schedule.play.is_in_step()
