"""Rehearsals: large jobs by bundles, what is left until later, and how that is told."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from qwen_embed_plugins import Settings
from qwen_embed_plugins.cli.route_report import duration
from qwen_embed_plugins.effects import MakeFlow
from qwen_embed_plugins.ledger import MemoryLedger, Reservation, Use
from qwen_embed_plugins.meters import Meter, Refused
from qwen_embed_plugins.rehearsal import MOST_TEXTS, Rehearsal, Workload, rehearse
from qwen_embed_plugins.settings import Budget
from qwen_embed_plugins.setup import Setup
from qwen_embed_plugins.shared_ledger import SQLiteLedger
from qwen_embed_plugins.simulated import SimulatedClock, SimulatedDriver
from qwen_embed_plugins.tokens import estimate_tokens
from qwen_embed_plugins.windows import MINUTE, Ever, UnderWay

NOON = 1_800_014_400.0
"""2027-01-15 12:00 UTC."""

PAID = {"price_per_million": "0.05"}
DEAR = {"price_per_million": "0.50"}


def setup_of(tmp_path: Path, tables: dict[str, dict[str, Any]], **arguments: Any) -> Setup:
    kinds = {
        name: {"kind": "openai-compatible", "base_url": f"http://127.0.0.1:1/{name}", **table}
        for name, table in tables.items()
    }
    state = str(tmp_path / "state.db")
    budget = arguments.pop("budget", {"usd_per_day": "unlimited"})
    settings = Settings.load(
        use=list(tables), providers=kinds, state=state, budget=budget, **arguments
    )
    return Setup.make(settings, None)


def costs(rehearsal: Rehearsal) -> dict[str, float]:
    return {share.offer.partition("/")[0]: float(share.cost) for share in rehearsal.shares}


JOBS: dict[str, tuple[dict[str, dict[str, Any]], dict[str, Any]]] = {
    "one price": ({"paid": PAID}, {}),
    "a grant in the middle": ({"given": {**DEAR, "free_tokens": 700_000}, "paid": PAID}, {}),
    "a credit": ({"given": {**DEAR, "free_usd": "0.4"}, "paid": PAID}, {}),
    "a budget": ({"paid": PAID}, {"budget": {"usd_per_day": "0.08"}}),
    "a limit per minute": ({"paid": {**PAID, "requests_per_minute": 20}}, {}),
    "tokens of a minute": ({"paid": {**PAID, "tokens_per_minute": 100_000}}, {}),
    "a minute spills to paid": (
        {"few": {"requests_per_minute": 10, "max_concurrency": 2}, "paid": PAID},
        {"spill_to_paid": True},
    ),
    "a day's requests, then paid": ({"few": {"requests_per_day": 60}, "paid": PAID}, {}),
    "one account, two offers under way": (
        {
            "near": {"account": "team", "max_concurrency": 2},
            "paid": {**PAID, "account": "team", "max_concurrency": 2},
        },
        {},
    ),
    "large requests": ({"paid": {**PAID, "max_inputs": 1024, "max_concurrency": 2}}, {}),
    "single texts": ({"paid": {**PAID, "max_inputs": 1}}, {}),
}


@pytest.mark.parametrize("name", JOBS)
def test_bundles_tell_what_single_texts_do(name: str, tmp_path: Path) -> None:
    """Each text on paper stands for several, and the same comes out: the order exactly, money and
    requests within a few parts of a hundred, time roughly."""
    tables, arguments = JOBS[name]
    setup = setup_of(tmp_path, tables, **arguments)
    count = 12_000 if name != "single texts" else 4_000
    work = Workload(count, count * 180)
    exact = rehearse(setup, work, "document", NOON, most_texts=count)
    bundled = rehearse(setup, work, "document", NOON, most_texts=count // 4)
    assert (exact.weight, bundled.weight) == (1, 4)
    assert list(costs(bundled)) == list(costs(exact))
    assert bundled.served == pytest.approx(exact.served, rel=0.01)
    assert float(bundled.cost) == pytest.approx(float(exact.cost), rel=0.015)
    assert bundled.tokens == pytest.approx(exact.tokens, rel=0.01)
    assert bundled.requests == pytest.approx(exact.requests, rel=0.03)
    assert bundled.seconds == pytest.approx(exact.seconds, rel=0.25)


def test_the_ends_of_a_bundled_job_add_up(tmp_path: Path) -> None:
    setup = setup_of(tmp_path, {"given": {**DEAR, "free_tokens": 10_000_000}, "paid": PAID})
    rehearsal = rehearse(setup, Workload(1_000_003, 200_000_600), "document", NOON)
    assert rehearsal.weight > 1
    assert sum(share.texts for share in rehearsal.shares) == rehearsal.served == 1_000_003
    own = sum(share.own_tokens for share in rehearsal.shares)
    assert rehearsal.tokens - own == pytest.approx(200_000_600, rel=1e-4)
    [given, paid] = rehearsal.shares
    assert given.covered == pytest.approx(10_000_000, rel=0.01)
    # An introduction is made once, however many texts each on paper stands for.
    assert 0 < paid.own_tokens < 5_000


def test_ten_million_texts_take_few_requests_on_paper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[SimulatedDriver] = []

    class Noted(SimulatedDriver):
        def run(self, make_flow: MakeFlow[Any]) -> Any:
            made.append(self)
            return super().run(make_flow)

    monkeypatch.setattr("qwen_embed_plugins.rehearsal.SimulatedDriver", Noted)
    limited = {**PAID, "requests_per_minute": 60, "max_concurrency": 4}
    for inputs in (1, 32, 2048):
        setup = setup_of(tmp_path, {"paid": {**limited, "max_inputs": inputs}})
        rehearsal = rehearse(setup, Workload(10_000_000, 2 * 10**9), "document", NOON)
        assert rehearsal.served == 10_000_000
        assert rehearsal.requests == pytest.approx(10_000_000 / inputs, rel=0.02)
    # Known texts go along once a day, and such a job takes months.
    assert max(len(driver.jobs) for driver in made) < 2_000
    assert len(made) == 3


@pytest.mark.parametrize("now", [NOON, NOON - 3, NOON + 700])
def test_few_of_very_many_are_told_exactly(now: float, tmp_path: Path) -> None:
    """Also where the first day's requests are forgotten in two steps."""
    setup = setup_of(tmp_path, {"few": {"requests_per_day": 50, "max_inputs": 32}})
    rehearsal = rehearse(setup, Workload(10_000_000, 2 * 10**9), "document", now)
    assert rehearsal.served == 50 * 32
    assert rehearsal.later is not None
    assert rehearsal.later.is_extrapolated
    days = rehearsal.later.seconds / 86_400
    assert days == pytest.approx(10_000_000 / 1_600, rel=0.05)
    assert "requests_per_day = 50 is used up" in str(rehearsal.reasons)


def test_what_is_left_comes_with_the_next_day(tmp_path: Path) -> None:
    setup = setup_of(tmp_path, {"paid": PAID}, budget={"usd_per_day": "0.01"})
    rehearsal = rehearse(setup, Workload(2_000, 400_000), "document", NOON)
    assert 0 < rehearsal.served < 2_000
    assert rehearsal.cost <= Decimal("0.01")
    assert rehearsal.later is not None
    assert rehearsal.later.begins == NOON + 12 * 3600
    assert not rehearsal.later.is_extrapolated
    assert rehearsal.cost + rehearsal.later.cost == pytest.approx(
        Decimal("0.02"), rel=Decimal("0.01")
    )


def test_waiting_does_not_lift_a_budget_for_ever(tmp_path: Path) -> None:
    setup = setup_of(tmp_path, {"paid": PAID}, budget={"usd_total": "0.01"})
    rehearsal = rehearse(setup, Workload(4_000, 800_000), "document", NOON)
    assert rehearsal.left
    assert rehearsal.later is None
    assert "usd_total" in rehearsal.reasons["paid/qwen3-embedding-8b"]


def test_a_limit_per_minute_takes_its_time(tmp_path: Path) -> None:
    setup = setup_of(tmp_path, {"few": {"requests_per_minute": 10, "max_inputs": 10}})
    rehearsal = rehearse(setup, Workload(1_000, 100_000), "document", NOON)
    assert rehearsal.served == 1_000
    assert 9 * 60 < rehearsal.seconds < 11 * 60


def test_few_of_many_texts_are_kept_and_all_are_counted() -> None:
    texts = [f"text {number}" * (number % 7 + 1) for number in range(50_000)]
    work = Workload.of(iter(texts))
    assert (work.count, work.tokens) == (50_000, sum(map(estimate_tokens, texts)))
    assert len(work.sample) <= MOST_TEXTS
    assert work.sample == tuple(texts[:: work.stride])


def test_a_ledger_goes_on_from_what_another_counted(tmp_path: Path) -> None:
    """What is held is taken for used, what is only limited while under way is not."""
    clock = SimulatedClock(NOON)
    minute = Meter("minute", "a", "", MINUTE, requests=3)
    flight = Meter("flight", "a", "", UnderWay(), requests=1)
    grant = Meter("grant", "a", "", Ever(), tokens=400)
    use = Use("a", "a/toy", 100, Decimal("0.5"), meters=(minute, flight, grant))
    budget = Budget(usd_per_day=Decimal(2))
    for ledger in (
        MemoryLedger(budget, clock),
        SQLiteLedger(str(tmp_path / "state.db"), budget, clock, tend_seconds=None),
    ):
        for _ in range(2):
            while (held := ledger.reserve(use)) is None:
                assert ledger.top_up(use) is None
            assert isinstance(held, Reservation)
            if _ == 0:
                ledger.settle(held, 60, Decimal("0.25"))
        after = MemoryLedger(budget, clock)
        after.load(ledger.counts())
        counted = {key.kind: amount for key, amount in after.counts() if key.kind != "flight"}
        assert counted["grant"].tokens >= 160
        assert "flight" not in {key.kind for key, _ in after.counts()}
        again = after.reserve(use)
        assert isinstance(again, Reservation), again
        # Three requests in this minute: two counted before, and that one.
        refused = after.reserve(replace(use, meters=(minute,), cost=Decimal(0)))
        assert isinstance(refused, Refused)
        assert refused.meter.kind == "minute"
        ledger.close()


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "about 1 s"), (170, "about 3 min"), (90_000, "about 25 h"), (4e6, "about 46 days")],
)
def test_time_is_told_as_roughly_as_it_is_known(seconds: float, said: str) -> None:
    assert duration(seconds) == said
