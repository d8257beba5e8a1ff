"""The ledger's tables: tallies of what was used, and the blocks of processes.

What was used is `tally`; what processes have taken in advance is `block`. Both count against a
limit. A block whose deadline has passed belonged to a process that died: it is booked as used,
since nobody will ever know.

The statements are those of SQLite and of Postgres alike, but for the sign of a parameter.
"""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from qwen_embed_plugins.amounts import NOTHING, Amount, usd
from qwen_embed_plugins.ledger import Counted, Slice
from qwen_embed_plugins.meters import Key, Meter
from qwen_embed_plugins.state_file import connect, naming
from qwen_embed_plugins.windows import DAY, EPOCH, MINUTE, Rolling

BLOCK_SECONDS = 600.0
"""How long a process may keep a block without a sign of life. While it uses one, or waits for an
attempt, it renews it each few minutes."""

LIMIT_SECONDS = 90.0
"""The same for what is limited by the minute or while it is under way: a process that was killed
and started again must not wait long for what it had taken itself."""

ROLLING = {"minute": MINUTE, "day": DAY}
"""Kinds of meters that forget by and by."""

_BOOK = """
insert into tally (kind, account, offer, period, requests, tokens, money)
values (?, ?, ?, ?, ?, ?, ?) on conflict (kind, account, offer, period) do update set
    requests = {requests}, tokens = {tokens}, money = {money}
""".format(
    **{
        part: f"case when tally.{part} + excluded.{part} < 4000000000000000000 "
        f"then tally.{part} + excluded.{part} else 4000000000000000000 end"
        for part in ("requests", "tokens", "money")
    }
)

_KEEP = """
insert into block (holder, kind, account, offer, period, requests, tokens, money, deadline)
values (?, ?, ?, ?, ?, ?, ?, ?, ?) on conflict (holder, kind, account, offer, period)
do update set requests = excluded.requests, tokens = excluded.tokens, money = excluded.money,
    deadline = excluded.deadline
"""

_END = """
delete from block where holder = ? and kind = ? and account = ? and offer = ? and period = ?
"""

_DEAD = """
select holder, kind, account, offer, period, requests, tokens, money from block
where deadline < ? and holder <> ?
"""

_FORGET = "delete from tally where kind = ? and period < ?"

_TALLY = """
select period, requests, tokens, money from tally
where kind = ? and account = ? and offer = ? and period between ? and ? order by period
"""

WAITING = 1
"""The period under which a process that waits for a place under way has a block: it stands for one
place, and its tokens are when the waiting began, in milliseconds since the epoch."""

WAITING_SECONDS = 3.0
"""How long one waits without asking again."""

FOR_EVER = 2**62
"""Beyond any period."""

_BLOCKS = """
select requests, tokens, money from block
where kind = ? and account = ? and offer = ? and period = ?
"""

_AWAITED = """
select count(*) from block
where kind = ? and account = ? and offer = ? and period = ?
    and holder <> ? and deadline >= ? and tokens < ?
"""

_ALL = """
select kind, account, offer, period, sum(requests), sum(tokens), sum(money),
    sum(held_requests), sum(held_tokens), sum(held_money)
from (
    select kind, account, offer, period, requests, tokens, money,
        0 as held_requests, 0 as held_tokens, 0 as held_money from tally
    union all
    select kind, account, offer, period, 0, 0, 0, requests, tokens, money from block
) as counts
group by kind, account, offer, period order by kind, period, account, offer
"""

_CORRECT = """
insert into tally (kind, account, offer, period, requests, tokens, money)
values (?, ?, ?, ?, ?, ?, ?) on conflict (kind, account, offer, period) do update set
    tokens = excluded.tokens, money = excluded.money
"""


@dataclass(frozen=True, slots=True)
class Count:
    """One count of the record: what was used, and what is held besides: reserved for attempts under
    way, or taken in advance."""

    key: Key
    used: Amount
    held: Amount


@dataclass(frozen=True, slots=True)
class Used:
    """What was used of an offer on a day (UTC), and what is held besides."""

    day: date
    account: str
    offer: str
    used: Amount
    held: Amount

    @property
    def cost(self) -> Decimal:
        """What was used, in US dollars."""
        return usd(self.used.money)


Question: TypeAlias = tuple[str, Sequence[Any]]
"""A statement that gives rows, with `?` for each parameter, and its values."""


class Session(Protocol):
    """Runs statements in the order in which they are given."""

    def tell(self, statement: str, values: Sequence[Any]) -> None:
        """Run a statement without rows, now or together with the next question: a server that is
        far away should be waited for seldom."""

    def ask(self, questions: Sequence[Question]) -> list[list[tuple[Any, ...]]]:
        """The rows of each question, all asked before the first is waited for."""


class Page:
    """One transaction on the books, at a moment of the clock that all its processes share."""

    def __init__(self, session: Session, now: float) -> None:
        self._session = session
        self.now = now

    def book(self, key: Key | None, used: Amount) -> None:
        """Add to a tally; None where nothing of it is kept."""
        if key is not None and used != NOTHING:
            self._session.tell(_BOOK, (*key, used.requests, used.tokens, used.money))

    def keep(self, holder: str, key: Key, content: Amount, seconds: float) -> None:
        """Say what a holder's block has in it from now on; nothing ends it."""
        if content == NOTHING:
            self._session.tell(_END, (holder, *key))
        else:
            counts = (content.requests, content.tokens, content.money)
            self._session.tell(_KEEP, (holder, *key, *counts, self.now + seconds))

    def recover(self, holder: str) -> None:
        """Book the blocks of dead processes as used, and let go of what is over. A holder does not
        declare itself dead."""
        [dead] = self._session.ask([(_DEAD, (self.now, holder))])
        for of, kind, account, offer, period, *counts in dead:
            key = Key(kind, account, offer, period)
            self.book(when_lost(key, self.now), Amount(*counts))
            self.keep(of, key, NOTHING, 0.0)
        for kind, window in ROLLING.items():
            self._session.tell(_FORGET, (kind, window.first_live(self.now)))

    def counted(self, meters: Sequence[tuple[Meter, Key]]) -> list[Counted]:
        """All that counts against each meter."""
        asked = [question for meter, key in meters for question in self._questions(meter, key)]
        answers = iter(self._session.ask(asked))
        return [_counted(next(answers), next(answers)) for _ in meters]

    def _questions(self, meter: Meter, key: Key) -> list[Question]:
        window, periods = meter.window, (key.period, key.period)
        if isinstance(window, Rolling):
            periods = (window.first_live(self.now), FOR_EVER)
        return [(_TALLY, (*key[:3], *periods)), (_BLOCKS, key)]

    def wait(self, holder: str, key: Key, since: int) -> None:
        """Queue up for a place under way, or go on waiting for it."""
        place = Amount(1, since, 0)
        self.keep(holder, key._replace(period=WAITING), place, WAITING_SECONDS)

    def leave(self, holder: str, key: Key) -> None:
        """Wait no more."""
        self.keep(holder, key._replace(period=WAITING), NOTHING, 0.0)

    def awaited(self, holder: str, key: Key, before: int = FOR_EVER) -> int:
        """How many others wait for a place under way, since before a moment."""
        values = (*key[:3], WAITING, holder, self.now, before)
        [[(count,)]] = self._session.ask([(_AWAITED, values)])
        return int(count)

    def correct(self, key: Key, amount: Amount) -> None:
        """Set the tokens and the money of a tally."""
        self._session.tell(_CORRECT, (*key, 0, amount.tokens, amount.money))

    def all(self) -> list[Count]:
        """Every count; of those over the last minute or day each slice is one."""
        return [
            Count(Key(*row[:4]), Amount(*map(int, row[4:7])), Amount(*map(int, row[7:])))
            for row in self._session.ask([(_ALL, ())])[0]
        ]


def _counted(tallies: list[tuple[Any, ...]], blocks: list[tuple[Any, ...]]) -> Counted:
    slices = [Slice(period, Amount(*counts)) for period, *counts in tallies]
    held = sum((Amount(*counts) for counts in blocks), NOTHING)
    return Counted(sum((amount for _, amount in slices), NOTHING), held, slices)


def when_lost(key: Key, now: float) -> Key | None:
    """Where a block is booked that is taken for used; None where nothing of it is kept."""
    if key.kind == "flight":
        return None
    window = ROLLING.get(key.kind)
    return key if window is None else key._replace(period=window.used_in(now))


class Books(ABC):
    """Where tallies and blocks are kept. For one thread at a time, and not for the child of a fork:
    close them before."""

    @abstractmethod
    def page(self) -> AbstractContextManager[Page]:
        """One transaction, undone if the body raises. Raises `ConfigurationError` when the record
        cannot be used; then the next page tries a connection of its own."""

    @abstractmethod
    def read(self) -> list[Count]:
        """Every count, as of now. Makes no file and no table; blocks."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the connection."""

    def __del__(self) -> None:
        # A ledger may be dropped while attempts hold something of it; Python 3.13 warns of a
        # connection that nobody closed.
        with suppress(Exception):
            self.close()


class SQLiteBooks(Books):
    """The books in the state file: one connection, made when first needed."""

    def __init__(self, path: Path, now: Callable[[], float]) -> None:
        self.path = path
        self._now = now
        self._database: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None

    @contextmanager
    def page(self) -> Iterator[Page]:
        with naming(self.path):
            try:
                database = self._connected()
                database.execute("begin immediate")
                yield Page(_Session(database), self._now())
                database.execute("commit")
            except BaseException:
                self.close()  # which undoes what was not committed
                raise

    def read(self) -> list[Count]:
        if not self.path.exists():
            return []
        with naming(self.path), closing(connect(self.path)) as database:
            return Page(_Session(database), self._now()).all()

    def _connected(self) -> sqlite3.Connection:
        """The connection, made anew if the file was deleted or replaced under it."""
        if self._database is not None and self._identity != self._found():
            self.close()
        if self._database is None:
            self._database = connect(self.path)
            self._identity = self._found()
        return self._database

    def _found(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def close(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            database.close()


class _Session:
    """A connection to SQLite, where nothing is far away."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def tell(self, statement: str, values: Sequence[Any]) -> None:
        self._database.execute(statement, values)

    def ask(self, questions: Sequence[Question]) -> list[list[tuple[Any, ...]]]:
        return [self._database.execute(*question).fetchall() for question in questions]


def used(counts: Sequence[Count], since: date = EPOCH) -> list[Used]:
    """What was used from a day on, by day, account and offer."""
    return [
        Used(EPOCH + timedelta(count.key.period), *count.key[1:3], count.used, count.held)
        for count in counts
        if count.key.kind == "use" and count.key.period >= (since - EPOCH).days
    ]


def usage(path: Path, since: date = EPOCH) -> list[Used]:
    """What all processes that share a state file used from a day on. Makes no file; raises
    `ConfigurationError` when the file cannot be read."""
    return used(SQLiteBooks(path, float).read(), since)
