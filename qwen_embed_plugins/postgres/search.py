"""Searching by text: the query is embedded here, the rows are found by `qwen_embed.search`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from psycopg import errors as pg
from psycopg import sql
from psycopg.types.json import Jsonb

from qwen_embed_plugins.errors import ConfigurationError, SpaceMismatch
from qwen_embed_plugins.postgres import connect
from qwen_embed_plugins.postgres._flow import Flow, Row, Statement, arun, run
from qwen_embed_plugins.postgres.definition import vector_types
from qwen_embed_plugins.postgres.vectors import vector_text

if TYPE_CHECKING:
    from qwen_embed_plugins.setup import SettingsLike
    from qwen_embed_plugins.spaces import EmbeddingSpace
    from qwen_embed_plugins.types import Vector

_GONE = (pg.UndefinedObject, pg.UndefinedTable)
"""The vectorizer was dropped while the query was embedded. Another may serve under its name."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A found row: key {column: value}, the chunk and text that matched, cosine distance."""

    key: dict[str, Any]
    chunk: int
    text: str
    distance: float


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
    embedder: EmbedsQuery | None = None,
    settings: SettingsLike = None,
) -> list[Hit]:
    """The k rows of a vectorizer nearest to a query text, nearest first. Blocks.

    `filter` maps columns of the source to a value or a list of values; None is NULL, dates, UUIDs
    and decimals are written as Postgres reads them. `exact` reads every vector.
    `embedder` must be of the vectorizer's model and dimensions (else `SpaceMismatch`); without it
    one is made from `settings`, by default the discovered ones. Raises `DatabaseError` for an
    unknown name or column, and what the embedder raises.
    """
    with connect.explained(target), connect.opened(target) as connection:
        with connection.transaction():
            wanted = run(connection, _wanted(name, embedder, filter))
        while True:
            # Nothing is open while the query is embedded.
            vector = _embed(wanted, text, embedder, settings)
            try:
                with connection.transaction():
                    return run(connection, _nearest(wanted, vector, k, filter, exact))
            except _GONE:
                with connection.transaction():
                    again = run(connection, _wanted(name, embedder, filter))
                if again["id"] == wanted["id"]:
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
    embedder: AsyncEmbedsQuery | None = None,
    settings: SettingsLike = None,
) -> list[Hit]:
    """As `search`, awaiting."""
    with connect.explained(target):
        async with connect.aopened(target) as connection:
            async with connection.transaction():
                wanted = await arun(connection, _wanted(name, embedder, filter))
            while True:
                vector = await _aembed(wanted, text, embedder, settings)
                try:
                    async with connection.transaction():
                        return await arun(connection, _nearest(wanted, vector, k, filter, exact))
                except _GONE:
                    async with connection.transaction():
                        again = await arun(connection, _wanted(name, embedder, filter))
                    if again["id"] == wanted["id"]:
                        raise
                    wanted = again


def _embed(wanted: Row, text: str, embedder: EmbedsQuery | None, settings: SettingsLike) -> Vector:
    if embedder is not None:
        _require_space(wanted, embedder.space)
        return embedder.embed_query(text, instruction=wanted["instruction"])
    from qwen_embed_plugins.embedder import Embedder

    with Embedder(settings, model=wanted["model"], dimensions=wanted["dimensions"]) as own:
        return own.embed_query(text, instruction=wanted["instruction"])


async def _aembed(
    wanted: Row, text: str, embedder: AsyncEmbedsQuery | None, settings: SettingsLike
) -> Vector:
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


def _wanted(
    name: str,
    embedder: EmbedsQuery | AsyncEmbedsQuery | None,
    condition: Mapping[str, Any] | None,
) -> Flow[Row]:
    """The vectorizer to search: the one of that name, or the one it replaced whose space fits.

    A filter that it cannot have is refused here, before anything is paid for the query.
    """
    wanted = yield from _serving(name, embedder)
    if condition is not None:
        yield Statement(
            sql.SQL(
                "SELECT qwen_embed.filter_condition(source, %(filter)s) "
                "FROM qwen_embed.vectorizer WHERE id = %(id)s"
            ),
            {"id": wanted["id"], "filter": _written(condition)},
        )
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


def _nearest(
    wanted: Row, vector: Vector, k: int, condition: Mapping[str, Any] | None, exact: bool
) -> Flow[list[Hit]]:
    """Search the vectorizer that the vector was made for, and not who has its name by now."""
    types = yield from vector_types()
    query = sql.SQL(
        "SELECT key, chunk, text, distance FROM qwen_embed.search_in("
        "%(id)s, %(vector)s::{}.vector, %(k)s::int, %(filter)s, %(exact)s)"
    ).format(sql.Identifier(types.schema))
    found = yield Statement(
        query,
        {
            "id": wanted["id"],
            "vector": vector_text(vector),
            "k": k,
            "filter": None if condition is None else _written(condition),
            "exact": exact,
        },
    )
    return [Hit(**row) for row in found]


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
