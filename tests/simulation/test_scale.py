"""What `docs/scale.md` reckons with is what the real router does: jobs of some thousand requests
run under the simulated clock, and take the time and the money that the model says."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tests.benchmarks.scale import Job, Terms, Workers, plan
from tests.simulation.job import Played, play

OFFERS = [
    Terms("granted", Decimal("0.05"), 16, 2.0, requests_per_minute=28, granted_tokens=90_000),
    Terms("cheap", Decimal("0.01"), 20, 4.0, requests_per_minute=24),
    Terms("few", Decimal("0.02"), 20, 9.0, at_once=4),
    Terms("tokens", Decimal("0.05"), 24, 3.0, tokens_per_minute=8_000),
    Terms("big", Decimal("0.07"), 40, 15.0),
    Terms("dear", Decimal("0.10"), 8, 2.0, requests_per_minute=50),
    Terms("credit", Decimal("0.08"), 10, 3.0, requests_per_minute=20, granted_tokens=30_000),
]
WORKERS = Workers(3, batch_rows=200, in_flight=2, concurrency=2)
ROWS = 40_000


@pytest.fixture(scope="module", params=[True, False], ids=["all at once", "cheapest first"])
def job(request: pytest.FixtureRequest) -> tuple[bool, Played]:
    # Each call has the same texts: there is no cache, and they need not be made and kept.
    texts = [
        f"Row {number:03} holds a plain sentence of about eighty characters, as many tables do"
        for number in range(WORKERS.batch_rows)
    ]
    spills = bool(request.param)
    played = play(texts * (ROWS // len(texts)), OFFERS, WORKERS, spill_to_paid=spills)
    return spills, played


def test_the_job_is_large_and_goes_well(job: tuple[bool, Played]) -> None:
    _, played = job
    assert played.unserved == 0
    assert sum(played.texts.values()) == ROWS
    assert played.refused == 0, "the router exceeded a limit that the servers keep as well"
    assert sum(played.requests.values()) > 2_000


def test_the_model_says_what_the_router_does(job: tuple[bool, Played]) -> None:
    spills, played = job
    model = plan(Job(ROWS, played.tokens / ROWS), OFFERS, WORKERS, spill_to_paid=spills)
    assert model.seconds == pytest.approx(played.seconds, rel=0.10)
    assert model.dollars == pytest.approx(float(played.dollars), rel=0.05)
    for name, rows in model.rows.items():
        assert rows == pytest.approx(played.texts[name], rel=0.10, abs=50), name


def test_dearer_offers_shorten_nothing_unless_told_to() -> None:
    paid = [terms for terms in OFFERS if not terms.granted_tokens]
    alone = plan(Job(ROWS, 20), [paid[0]], WORKERS, spill_to_paid=False)
    assert plan(Job(ROWS, 20), paid, WORKERS, spill_to_paid=False).seconds == alone.seconds
    assert plan(Job(ROWS, 20), paid, WORKERS, spill_to_paid=True).seconds < alone.seconds / 5
