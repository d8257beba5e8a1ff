"""Database operations written once for both colours.

An operation is a generator that yields statements and is sent their rows; `run` and `arun` drive it
over a blocking or an awaiting connection. What the operation decides stands in one place, and the
two public names made of it (`install`, `ainstall`) cannot drift apart.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from qwen_embed_plugins.postgres import connect

P = ParamSpec("P")
T = TypeVar("T")
Row: TypeAlias = dict[str, Any]
Query: TypeAlias = sql.SQL | sql.Composed


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement for the server. Values travel as parameters, never inside the text."""

    query: Query
    values: Mapping[str, Any] | None = None


class Often(sql.Composed):
    """A query that is sent again and again, whose text is put together once."""

    @cached_property
    def with_values(self) -> sql.SQL:
        """Its text as psycopg takes it where values go with it."""
        return sql.SQL(_doubled(sql.Composed([*self])).as_string())


_PLACEHOLDER = re.compile(r"(?<!%)%\((\w+)\)s")

Flow: TypeAlias = Generator[Statement, list[Row], T]


def run(connection: psycopg.Connection[Any], flow: Flow[T]) -> T:
    """Drive a flow, blocking. Errors of the server are thrown into it."""
    reply: Callable[[], Statement] = flow.__next__
    with connection.cursor(row_factory=dict_row) as cursor:
        while True:
            try:
                statement = reply()
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            try:
                # Unprepared: generic plans made the finish of a batch six times slower.
                cursor.execute(_sendable(statement), statement.values, prepare=False)
                rows = cursor.fetchall() if cursor.description else []
                reply = _sender(flow, rows)
            except psycopg.Error as error:
                reply = _thrower(flow, error)


async def arun(connection: psycopg.AsyncConnection[Any], flow: Flow[T]) -> T:
    """Drive a flow, awaiting; otherwise as `run`."""
    reply: Callable[[], Statement] = flow.__next__
    async with connection.cursor(row_factory=dict_row) as cursor:
        while True:
            try:
                statement = reply()
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            try:
                await cursor.execute(_sendable(statement), statement.values, prepare=False)
                rows = await cursor.fetchall() if cursor.description else []
                reply = _sender(flow, rows)
            except psycopg.Error as error:
                reply = _thrower(flow, error)


def _sendable(statement: Statement) -> Query:
    """The query; where values go with it, psycopg would read a % inside a name as a placeholder."""
    query = statement.query
    if statement.values is None:
        return query
    return query.with_values if isinstance(query, Often) else _doubled(query)


def _doubled(part: Query) -> Query:
    if not isinstance(part, sql.Composed):
        return part
    return sql.Composed(
        [
            sql.SQL(each.as_string().replace("%", "%%"))
            if isinstance(each, (sql.Identifier, sql.Literal))
            else _doubled(each)  # type: ignore[arg-type]
            for each in part
        ]
    )


def written(statement: Statement) -> str:
    """The statement with its values in it, as a script holds it."""
    text = _sendable(statement).as_string()
    if statement.values is None:
        return text
    values = {key: sql.Literal(value).as_string() for key, value in statement.values.items()}
    parts = _PLACEHOLDER.split(text)
    parts[::2] = [part.replace("%%", "%") for part in parts[::2]]
    parts[1::2] = [values[key].strip() for key in parts[1::2]]
    return "".join(parts)


def _sender(flow: Flow[T], rows: list[Row]) -> Callable[[], Statement]:
    return lambda: flow.send(rows)


def _thrower(flow: Flow[T], error: psycopg.Error) -> Callable[[], Statement]:
    return lambda: flow.throw(error)


def blocking(
    operation: Callable[P, Flow[T]], *, may_be_new: bool = False
) -> Callable[Concatenate[connect.Target, P], T]:
    """The public blocking function of an operation: in one transaction, errors explained. Where the
    database `may_be_new`, an embedded server is made."""

    @wraps(operation)
    def call(target: connect.Target, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with (
            connect.explained(target),
            connect.opened(target, may_be_new=may_be_new) as connection,
            connection.transaction(),
        ):
            return run(connection, operation(*args, **kwargs))

    return call


def awaiting(
    operation: Callable[P, Flow[T]], *, may_be_new: bool = False
) -> Callable[Concatenate[connect.AsyncTarget, P], Awaitable[T]]:
    """The public awaiting function of an operation; otherwise as `blocking`."""

    @wraps(operation)
    async def call(target: connect.AsyncTarget, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with connect.explained(target):
            opened = connect.aopened(target, may_be_new=may_be_new)
            async with opened as connection, connection.transaction():
                return await arun(connection, operation(*args, **kwargs))

    return call
