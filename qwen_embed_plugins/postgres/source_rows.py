"""Columns of the source beside what a search finds: which there are, the SQL that reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, TypeAlias

from psycopg import errors as pg
from psycopg import sql

from qwen_embed_plugins.errors import ConfigurationError, DatabaseError, shown
from qwen_embed_plugins.postgres._flow import Flow, Query, Row, Statement

Columns: TypeAlias = Sequence[str] | Literal["*"]
"""Names of the source's columns, or "*": all but vectors, as far as the caller may read them."""


@dataclass(frozen=True, slots=True)
class SourceRows:
    """A vectorizer's source by its names of today, and the columns wanted of its rows."""

    schema: str
    table: str
    key: tuple[Row, ...]
    columns: tuple[str, ...]

    def as_json(self, key: str) -> Query:
        """A sub-select for the row that a JSON `key` ({column: value}) names, as one JSON object;
        NULL where this statement does not see it (any more).

        One per found row: joined, Postgres might read the whole source for a thousand expected.
        """
        return sql.SQL(
            "(SELECT pg_catalog.to_jsonb(wanted) FROM (SELECT {columns} FROM {source} AS s "
            "WHERE {is_row}) AS wanted)"
        ).format(
            columns=sql.SQL(", ").join(sql.Identifier("s", name) for name in self.columns),
            source=sql.Identifier(self.schema, self.table),
            is_row=sql.SQL(" AND ").join(_equals(part, key) for part in self.key),
        )


def _equals(part: Row, key: str) -> Query:
    return sql.SQL("{column} {equality} ({key} OPERATOR(pg_catalog.->>) {name})::{type}").format(
        column=sql.Identifier("s", part["source_column"]),
        equality=sql.SQL(_doubled(part["equality"])),
        key=sql.SQL(key),
        name=sql.Literal(part["source_column"]),
        type=sql.SQL(_doubled(part["type"])),
    )


def _doubled(text: str) -> str:
    """SQL of a statement that has values: a % in a type's name is no placeholder."""
    return text.replace("%", "%%")


def source_rows(vectorizer: int, columns: Columns) -> Flow[SourceRows]:
    """How to read these columns of a vectorizer's source. Raises `DatabaseError` for a name that is
    no column of it, `ConfigurationError` for what is no list of names, `UndefinedObject` where the
    vectorizer or its table went meanwhile."""
    _require_names(columns)
    found = yield Statement(
        sql.SQL(
            "SELECT n.nspname AS schema, c.relname AS table, a.attname AS name, "
            "t.typname IN ('vector', 'halfvec', 'sparsevec') AS is_vector, "
            "has_column_privilege(c.oid, a.attnum, 'SELECT') AS is_readable, "
            "k.source_column, k.type, k.equality "
            "FROM qwen_embed.vectorizer v JOIN pg_class c ON c.oid = v.source "
            "JOIN pg_namespace n ON n.oid = c.relnamespace "
            "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped "
            "JOIN pg_type t ON t.oid = a.atttypid "
            "LEFT JOIN qwen_embed.key_columns(%(id)s) k ON k.source_column = a.attname "
            "WHERE v.id = %(id)s ORDER BY a.attnum"
        ),
        {"id": vectorizer},
    )
    key = tuple(row for row in found if row["source_column"] is not None)
    if not key:
        raise pg.UndefinedObject("the vectorizer was dropped while it was searched")
    names = _chosen(found, columns)
    return SourceRows(found[0]["schema"], found[0]["table"], key, names)


def _require_names(columns: Columns) -> None:
    names = [] if columns == "*" else columns
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ConfigurationError(
            f'columns = {shown(columns)}: expected a list of column names, or "*" for all'
        )


def _chosen(found: Sequence[Row], columns: Columns) -> tuple[str, ...]:
    known = [row["name"] for row in found]
    if columns == "*":
        return tuple(row["name"] for row in found if row["is_readable"] and not row["is_vector"])
    for name in columns:
        if name not in known:
            near = get_close_matches(name, known, 1)
            remedy = f"The nearest is {near[0]}." if near else f"It has: {', '.join(known)}."
            table = found[0]["table"]
            raise DatabaseError(f"columns names {shown(name)}, which {table} has not. {remedy}")
    return tuple(dict.fromkeys(columns))
