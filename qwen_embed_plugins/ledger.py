"""Money and tokens: reserved before an attempt, settled after it. What every ledger does, and one
that lives in memory; the one in a file is in `sqlite_ledger.py`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from qwen_embed_plugins.settings import Budget

DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class Use:
    """What one attempt may use at most: tokens, and `cost` in US dollars. Offers of one account
    share what the account has."""

    account: str
    offer: str
    tokens: int
    cost: Decimal


@dataclass(frozen=True, slots=True)
class Reservation:
    """Use held for one attempt: an upper bound, until it is settled. `day` counts from 1970-01-01
    in UTC."""

    id: int
    use: Use
    day: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The ledger does not allow the attempt. `until` is when it may (None: not by waiting)."""

    budget: str
    message: str
    until: float | None = None


class Ledger(Protocol):
    """What the drivers need of a ledger; every method is safe to call from any thread.

    `reserve`, `settle` and `abandon` are arithmetic in memory. Only `top_up`, `write` and `close`
    may wait for a file, so an event loop runs these in a thread. None of the three holds anything
    for its caller: it may be cancelled meanwhile.
    """

    def reserve(self, use: Use) -> Reservation | Refused | None:
        """Hold use for one attempt, or say which budget forbids it; None to `top_up` first."""

    def top_up(self, use: Use) -> Refused | None:
        """Fetch from the shared record what `reserve` of this use needs, or say why not."""

    def settle(self, reservation: Reservation, tokens: int, cost: Decimal) -> bool:
        """Replace a reservation by what the attempt really used; 0 and 0 where nothing was. True
        if that was more than the shared record knows of, so that `write` must follow."""

    def abandon(self, reservation: Reservation) -> None:
        """Nobody will learn what the attempt used: its upper bound stands."""

    def write(self) -> None:
        """Bring the shared record up to date, after an attempt that used more than its bound."""

    def after_fork(self) -> None:
        """Called in a child process: another thread of the parent's may have held a lock."""

    def close(self) -> None:
        """Give back what is not used. The ledger may be used again."""


class MemoryLedger:
    """A ledger for one process, forgotten with it. Days are counted in UTC."""

    def __init__(self, budget: Budget, now: Callable[[], float]) -> None:
        self._budget = budget
        self._now = now
        self._lock = threading.Lock()
        self._next_id = 0
        self._open: dict[int, Reservation] = {}
        self._spent_by_day: dict[int, Decimal] = {}

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        self._open.clear()

    @property
    def spent(self) -> Decimal:
        """US dollars settled so far, open reservations not counted."""
        with self._lock:
            return sum(self._spent_by_day.values(), Decimal(0))

    @property
    def reserved(self) -> Decimal:
        """US dollars held for attempts that are under way."""
        with self._lock:
            return self._held()

    def reserve(self, use: Use) -> Reservation | Refused:
        day = day_of(self._now())
        with self._lock:
            refused = self._refusal(use.cost, day) if use.cost else None
            if refused:
                return refused
            self._next_id += 1
            reservation = Reservation(self._next_id, use, day)
            self._open[reservation.id] = reservation
            return reservation

    def top_up(self, use: Use) -> Refused | None:
        return None

    def settle(self, reservation: Reservation, tokens: int, cost: Decimal) -> bool:
        with self._lock:
            if self._open.pop(reservation.id, None) is not None and cost:
                day = reservation.day
                self._spent_by_day[day] = self._spent_by_day.get(day, Decimal(0)) + cost
        return False

    def abandon(self, reservation: Reservation) -> None:
        self.settle(reservation, reservation.use.tokens, reservation.use.cost)

    def write(self) -> None:
        pass

    def close(self) -> None:
        pass

    def _held(self, day: int | None = None) -> Decimal:
        held = (item.use.cost for item in self._open.values() if day in (None, item.day))
        return sum(held, Decimal(0))

    def _refusal(self, cost: Decimal, day: int) -> Refused | None:
        today = self._spent_by_day.get(day, Decimal(0)) + self._held(day)
        total = sum(self._spent_by_day.values(), Decimal(0)) + self._held()
        return refusal(self._budget, day, today + cost, total + cost)


def day_of(moment: float) -> int:
    """The day in UTC, counted from 1970-01-01, of seconds since the epoch."""
    return int(moment // DAY_SECONDS)


def refusal(budget: Budget, day: int, today: Decimal, total: Decimal) -> Refused | None:
    """Why so much money on a day, and so much in total, is not allowed; None if it is."""
    per_day, in_total = budget.usd_per_day, budget.usd_total
    if per_day is not None and today > per_day:
        return Refused("usd_per_day", _over("usd_per_day", today, per_day), (day + 1) * DAY_SECONDS)
    if in_total is not None and total > in_total:
        return Refused("usd_total", _over("usd_total", total, in_total))
    return None


def _over(budget: str, would_be: Decimal, limit: Decimal) -> str:
    renews = "; it renews at 00:00 UTC" if budget == "usd_per_day" else ""
    return (
        f"budget {budget} = {limit} US dollars would be overrun ({would_be:.6f}){renews}; raise it "
        f'under [budget], or set {budget} = "unlimited"'
    )
