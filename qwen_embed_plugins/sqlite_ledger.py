"""The ledger in the state file: one truth for all processes that share it.

A process reserves from *blocks* that it has taken in advance, so that most attempts cost it some
arithmetic and no transaction. At any moment

    totals in the file + blocks in the file  >=  what was really used,

less what requests under way will use beyond their bounds. So `kill -9` loses no count: what the
process had used and not yet written is covered by its blocks, which are booked as used, whole, once
their deadline has passed. The count is then too high by what was left in them: at most the bounds
of 32 attempts for each offer, and of the money at most a sixteenth of what was left of the budget,
or one attempt; and by what the bounds of open reservations were too high. A power cut may undo the
last transactions, since `synchronous = normal`.

An attempt that used more than its bound may overrun a budget by that much. What other attempts had
reserved by then may still be spent.

What was used is written with the next filling of a block, after a second, and at the end. A process
that is idle for that long gives its blocks back, so that others can use a budget to its end.

A file that cannot be written stops only what costs money; what is free goes on uncounted until it
can be written again.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from time import monotonic

from qwen_embed_plugins.blocks import (
    LARGEST,
    NOTHING,
    UNITS_PER_USD,
    Amount,
    Block,
    Key,
    attempt,
    filling,
    usd,
)
from qwen_embed_plugins.books import BLOCK_SECONDS, Books, Page
from qwen_embed_plugins.errors import ConfigurationError
from qwen_embed_plugins.ledger import Refused, Reservation, Use, day_of, refusal
from qwen_embed_plugins.settings import Budget

log = logging.getLogger("qwen_embed_plugins")

TEND_SECONDS = 1.0
"""How often a process that holds blocks writes what it used, and gives idle ones back."""

REST_SECONDS = 30.0
"""For so long a file that could not be written is left alone by attempts that cost nothing."""


@dataclass(frozen=True, slots=True)
class _Open:
    block: Block
    bound: Amount


@dataclass(slots=True, eq=False)
class _Entry:
    """What one transaction says of a block: `used` is booked, `left` is its content from then on.
    Numbers of one moment: other threads reserve and settle meanwhile, which keeps the content."""

    block: Block
    used: Amount
    left: Amount
    spare: Amount
    filling: Amount = NOTHING

    def apply(self) -> None:
        self.block.used -= self.used
        self.block.spare += self.filling
        self.block.filed = self.left + self.filling


class SQLiteLedger:
    """A ledger that outlives the process, shared by all that name the same state file.

    Everything that is sent is counted, what is free too, so the file appears with the first
    attempt. `now` gives seconds since the epoch. With `tend_seconds` None no thread writes and
    gives back; then `tend` does. See the module for what a crash may lose.
    """

    def __init__(
        self,
        path: str,
        budget: Budget,
        now: Callable[[], float],
        *,
        tend_seconds: float | None = TEND_SECONDS,
    ) -> None:
        self._budget = budget
        self._now = now
        self._tend_seconds = tend_seconds
        self._books = Books(Path(path).absolute())
        self._begin()
        _ledgers.add(self)

    def _begin(self) -> None:
        """Start as a holder of nothing."""
        # The first guards memory, and is never held while waiting. The second lets one thread at a
        # time write; who has it may take the first, never the other way round.
        self._lock = threading.Lock()
        self._file_lock = threading.Lock()
        self._holder = os.urandom(16).hex()
        self._blocks: dict[Key, Block] = {}
        self._open: dict[int, _Open] = {}
        self._next_id = 0
        self._tender: threading.Thread | None = None
        self._renew_at = 0.0
        self._rests_until = 0.0

    @property
    def reserved(self) -> Decimal:
        """US dollars held for attempts of this process that are under way."""
        with self._lock:
            return usd(sum(item.bound.money for item in self._open.values()))

    # In memory

    def reserve(self, use: Use) -> Reservation | None:
        bound = attempt(use.tokens, use.cost)
        with self._lock:
            block = self._block(use)
            if not block.hold(bound):
                return None
            self._next_id += 1
            self._open[self._next_id] = _Open(block, bound)
            return Reservation(self._next_id, use, block.key.day)

    def settle(self, reservation: Reservation, tokens: int, cost: Decimal) -> bool:
        used = attempt(tokens, cost)
        with self._lock:
            item = self._open.pop(reservation.id, None)
            if item is None:
                return False
            item.block.settle(item.bound, used)
            return item.block.behind

    def abandon(self, reservation: Reservation) -> None:
        self.settle(reservation, reservation.use.tokens, reservation.use.cost)

    def _block(self, use: Use) -> Block:
        key = Key(day_of(self._now()), use.account, use.offer)
        return self._blocks.setdefault(key, Block(key))

    # In the file

    def top_up(self, use: Use) -> Refused | None:
        bound = attempt(use.tokens, use.cost)
        with self._file_lock:
            if not bound.money and monotonic() < self._rests_until:
                self._go_uncounted(use, bound)
                return None
            try:
                # What other offers have taken in advance is given back only if it is needed.
                refused = self._fill(use, bound, lambda block: block.key.day != self._today())
                if refused is not None:
                    refused = self._fill(use, bound, lambda block: True)
            except ConfigurationError as error:
                if bound.money:
                    return Refused("state", f"{error}; nothing is spent that cannot be counted")
                self._warn(error)
                self._go_uncounted(use, bound)
                return None
            self._start_tending()
        return refused

    def _today(self) -> int:
        return day_of(self._now())

    def _fill(self, use: Use, bound: Amount, gives_back: Callable[[Block], bool]) -> Refused | None:
        """Write everything, and fill the block for this use if the budget has room for it."""
        with self._lock:
            wanted = self._block(use)
            if wanted.spare.covers(bound):
                return None  # another thread has filled it meanwhile
        with self._page(gives_back) as (page, entries):
            page.recover(self._now(), self._holder)
            entry = next(entry for entry in entries if entry.block is wanted)
            needed = max(0, bound.money - entry.spare.money)
            refused, left = self._room(page, wanted.key.day, needed)
            if refused is None:
                entry.filling = filling(bound, wanted.size, entry.spare, left)
                self._keep(page, entry)
                wanted.size = min(LARGEST, wanted.size * 2)
        return refused

    def _room(self, page: Page, day: int, needed: int) -> tuple[Refused | None, int | None]:
        """Whether a budget forbids so much more money on a day, and how much is left of it (None:
        without limit)."""
        per_day, in_total = self._budget.usd_per_day, self._budget.usd_total
        if not needed or not self._budget.limited:
            return None, None if needed else 0
        today = page.spent_on(day) if per_day is not None else 0
        total = page.spent_ever() if in_total is not None else 0
        refused = refusal(self._budget, day, usd(today + needed), usd(total + needed))
        limits = ((per_day, today), (in_total, total))
        left = [int(limit * UNITS_PER_USD) - spent for limit, spent in limits if limit is not None]
        return refused, min(left)

    @contextlib.contextmanager
    def _page(self, gives_back: Callable[[Block], bool]) -> Iterator[tuple[Page, list[_Entry]]]:
        """A transaction that writes what all blocks were used for, and gives back the spare part of
        some. Memory lets go of what is given back first, and takes what is filled in last, so at no
        moment has it more than the file says. A transaction that fails may have been committed all
        the same: then what it booked is booked twice, and what it gave back is not taken again."""
        entries = self._entries(gives_back)
        with self._books.page() as page:
            for entry in entries:
                page.book(entry.block.key, entry.used)
                self._keep(page, entry)
            yield page, entries
        with self._lock:
            for entry in entries:
                entry.apply()
            for block in list(self._blocks.values()):
                if block.empty and gives_back(block):  # else its size would be forgotten
                    del self._blocks[block.key]
        self._rests_until = 0.0
        self._renew_at = self._now() + BLOCK_SECONDS / 4

    def _entries(self, gives_back: Callable[[Block], bool]) -> list[_Entry]:
        with self._lock:
            entries = []
            for block in self._blocks.values():
                if gives_back(block):
                    block.spare = NOTHING
                left = block.spare + block.held
                entries.append(_Entry(block, block.used, left, block.spare))
            return entries

    def _keep(self, page: Page, entry: _Entry) -> None:
        deadline = self._now() + BLOCK_SECONDS
        page.keep(self._holder, entry.block.key, entry.left + entry.filling, deadline)

    def _go_uncounted(self, use: Use, bound: Amount) -> None:
        """Let an attempt that costs nothing go on without the file."""
        with self._lock:
            self._block(use).spare += bound

    def write(self) -> None:
        """Write what was used, and give back the rest: attempts that used more than their bounds
        may have used up what a budget had left. What cannot be written now stays in memory, and is
        said in the log."""
        with self._file_lock:
            if monotonic() >= self._rests_until:
                self._write(lambda block: True)

    def _write(self, gives_back: Callable[[Block], bool]) -> None:
        try:
            with self._page(gives_back):
                pass
        except ConfigurationError as error:
            self._warn(error)

    def _warn(self, error: ConfigurationError) -> None:
        """Say it once until the file can be written again."""
        if not self._rests_until:
            log.warning("what is used cannot be counted: %s", error)
        self._rests_until = monotonic() + REST_SECONDS

    def close(self) -> None:
        """Write what was used and give back the rest. What attempts under way hold stays theirs,
        and with it the connection; the ledger may be used again."""
        with self._file_lock:
            if self._blocks:
                self._write(lambda block: True)
            if not self._blocks:
                self._books.close()

    def __del__(self) -> None:
        # A constructor may have failed; and at the end of an interpreter anything may be gone.
        with contextlib.suppress(Exception):
            self.close()

    # Tending

    def tend(self) -> bool:
        """Write what was used, give back what was idle since the last time, and renew what is
        held; whether anything is left to be tended."""
        with self._file_lock:
            with self._lock:
                idle = {block for block in self._blocks.values() if block.idle}
                used = any(block.used != NOTHING for block in self._blocks.values())
                for block in self._blocks.values():
                    block.idle = True
                    block.size = 1 if block in idle else block.size
            unneeded = any(block.empty or block.spare != NOTHING for block in idle)
            due = used or unneeded or self._now() > self._renew_at
            if due and monotonic() >= self._rests_until:
                self._write(idle.__contains__)
            with self._lock:
                if not self._blocks:
                    self._tender = None
                return bool(self._blocks)

    def _start_tending(self) -> None:
        if self._tend_seconds is None or self._tender is not None:
            return
        arguments = (weakref.ref(self), self._tend_seconds)
        tender = threading.Thread(
            target=_tend, name="qwen-embed-ledger", args=arguments, daemon=True
        )
        with contextlib.suppress(RuntimeError):  # at the interpreter's end no thread starts
            tender.start()
            self._tender = tender

    # Forks

    def before_fork(self) -> None:
        """Wait for who writes, and close the file: SQLite forbids to take a connection along."""
        self._file_lock.acquire()
        self._lock.acquire()
        self._books.close()

    def after_fork_in_parent(self) -> None:
        self._lock.release()
        self._file_lock.release()

    def after_fork(self) -> None:
        """What the parent holds is the parent's."""
        self._begin()


def _tend(reference: weakref.ref[SQLiteLedger], seconds: float) -> None:
    pause = threading.Event()
    while not pause.wait(seconds):
        ledger = reference()
        if ledger is None or not ledger.tend():
            return
        del ledger


_ledgers: weakref.WeakSet[SQLiteLedger] = weakref.WeakSet()


class _Forking:
    """Forks of this process, one at a time: the ledgers that they found."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ledgers: list[SQLiteLedger] = []

    def before(self) -> None:
        self._lock.acquire()
        self._ledgers = list(_ledgers)
        for ledger in self._ledgers:
            ledger.before_fork()

    def in_parent(self) -> None:
        ledgers, self._ledgers = self._ledgers, []
        for ledger in ledgers:
            ledger.after_fork_in_parent()
        self._lock.release()

    def in_child(self) -> None:
        ledgers, self._ledgers = self._ledgers, []
        for ledger in ledgers:
            ledger.after_fork()
        self._lock = threading.Lock()


_forking = _Forking()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_forking.before,
        after_in_parent=_forking.in_parent,
        after_in_child=_forking.in_child,
    )


@atexit.register
def _close_all() -> None:
    """Many programs never close an embedder."""
    for ledger in list(_ledgers):
        ledger.close()
