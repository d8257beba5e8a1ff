"""A vectorizer as a worker sees it, and the fragments of SQL that its queries are filled with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from psycopg import sql

from qwen_embed_plugins.errors import DatabaseError
from qwen_embed_plugins.postgres import _sql
from qwen_embed_plugins.postgres._flow import Flow, Often, Query, Row, Statement
from qwen_embed_plugins.postgres.vectors import Storage

# Where vectors are in a column their view shows none without a row. Its marks do.
_OF_ALL_KEYS = {"walk_target", "audit_vectors"}


@dataclass(frozen=True, slots=True)
class VectorTypes:
    """pgvector in this database: its schema, and the object ids of its types."""

    schema: str
    oids: dict[str, int]


@dataclass(frozen=True)
class Vectorizer:
    """One row of `define_vectorizers`: names as they are now, found anew when a query misses one.

    `problem` says what keeps changes from being captured. Names are None where a table is gone.
    """

    id: int
    name: str
    model: str
    dimensions: int
    storage: Storage
    index_kind: str
    chunk_tokens: int | None
    chunk_overlap: int
    chunker: str | None
    paused: bool
    suspended: bool
    notify: bool
    trouble: str | None
    source_schema: str | None
    source_table: str | None
    target_schema: str | None
    target_table: str | None
    vector_column: str | None
    source_key: list[str]
    target_key: list[str]
    key_types: list[str]
    equality: list[str]
    greater: list[str]
    problem: str | None
    capture_changed: bool
    partitions_changed: bool
    has_task: bool
    has_expired: bool
    needs: int

    @property
    def workable(self) -> bool:
        """Whether its tables and functions are there, be its triggers or not."""
        return bool(
            self.source_table
            and self.target_table
            and self.source_key
            and len(self.source_key) == len(self.target_key)
        )

    @property
    def in_column(self) -> bool:
        """Whether its vectors are in a column of the source; `target_table` is a view of them."""
        return self.vector_column is not None

    @property
    def space(self) -> str:
        """What stands beside each vector to tell what it may be compared with."""
        return f"{self.model}/{self.dimensions}"

    @property
    def names(self) -> tuple[object, ...]:
        """What its queries call things by."""
        source, target = (
            (self.source_schema, self.source_table),
            (self.target_schema, self.target_table),
        )
        return (*source, *target, self.vector_column, *self.source_key, *self.target_key)

    @cached_property
    def _fragments(self) -> dict[str, Query | sql.Identifier | sql.Literal]:
        numbered = [f"k{place}" for place, _ in enumerate(self.source_key, 1)]
        return {
            "id": sql.Literal(self.id),
            "space": sql.Literal(self.space),
            "log": sql.Identifier("qwen_embed", f"log_{self.id}"),
            "log_name": sql.Literal(f"qwen_embed.log_{self.id}"),
            "work": sql.Identifier("qwen_embed", f"work_{self.id}"),
            "dead": sql.Identifier("qwen_embed", f"dead_{self.id}"),
            "marks": sql.Identifier("qwen_embed", f"mark_{self.id}"),
            "vector_column": sql.Identifier(self.vector_column or ""),
            "work_keys": _columns(numbered, "work"),
            "mark_is_work": self._equal("mark", numbered, "work", numbered),
            "content": sql.Identifier("qwen_embed", f"content_{self.id}"),
            "source": sql.Identifier(self.source_schema or "", self.source_table or ""),
            "target": sql.Identifier(self.target_schema or "", self.target_table or ""),
            "keys": _columns(numbered),
            "source_keys": _columns(self.source_key, "source"),
            "source_keys_as": _renamed("source", self.source_key, numbered),
            "target_keys": _columns(self.target_key),
            "target_keys_of": _columns(self.target_key, "target"),
            "target_keys_as": _renamed("target", self.target_key, numbered),
            "done_keys": _columns(numbered, "done"),
            "dead_keys": _columns(numbered, "dead"),
            "portion_keys": _columns(numbered, "portion"),
            "portion_keys_text": _joined("portion.{}::text", numbered),
            "portion_keys_descending": _joined("portion.{} DESC", numbered),
            "source_is_work": self._equal("source", self.source_key, "work", numbered),
            "source_is_done": self._equal("source", self.source_key, "done", numbered),
            "source_is_dead": self._equal("source", self.source_key, "dead", numbered),
            "source_is_portion": self._equal("source", self.source_key, "portion", numbered),
            "target_is_source": self._equal("target", self.target_key, "source", self.source_key),
            "target_is_work": self._equal("target", self.target_key, "work", numbered),
            "stands_is_work": self._equal("stands", self.target_key, "work", numbered),
            "target_is_portion": self._equal("target", self.target_key, "portion", numbered),
            "log_is_portion": self._equal("log", numbered, "portion", numbered),
            "work_is_portion": self._equal("work", numbered, "portion", numbered),
            "dead_is_portion": self._equal("dead", numbered, "portion", numbered),
            "keys_from_text": sql.SQL(", ").join(
                sql.SQL("given.{}::{}").format(sql.Identifier(name), _written(kind))
                for name, kind in zip(numbered, self.key_types, strict=True)
            ),
            "key_arrays": sql.SQL(", ".join(f"%({name})s::text[]" for name in numbered)),
            "dead_is_done": self._equal("dead", numbered, "done", numbered),
        }

    def _equal(
        self, left: str, left_key: Iterable[str], right: str, right_key: Iterable[str]
    ) -> sql.Composed:
        return sql.SQL(" AND ").join(
            sql.SQL("{} {} {}").format(
                sql.Identifier(left, a), _written(op), sql.Identifier(right, b)
            )
            for a, op, b in zip(left_key, self.equality, right_key, strict=True)
        )

    def after(self, alias: str, reached: Sequence[str] | None) -> Query:
        """The condition that a row of `alias` comes after the key `reached` in index order."""
        if reached is None:
            return sql.SQL("true")
        key = self.source_key if alias == "source" else self.target_key
        columns = [sql.Identifier(alias, name) for name in key]
        values = [
            sql.SQL("{}::{}").format(sql.Literal(value), _written(kind))
            for value, kind in zip(reached, self.key_types, strict=True)
        ]
        if set(self.greater) == {"OPERATOR(pg_catalog.>)"}:
            # One row comparison, which an index scan can start at.
            return sql.SQL("ROW({}) OPERATOR(pg_catalog.>) ROW({})").format(
                sql.SQL(", ").join(columns), sql.SQL(", ").join(values)
            )
        return self._after_stepwise(columns, values)

    def _after_stepwise(
        self, columns: Sequence[sql.Identifier], values: Sequence[sql.Composed]
    ) -> sql.Composed:
        # Operators of several schemas do not fit into one row comparison.
        alternatives = []
        for place, greater in enumerate(self.greater):
            operators = [*self.equality[:place], greater]
            terms = [
                sql.SQL("{} {} {}").format(column, _written(operator), value)
                for column, operator, value in zip(columns, operators, values, strict=False)
            ]
            alternatives.append(sql.SQL("({})").format(sql.SQL(" AND ").join(terms)))
        return sql.SQL("({})").format(sql.SQL(" OR ").join(alternatives))

    @cached_property
    def _queries(self) -> dict[tuple[str, ...], Often]:
        return {}

    def query(self, name: str, **more: Query | sql.Identifier | sql.Literal) -> sql.Composed:
        """The named query with this vectorizer's tables and columns in it, or others for them."""
        if not more.keys() <= _ALWAYS_ALIKE:
            return self._made(name, more)
        key = (name, *(more[part].as_string() for part in sorted(more)))
        known = self._queries.get(key)
        if known is None:
            known = self._queries[key] = Often([*self._made(name, more)])
        return known

    def _made(
        self, name: str, more: Mapping[str, Query | sql.Identifier | sql.Literal]
    ) -> sql.Composed:
        fragments = {**self._fragments, **more}
        if self.in_column and name in _OF_ALL_KEYS:
            fragments["target"] = fragments["marks"]
        return _sql.query(name).format(**fragments)

    def vector_type(self, types: VectorTypes) -> sql.Identifier:
        """The column type of its vectors."""
        return sql.Identifier(types.schema, self.storage)


# What of a query's further parts is the same each time; a place in a walk is not.
_ALWAYS_ALIKE = frozenset({"query", "vector_send", "vector_type"})


def _written(text: str) -> sql.SQL:
    # Names that the server quoted. It goes into queries that have values, where a % counts.
    return sql.SQL(text.replace("%", "%%"))


def _columns(names: Iterable[str], alias: str | None = None) -> sql.Composed:
    prefix = (alias,) if alias else ()
    return sql.SQL(", ").join(sql.Identifier(*prefix, name) for name in names)


def _renamed(alias: str, names: Iterable[str], new: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join(
        sql.SQL("{} AS {}").format(sql.Identifier(alias, name), sql.Identifier(other))
        for name, other in zip(names, new, strict=True)
    )


def _joined(pattern: str, names: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.SQL(pattern).format(sql.Identifier(name)) for name in names)


def define_vectorizers() -> Flow[list[Vectorizer]]:
    """All vectorizers of the database, by age."""
    rows = yield Statement(_sql.query("define_vectorizers"))
    return [Vectorizer(**row) for row in rows]


def vector_types() -> Flow[VectorTypes]:
    """Where pgvector lives. Raises `DatabaseError` if it was removed."""
    rows: list[Row] = yield Statement(_sql.query("vector_types"))
    if not rows:
        raise DatabaseError(
            "the extension `vector` is not in this database: CREATE EXTENSION vector; then run "
            "`qwen-embed pg install`"
        )
    schema: Any = rows[0]["nspname"]
    return VectorTypes(str(schema), {row["typname"]: row["oid"] for row in rows})


def named(name: str) -> Flow[Vectorizer]:
    """The vectorizer of that name. Raises, with the nearest name, if there is none."""
    for vectorizer in (yield from define_vectorizers()):
        if vectorizer.name == name:
            return vectorizer
    yield Statement(sql.SQL("SELECT qwen_embed.named(%(name)s)"), {"name": name})
    raise DatabaseError(f"the vectorizer {name} was dropped just now")
