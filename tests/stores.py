"""The two stores of a ledger, for tests that both must pass."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path

import psycopg

from qwen_embed_plugins.amounts import NOTHING, Amount
from qwen_embed_plugins.books import Books, Count, SQLiteBooks, Used, used
from qwen_embed_plugins.postgres_books import PostgresBooks
from qwen_embed_plugins.settings import Budget
from qwen_embed_plugins.shared_ledger import SharedLedger
from qwen_embed_plugins.state_place import StatePlace, state_place
from qwen_embed_plugins.windows import EPOCH

Clock = Callable[[], float]


class Store:
    """A place that ledgers share; `setting` is what `state = …` says."""

    def __init__(self, setting: str) -> None:
        self.setting = setting

    @property
    def place(self) -> StatePlace:
        return state_place(self.setting)

    def books(self, clock: Clock) -> Books:
        """The books under a clock of the test's, also those of a database."""
        place = self.place
        if place.path is None:
            return PostgresBooks(place, clock)
        return SQLiteBooks(place.path.absolute(), clock)

    def ledger(
        self, budget: Budget, clock: Clock, *, tend_seconds: float | None = None
    ) -> SharedLedger:
        return SharedLedger(self.books(clock), budget, clock, tend_seconds=tend_seconds)

    def counts(self) -> list[Count]:
        return self.books(float).read()

    def usage(self, since: date = EPOCH) -> list[Used]:
        return used(self.counts(), since)

    def counted(self) -> Amount:
        """What the record says was used or taken."""
        return sum((line.used + line.held for line in self.usage()), NOTHING)

    def clear(self) -> None:
        """Forget all."""
        place = self.place
        if place.path is not None:
            for path in place.path.parent.glob(f"{place.path.name}*"):
                path.unlink()
        elif place.address is not None:
            with psycopg.connect(place.address, autocommit=True) as database:
                database.execute("drop schema if exists qwen_embed_state cascade")


def file_store(folder: Path) -> Store:
    return Store(str(folder / "state.db"))
