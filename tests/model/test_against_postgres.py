"""The model against a real Postgres: the same steps, the same tables after each of them.

Steps are the product's own flows, statement by statement. Where the model says that a statement
waits for a lock it is sent all the same, and must wait.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.conftest import SEED
from tests.model.schedules import Begin, Drawn
from tests.model.states import ABSENT, Instance

EVERYTHING = Instance(
    keys=2,
    start=(1, ABSENT),
    statements=6,
    writers=2,
    walkers=1,
    per_transaction=2,
    texts=3,
    outcomes=("written", "refused", "later", "held"),
    truncate=True,
    empty=True,
    by_hand=True,
    audit=True,
    rollback=True,
)
"""Far too large to be explored; one way through it at a time is not."""

WALKS = replace(EVERYTHING, start=(1, 2), embedded=False, tasks=("backfill",), portion=1, workers=3)


def run(begin: Begin, instance: Instance, seeds: range) -> list[Drawn]:
    drawn = []
    for number in seeds:
        print(f"schedule {SEED}:{number}")
        schedule = begin(instance, f"{SEED}:{number}")
        drawn.append(schedule.draw(steps=35))
        assert schedule.play.is_quiet()
        assert schedule.play.is_in_step()
    return drawn


def test_random_schedules(begin: Begin) -> None:
    drawn = run(begin, EVERYTHING, range(25)) + run(begin, WALKS, range(25, 40))
    steps = sum(len(one.lines) for one in drawn)
    waits = sum(one.waits for one in drawn)
    truncates = sum(one.truncates_that_wait for one in drawn)
    print(f"{len(drawn)} schedules, {steps} steps, {waits} waits, {truncates} of a TRUNCATE")
    assert min(waits, truncates) >= 5, "schedules meet too little"


@pytest.mark.chaos
def test_many_random_schedules(begin: Begin) -> None:
    run(begin, EVERYTHING, range(1000, 2000))
    run(begin, WALKS, range(2000, 2500))
