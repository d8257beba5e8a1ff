"""A database of their own for the schedules that are played on a real Postgres."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from qwen_embed_plugins import postgres
from tests.model.schedules import Begin, Schedule
from tests.model.stage import Stage, staged
from tests.model.states import Instance

if TYPE_CHECKING:
    from tests.postgres_servers import Server


@pytest.fixture(scope="session")
def stage(postgres_server: Server) -> Iterator[Stage]:
    with postgres_server.database("template1") as name:
        dsn = postgres_server.dsn(name)
        postgres.install(dsn)
        with staged(dsn) as stage:
            yield stage


@pytest.fixture
def begin(stage: Stage) -> Iterator[Begin]:
    """Begins a schedule. What a failing one did is printed, and nothing of it stays open."""
    begun: list[Schedule] = []

    def start(instance: Instance, seed: object = 0) -> Schedule:
        stage.clear()
        begun.append(Schedule(stage, instance, seed))
        return begun[-1]

    yield start
    if begun:
        print("\n".join(begun[-1].drawn.lines))  # shown where a test fails
    stage.clear()
