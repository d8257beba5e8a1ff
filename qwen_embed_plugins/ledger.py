"""Money and tokens: reserved before an attempt, settled after it. This form lives in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from qwen_embed_plugins.settings import Budget

DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class Reservation:
    """Use held for one attempt: an upper bound, until it is settled."""

    id: int
    offer: str
    tokens: int
    cost: Decimal
    day: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The ledger does not allow the attempt. `until` is when it may (None: not by waiting)."""

    budget: str
    message: str
    until: float | None = None


class Ledger(Protocol):
    """What the flow needs of a ledger; every method is quick and safe to call from any thread."""

    def reserve(self, offer: str, tokens: int, cost: Decimal) -> Reservation | Refused:
        """Hold use for one attempt, or say which budget forbids it."""

    def settle(self, reservation: Reservation, tokens: int, cost: Decimal) -> None:
        """Replace a reservation by what the attempt really used; 0 and 0 release it."""

    def abandon(self, reservation: Reservation) -> None:
        """Nobody will learn what the attempt used: its upper bound stands."""

    def after_fork(self) -> None:
        """Called in a child process: another thread of the parent's may have held a lock."""


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

    def reserve(self, offer: str, tokens: int, cost: Decimal) -> Reservation | Refused:
        day = int(self._now() // DAY_SECONDS)
        with self._lock:
            refused = self._over_budget(cost, day) if cost else None
            if refused:
                return refused
            self._next_id += 1
            reservation = Reservation(self._next_id, offer, tokens, cost, day)
            self._open[reservation.id] = reservation
            return reservation

    def settle(self, reservation: Reservation, tokens: int, cost: Decimal) -> None:
        with self._lock:
            if self._open.pop(reservation.id, None) is not None and cost:
                day = reservation.day
                self._spent_by_day[day] = self._spent_by_day.get(day, Decimal(0)) + cost

    def abandon(self, reservation: Reservation) -> None:
        self.settle(reservation, reservation.tokens, reservation.cost)

    def _held(self, day: int | None = None) -> Decimal:
        held = (item.cost for item in self._open.values() if day in (None, item.day))
        return sum(held, Decimal(0))

    def _over_budget(self, cost: Decimal, day: int) -> Refused | None:
        total = sum(self._spent_by_day.values(), Decimal(0)) + self._held() + cost
        today = self._spent_by_day.get(day, Decimal(0)) + self._held(day) + cost
        per_day, in_total = self._budget.usd_per_day, self._budget.usd_total
        if per_day is not None and today > per_day:
            return Refused(
                "usd_per_day", _over("usd_per_day", today, per_day), (day + 1) * DAY_SECONDS
            )
        if in_total is not None and total > in_total:
            return Refused("usd_total", _over("usd_total", total, in_total))
        return None


def _over(budget: str, would_be: Decimal, limit: Decimal) -> str:
    renews = "; it renews at 00:00 UTC" if budget == "usd_per_day" else ""
    return (
        f"budget {budget} = {limit} US dollars would be overrun ({would_be:.6f}){renews}; raise it "
        f'under [budget], or set {budget} = "unlimited"'
    )
