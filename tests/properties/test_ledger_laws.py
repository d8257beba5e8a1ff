"""The ledger in a file under random schedules: one process decides as the ledger in memory does,
and whatever several do, die of or wake up from, the file's count is never too low."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_embed_plugins.blocks import NOTHING, Amount, attempt, usd
from qwen_embed_plugins.books import BLOCK_SECONDS, usage
from qwen_embed_plugins.ledger import DAY_SECONDS, MemoryLedger, Refused, Reservation, Use
from qwen_embed_plugins.settings import Budget
from qwen_embed_plugins.sqlite_ledger import SQLiteLedger
from qwen_embed_plugins.testing.simulation import SimulatedClock

STEPS = 60


def reserve(ledger: SQLiteLedger, use: Use) -> Reservation | Refused:
    while (outcome := ledger.reserve(use)) is None:
        refused = ledger.top_up(use)
        if refused is not None:
            return refused
    return outcome


def random_use(random: Random) -> Use:
    price = random.choice([0, 0, 1, 3_333, 10**9])
    tokens = random.randrange(1, 100)
    return Use("account", f"offer{random.randrange(3)}", tokens, usd(tokens * price))


def random_budget(random: Random) -> Budget:
    limits = [None, Decimal(0), Decimal("0.000001"), Decimal("0.1"), Decimal("0.5")]
    return Budget(random.choice(limits), random.choice([None, None, Decimal("0.3")]))


WITHIN = (0, 1, 50, 100)
BEYOND = (*WITHIN, 173)


def used_of(random: Random, use: Use, percents: tuple[int, ...]) -> tuple[int, Decimal]:
    """What an attempt may turn out to have used of its bound: nothing, a part, or more."""
    share = Decimal(random.choice(percents)) / 100
    return int(use.tokens * share), usd(int(use.cost * share * 10**12))


@settings(max_examples=150)
@given(seed=st.integers(0, 2**32))
def test_one_process_decides_as_in_memory(seed: int) -> None:
    random, clock = Random(seed), SimulatedClock()
    budget = random_budget(random)
    model = MemoryLedger(budget, clock)
    under_way: list[tuple[Reservation, Reservation]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.db"
        ledger = SQLiteLedger(str(path), budget, clock, tend_seconds=None)
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
                    if ledger.settle(ours, *used):
                        ledger.write()
                    model.settle(theirs, *used)
            elif step < 0.95:
                random.choice([ledger.write, ledger.tend, ledger.close])()
            else:
                clock.seconds += random.choice([1, 40_000, DAY_SECONDS, -40_000])
            assert ledger.reserved == model.reserved
        for ours, theirs in under_way:
            ledger.abandon(ours)
            model.abandon(theirs)
        ledger.close()
        assert sum(line.cost for line in usage(path)) == model.spent
        assert all(line.held == NOTHING for line in usage(path))


@dataclass
class World:
    """Several processes on one file: what they really used by now, and what of it was beyond the
    bounds that they had reserved."""

    random: Random
    path: Path
    budget: Budget
    clock: SimulatedClock = field(default_factory=SimulatedClock)
    ledgers: list[SQLiteLedger] = field(default_factory=list)
    under_way: list[tuple[SQLiteLedger, Reservation]] = field(default_factory=list)
    used: Amount = NOTHING
    beyond: int = 0

    def start(self) -> None:
        ledger = SQLiteLedger(str(self.path), self.budget, self.clock, tend_seconds=None)
        self.ledgers.append(ledger)

    def kill(self) -> None:
        """As `kill -9` does it: memory is gone, the file stays as it was."""
        ledger = self.random.choice(self.ledgers)
        ledger._books.close()
        ledger.after_fork()
        self.ledgers.remove(ledger)
        self.under_way = [item for item in self.under_way if item[0] is not ledger]
        self.start()

    def reserve(self) -> None:
        ledger = self.random.choice(self.ledgers)
        outcome = reserve(ledger, random_use(self.random))
        if isinstance(outcome, Reservation):
            self.under_way.append((ledger, outcome))

    def settle(self) -> None:
        ledger, reservation = self.under_way.pop(self.random.randrange(len(self.under_way)))
        used = used_of(self.random, reservation.use, BEYOND)
        if ledger.settle(reservation, *used):
            ledger.write()
        self.used += attempt(*used)
        bound = attempt(reservation.use.tokens, reservation.use.cost)
        self.beyond += max(0, attempt(*used).money - bound.money)

    def check(self) -> None:
        counted = NOTHING
        for line in usage(self.path):
            counted += line.used + line.held
        assert counted.covers(self.used), (counted, self.used)

    def check_budget(self) -> None:
        lines = usage(self.path)
        total = sum(line.used.money + line.held.money for line in lines)
        if self.budget.usd_total is not None:
            assert usd(total) <= self.budget.usd_total + usd(self.beyond)
        if self.budget.usd_per_day is not None:
            for day in {line.day for line in lines}:
                today = sum(of.used.money + of.held.money for of in lines if of.day == day)
                assert usd(today) <= self.budget.usd_per_day + usd(self.beyond)


@settings(max_examples=150)
@given(seed=st.integers(0, 2**32))
def test_whatever_dies_the_count_is_never_too_low_and_no_budget_is_overrun(seed: int) -> None:
    random = Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        world = World(random, Path(folder) / "state.db", random_budget(random))
        jumps = random.choice([(1, 5), (1, 200, DAY_SECONDS, -40_000)])
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
            if max(jumps) < BLOCK_SECONDS / STEPS:
                # Else who sleeps beyond a deadline finds its block booked, and books its use again.
                world.check_budget()
        for ledger in world.ledgers:
            ledger._books.close()
            ledger.after_fork()


@given(seed=st.integers(0, 2**32))
def test_the_dead_are_booked_once(seed: int) -> None:
    random = Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        world = World(random, Path(folder) / "state.db", Budget(None))
        world.start()
        for _ in range(10):
            world.reserve()
        before = sum((line.used + line.held for line in usage(world.path)), NOTHING)
        world.kill()
        world.clock.seconds += BLOCK_SECONDS + 1
        [survivor] = world.ledgers
        reserve(survivor, Use("account", "another", 1, Decimal(0)))
        survivor.close()
        survivor.close()
        lines = [line for line in usage(world.path) if line.offer != "another"]
        assert sum((line.used for line in lines), NOTHING) == before
        assert all(line.held == NOTHING for line in lines)
