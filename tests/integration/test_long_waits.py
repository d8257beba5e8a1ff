"""Hours and days without an offer, under a clock that only has to be told to pass."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qwen_embed_plugins import postgres
from qwen_embed_plugins.testing import SimulatedServer

if TYPE_CHECKING:
    from tests.integration.conftest import Database

HOUR = 3600.0
BUDGET = 0.5
PRICE = 2000 / 1_000_000


class Clock:
    """This process's clocks, which may be told to jump ahead. The database's go on as ever."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._ahead = 0.0
        for name in ("time", "monotonic"):
            monkeypatch.setattr(time, name, self._shifted(getattr(time, name)))

    def _shifted(self, real: Callable[[], float]) -> Callable[[], float]:
        return lambda: real() + self._ahead

    def pass_(self, seconds: float) -> None:
        self._ahead += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedServer]:
    """A server whose texts cost a cent or so each, and half a dollar a day to spend."""
    with SimulatedServer(native=1024) as running:
        settings = tmp_path / "qwen-embed.toml"
        settings.write_text(
            f'use = ["mine"]\nstate = "{(tmp_path / "state.db").as_posix()}"\n'
            f'[budget]\nusd_per_day = 0.5\n[providers.mine]\nkind = "openai-compatible"\n'
            f'base_url = "{running.url}/v1"\nprice_per_million = "2000"\n',
            encoding="utf-8",
        )
        monkeypatch.setenv("QWEN_EMBED_SETTINGS", str(settings))
        yield running


@pytest.fixture
def filled(db: Database, provider: SimulatedServer) -> Database:
    db.rows("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 120) i")
    db.create()
    return db


def embedded(db: Database) -> int:
    return int(db.value("SELECT count(*) FROM docs_embedding"))


async def eventually(holds: Callable[[], bool], clock: Clock, *, step: float = 0.0) -> None:
    """Wait for something, for at most some ten seconds of real time."""
    for _ in range(500):
        if await asyncio.to_thread(holds):
            return
        clock.pass_(step)
        await asyncio.sleep(0.02)
    raise AssertionError("it never came to that")


async def pass_at_rest(db: Database, clock: Clock, seconds: float) -> None:
    """Let time pass when nothing is out: a request that is under way when the clock jumps has taken
    too long, and is sent and paid again. The look blocks the worker's loop, so that none begins."""
    for _ in range(1000):
        if not db.state().leased:
            clock.pass_(seconds)
            return
        await asyncio.sleep(0.01)
    raise AssertionError("something is always out")


def while_a_service_runs(db: Database, play: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        stopping = asyncio.Event()
        worker = asyncio.create_task(
            postgres.arun_worker(db.dsn, poll_seconds=0.02, batch_size=50, stopping=stopping)
        )
        try:
            await play()
        finally:
            stopping.set()
            await worker

    asyncio.run(run())


def test_an_outage_of_two_hours_kills_no_row(
    filled: Database, provider: SimulatedServer, clock: Clock
) -> None:
    db = filled
    db.rows("UPDATE qwen_embed.vectorizer SET paused = true")
    provider.close()

    async def play() -> None:
        db.rows("UPDATE qwen_embed.vectorizer SET paused = false")
        await eventually(lambda: db.state().state == "held", clock)
        for _ in range(120):
            clock.pass_(60.0)
            await asyncio.sleep(0.02)
        state = db.state()
        assert (state.state, state.dead, embedded(db)) == ("held", 0, 0)
        assert state.pending + state.leased == 120
        assert "mine" in (state.last_error or "")
        provider.start()
        clock.pass_(60.0)
        # A cent a text: the budget of one day does not hold them all, see the next test.
        await eventually(lambda: embedded(db) > 0, clock, step=5.0)

    while_a_service_runs(db, play)
    assert db.state().dead == 0
    assert db.value("SELECT coalesce(max(attempts), 0) FROM qwen_embed.work_1") == 0


def test_an_empty_purse_holds_the_work_until_the_next_day(
    filled: Database, provider: SimulatedServer, clock: Clock
) -> None:
    db = filled
    days: list[int] = []

    def is_held() -> bool:
        state = db.state()
        return state.state == "held" and "budget" in (state.last_error or "")

    async def play() -> None:
        for _ in range(10):
            await eventually(lambda: is_held() or embedded(db) == 120, clock)
            days.append(embedded(db))
            if days[-1] == 120:
                return
            # An hour of asking again and again brings nothing: it is the same day.
            for _ in range(60):
                await pass_at_rest(db, clock, 60.0)
                await asyncio.sleep(0.01)
            await pass_at_rest(db, clock, 24 * HOUR)
            await eventually(lambda: embedded(db) > days[-1], clock)

    while_a_service_runs(db, play)
    assert days[-1] == 120
    assert days[0] < 120, "one day was enough"
    spent = provider.tokens_served * PRICE
    assert spent <= BUDGET * len(days) + 0.001, f"{spent} USD on {len(days)} days"
    assert len(provider.texts_seen) == len(set(provider.texts_seen)), "nothing was paid twice"
    assert db.state().dead == 0
    db.drained()
