"""Requests, tokens and money: reserved before an attempt, settled after it. What every ledger does,
and one that lives in memory; the one that processes share is in `shared_ledger.py`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import NamedTuple, Protocol

from qwen_embed_plugins.amounts import MOST, NOTHING, Amount, units, usd
from qwen_embed_plugins.meters import Key, Meter, Refused, in_dollars, refusal, use_meter
from qwen_embed_plugins.settings import Budget
from qwen_embed_plugins.windows import UTC_DAY, Ever, Rolling, UnderWay

DAY_SECONDS = 86_400

POLL_SECONDS = 0.5
"""When to ask again for a place under way: nobody knows when one is free."""

HELD_SECONDS = 2.0
"""When to ask again for what others hold: who does not use it has given it back by then."""


@dataclass(frozen=True, slots=True)
class Use:
    """What one attempt may use at most: one request, tokens, and `cost` in US dollars; `credit` is
    what tokens that a grant covers would have cost. `meters` are those that it moves besides the
    record of use and the budgets over all."""

    account: str
    offer: str
    tokens: int
    cost: Decimal
    credit: Decimal = Decimal(0)
    meters: tuple[Meter, ...] = ()

    @property
    def amount(self) -> Amount:
        return attempt(self.tokens, self.cost)


@dataclass(frozen=True, slots=True)
class Reservation:
    """Use held for one attempt: an upper bound, until it is settled."""

    id: int
    use: Use


class Ledger(Protocol):
    """What the drivers need of a ledger; every method is safe to call from any thread.

    `reserve`, `settle` and `abandon` are arithmetic in memory. Only `top_up`, `write` and `close`
    may wait for a file or a database, so an event loop runs these in a thread. None of the three
    holds anything for its caller: it may be cancelled meanwhile.
    """

    def reserve(self, use: Use) -> Reservation | Refused | None:
        """Hold use for one attempt, or say which meter forbids it; None to `top_up` first."""

    def top_up(self, use: Use) -> Refused | None:
        """Fetch from the shared record what `reserve` of this use needs, or say why not."""

    def settle(
        self,
        reservation: Reservation,
        tokens: int,
        cost: Decimal,
        *,
        requests: int = 1,
        credit: Decimal = Decimal(0),
    ) -> bool:
        """Replace a reservation by what the attempt really used; `requests` is 0 where nothing was
        sent. True if that was more than the shared record knows of, so that `write` must follow."""

    def abandon(self, reservation: Reservation) -> None:
        """Nobody will learn what the attempt used: its upper bound stands."""

    def write(self) -> None:
        """Bring the shared record up to date, after an attempt that used more than its bound."""

    def counts(self) -> list[tuple[Key, Amount]]:
        """All that is counted as of now, what is held being taken for used, as `MemoryLedger.load`
        takes it. Changes nothing; may wait for a file, and raises `ConfigurationError` when that
        cannot be read."""

    def after_fork(self) -> None:
        """Called in a child process: another thread of the parent's may have held a lock."""

    def close(self) -> None:
        """Give back what is not used. The ledger may be used again."""


def attempt(tokens: int, cost: Decimal, requests: int = 1) -> Amount:
    """One request with its tokens and its cost in US dollars."""
    return Amount(requests, min(MOST, tokens), units(cost))


def budget_meters(budget: Budget) -> tuple[Meter, ...]:
    """The meters of the budgets over all offers."""
    per_day, total = in_dollars(budget.usd_per_day), in_dollars(budget.usd_total)
    table = "[budget]"
    return (
        Meter("budget", "", "", UTC_DAY, money=per_day, setting="usd_per_day", table=table),
        Meter("budget", "", "", Ever(), money=total, setting="usd_total", table=table),
    )


def meters_of(use: Use, budgets: tuple[Meter, ...]) -> tuple[Meter, ...]:
    """All that an attempt moves. What can cost money counts against the budgets, also where a
    grant covers it: it may use more than was thought."""
    record = use_meter(use.account, use.offer)
    if use.cost or use.credit:
        return (record, *budgets, *use.meters)
    return (record, *use.meters)


class Hold(NamedTuple):
    """What an attempt holds of a count."""

    meter: Meter
    key: Key
    bound: Amount


class Slice(NamedTuple):
    """Part of a count over the last minute or day, and the period in which it is forgotten."""

    period: int
    amount: Amount


class Counted(NamedTuple):
    """All that counts against a meter: what was used, the slices of it that will be forgotten, and
    what is held by anybody."""

    used: Amount
    held: Amount
    slices: Sequence[Slice] = ()

    def refusal(self, meter: Meter, bound: Amount, now: float) -> Refused | None:
        """Why there is no room for so much more; None if there is."""
        counted = self.used + self.held
        if meter.lacks(counted + bound) is None:
            return None
        refused = refusal(meter, counted, bound, self._allowed_at(meter, bound, now))
        if refused is None or meter.lacks(self.used + bound) is not None:
            return refused
        return replace(refused, only_held=True)

    def _allowed_at(self, meter: Meter, bound: Amount, now: float) -> float | None:
        window, used = meter.window, self.used
        if isinstance(window, UnderWay):
            return now + POLL_SECONDS
        if meter.lacks(used + bound) is None:
            return now + HELD_SECONDS
        if not isinstance(window, Rolling):
            return window.ends(now)
        for period, amount in self.slices:
            used -= amount
            if meter.lacks(used + bound) is None:
                return period * window.step
        return now + window.seconds


class MemoryLedger:
    """A ledger for one process, forgotten with it. Days are counted in UTC."""

    def __init__(self, budget: Budget, now: Callable[[], float]) -> None:
        self._budgets = budget_meters(budget)
        self._now = now
        self._lock = threading.Lock()
        self._next_id = 0
        self._open: dict[int, tuple[Hold, ...]] = {}
        self._held: dict[Key, Amount] = {}
        self._used: dict[Key, Amount] = {}
        self._sliced: dict[Key, dict[int, Amount]] = {}

    def load(self, counts: Iterable[tuple[Key, Amount]]) -> None:
        """Take over what another ledger has counted."""
        with self._lock:
            for key, amount in counts:
                if key.kind in ("minute", "day"):
                    slices = self._sliced.setdefault(key._replace(period=0), {})
                    slices[key.period] = slices.get(key.period, NOTHING) + amount
                else:
                    self._used[key] = self._used.get(key, NOTHING) + amount

    def counts(self) -> list[tuple[Key, Amount]]:
        now = self._now()
        with self._lock:
            sliced = [
                (key._replace(period=period), amount)
                for key, slices in self._sliced.items()
                for period, amount in slices.items()
            ]
            held = [
                (key, hold.bound)
                for hold in (hold for holds in self._open.values() for hold in holds)
                if (key := hold.meter.used_key(now, hold.key)) is not None
            ]
            return [*self._used.items(), *sliced, *held]

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        self._open.clear()
        self._held.clear()

    @property
    def spent(self) -> Decimal:
        """US dollars settled so far, open reservations not counted."""
        with self._lock:
            return usd(sum(of.money for key, of in self._used.items() if key.kind == "use"))

    @property
    def reserved(self) -> Decimal:
        """US dollars held for attempts that are under way."""
        with self._lock:
            return usd(sum(of.money for key, of in self._held.items() if key.kind == "use"))

    def used(self) -> dict[Key, Amount]:
        """What was used, by account, offer and day."""
        with self._lock:
            return {key: amount for key, amount in self._used.items() if key.kind == "use"}

    def reserve(self, use: Use) -> Reservation | Refused:
        now, amount, credit = self._now(), use.amount, units(use.credit)
        with self._lock:
            holds = []
            for meter in meters_of(use, self._budgets):
                hold = Hold(meter, meter.held_key(now), meter.bound(amount, credit))
                refused = self._refusal(hold, now)
                if refused is not None:
                    return refused
                holds.append(hold)
            for hold in holds:
                self._held[hold.key] = self._held.get(hold.key, NOTHING) + hold.bound
            self._next_id += 1
            self._open[self._next_id] = tuple(holds)
            return Reservation(self._next_id, use)

    def _refusal(self, hold: Hold, now: float) -> Refused | None:
        meter, key, bound = hold
        slices = self._live(meter, key, now)
        used = sum((amount for _, amount in slices), self._used.get(key, NOTHING))
        return Counted(used, self._held.get(key, NOTHING), slices).refusal(meter, bound, now)

    def _live(self, meter: Meter, key: Key, now: float) -> list[Slice]:
        """What a count over the last minute or day still remembers, the oldest first."""
        if not isinstance(meter.window, Rolling):
            return []
        first = meter.window.first_live(now)
        slices = self._sliced.get(key, {})
        for period in [period for period in slices if period < first]:
            del slices[period]
        return [Slice(period, slices[period]) for period in sorted(slices)]

    def top_up(self, use: Use) -> Refused | None:
        return None

    def settle(
        self,
        reservation: Reservation,
        tokens: int,
        cost: Decimal,
        *,
        requests: int = 1,
        credit: Decimal = Decimal(0),
    ) -> bool:
        now, amount, credit_ = self._now(), attempt(tokens, cost, requests), units(credit)
        with self._lock:
            for meter, key, bound in self._open.pop(reservation.id, ()):
                self._held[key] -= bound
                self._count(meter, meter.used_key(now, key), meter.counts(amount, credit_))
        return False

    def _count(self, meter: Meter, key: Key | None, amount: Amount) -> None:
        if key is None or amount == NOTHING:
            return
        if isinstance(meter.window, Rolling):
            slices = self._sliced.setdefault(key._replace(period=0), {})
            slices[key.period] = slices.get(key.period, NOTHING) + amount
        else:
            self._used[key] = self._used.get(key, NOTHING) + amount

    def abandon(self, reservation: Reservation) -> None:
        use = reservation.use
        self.settle(reservation, use.tokens, use.cost, credit=use.credit)

    def write(self) -> None:
        pass

    def close(self) -> None:
        pass
