"""Searching by text: the query is embedded here, the rows are found by `qwen_embed.search`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from psycopg import errors as pg
from psycopg import sql
from psycopg.types.json import Jsonb

from qwen_embed_plugins.errors import ConfigurationError, SpaceMismatch
from qwen_embed_plugins.planning import require_query
from qwen_embed_plugins.postgres import connect
from qwen_embed_plugins.postgres._flow import Flow, Query, Row, Statement, arun, run
from qwen_embed_plugins.postgres.definition import vector_types
from qwen_embed_plugins.postgres.source_rows import Columns, source_rows
from qwen_embed_plugins.postgres.vectors import vector_text

if TYPE_CHECKING:
    from qwen_embed_plugins.setup import SettingsLike
    from qwen_embed_plugins.spaces import EmbeddingSpace
    from qwen_embed_plugins.types import Vector

_GONE = (pg.UndefinedObject, pg.UndefinedTable, pg.UndefinedColumn)
"""The vectorizer was dropped while the query was embedded, or what is read of its rows was renamed.
Another may serve under its name."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A found row: key {column: value}, the chunk and text that matched, cosine distance.

    `row` has the source's columns that were asked for, as JSON has them (a date is a string); None
    without `columns`, or where the row went while it was found.
    """

    key: dict[str, Any]
    chunk: int
    text: str
    distance: float
    row: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class _Question:
    """What a search asks for, apart from its text."""

    name: str
    k: int
    filter: Mapping[str, Any] | None
    exact: bool
    columns: Columns | None


class EmbedsQuery(Protocol):
    """What `search` needs of an embedder; `Embedder` is one."""

    @property
    def space(self) -> EmbeddingSpace: ...

    def embed_query(self, text: str, *, instruction: str | None = None) -> Vector: ...


class AsyncEmbedsQuery(Protocol):
    """What `asearch` needs of an embedder; `AsyncEmbedder` is one."""

    @property
    def space(self) -> EmbeddingSpace: ...

    async def embed_query(self, text: str, *, instruction: str | None = None) -> Vector: ...


def search(
    target: connect.Target,
    name: str,
    text: str,
    *,
    k: int = 10,
    filter: Mapping[str, Any] | None = None,  # noqa: A002  the public name
    exact: bool = False,
    columns: Columns | None = None,
    embedder: EmbedsQuery | None = None,
    embedder_for: Callable[[str, int], EmbedsQuery] | None = None,
    settings: SettingsLike = None,
) -> list[Hit]:
    """The k rows of a vectorizer nearest to a query text, nearest first. Blocks.

    `filter` maps columns of the source to a value or a list of values; None is NULL, dates, UUIDs
    and decimals are written as Postgres reads them. `exact` reads every vector. `columns` of the
    source come along in `Hit.row`.
    `embedder` must be of the vectorizer's model and dimensions (else `SpaceMismatch`); without it
    `embedder_for(model, dimensions)` gives one that is kept, or one is made for this search from
    `settings`, by default the discovered ones. Raises `DatabaseError` for an unknown name or
    column, and what the embedder raises.
    """
    require_query(text)
    question = _Question(name, k, filter, exact, columns)
    with connect.explained(target), connect.opened(target) as connection:
        with connection.transaction():
            wanted = run(connection, _wanted(question, embedder))
        while True:
            # Nothing is open while the query is embedded.
            vector = _embed(wanted, text, embedder, embedder_for, settings)
            try:
                with connection.transaction():
                    return run(connection, _nearest(question, wanted, vector))
            except _GONE:
                with connection.transaction():
                    again = run(connection, _wanted(question, embedder))
                if again == wanted:
                    raise
                wanted = again


async def asearch(
    target: connect.AsyncTarget,
    name: str,
    text: str,
    *,
    k: int = 10,
    filter: Mapping[str, Any] | None = None,  # noqa: A002  the public name
    exact: bool = False,
    columns: Columns | None = None,
    embedder: AsyncEmbedsQuery | None = None,
    embedder_for: Callable[[str, int], AsyncEmbedsQuery] | None = None,
    settings: SettingsLike = None,
) -> list[Hit]:
    """As `search`, awaiting."""
    require_query(text)
    question = _Question(name, k, filter, exact, columns)
    with connect.explained(target):
        async with connect.aopened(target) as connection:
            async with connection.transaction():
                wanted = await arun(connection, _wanted(question, embedder))
            while True:
                vector = await _aembed(wanted, text, embedder, embedder_for, settings)
                try:
                    async with connection.transaction():
                        return await arun(connection, _nearest(question, wanted, vector))
                except _GONE:
                    async with connection.transaction():
                        again = await arun(connection, _wanted(question, embedder))
                    if again == wanted:
                        raise
                    wanted = again


def _embed(
    wanted: Row,
    text: str,
    embedder: EmbedsQuery | None,
    embedder_for: Callable[[str, int], EmbedsQuery] | None,
    settings: SettingsLike,
) -> Vector:
    if embedder is None and embedder_for is not None:
        embedder = embedder_for(wanted["model"], wanted["dimensions"])
    if embedder is not None:
        _require_space(wanted, embedder.space)
        return embedder.embed_query(text, instruction=wanted["instruction"])
    from qwen_embed_plugins.embedder import Embedder

    with Embedder(settings, model=wanted["model"], dimensions=wanted["dimensions"]) as own:
        return own.embed_query(text, instruction=wanted["instruction"])


async def _aembed(
    wanted: Row,
    text: str,
    embedder: AsyncEmbedsQuery | None,
    embedder_for: Callable[[str, int], AsyncEmbedsQuery] | None,
    settings: SettingsLike,
) -> Vector:
    if embedder is None and embedder_for is not None:
        embedder = embedder_for(wanted["model"], wanted["dimensions"])
    if embedder is not None:
        _require_space(wanted, embedder.space)
        return await embedder.embed_query(text, instruction=wanted["instruction"])
    from qwen_embed_plugins.embedder import AsyncEmbedder

    space = {"model": wanted["model"], "dimensions": wanted["dimensions"]}
    async with AsyncEmbedder(settings, **space) as own:
        return await own.embed_query(text, instruction=wanted["instruction"])


def _is_of(wanted: Row, space: EmbeddingSpace) -> bool:
    return (space.model, space.dimensions) == (wanted["model"], wanted["dimensions"])


def _require_space(wanted: Row, space: EmbeddingSpace) -> None:
    if not _is_of(wanted, space):
        raise SpaceMismatch(
            f"the embedder gives {space}, the vectorizer {wanted['name']} holds "
            f"{wanted['model']}/{wanted['dimensions']}. Use that model and those dimensions."
        )


def _wanted(question: _Question, embedder: EmbedsQuery | AsyncEmbedsQuery | None) -> Flow[Row]:
    """The vectorizer to search: the one of that name, or the one it replaced whose space fits.

    A filter or columns that it cannot have are refused here, before anything is paid for the query.
    """
    wanted = yield from _serving(question.name, embedder)
    if question.filter is not None:
        yield Statement(
            sql.SQL(
                "SELECT qwen_embed.filter_condition(source, %(filter)s) "
                "FROM qwen_embed.vectorizer WHERE id = %(id)s"
            ),
            {"id": wanted["id"], "filter": _written(question.filter)},
        )
    if question.columns is not None:
        return {**wanted, "rows": (yield from source_rows(wanted["id"], question.columns))}
    return wanted


def _serving(name: str, embedder: EmbedsQuery | AsyncEmbedsQuery | None) -> Flow[Row]:
    rows = yield Statement(
        sql.SQL(
            "SELECT id, name, model, dimensions, instruction FROM qwen_embed.definition(%(name)s)"
        ),
        {"name": name},
    )
    wanted = rows[0]
    if embedder is None or _is_of(wanted, embedder.space):
        return wanted
    kept = yield Statement(
        sql.SQL(
            "SELECT id, name, model, dimensions, instruction FROM qwen_embed.vectorizer "
            "WHERE id = qwen_embed.serving(%(name)s, %(model)s, %(dimensions)s)"
        ),
        {"name": name, "model": embedder.space.model, "dimensions": embedder.space.dimensions},
    )
    return kept[0] if kept else wanted


def _nearest(question: _Question, wanted: Row, vector: Vector) -> Flow[list[Hit]]:
    """Search the vectorizer that the vector was made for, and not who has its name by now."""
    types = yield from vector_types()
    row: Query = sql.SQL("NULL")
    if question.columns is not None:
        row = wanted["rows"].as_json("found.key")
    query = sql.SQL(
        "SELECT found.key, found.chunk, found.text, found.distance, {} AS row "
        "FROM qwen_embed.search_in("
        "%(id)s, %(vector)s::{}.vector, %(k)s::int, %(filter)s, %(exact)s) AS found"
    ).format(row, sql.Identifier(types.schema))
    found = yield Statement(
        query,
        {
            "id": wanted["id"],
            "vector": vector_text(vector),
            "k": question.k,
            "filter": None if question.filter is None else _written(question.filter),
            "exact": question.exact,
        },
    )
    return [Hit(**hit) for hit in found]


def _written(condition: Mapping[str, Any]) -> Jsonb:
    try:
        encoded = json.dumps(dict(condition), default=_value_text, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"filter cannot be written as JSON: {error}. Expected columns with a value, a list of "
            'values or None, such as {"language": "en"}'
        ) from error
    return Jsonb(encoded, dumps=str)


def _value_text(value: object) -> str:
    """What JSON has no type for, as Postgres reads it."""
    if isinstance(value, (date, time, UUID, Decimal)):
        return str(value)
    raise TypeError(f"{type(value).__name__} is no value of a column")
