"""The file that outlives a process: one SQLite database in WAL mode, its tables and its version.

`synchronous = normal`: what was committed survives `kill -9`; a power cut may take the last commits
with it. Who opens it decides how long a connection lives.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

from qwen_embed_plugins.errors import ConfigurationError

VERSION = 5

BUSY_SECONDS = 10.0
"""How long one process waits for another that writes."""

SCHEMA = """
create table if not exists capability (
    endpoint text not null,
    name text not null,
    value text not null,
    learnt_at real not null,
    primary key (endpoint, name)
) without rowid;
create table if not exists probe (
    endpoint text primary key,
    vectors blob not null,
    met_at real not null
);
create table if not exists verdict (
    endpoint text not null,
    model text not null,
    content text not null,
    primary key (endpoint, model)
) without rowid;
-- What was used, by meter. Money is in units of 1e-12 US dollars. A period is what its meter's
-- window says: mostly a day counted from 1970-01-01, 0 for what is never forgotten.
create table if not exists tally (
    kind text not null,
    account text not null,
    offer text not null,
    period integer not null,
    requests integer not null,
    tokens integer not null,
    money integer not null,
    primary key (kind, account, offer, period)
) without rowid;
create table if not exists block (
    holder text not null,
    kind text not null,
    account text not null,
    offer text not null,
    period integer not null,
    requests integer not null,
    tokens integer not null,
    money integer not null,
    deadline real not null,
    primary key (holder, kind, account, offer, period)
) without rowid;
"""

FROM_VERSION_4 = """
insert into tally
select 'use', account, offer, day, sum(requests), sum(tokens), sum(money) from (
    select day, account, offer, requests, tokens, money from usage
    union all select day, account, offer, requests, tokens, money from block_4
) group by account, offer, day;
insert into tally select 'budget', '', '', period, sum(requests), sum(tokens), sum(money)
from tally where kind = 'use' group by period;
insert into tally select 'budget', '', '', 0, sum(requests), sum(tokens), sum(money)
from tally where kind = 'use' having count(*) > 0;
drop table usage;
drop table block_4;
"""
"""What was used stays, and counts against the budgets; what was held is taken for used."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn what goes wrong with the file into one `ConfigurationError` with a way out."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise ConfigurationError(
            f"state file {path}: {error}; make it writable, or name another with "
            "state = … or QWEN_EMBED_STATE"
        ) from error


def connect(path: Path) -> sqlite3.Connection:
    """The file, made or brought up to this version where needed; any thread may use the connection,
    one at a time. Raises `ConfigurationError` for what a newer version made, else what SQLite
    raises."""
    path.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(
        path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        _prepare(database, path)
    except BaseException:
        database.close()
        raise
    return database


def _prepare(database: sqlite3.Connection, path: Path) -> None:
    (version,) = database.execute("pragma user_version").fetchone()
    if version > VERSION:
        raise ConfigurationError(
            f"state file {path}: made by a newer version (schema {version}, this one "
            f"knows {VERSION}); upgrade qwen-embed-plugins, or name another file"
        )
    database.execute("pragma synchronous = normal")
    if version < VERSION:
        bring_up(database, _steps)


def bring_up(database: sqlite3.Connection, steps: Callable[[int], Iterable[str]]) -> None:
    """Make the tables, in WAL mode, by the statements that lead on from the version found.
    Switching to WAL fails at once while others do the same, whatever the timeout says."""
    give_up_at = monotonic() + BUSY_SECONDS
    while True:
        try:
            database.execute("pragma journal_mode = wal")
            with database:  # which undoes half a step
                database.execute("begin immediate")
                (found,) = database.execute("pragma user_version").fetchone()
                for statement in steps(found):
                    database.execute(statement)
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or monotonic() > give_up_at:
                raise
            sleep(0.01)
        else:
            return


def _steps(found: int) -> Iterator[str]:
    """The statements that lead from a version to this one; none if another process was faster."""
    if found >= VERSION:
        return
    if found == 4:
        yield "alter table block rename to block_4"
    yield from SCHEMA.split(";")
    if found == 4:
        yield from FROM_VERSION_4.split(";")
    yield f"pragma user_version = {VERSION}"
