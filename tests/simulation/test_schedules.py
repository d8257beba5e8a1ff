"""Ten thousand schedules of the router: whatever happens, the laws hold.

A failing seed is named, and `python -m tests.simulation SEED` shows it step by step.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import SEED
from tests.simulation.running import run
from tests.simulation.schedules import draw

CHUNK = 500
FILES = 100


@pytest.mark.parametrize("first", range(0, 10_000, CHUNK))
def test_the_laws_hold(first: int) -> None:
    for seed in range(first, first + CHUNK):
        run(seed)


@pytest.mark.parametrize("first", range(0, 300, FILES))
def test_the_laws_hold_with_the_ledger_in_a_file(first: int, tmp_path: Path) -> None:
    for seed in range(first, first + FILES):
        run(seed, tmp_path / f"{seed}.db")


def test_a_seed_replays_exactly() -> None:
    shown = 0
    for seed in range(40):
        lines: list[list[str]] = [[], []]
        for said in lines:
            draw(seed, trace=said.append).run()
        # Servers are shown with the addresses of their random numbers.
        first, second = ([line for line in said if "0x" not in line] for said in lines)
        assert first == second
        shown += len(first)
    assert shown > 40 * 10


def test_schedules_meet_what_they_are_for() -> None:
    """Else the laws would hold for want of anything that could break them."""
    seen = dict.fromkeys(
        ["killed", "cancelled", "jumps", "shared", "granted", "paid", "refused", "failed"],
        0,
    )
    for seed in range(300):
        schedule = draw(seed)
        schedule.run()
        world = schedule.world
        uses = [attempt.reservation.use for attempt in world.attempts]
        seen["killed"] += any(call.given_up for call in world.calls) and schedule.kills > 0
        seen["cancelled"] += any(call.given_up for call in world.calls) and not schedule.kills
        seen["jumps"] += bool(schedule.jumps)
        seen["shared"] += len({call.process.number for call in world.calls}) > 1
        seen["granted"] += any(use.credit for use in uses)
        seen["paid"] += any(use.cost for use in uses)
        seen["refused"] += any(call.error is not None for call in world.calls)
        seen["failed"] += any(
            call.result is not None and call.result.errors for call in world.calls
        )
    assert min(seen.values()) >= 5, seen


@pytest.mark.chaos
@pytest.mark.parametrize("chunk", range(200))
def test_the_laws_hold_for_long(chunk: int) -> None:
    for number in range(1000):
        run(SEED * 200_000 + chunk * 1000 + number)


@pytest.mark.chaos
@pytest.mark.parametrize("chunk", range(20))
def test_the_laws_hold_for_long_in_files(chunk: int, tmp_path: Path) -> None:
    for number in range(200):
        seed = SEED * 200_000 + chunk * 200 + number
        run(seed, tmp_path / f"{seed}.db")
