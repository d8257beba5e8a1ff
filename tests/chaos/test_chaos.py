"""Every row's vector is that of its committed text, whatever is killed, stalled or taken away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import books
from tests.chaos.books import Target
from tests.chaos.planted import BUGS
from tests.chaos.run import Plan, Report, control, own_server, play
from tests.conftest import SEED
from tests.postgres_servers import EmbeddedServer

SHORT = Plan(kills=12, outages={4: "restart", 8: "crash"})


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    with own_server() as own:
        yield own


LONG = Plan(
    kills=200,
    # A busy machine is slow, and what its writers left is much.
    drain_seconds=600.0,
    outages={
        25: "restart",
        50: "crash",
        75: "fail_over",
        100: "lose_a_session",
        125: "restart",
        150: "crash",
        175: "fail_over",
    },
)


@pytest.mark.parametrize("target", books.TARGETS)
def test_a_few_kills(server: EmbeddedServer, tmp_path: Path, target: str) -> None:
    attack(server, tmp_path, SHORT, books.TARGETS[target])


@pytest.mark.chaos
@pytest.mark.parametrize("target", books.TARGETS)
def test_two_hundred_kills(
    server: EmbeddedServer, tmp_path: Path, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report = attack(server, tmp_path, LONG, books.TARGETS[target])
    with capsys.disabled():
        print("\n", report.figures())


@pytest.mark.chaos
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(server: EmbeddedServer, tmp_path: Path, bug: str) -> None:
    plan = Plan(kills=100, outages={10: "restart", 20: "crash"}, drain_seconds=30, plant=bug)
    report = play(server, str(SEED), tmp_path, plan)
    print(report.figures())
    assert report.broken() != {}


def attack(server: EmbeddedServer, folder: Path, plan: Plan, target: Target) -> Report:
    seed = str(SEED)
    report = play(server, seed, folder, plan, target)
    print(report.figures())
    assert report.broken() == {}
    alone = control(server, seed, folder / "control", plan, report.writers.turns)
    print("control:", alone.by_kind)
    kinds = set(report.writers.by_kind)
    assert kinds <= {*books.CONFLICTS, "loss"}
    if set(report.writers.refused("40001")) <= target.conflicts_at:
        kinds -= {"40001"}
    assert kinds <= set(alone.by_kind)
    assert report.writers.losses <= 4 * len(plan.outages)
    return report
