"""The shared ledger under random schedules: one process decides as the ledger in memory does, and
whatever several do, die of or wake up from, the record's count is never too low. In a file, and,
with fewer examples, in Postgres."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import time, timezone
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import TypedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_embed_plugins.amounts import NOTHING, Amount, usd
from qwen_embed_plugins.books import BLOCK_SECONDS, LIMIT_SECONDS
from qwen_embed_plugins.ledger import (
    DAY_SECONDS,
    MemoryLedger,
    Reservation,
    Use,
    attempt,
)
from qwen_embed_plugins.meters import GRANTS, Key, Meter, Refused
from qwen_embed_plugins.settings import Budget
from qwen_embed_plugins.shared_ledger import SharedLedger
from qwen_embed_plugins.testing.simulation import SimulatedClock
from qwen_embed_plugins.windows import DAY, MINUTE, UTC_DAY, Daily, Ever, Rolling, UnderWay
from tests.postgres_servers import Server
from tests.stores import Store, file_store

STEPS = 60


def reserve(ledger: SharedLedger, use: Use) -> Reservation | Refused:
    while (outcome := ledger.reserve(use)) is None:
        refused = ledger.top_up(use)
        if refused is not None:
            return refused
    return outcome


MINUTELY = Meter("minute", "account", "", MINUTE, requests=5, tokens=300)
METERS = (
    Meter("budget", "account", "", UTC_DAY, money=2 * 10**11),
    Meter("grant", "account", "", Ever(), tokens=500),
    Meter("grant", "account", "", Daily(time(5), timezone.utc), tokens=200),
    Meter("credit", "account", "", Ever(), money=10**11),
    Meter("day", "account", "", DAY, requests=9),
    MINUTELY,
    Meter("flight", "account", "", UnderWay(), requests=3),
)


def random_use(random: Random) -> Use:
    price = random.choice([0, 0, 1, 3_333, 10**9])
    tokens = random.randrange(1, 100)
    meters = tuple(meter for meter in METERS if random.random() < 0.2)
    money = usd(tokens * price)
    granted = any(meter.kind in GRANTS for meter in meters)
    cost, credit = (Decimal(0), money) if granted else (money, Decimal(0))
    return Use("account", f"offer{random.randrange(3)}", tokens, cost, credit, meters)


def random_budget(random: Random) -> Budget:
    limits = [None, Decimal(0), Decimal("0.000001"), Decimal("0.1"), Decimal("0.5")]
    return Budget(random.choice(limits), random.choice([None, None, Decimal("0.3")]))


WITHIN = (0, 1, 50, 100)
BEYOND = (*WITHIN, 173)


class Result(TypedDict):
    tokens: int
    cost: Decimal
    requests: int
    credit: Decimal


def used_of(random: Random, use: Use, percents: tuple[int, ...]) -> Result:
    """What an attempt may turn out to have used of its bound: nothing, a part, or more."""
    share = Decimal(random.choice(percents)) / 100
    return Result(
        tokens=int(use.tokens * share),
        cost=usd(int(use.cost * share * 10**12)),
        requests=int(share > 0 or random.random() < 0.5),
        credit=usd(int(use.credit * share * 10**12)),
    )


def amount_of(used: Result) -> Amount:
    return attempt(used["tokens"], used["cost"], used["requests"])


@pytest.fixture(scope="module")
def database(postgres_server: Server) -> Iterator[Store]:
    with postgres_server.database("template1") as name:
        yield Store(postgres_server.uri(name))


seeds = given(seed=st.integers(0, 2**32))


@settings(max_examples=150)
@seeds
def test_one_process_decides_as_in_memory(seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        decides_as_in_memory(file_store(Path(folder)), seed)


@settings(max_examples=10)
@seeds
def test_one_process_on_a_database_decides_as_in_memory(database: Store, seed: int) -> None:
    database.clear()
    decides_as_in_memory(database, seed)


def decides_as_in_memory(store: Store, seed: int) -> None:
    random, clock = Random(seed), SimulatedClock()
    budget = random_budget(random)
    model = MemoryLedger(budget, clock)
    under_way: list[tuple[Reservation, Reservation]] = []
    ledger = store.ledger(budget, clock)
    for _ in range(STEPS):
        step = random.random()
        if step < 0.5:
            use = random_use(random)
            ours, theirs = reserve(ledger, use), model.reserve(use)
            if isinstance(ours, Reservation):
                assert isinstance(theirs, Reservation)
                under_way.append((ours, theirs))
            else:
                assert ours == theirs
        elif step < 0.9 and under_way:
            ours, theirs = under_way.pop(random.randrange(len(under_way)))
            if random.random() < 0.1:
                ledger.abandon(ours)
                model.abandon(theirs)
            else:
                used = used_of(random, ours.use, WITHIN)
                if ledger.settle(ours, **used):
                    ledger.write()
                model.settle(theirs, **used)
        elif step < 0.95:
            random.choice([ledger.write, ledger.tend, ledger.close])()
        else:
            ledger.write()  # counted from when it is written, not from when it was settled
            clock.seconds += random.choice([1, 30, 40_000, DAY_SECONDS])
        assert ledger.reserved == model.reserved
    for ours, theirs in under_way:
        ledger.abandon(ours)
        model.abandon(theirs)
    ledger.close()
    assert sum(line.cost for line in store.usage()) == model.spent
    assert all(line.held == NOTHING for line in store.usage())


@dataclass
class World:
    """Several processes on one store: what they really used by now, and what of it was beyond the
    bounds that they had reserved."""

    random: Random
    store: Store
    budget: Budget
    clock: SimulatedClock = field(default_factory=SimulatedClock)
    ledgers: list[SharedLedger] = field(default_factory=list)
    under_way: list[tuple[SharedLedger, Reservation]] = field(default_factory=list)
    used: Amount = NOTHING
    beyond: Amount = NOTHING
    arrivals: dict[int, list[tuple[float, Meter]]] = field(default_factory=dict)
    reservations: list[Reservation] = field(default_factory=list)
    """When each attempt reached the server, somewhere between reserving and settling."""

    def start(self) -> None:
        self.ledgers.append(self.store.ledger(self.budget, self.clock))

    def kill(self) -> None:
        """As `kill -9` does it: memory is gone, the record stays as it was."""
        ledger = self.random.choice(self.ledgers)
        ledger._books.close()
        ledger.after_fork()
        self.ledgers.remove(ledger)
        self.under_way = [item for item in self.under_way if item[0] is not ledger]
        self.start()

    def arrives(self, reservation: Reservation) -> None:
        moments = self.arrivals.setdefault(id(reservation), [])
        moments[:] = [
            (self.clock.seconds, meter)
            for meter in reservation.use.meters
            if meter.kind in ("minute", "day")
        ]

    def reserve(self) -> None:
        ledger = self.random.choice(self.ledgers)
        outcome = reserve(ledger, random_use(self.random))
        if isinstance(outcome, Reservation):
            self.under_way.append((ledger, outcome))
            self.reservations.append(outcome)  # else its id may be another's later
            self.arrives(outcome)

    def settle(self) -> None:
        ledger, reservation = self.under_way.pop(self.random.randrange(len(self.under_way)))
        used = used_of(self.random, reservation.use, BEYOND)
        if not used["requests"]:
            del self.arrivals[id(reservation)]  # nothing was sent
        elif self.random.random() < 0.5:
            self.arrives(reservation)
        if ledger.settle(reservation, **used):
            ledger.write()
        self.used += amount_of(used)
        self.beyond += (amount_of(used) - reservation.use.amount).or_nothing()

    def check(self) -> None:
        counted = self.store.counted()
        assert counted.covers(self.used), (counted, self.used)

    def check_limits(self) -> None:
        beyond = self.beyond
        for key, used, held in self.counts():
            counted = used + held
            if key.kind == "budget" and not key.account:
                limit = self.budget.usd_per_day if key.period else self.budget.usd_total
                assert limit is None or usd(counted.money) <= limit + usd(beyond.money), key
            for meter in METERS:
                if meter.held_key(self.clock.seconds) == key and meter.kind in GRANTS:
                    # Money that a grant covers goes beyond with its tokens.
                    assert meter.tokens is None or counted.tokens <= meter.tokens + beyond.tokens
                    assert meter.money is None or beyond.tokens or counted.money <= meter.money
        for meter in (meter for meter in METERS if meter.kind in ("minute", "day")):
            self.check_arrivals(meter)
        flying = [1 for _, held in self.under_way if METERS[-1] in held.use.meters]
        assert len(flying) <= (METERS[-1].requests or 0)

    def check_arrivals(self, meter: Meter) -> None:
        assert isinstance(meter.window, Rolling)
        moments = sorted(
            moment for arrival in self.arrivals.values() for moment, of in arrival if of == meter
        )
        for first, last in zip(moments, moments[meter.requests :], strict=False):
            assert last - first >= meter.window.seconds, moments

    def counts(self) -> list[tuple[Key, Amount, Amount]]:
        return [(count.key, count.used, count.held) for count in self.store.counts()]


@settings(max_examples=150)
@seeds
def test_whatever_dies_the_count_is_never_too_low_and_no_budget_is_overrun(seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        never_too_low(file_store(Path(folder)), seed)


@settings(max_examples=10)
@seeds
def test_whatever_dies_a_database_counts_as_a_file_does(database: Store, seed: int) -> None:
    database.clear()
    never_too_low(database, seed)


def never_too_low(store: Store, seed: int) -> None:
    random = Random(seed)
    world = World(random, store, random_budget(random))
    jumps = random.choice([(0.1, 1.4), (0.1, 1.4), (1, 200, DAY_SECONDS, -40_000)])
    for _ in range(3):
        world.start()
    for _ in range(STEPS):
        step = random.random()
        if step < 0.45:
            world.reserve()
        elif step < 0.8 and world.under_way:
            world.settle()
        elif step < 0.9:
            ledger = random.choice(world.ledgers)
            random.choice([ledger.write, ledger.tend, ledger.tend, ledger.close])()
        elif step < 0.95:
            world.kill()
        else:
            world.clock.seconds += random.choice(jumps)
        world.check()
        if max(jumps) < LIMIT_SECONDS / STEPS:
            # Else who sleeps beyond a deadline finds its block booked, and books its use again.
            world.check_limits()
    for ledger in world.ledgers:
        ledger._books.close()
        ledger.after_fork()


@seeds
def test_the_dead_are_booked_once(seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        books_the_dead_once(file_store(Path(folder)), seed)


@settings(max_examples=10)
@seeds
def test_the_dead_are_booked_once_in_a_database(database: Store, seed: int) -> None:
    database.clear()
    books_the_dead_once(database, seed)


def books_the_dead_once(store: Store, seed: int) -> None:
    world = World(Random(seed), store, Budget(None))
    world.start()
    for _ in range(10):
        world.reserve()
    before = store.counted()
    world.kill()
    world.clock.seconds += BLOCK_SECONDS + 1
    [survivor] = world.ledgers
    reserve(survivor, Use("account", "another", 1, Decimal(0)))
    survivor.close()
    survivor.close()
    lines = [line for line in store.usage() if line.offer != "another"]
    assert sum((line.used for line in lines), NOTHING) == before
    assert all(line.held == NOTHING for line in lines)
