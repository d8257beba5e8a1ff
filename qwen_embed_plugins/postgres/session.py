"""A worker's connection: transactions with the settings that the protocol asks for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any, TypeVar

import psycopg
from psycopg import errors as pg
from psycopg import sql
from psycopg.rows import dict_row

from qwen_embed_plugins.postgres import connect
from qwen_embed_plugins.postgres._flow import Flow, Row, arun
from qwen_embed_plugins.postgres.vectors import BinaryArray, BinaryArrayDumper

T = TypeVar("T")

# All local to the transaction, so that a pooler in transaction mode keeps them.
# READ COMMITTED: under SERIALIZABLE our reads would make the app's transactions fail.
# row_security: without the right to see all rows a worker would take hidden ones for deleted.
# lock_timeout below deadlock_timeout: where an app and a worker block each other, we give up first.
# force_custom_plan: generic plans made the finish of a batch six times slower.
# The last five decide how a value reads as text, hence its hash.
_BEGIN = """
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL row_security = off;
SET LOCAL lock_timeout = {lock_timeout};
SET LOCAL statement_timeout = '5min';
SET LOCAL idle_in_transaction_session_timeout = '10s';
SET LOCAL plan_cache_mode = force_custom_plan;
SET LOCAL client_min_messages = warning;
SET LOCAL "TimeZone" = 'UTC';
SET LOCAL "DateStyle" = 'ISO, YMD';
SET LOCAL "IntervalStyle" = 'postgres';
SET LOCAL extra_float_digits = 1;
SET LOCAL bytea_output = 'hex'
"""

# All that a worker looks for has an index, and tables that fill and empty within seconds have no
# statistics to tell when reading one whole would pay.
_LOOKUPS = """;
SET LOCAL enable_seqscan = off;
SET LOCAL jit = off
"""
_LONGEST_LOCK_WAIT_MS = 500

RETRIED = (
    pg.LockNotAvailable,
    pg.DeadlockDetected,
    pg.SerializationFailure,
    pg.QueryCanceled,
    pg.IdleInTransactionSessionTimeout,
)
"""Another session was in the way, or this process stood still (a machine that slept): the same
transaction may well succeed in a moment."""

CHANGED = (pg.UndefinedTable, pg.UndefinedColumn, pg.UndefinedFunction, pg.InvalidSchemaName)
"""Something was renamed or dropped since its name was read."""


def is_connection_loss(error: BaseException | None) -> bool:
    """Whether the server or the way to it is at fault, so that trying again makes sense. A standby,
    which only reads, counts as one: it may be promoted, or the address lead to another soon."""
    if isinstance(error, pg.ReadOnlySqlTransaction):
        return True
    return isinstance(error, psycopg.OperationalError) and (
        error.sqlstate is None or error.sqlstate[:2] in {"08", "53", "57", "58"}
    )


def begin(lock_wait_ms: int = _LONGEST_LOCK_WAIT_MS) -> sql.Composed:
    """The statements that open a transaction with the protocol's settings."""
    return sql.SQL(_BEGIN).format(lock_timeout=sql.Literal(lock_wait_ms))


class Session:
    """One connection, opened when first needed and again after it was lost. One flow at a time."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._begin = sql.Composed([])
        self._alone = asyncio.Lock()

    async def transact(self, flow: Flow[T]) -> T:
        """Run the flow in one transaction. Raises psycopg's errors; drops a lost connection."""
        async with self._alone:
            connection = await self._connected()
            try:
                with _standby_only_reads():
                    await connection.execute(self._begin)
                result = await arun(connection, flow)
                await connection.execute("COMMIT")
            except BaseException as error:
                await self._roll_back(connection, error)
                raise
            return result

    async def ask(self, question: sql.Composed) -> list[Row]:
        """The rows of one question without values, in one message: what an idle worker sends."""
        async with self._alone:
            connection = await self._connected()
            whole = sql.SQL(";\n").join([self._begin, question, sql.SQL("COMMIT")])
            try:
                async with connection.cursor(row_factory=dict_row) as cursor:
                    with _standby_only_reads():
                        await cursor.execute(whole)
                    while cursor.description is None and cursor.nextset():
                        pass
                    return await cursor.fetchall()
            except BaseException as error:
                await self._roll_back(connection, error)
                raise

    async def _connected(self) -> psycopg.AsyncConnection[Any]:
        if self._connection is None or self._connection.closed:
            connection = await connect.aconnect(self._address)
            try:
                connection.adapters.register_dumper(BinaryArray, BinaryArrayDumper)
                self._begin = await self._prepare_begin(connection)
            except BaseException:
                await _closed(connection)
                raise
            # Only now: without its BEGIN a connection would run what follows without a transaction.
            self._connection = connection
        return self._connection

    async def _prepare_begin(self, connection: psycopg.AsyncConnection[Any]) -> sql.Composed:
        cursor = await connection.execute(
            "SELECT setting::int FROM pg_catalog.pg_settings WHERE name = 'deadlock_timeout'"
        )
        row = await cursor.fetchone()
        longest = max(1, int(row[0]) // 2) if row else _LONGEST_LOCK_WAIT_MS
        return begin(min(_LONGEST_LOCK_WAIT_MS, longest)) + sql.SQL(_LOOKUPS)

    async def _roll_back(
        self, connection: psycopg.AsyncConnection[Any], error: BaseException
    ) -> None:
        # A connection that is busy, broken or of unknown state is not worth saving: the server
        # rolls back what it closes. Nor is one to a standby: the address may lead elsewhere by now.
        try:
            if isinstance(error, pg.ReadOnlySqlTransaction):
                await self.close()
            elif connection.info.transaction_status in (
                psycopg.pq.TransactionStatus.INTRANS,
                psycopg.pq.TransactionStatus.INERROR,
            ):
                await connection.execute("ROLLBACK")
            elif connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                await self.close()
        except psycopg.Error:
            await self.close()

    async def close(self) -> None:
        """Close the connection; the next transaction opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await _closed(connection)


class Sessions:
    """Several connections: each transaction takes one that is free, or waits for one."""

    def __init__(self, address: str, count: int) -> None:
        self._all = tuple(Session(address) for _ in range(count))
        self._free = list(self._all)
        self._places = asyncio.Semaphore(count)

    async def transact(self, flow: Flow[T]) -> T:
        """`Session.transact` on one of them."""
        async with self._places:
            session = self._free.pop()
            try:
                return await session.transact(flow)
            finally:
                self._free.append(session)

    async def close(self) -> None:
        """Close all connections."""
        for session in self._all:
            await session.close()


async def _closed(connection: psycopg.AsyncConnection[Any]) -> None:
    with contextlib.suppress(psycopg.Error):
        await connection.close()


@contextlib.contextmanager
def _standby_only_reads() -> Iterator[None]:
    """A standby refuses BEGIN READ WRITE as a feature that it lacks (0A000); what refuses a write
    later has a code of its own, which says it better."""
    try:
        yield
    except pg.FeatureNotSupported as error:
        raise pg.ReadOnlySqlTransaction("the server is a standby, which only reads") from error
