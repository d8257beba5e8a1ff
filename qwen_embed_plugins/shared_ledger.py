"""The ledger that processes share, in the state file or in a database: one truth for all of them.

A process reserves from *blocks* that it has taken in advance, so that most attempts cost it some
arithmetic and no transaction. At any moment, for each count,

    what is booked + all blocks of it  >=  what was really used,

less what requests under way will use beyond their bounds. So `kill -9` loses no count: what the
process had used and not yet written is covered by its blocks, which are booked as used, whole, once
their deadline has passed. The count is then too high by what was left in them: at most the bounds
of 32 attempts for each offer, and of what is limited at most a sixteenth of what was left, or one
attempt; and by what the bounds of open reservations were too high. A power cut may undo the last
transactions of a file, since `synchronous = normal`.

An attempt that used more than its bound may overrun a limit by that much. What other attempts had
reserved by then may still be spent.

What was used is written with the next filling of a block, after a second, and at the end. A process
that is idle for that long gives its blocks back, so that others can use a limit to its end.

A record that cannot be written stops only what costs money or is taken from a grant; what is free
goes on uncounted until it can be written again.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from time import monotonic

from qwen_embed_plugins.amounts import NOTHING, Amount, units, usd
from qwen_embed_plugins.blocks import LARGEST, Block, affordable, filling
from qwen_embed_plugins.books import (
    BLOCK_SECONDS,
    FOR_EVER,
    LIMIT_SECONDS,
    Books,
    Page,
    SQLiteBooks,
    when_lost,
)
from qwen_embed_plugins.errors import ConfigurationError
from qwen_embed_plugins.forks import let_go_at_forks
from qwen_embed_plugins.ledger import (
    Hold,
    Reservation,
    Use,
    attempt,
    budget_meters,
    meters_of,
)
from qwen_embed_plugins.meters import GRANTS, Key, Meter, Refused
from qwen_embed_plugins.settings import Budget
from qwen_embed_plugins.windows import Ever, UnderWay

log = logging.getLogger("qwen_embed_plugins")

TEND_SECONDS = 1.0
"""How often a process that holds blocks writes what it used, and gives idle ones back."""

REST_SECONDS = 30.0
"""For so long a file that could not be written is left alone by attempts that cost nothing."""


BOOKED_FOR_GOOD = ("use", "budget", *GRANTS, "daily")

_STATE = Meter("budget", "", "", Ever(), setting="state")
"""What refuses money while nothing can be counted."""


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


class SharedLedger:
    """A ledger that outlives the process, shared by all that keep the same books.

    Everything that is sent is counted, what is free too, so a state file appears with the first
    attempt. `now` gives seconds since the epoch. With `tend_seconds` None no thread writes and
    gives back; then `tend` does. See the module for what a crash may lose.
    """

    def __init__(
        self,
        books: Books,
        budget: Budget,
        now: Callable[[], float],
        *,
        tend_seconds: float | None = TEND_SECONDS,
    ) -> None:
        self._budgets = budget_meters(budget)
        self._now = now
        self._tend_seconds = tend_seconds
        self._books = books
        self._begin()
        let_go_at_forks(self)
        _ledgers.add(self)

    def _begin(self) -> None:
        """Start as a holder of nothing."""
        # The first guards memory, and is never held while waiting. The second lets one thread at a
        # time write; who has it may take the first, never the other way round.
        self._lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._holder = os.urandom(16).hex()
        self._blocks: dict[Key, Block] = {}
        self._open: dict[int, list[tuple[Block, Meter, Amount]]] = {}
        self._waiting: dict[Key, int] = {}
        """Since when this process waits for places under way, in milliseconds."""
        self._next_id = 0
        self._tender: threading.Thread | None = None
        self._renew_at = 0.0
        self._rests_until = 0.0

    @property
    def reserved(self) -> Decimal:
        """US dollars held for attempts of this process that are under way."""
        with self._lock:
            holds = (hold for holds in self._open.values() for hold in holds)
            return usd(sum(bound.money for _, meter, bound in holds if meter.kind == "use"))

    # In memory

    def reserve(self, use: Use) -> Reservation | None:
        amount, credit, now = use.amount, units(use.credit), self._now()
        with self._lock:
            holds = [
                (self._block(meter, now), meter, meter.bound(amount, credit))
                for meter in meters_of(use, self._budgets)
            ]
            if not all(block.has(bound) for block, _, bound in holds):
                return None
            for block, _, bound in holds:
                block.hold(bound)
            self._next_id += 1
            self._open[self._next_id] = holds
            return Reservation(self._next_id, use)

    def settle(
        self,
        reservation: Reservation,
        tokens: int,
        cost: Decimal,
        *,
        requests: int = 1,
        credit: Decimal = Decimal(0),
    ) -> bool:
        amount, credit_ = attempt(tokens, cost, requests), units(credit)
        behind = False
        with self._lock:
            for block, meter, bound in self._open.pop(reservation.id, ()):
                if isinstance(meter.window, UnderWay):
                    block.land(bound)
                else:
                    block.settle(bound, meter.counts(amount, credit_))
                behind |= block.behind
        return behind

    def abandon(self, reservation: Reservation) -> None:
        use = reservation.use
        self.settle(reservation, use.tokens, use.cost, credit=use.credit)

    def _block(self, meter: Meter, now: float) -> Block:
        key = meter.held_key(now)
        block = self._blocks.get(key)
        if block is None:
            block = self._blocks[key] = Block(key, meter)
        return block

    # In the shared record

    def top_up(self, use: Use) -> Refused | None:
        holds = self._wanted(use)
        is_free = not (use.cost or any(meter.kind in GRANTS for meter in use.meters))
        with self._write_lock:
            if is_free and monotonic() < self._rests_until:
                self._go_uncounted(holds)
                return None
            try:
                # What other offers have taken in advance is given back only if it is needed.
                refused = self._fill(holds, self._is_over)
                if refused is not None:
                    refused = self._fill(holds, lambda block: True)
            except ConfigurationError as error:
                if not is_free:
                    return Refused(_STATE, f"{error}; nothing is spent that cannot be counted")
                self._warn(error)
                self._go_uncounted(holds)
                return None
            self._start_tending()
        return refused

    def _wanted(self, use: Use) -> list[Hold]:
        """What an attempt needs of each count."""
        amount, credit, now = use.amount, units(use.credit), self._now()
        return [
            Hold(meter, meter.held_key(now), meter.bound(amount, credit))
            for meter in meters_of(use, self._budgets)
        ]

    def _is_over(self, block: Block) -> bool:
        """Whether a block's period has passed."""
        return block.key != block.meter.held_key(self._now())

    def _fill(self, holds: list[Hold], gives_back: Callable[[Block], bool]) -> Refused | None:
        """Write everything, and fill the blocks for an attempt if all limits have room for it."""
        with self._lock:
            wanted = {hold.key: self._block_of(hold) for hold in holds}
            if all(wanted[hold.key].spare.covers(hold.bound) for hold in holds):
                return None  # another thread has filled them meanwhile
        with self._page(gives_back) as (page, entries):
            page.recover(self._holder)
            entry_of = {entry.block.key: entry for entry in entries}
            attempts = LARGEST
            counts = page.counted([(hold.meter, hold.key) for hold in holds])
            for hold, counted in zip(holds, counts, strict=True):
                entry = entry_of[hold.key]
                without = counted._replace(held=counted.held - entry.spare)  # not lost to it
                if isinstance(hold.meter.window, UnderWay):
                    without = without._replace(held=without.held + self._ahead(page, hold.key))
                refused = without.refusal(hold.meter, hold.bound, page.now)
                if refused is not None:
                    self._queue_up(page, hold)
                    return self._by_our_clock(refused, page)
                fits = affordable(hold.bound, hold.meter.left(counted.used + counted.held))
                attempts = min(attempts, entry.block.size, fits)
            for hold in holds:
                entry = entry_of[hold.key]
                entry.filling = filling(hold.bound, attempts, entry.spare)
                self._keep(page, entry)
                entry.block.size = min(LARGEST, entry.block.size * 2)
                entry.block.awaited = False
                if self._waiting.pop(hold.key, None) is not None:
                    page.leave(self._holder, hold.key)
        return None

    def _ahead(self, page: Page, key: Key) -> Amount:
        """The places under way that others have waited for longer: a process that is always busy
        would take its own back for ever."""
        since = self._waiting.get(key, FOR_EVER)
        return Amount(page.awaited(self._holder, key, since))

    def _queue_up(self, page: Page, hold: Hold) -> None:
        if isinstance(hold.meter.window, UnderWay):
            since = self._waiting.setdefault(hold.key, int(page.now * 1000))
            page.wait(self._holder, hold.key, since)

    def _heed_who_waits(self, page: Page) -> None:
        """Let go of places under way, one by one as they become free, if others wait for them."""
        with self._lock:
            blocks = list(self._blocks.values())
        for block in blocks:
            if isinstance(block.meter.window, UnderWay) and page.awaited(self._holder, block.key):
                with self._lock:
                    block.awaited, block.spare = True, NOTHING

    def _by_our_clock(self, refused: Refused, page: Page) -> Refused:
        """The same by this machine's clock, so that a wait is as long as by the page's. What is
        less than a second is the time that the transaction took."""
        ahead = self._now() - page.now
        if refused.until is None or abs(ahead) < 1:
            return refused
        return replace(refused, until=refused.until + ahead)

    def _block_of(self, hold: Hold) -> Block:
        return self._blocks.setdefault(hold.key, Block(hold.key, hold.meter))

    @contextlib.contextmanager
    def _page(self, gives_back: Callable[[Block], bool]) -> Iterator[tuple[Page, list[_Entry]]]:
        """A transaction that writes what all blocks were used for, and gives back the spare part of
        some. Memory lets go of what is given back first, and takes what is filled in last, so at no
        moment has it more than the file says. A transaction that fails may have been committed all
        the same: then what it booked is booked twice, and what it gave back is not taken again."""
        entries = self._entries(gives_back)
        with self._books.page() as page:
            for entry in entries:
                block = entry.block
                page.book(block.meter.used_key(page.now, block.key), entry.used)
                self._keep(page, entry)
            yield page, entries
        with self._lock:
            for entry in entries:
                entry.apply()
            for block in list(self._blocks.values()):
                if block.empty and gives_back(block):  # else its size would be forgotten
                    del self._blocks[block.key]
        self._rests_until = 0.0
        with self._lock:
            held = (_seconds(block) for block in self._blocks.values() if not block.empty)
            self._renew_at = self._now() + min(held, default=BLOCK_SECONDS) / 4

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
        key = entry.block.key
        page.keep(self._holder, key, entry.left + entry.filling, _seconds(entry.block))

    def _go_uncounted(self, holds: list[Hold]) -> None:
        """Let an attempt that costs nothing go on without the record."""
        with self._lock:
            for hold in holds:
                self._block_of(hold).spare += hold.bound

    def write(self) -> None:
        """Write what was used, and give back the rest: attempts that used more than their bounds
        may have used up what a budget had left. What cannot be written now stays in memory, and is
        said in the log."""
        with self._write_lock:
            if monotonic() >= self._rests_until:
                self._write(lambda block: True)

    def _write(self, gives_back: Callable[[Block], bool], *, heeding: bool = False) -> None:
        try:
            with self._page(gives_back) as (page, _):
                if heeding:
                    self._heed_who_waits(page)
        except ConfigurationError as error:
            self._warn(error)

    def _warn(self, error: ConfigurationError) -> None:
        """Say it once until the file can be written again."""
        if not self._rests_until:
            log.warning("what is used cannot be counted: %s", error)
        self._rests_until = monotonic() + REST_SECONDS

    def counts(self) -> list[tuple[Key, Amount]]:
        """See `Ledger.counts`: those of all processes."""
        now, counts = self._now(), self._books.read()
        used = [(count.key, count.used) for count in counts if count.used != NOTHING]
        held = [
            (when_lost(count.key, now), count.held) for count in counts if count.held != NOTHING
        ]
        return used + [(key, amount) for key, amount in held if key is not None]

    def close(self) -> None:
        """Write what was used and give back the rest. What attempts under way hold stays theirs,
        and with it the connection; the ledger may be used again."""
        with self._write_lock:
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
        with self._write_lock:
            with self._lock:
                idle = {block for block in self._blocks.values() if block.idle}
                used = any(block.used != NOTHING for block in self._blocks.values())
                for block in self._blocks.values():
                    block.idle = True
                    block.size = 1 if block in idle else block.size
            unneeded = any(block.empty or block.spare != NOTHING for block in idle)
            due = used or unneeded or self._now() > self._renew_at
            if due and monotonic() >= self._rests_until:
                self._write(idle.__contains__, heeding=True)
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
        """Wait for who writes, and close the books: a connection must not be taken along."""
        self._write_lock.acquire()
        self._lock.acquire()
        self._books.close()

    def after_fork_in_parent(self) -> None:
        self._lock.release()
        self._write_lock.release()

    def after_fork(self) -> None:
        """What the parent holds is the parent's."""
        self._begin()


class SQLiteLedger(SharedLedger):
    """The ledger in the state file at `path`."""

    def __init__(
        self,
        path: str,
        budget: Budget,
        now: Callable[[], float],
        *,
        tend_seconds: float | None = TEND_SECONDS,
    ) -> None:
        books = SQLiteBooks(Path(path).absolute(), now)
        super().__init__(books, budget, now, tend_seconds=tend_seconds)


def _seconds(block: Block) -> float:
    """How long a block stands without a sign of life. What is limited by the minute, or by how much
    is under way, must not be lost for long with a process that died."""
    return BLOCK_SECONDS if block.key.kind in BOOKED_FOR_GOOD else LIMIT_SECONDS


def _tend(reference: weakref.ref[SharedLedger], seconds: float) -> None:
    pause = threading.Event()
    while not pause.wait(seconds):
        ledger = reference()
        if ledger is None or not ledger.tend():
            return
        del ledger


_ledgers: weakref.WeakSet[SharedLedger] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Many programs never close an embedder."""
    for ledger in list(_ledgers):
        ledger.close()
