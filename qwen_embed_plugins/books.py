"""The ledger's tables in the state file: totals of what was used, and the blocks of processes.

What was used is `usage`; what processes have taken in advance is `block`. Both count against a
budget. A block whose deadline has passed belonged to a process that died: it is booked as used,
since nobody will ever know.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

from qwen_embed_plugins.blocks import NOTHING, Amount, Key, usd
from qwen_embed_plugins.state_file import connect, naming

BLOCK_SECONDS = 600.0
"""How long a process may keep a block without a sign of life. While it uses one, or waits for an
attempt, it renews it each few minutes."""

_BOOK = """
insert into usage values (?, ?, ?, ?, ?, ?) on conflict (day, account, offer) do update set
    requests = min(requests + excluded.requests, 4000000000000000000),
    tokens = min(tokens + excluded.tokens, 4000000000000000000),
    money = min(money + excluded.money, 4000000000000000000)
"""

_KEEP = """
insert into block values (?, ?, ?, ?, ?, ?, ?, ?) on conflict (holder, day, account, offer)
do update set requests = excluded.requests, tokens = excluded.tokens, money = excluded.money,
    deadline = excluded.deadline
"""

_DEAD = """
select holder, day, account, offer, requests, tokens, money from block
where deadline < ? and holder <> ?
"""

_TODAY = """
select coalesce((select sum(money) from usage where day = ?1), 0)
    + coalesce((select sum(money) from block where day = ?1), 0)
"""

_EVER = """
select coalesce((select sum(money) from usage), 0) + coalesce((select sum(money) from block), 0)
"""

_ALL = """
select day, account, offer, sum(requests), sum(tokens), sum(money),
    sum(held_requests), sum(held_tokens), sum(held_money)
from (
    select day, account, offer, requests, tokens, money,
        0 as held_requests, 0 as held_tokens, 0 as held_money from usage
    union all
    select day, account, offer, 0, 0, 0, requests, tokens, money from block
)
where day >= ? group by day, account, offer order by day, account, offer
"""

EPOCH = date(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class Used:
    """What was used of an offer on a day (UTC), and what is held besides: reserved for attempts
    under way, or taken in advance."""

    day: date
    account: str
    offer: str
    used: Amount
    held: Amount

    @property
    def cost(self) -> Decimal:
        """What was used, in US dollars."""
        return usd(self.used.money)


def usage(path: Path, since: date = EPOCH) -> list[Used]:
    """What all processes used from a day on, by day, account and offer. Makes no file; raises
    `ConfigurationError` when the file cannot be read."""
    if not path.exists():
        return []
    with naming(path), closing(connect(path)) as database:
        rows = database.execute(_ALL, ((since - EPOCH).days,)).fetchall()
    return [
        Used(EPOCH + timedelta(day), account, offer, Amount(*counts[:3]), Amount(*counts[3:]))
        for day, account, offer, *counts in rows
    ]


class Page:
    """One transaction on the books."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def book(self, key: Key, used: Amount) -> None:
        """Add to the totals."""
        if used != NOTHING:
            self._database.execute(_BOOK, (*key, used.requests, used.tokens, used.money))

    def keep(self, holder: str, key: Key, content: Amount, deadline: float) -> None:
        """Say what a holder's block has in it from now on; nothing ends it."""
        if content == NOTHING:
            self._database.execute(
                "delete from block where holder = ? and day = ? and account = ? and offer = ?",
                (holder, *key),
            )
        else:
            counts = (content.requests, content.tokens, content.money)
            self._database.execute(_KEEP, (holder, *key, *counts, deadline))

    def recover(self, now: float, holder: str) -> None:
        """Book the blocks of dead processes as used. A holder does not declare itself dead."""
        dead = self._database.execute(_DEAD, (now, holder)).fetchall()
        for of, day, account, offer, *counts in dead:
            key = Key(day, account, offer)
            self.book(key, Amount(*counts))
            self.keep(of, key, NOTHING, now)

    def spent_on(self, day: int) -> int:
        """Money used or taken on a day, by all processes."""
        (money,) = self._database.execute(_TODAY, (day,)).fetchone()
        return int(money)

    def spent_ever(self) -> int:
        """Money used or taken at all."""
        (money,) = self._database.execute(_EVER).fetchone()
        return int(money)


class Books:
    """One connection to the state file, made when first needed. For one thread at a time, and not
    for the child of a fork: close it before."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._database: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None

    @contextmanager
    def page(self) -> Iterator[Page]:
        """One transaction, undone if the body raises. Raises `ConfigurationError` when the file
        cannot be used; then the next page tries a connection of its own."""
        with naming(self.path):
            try:
                database = self._connected()
                database.execute("begin immediate")
                yield Page(database)
                database.execute("commit")
            except BaseException:
                self.close()  # which undoes what was not committed
                raise

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
        """Let go of the file."""
        database, self._database = self._database, None
        if database is not None:
            database.close()

    def __del__(self) -> None:
        # A ledger may be dropped while attempts hold something of it; Python 3.13 warns of a
        # connection that nobody closed.
        with suppress(Exception):
            self.close()
