"""How fast a worker says it is, and how often it says so."""

from __future__ import annotations

from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from qwen_embed_plugins.postgres import presence
from qwen_embed_plugins.postgres.lanes import Counts
from qwen_embed_plugins.postgres.presence import Presence, Speed


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(presence, "time", clock)
    return clock


def lane(number: int = 1) -> Any:
    return SimpleNamespace(vectorizer=SimpleNamespace(id=number), counts=Counts())


def beat(told: Presence, *lanes: Any) -> dict[str, Any]:
    """The values of the statement that tells figures; none if nothing changed."""
    statements = list(told.beat(lanes))
    return next((dict(s.values or {}) for s in statements if "rows" in (s.values or {})), {})


def test_speed_is_that_of_the_last_minute() -> None:
    speed = Speed()
    assert speed.add(0.0, 0, 0) == (0.0, 0.0)
    assert speed.add(10.0, 100, 1000) == (10.0, 100.0)
    found = [speed.add(float(second), 100, 1000) for second in range(20, 200, 10)]
    assert found[-1] == (0.0, 0.0), "what was done a minute ago is over"
    assert speed.add(200.0, 700, 1000) == pytest.approx((600 / 60, 0.0), rel=0.2)


def test_an_idle_worker_says_so_four_times_a_minute(clock: Clock) -> None:
    told, one = Presence("host:1"), lane()
    assert told.is_due([one])
    assert beat(told, one)["vectorizers"] == [1]
    beats = 0
    for _ in range(60):
        clock.now += 1
        if told.is_due([one]):
            beats += 1
            assert beat(told, one) == {}, "nothing changed, no figures"
    assert beats == 4


def test_a_busy_worker_tells_figures_every_few_seconds(clock: Clock) -> None:
    told, busy, idle = Presence("host:1"), lane(1), lane(2)
    beat(told, busy, idle)
    beats = []
    for _ in range(60):
        clock.now += 1
        busy.counts.rows += 10
        busy.counts.tokens += 70
        busy.counts.cost += Decimal("0.001")
        if told.is_due([busy, idle]):
            beats.append(beat(told, busy, idle))
    assert len(beats) == 12
    assert all(figures["vectorizers"] == [1] for figures in beats)
    assert (beats[-1]["rows"], beats[-1]["tokens"]) == ([600], [4200])
    assert beats[-1]["row_speeds"] == [pytest.approx(10)]
    assert beats[-1]["costs"] == [Decimal("0.060")]
    # It goes on until the speed that was told last is nothing, and then rests.
    for _ in range(120):
        clock.now += 1
        if told.is_due([busy, idle]):
            beats.append(beat(told, busy, idle))
    assert beats[-1] == {}
    assert [figures for figures in beats if figures][-1]["row_speeds"] == [0.0]


def test_a_lane_that_came_is_told_soon(clock: Clock) -> None:
    told = Presence("host:1")
    beat(told, lane(1))
    clock.now += presence.BUSY_SECONDS
    assert told.is_due([lane(1), lane(2)])
    assert beat(told, lane(1), lane(2))["vectorizers"] == [2]


def test_a_failed_beat_is_not_tried_again_at_once(clock: Clock) -> None:
    told = Presence("host:1")
    flow = told.beat([lane()])
    next(flow)
    flow.close()
    assert not told.is_due([lane()])


def test_who_never_gave_a_sign_takes_none_back() -> None:
    assert list(Presence("host:1").leave()) == []
