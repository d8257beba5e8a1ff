"""The index on a vectorizer's vectors: built after the backfill, without stopping writers."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import errors as pg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from qwen_embed_plugins.errors import ConfigurationError, DatabaseError
from qwen_embed_plugins.postgres import _sql, connect
from qwen_embed_plugins.postgres._flow import Flow, Row, Statement, arun, run

# The first half of the advisory lock's key, ASCII of "qwen"; the second is the vectorizer's id.
_LOCK = 0x7177656E

_KIB_LEAST = 256 * 1024
_KIB_MOST = 2 * 1024 * 1024
# Beside its value an element of pgvector's graph has up to 32 neighbours on the lowest level.
_BYTES_OF_LINKS = 1000
_PREFIX = 1024

_SECONDS_BETWEEN_LOOKS = 0.5
_CLEANING_TIMEOUT = "5s"

OnProgress = Callable[["IndexProgress"], None]


@dataclass(frozen=True, slots=True)
class IndexProgress:
    """How far a build is, in the words of `pg_stat_progress_create_index`.

    `rows_total` is an estimate, None at first. `waits_for` is the process id of another session
    whose transaction has to end before the build goes on.
    """

    phase: str
    rows_done: int
    rows_total: int | None
    waits_for: int | None


@dataclass(frozen=True, slots=True)
class IndexSite:
    """One row of `index_site`: where the index of a vectorizer is, or is to be.

    `standing` is a finished index that serves the vectorizer's searches, `broken` says that a build
    was interrupted. `statement` is None where no index is wanted, `table` where it was dropped.
    """

    id: int
    name: str
    storage: str
    index_kind: str
    dimensions: int
    table_id: int | None
    schema: str | None
    table: str | None
    rows: float | None
    table_bytes: int | None
    index: str | None
    statement: str | None
    standing: str | None
    standing_bytes: int | None
    broken: bool
    may_build: bool | None
    vector_schema: str

    @property
    def estimated_rows(self) -> float:
        """By the last vacuum or analysis, else from the table's size."""
        if self.rows is not None and self.rows > 0:
            return self.rows
        width = 4 if self.storage == "vector" else 2
        return (self.table_bytes or 0) / (width * self.dimensions)

    @property
    def graph_kib(self) -> int:
        """About how much memory a build needs that keeps the whole graph there."""
        width = 4 if self.storage == "vector" else 2
        value = {
            "binary": self.dimensions // 8,
            "prefix": 2 * min(self.dimensions, _PREFIX),
        }.get(self.index_kind, width * self.dimensions)
        return int(self.estimated_rows * (value + _BYTES_OF_LINKS) * 1.2 / 1024)

    def drop(self) -> Statement:
        """Removes what a build left unfinished."""
        index = sql.Identifier(self.schema or "", self.index or "")
        return Statement(sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(index))


def build_index(
    target: connect.Target, /, name: str, *, on_progress: OnProgress | None = None
) -> bool:
    """Build the index of a vectorizer, `CONCURRENTLY`; False if there is nothing to do.

    Blocks for as long as the build takes; writers and searches go on. A leftover of an interrupted
    build is dropped first, and an interrupt here (Ctrl-C, an error) drops what was begun. Nothing
    is done with `index_kind` none, where the index stands, and while another session builds it.
    `on_progress` is called about twice a second, from another thread, which has a connection of its
    own. Raises `DatabaseError` without the right to build it, and `ConfigurationError` for a
    connection that is not in autocommit.
    """
    with connect.explained(target), connect.opened(target) as connection:
        _require_autocommit(connection.autocommit)
        site = run(connection, _begin(name))
        if site is None:
            return False
        settings: Row = {}
        try:
            settings.update(run(connection, _prepare(site)))
            with _watched(connection, site, on_progress):
                run(connection, _create(site))
        except BaseException:
            with contextlib.suppress(psycopg.Error):
                run(connection, _clean(site))
            raise
        finally:
            with contextlib.suppress(psycopg.Error):
                run(connection, _end(site, settings))
        return True


async def abuild_index(
    target: connect.AsyncTarget, /, name: str, *, on_progress: OnProgress | None = None
) -> bool:
    """As `build_index`, awaiting; `on_progress` is called in the event loop."""
    with connect.explained(target):
        async with connect.aopened(target) as connection:
            _require_autocommit(connection.autocommit)
            site = await arun(connection, _begin(name))
            if site is None:
                return False
            settings: Row = {}
            try:
                settings.update(await arun(connection, _prepare(site)))
                async with _awatched(connection, site, on_progress):
                    await arun(connection, _create(site))
            except BaseException:
                with contextlib.suppress(psycopg.Error):
                    await arun(connection, _clean(site))
                raise
            finally:
                with contextlib.suppress(psycopg.Error):
                    await arun(connection, _end(site, settings))
            return True


def index_statement(name: str) -> Flow[str | None]:
    """The SQL that builds a vectorizer's index; None if none is wanted or it stands. Blocks."""
    site = yield from find_site(name)
    return site.statement if site.standing is None else None


def find_site(name: str) -> Flow[IndexSite]:
    """Where the index of a vectorizer is. Raises for an unknown name."""
    rows = yield Statement(_sql.query("index_site"), {"name": name})
    return IndexSite(**rows[0])


def _require_autocommit(autocommit: bool) -> None:
    if not autocommit:
        raise ConfigurationError(
            "CREATE INDEX CONCURRENTLY cannot run in a transaction: pass an address or a "
            "connection in autocommit"
        )


def _begin(name: str) -> Flow[IndexSite | None]:
    """The site of an index that is to be built, locked against other builders; else None."""
    site = yield from find_site(name)
    if site.statement is None or site.standing is not None:
        return None
    if not site.may_build:
        raise DatabaseError(
            f"only the owner of {site.table} may index it. Run as that role: "
            f"qwen-embed pg index {site.name}"
        )
    locked = yield Statement(
        sql.SQL("SELECT pg_catalog.pg_try_advisory_lock(%(space)s, %(vectorizer)s) AS mine"),
        _lock(site),
    )
    if not locked[0]["mine"]:
        return None
    # Another builder may have ended between the two.
    site = yield from find_site(name)
    if site.standing is not None:
        yield _unlock(site)
        return None
    return site


def _lock(site: IndexSite) -> dict[str, int]:
    return {"space": _LOCK, "vectorizer": site.id}


def _unlock(site: IndexSite) -> Statement:
    return Statement(
        sql.SQL("SELECT pg_catalog.pg_advisory_unlock(%(space)s, %(vectorizer)s)"), _lock(site)
    )


def _prepare(site: IndexSite) -> Flow[Row]:
    """Give the session time and memory for the build; gives the settings that it had."""
    rows = yield Statement(_sql.query("index_settings"))
    before = rows[0]
    memory, buffers = before.pop("memory"), before.pop("buffers")
    wanted = min(site.graph_kib, max(_KIB_LEAST, buffers // 2), _KIB_MOST)
    yield _set("statement_timeout", "0")
    yield _set("lock_timeout", "0")
    if wanted > memory:
        # A graph that outgrows it is built several times slower. Half of what the server was given
        # for its cache is a size that its owner has thought about.
        with contextlib.suppress(psycopg.Error):
            yield _set("maintenance_work_mem", f"{wanted}kB")
    return before


def _set(name: str, value: str) -> Statement:
    return Statement(
        sql.SQL("SELECT pg_catalog.set_config(%(name)s, %(value)s, false)"),
        {"name": name, "value": value},
    )


def _create(site: IndexSite) -> Flow[None]:
    if site.broken:
        # Only one of our name: another that is not valid may be one that its owner builds just now.
        yield site.drop()
    statement = Statement(sql.SQL(site.statement or ""))
    try:
        yield statement
    except pg.DiskFull as error:
        # Workers of a parallel build share its memory through /dev/shm, which is small in many
        # containers. Names of segments are not translated, the sentence around them is.
        if '"/PostgreSQL.' not in str(error):
            raise
        yield site.drop()
        yield _set("max_parallel_maintenance_workers", "0")
        yield statement


def _clean(site: IndexSite) -> Flow[None]:
    """Leave nothing unfinished. What cannot be dropped now, the next build finds."""
    yield _set("statement_timeout", _CLEANING_TIMEOUT)
    found = yield from find_site(site.name)
    if found.broken:
        yield found.drop()


def _end(site: IndexSite, settings: Row) -> Flow[None]:
    for name, value in settings.items():
        yield _set(name, value)
    yield _unlock(site)


@contextlib.contextmanager
def _watched(
    connection: psycopg.Connection[Any], site: IndexSite, on_progress: OnProgress | None
) -> Iterator[None]:
    if on_progress is None:
        yield
        return
    done = threading.Event()
    watcher = threading.Thread(
        target=_watch, args=(_address(connection), site, on_progress, done), daemon=True
    )
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _watch(address: str, site: IndexSite, report: OnProgress, done: threading.Event) -> None:
    # A build goes on without a second connection; there is just nothing to show.
    with (
        contextlib.suppress(psycopg.Error),
        psycopg.connect(address, autocommit=True) as connection,
    ):
        while not done.wait(_SECONDS_BETWEEN_LOOKS):
            progress = run(connection, _look(site))
            if progress is not None:
                report(progress)


@contextlib.asynccontextmanager
async def _awatched(
    connection: psycopg.AsyncConnection[Any], site: IndexSite, on_progress: OnProgress | None
) -> AsyncIterator[None]:
    if on_progress is None:
        yield
        return
    watcher = asyncio.create_task(_awatch(_address(connection), site, on_progress))
    try:
        yield
    finally:
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)


async def _awatch(address: str, site: IndexSite, report: OnProgress) -> None:
    with contextlib.suppress(psycopg.Error):
        async with await psycopg.AsyncConnection.connect(address, autocommit=True) as connection:
            while True:
                await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)
                progress = await arun(connection, _look(site))
                if progress is not None:
                    report(progress)


def _address(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> str:
    info = connection.info
    return make_conninfo(info.dsn, **({"password": info.password} if info.password else {}))


def _look(site: IndexSite) -> Flow[IndexProgress | None]:
    rows = yield Statement(_sql.query("index_progress"), {"table": site.table_id})
    if not rows:
        return None
    seen = rows[0]
    total = None
    if seen["blocks_done"] and seen["blocks_total"]:
        total = round(seen["tuples_done"] * seen["blocks_total"] / seen["blocks_done"])
    return IndexProgress(seen["phase"], seen["tuples_done"], total, seen["locker"])
