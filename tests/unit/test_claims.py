"""Claimed grants by name, and correcting what is left of one while processes draw on it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from qwen_embed_plugins import ConfigurationError, Settings
from qwen_embed_plugins.amounts import NOTHING, Amount, units
from qwen_embed_plugins.books import BLOCK_SECONDS, SQLiteBooks
from qwen_embed_plugins.catalogue import ConfiguredOffer, offers_of_all_models
from qwen_embed_plugins.cli.claims import (
    Claim,
    Corrected,
    Correction,
    claim_named,
    claims_of,
    correct,
    correction,
    without_claim,
)
from qwen_embed_plugins.ledger import Reservation, Use
from qwen_embed_plugins.meters import Meter, Refused
from qwen_embed_plugins.plugins import load_plugins
from qwen_embed_plugins.settings import Budget
from qwen_embed_plugins.shared_ledger import SQLiteLedger
from qwen_embed_plugins.standing import Record, Standing
from qwen_embed_plugins.tariffs import TRY_AGAIN_SECONDS, Tariffs
from qwen_embed_plugins.testing.simulation import SimulatedClock

CENT = Decimal("0.01")


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("far=12000000", ("far", 12_000_000, None)),
        ("far=12_000_000", ("far", 12_000_000, None)),
        ("far = 12,000,000 tokens", ("far", 12_000_000, None)),
        ("far=0", ("far", 0, None)),
        ("far=1.20usd", ("far", None, 1_200_000_000_000)),
        ("far=1,234.5 USD", ("far", None, 1_234_500_000_000_000)),
        ("far=$2", ("far", None, 2 * 10**12)),
        (
            "far/qwen3-embedding-0.6b.free_tokens=7",
            ("far/qwen3-embedding-0.6b.free_tokens", 7, None),
        ),
        ("a=b=1", ("a=b", 1, None)),
    ],
)
def test_what_is_said_is_understood(said: str, meant: tuple[Any, ...]) -> None:
    assert correction(said) == Correction(*meant)


@pytest.mark.parametrize(
    "said",
    ["", "far", "far=", "=5", "far=-1", "far=x", "far=1,20usd", "far=12,00", "far=1e6", "far=1.5",
     "far=$5tokens", "far=inf", "far=" + "9" * 5000, "far=１２"],
)  # fmt: skip
def test_what_could_be_meant_otherwise_is_refused(said: str) -> None:
    with pytest.raises(ValueError, match=r"expected NAME=AMOUNT|tokens are whole"):
        correction(said)


def offers(tables: Mapping[str, Mapping[str, Any]]) -> list[ConfiguredOffer]:
    far = {
        "kind": "openai-compatible",
        "base_url": "https://far.example/v1",
        "price_per_million": "0.05",
    }
    settings = Settings.load(
        environ={}, providers={name: {**far, **said} for name, said in tables.items()}
    )
    return list(offers_of_all_models(settings, load_plugins(found=())))


def claims(tables: Mapping[str, Mapping[str, Any]]) -> list[Claim]:
    return claims_of(offers(tables))


SUB = {
    "qwen3-embedding-8b": {"free_tokens": 10},
    "qwen3-embedding-0.6b": {"free_tokens": 20, "free_tokens_per_day": 5},
}


def names(tables: Mapping[str, Mapping[str, Any]]) -> list[str]:
    found = claims(tables)
    return [claim.name_among(found) for claim in found]


def test_names_are_as_short_as_they_can_be() -> None:
    assert names({"far": {"free_tokens": 5}}) == ["far"]
    assert names({"far": {"free_tokens": 5, "account": "team"}}) == ["team"]
    assert names({"far": {"free_tokens": 5, "free_usd": 5}}) == ["far.free_tokens", "far.free_usd"]
    assert names({"far": {"models": SUB}}) == [
        "far/qwen3-embedding-8b",
        "far/qwen3-embedding-0.6b.free_tokens_per_day",
        "far/qwen3-embedding-0.6b.free_tokens",
    ]


def test_tables_of_one_account_have_one_grant_unless_they_state_two() -> None:
    same = {"account": "team", "free_tokens": 5}
    assert names({"a": same, "b": same}) == ["team"]
    assert names({"a": same, "b": {**same, "free_tokens": 6}}) == ["a", "b"]


def test_a_grant_that_ends_sooner_for_one_model_is_one() -> None:
    sub = {"qwen3-embedding-0.6b": {"free_until": "2027-01-31"}}
    for until in ({}, {"free_until": "2028-01-31"}):
        [claim] = claims({"far": {"free_tokens": 5, **until, "models": sub}})
        assert claim.grant.until == (1_832_889_600.0 if until else None)
    [sooner] = claims({"far": {"free_tokens": 5, "free_until": "2026-01-31", "models": sub}})
    assert sooner.grant.until == 1_801_353_600.0


def test_who_has_no_grant_is_told_why() -> None:
    found = offers({"far": {}, "b": {"account": "team"}})
    reasons = without_claim(found, {"far-away": "no key: set FAR_KEY"})
    assert reasons["far-away"] == "it is not set up here: no key: set FAR_KEY"
    for name, table in {"far": "far", "b": "b", "team": "b"}.items():
        assert "no grant of it is claimed; claim the built-in one" in reasons[name]
        assert f"[providers.{table}]" in reasons[name]


# Correcting


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def opened(path: Path, clock: SimulatedClock) -> Iterator[Callable[[], SQLiteLedger]]:
    ledgers = []

    def make() -> SQLiteLedger:
        ledgers.append(SQLiteLedger(str(path), Budget(), clock, tend_seconds=None))
        return ledgers[-1]

    yield make
    for ledger in ledgers:
        ledger.close()


FAR = {"far": {"free_tokens": 10_000, "models": {"qwen3-embedding-0.6b": {"free_usd": 1}}}}


def drawing(tokens: int, claim: Claim) -> Use:
    return Use("far", "far/qwen3-embedding-8b", tokens, Decimal(0), meters=(claim.meter,))


def reserve(ledger: SQLiteLedger, use: Use) -> Reservation | Refused:
    while (outcome := ledger.reserve(use)) is None:
        refused = ledger.top_up(use)
        if refused is not None:
            return refused
    return outcome


def set_(path: Path, clock: Callable[[], float], *said: str, of: Any = FAR) -> list[Corrected]:
    books = SQLiteBooks(path, clock)
    try:
        return correct(
            books, [correction(item) for item in said], claims(of), {"other": "it is not set up"}
        )
    finally:
        books.close()


def standing(path: Path, meter: Meter, clock: Callable[[], float]) -> Standing:
    return Record(SQLiteBooks(path, clock).read(), clock()).of(meter)


def test_what_is_left_is_what_was_said(path: Path, clock: SimulatedClock) -> None:
    [done] = set_(path, clock, "far=4000")
    assert (done.name, done.before, done.after, done.held) == ("far", 0, 6000, 0)
    [done] = set_(path, clock, "far=10000")
    assert (done.before, done.after) == (6000, 0)
    assert standing(path, done.claim.meter, clock).left == (None, 10_000, None)


def test_only_what_is_named_is_corrected(
    path: Path, clock: SimulatedClock, opened: Callable[[], SQLiteLedger]
) -> None:
    claim = claims(FAR)[0]
    ledger = opened()
    use = Use("far", "o", 100, Decimal(0), CENT, (claim.meter,))
    reservation = reserve(ledger, use)
    assert isinstance(reservation, Reservation)
    ledger.settle(reservation, 100, Decimal(0), credit=CENT)
    ledger.close()
    before = {count.key: count for count in SQLiteBooks(path, clock).read()}
    set_(path, clock, "far=1")
    after = {count.key: count for count in SQLiteBooks(path, clock).read()}
    key = claim.meter.held_key(clock())
    assert after[key].used == Amount(1, 9999, units(CENT))  # the money is another count's
    assert {k: v for k, v in before.items() if k != key} == {
        k: v for k, v in after.items() if k != key
    }


def test_what_a_live_process_holds_stays_its_own(
    path: Path, clock: SimulatedClock, opened: Callable[[], SQLiteLedger]
) -> None:
    claim, ledger = claims(FAR)[0], opened()
    under_way = reserve(ledger, drawing(300, claim))
    assert isinstance(under_way, Reservation)
    [done] = set_(path, clock, "far=1000")
    assert (done.after, done.held) == (9000, 300)
    # As long as it may be used, it counts as used.
    assert standing(path, claim.meter, clock).left == (None, 700, None)
    assert isinstance(reserve(opened(), drawing(701, claim)), Refused)
    ledger.settle(under_way, 120, Decimal(0))
    ledger.close()
    assert standing(path, claim.meter, clock).left == (None, 880, None)


def test_what_a_dead_process_held_is_known_to_the_provider(
    path: Path, clock: SimulatedClock, opened: Callable[[], SQLiteLedger]
) -> None:
    claim, ledger = claims(FAR)[0], opened()
    assert isinstance(reserve(ledger, drawing(300, claim)), Reservation)
    clock.seconds += BLOCK_SECONDS + 1
    [done] = set_(path, clock, "far=1000")
    assert (done.before, done.after, done.held) == (300, 9000, 0)
    other = opened()
    assert isinstance(reserve(other, drawing(1000, claim)), Reservation)
    assert isinstance(reserve(other, drawing(1, claim)), Refused)


def test_a_grant_is_corrected_while_processes_draw_on_it(path: Path) -> None:
    """However the two interleave, no more is used after a correction than was said to be left."""
    claim, corrected = claims(FAR)[0], threading.Event()
    used = [0, 0, 0]

    def draw(place: int) -> None:
        ledger = SQLiteLedger(str(path), Budget(), time.time, tend_seconds=None)
        while True:
            is_last = corrected.is_set()
            reservation = reserve(ledger, drawing(7, claim))
            if isinstance(reservation, Reservation):
                ledger.settle(reservation, 5, Decimal(0))
                used[place] += 5
            elif is_last:
                break
        ledger.close()

    threads = [threading.Thread(target=draw, args=(place,)) for place in range(len(used))]
    for thread in threads:
        thread.start()
    for left in (5000, 10_000, 0, 2500, 10_000):
        [done] = set_(path, time.time, f"far={left}")
        assert done.after == 10_000 - left
    set_(path, time.time, "far=3000")
    before = sum(used)
    corrected.set()
    for thread in threads:
        thread.join()
    # An attempt of each thread may have been settled and not yet been added.
    assert sum(used) - before <= 3000 + 5 * len(used)
    final = standing(path, claim.meter, time.time)
    assert final.held == NOTHING
    assert 10_000 - 7 * len(used) <= final.used.tokens <= 10_000


def test_a_grant_of_all_models_comes_before_those_of_single_ones() -> None:
    tables = {"far": {"free_tokens": 7, "models": {"qwen3-embedding-0.6b": {"free_tokens": 20}}}}
    found = claims(tables)
    assert names(tables) == ["far", "far/qwen3-embedding-0.6b"]
    for claim in found:
        assert claim_named(Correction(claim.name_among(found), 7, None), found, {}) is claim
    [alone] = claims({"far": {"models": {"qwen3-embedding-0.6b": {"free_tokens": 20}}}})
    assert claim_named(Correction("far", 20, None), [alone], {}) is alone


def test_several_are_corrected_together_or_not_at_all(path: Path, clock: SimulatedClock) -> None:
    done = set_(path, clock, "far=1000", "far/qwen3-embedding-0.6b=0.25usd")
    assert [item.after for item in done] == [9000, units(Decimal("0.75"))]
    before = SQLiteBooks(path, clock).read()
    for wrong in ("far=10001", "far=5", "nobody=1"):
        with pytest.raises(ConfigurationError):
            set_(path, clock, "far=5", wrong)
    assert SQLiteBooks(path, clock).read() == before


DAILY = {"far": {"free_tokens_per_day": 100, "free_reset": "08:00 +03:00"}}


def test_of_a_daily_grant_today_is_corrected(path: Path, clock: SimulatedClock) -> None:
    [done] = set_(path, clock, "far=30", of=DAILY)
    assert standing(path, done.claim.meter, clock).left == (None, 30, None)
    clock.seconds += 86_400
    assert standing(path, done.claim.meter, clock).left == (None, 100, None)


def test_a_router_that_runs_tries_a_corrected_grant_again_within_a_minute() -> None:
    offer, now, tariffs = offers(DAILY)[0], SimulatedClock().seconds, Tariffs(budgeted=True)
    [grant] = offer.grants
    tariffs.spent(Refused(grant.meter, "spent", until=grant.meter.window.ends(now)), now)
    assert tariffs.of(offer, now + TRY_AGAIN_SECONDS - 1).grant is None
    assert tariffs.changes_at(offer, now + 1) == now + TRY_AGAIN_SECONDS
    assert tariffs.of(offer, now + TRY_AGAIN_SECONDS).grant is grant


def test_a_reset_sooner_than_that_is_not_waited_beyond() -> None:
    offer, tariffs = offers(DAILY)[0], Tariffs(budgeted=True)
    [grant] = offer.grants
    reset = grant.meter.window.ends(SimulatedClock().seconds)
    assert reset is not None
    tariffs.spent(Refused(grant.meter, "spent", until=reset), reset - 1)
    assert tariffs.of(offer, reset).grant is grant


@pytest.mark.parametrize(
    ("tables", "said", "complaint"),
    [
        (FAR, "fra=1", r"--set: no grant goes by the name 'fra'; did you mean 'far'\?"),
        (FAR, "xyz=1", r"by the name 'xyz'; claimed are: far, far/qwen3-embedding-0.6b"),
        ({}, "xyz=1", r"by the name 'xyz'; claimed are: none"),
        ({}, "other=1", r"--set other: it is not set up"),
        (DAILY, "far=1usd", r"--set far: what is claimed there is counted in tokens: 12000000"),
        ({"far": {"free_usd": 1}}, "far=5", r"counted in US dollars: 1.20usd"),
        (
            {"far": {"free_tokens": 5, "free_tokens_per_day": 5}},
            "far=1",
            r"which grant of it\? name one: far.free_tokens_per_day, far.free_tokens",
        ),
        (
            {"far": {"models": SUB}},
            "far=1",
            "which grant of it[?] name one: far/qwen3-embedding-8b, "
            "far/qwen3-embedding-0.6b.free_tokens_per_day, far/qwen3-embedding-0.6b.free_tokens",
        ),
        (
            FAR,
            "far=10,001",
            r"10,001 tokens are more than the whole grant of 10,000 tokens; .* "
            r"free_tokens = … in \[providers.far\]",
        ),
        ({"far": {"free_usd": 1}}, "far=1.01usd", "1.01 USD are more than the whole grant of 1.00"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_one_line(
    path: Path, clock: SimulatedClock, tables: Any, said: str, complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        set_(path, clock, said, of=tables)
    assert "\n" not in str(caught.value)
    assert not path.exists()


def test_one_grant_is_not_set_twice_under_two_names(path: Path, clock: SimulatedClock) -> None:
    with pytest.raises(ConfigurationError, match="this grant is set twice"):
        set_(path, clock, "far=1", "far.free_tokens=2")
    assert not path.exists()
