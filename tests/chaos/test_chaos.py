"""Every row's vector is that of its committed text, whatever is killed, stalled or taken away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import books
from tests.chaos.run import Plan, Report, control, own_server, play
from tests.conftest import SEED
from tests.postgres_servers import EmbeddedServer

SHORT = Plan(kills=12, outages={4: "restart", 8: "crash"})


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    with own_server() as own:
        yield own


def test_a_few_kills(server: EmbeddedServer, tmp_path: Path) -> None:
    attack(server, tmp_path, SHORT)


def attack(server: EmbeddedServer, folder: Path, plan: Plan) -> Report:
    seed = str(SEED)
    report = play(server, seed, folder, plan)
    print(report.figures())
    assert report.broken() == {}
    alone = control(server, seed, folder / "control", plan, report.writers.turns)
    print("control:", alone.by_kind)
    assert set(report.writers.by_kind) <= {*books.CONFLICTS, "loss"}
    assert set(report.writers.by_kind) <= set(alone.by_kind)
    assert report.writers.losses <= 4 * len(plan.outages)
    return report
