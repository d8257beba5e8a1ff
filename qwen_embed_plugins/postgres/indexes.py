"""The HNSW index on a side table: built after the backfill, without stopping writers."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql

from qwen_embed_plugins.errors import ConfigurationError, DatabaseError
from qwen_embed_plugins.postgres import _sql, connect
from qwen_embed_plugins.postgres._flow import Flow, Statement, arun, run
from qwen_embed_plugins.postgres.definition import Vectorizer, define_vectorizers, vector_types

# The first half of the advisory lock's key, ASCII of "qwen"; the second is the vectorizer's id.
_LOCK = 0x7177656E
_OPERATORS = {"vector": "vector_cosine_ops", "halfvec": "halfvec_cosine_ops"}


def build_index(target: connect.Target, /, name: str) -> bool:
    """Build the HNSW index of a vectorizer, `CONCURRENTLY`; False if there is nothing to do.

    Blocks for as long as the build takes; writers and searches go on. A leftover of an interrupted
    build is dropped first. Nothing is done with `index_kind` none, where the index stands, and
    while another session builds it. Raises `DatabaseError` without the right to build it, and
    `ConfigurationError` for a connection that is not in autocommit.
    """
    with connect.explained(target), connect.opened(target) as connection:
        _require_autocommit(connection.autocommit)
        return run(connection, _build(name))


async def abuild_index(target: connect.AsyncTarget, /, name: str) -> bool:
    """As `build_index`, awaiting."""
    with connect.explained(target):
        async with connect.aopened(target) as connection:
            _require_autocommit(connection.autocommit)
            return await arun(connection, _build(name))


def _require_autocommit(autocommit: bool) -> None:
    if not autocommit:
        raise ConfigurationError(
            "CREATE INDEX CONCURRENTLY cannot run in a transaction: pass an address or a "
            "connection in autocommit"
        )


def _build(name: str) -> Flow[bool]:
    vectorizer = yield from _named(name)
    if vectorizer.index_kind != "hnsw" or not vectorizer.workable:
        return False
    lock = {"space": _LOCK, "vectorizer": vectorizer.id}
    locked = yield Statement(
        sql.SQL("SELECT pg_catalog.pg_try_advisory_lock(%(space)s, %(vectorizer)s) AS mine"), lock
    )
    if not locked[0]["mine"]:
        return False
    unlock = Statement(
        sql.SQL("SELECT pg_catalog.pg_advisory_unlock(%(space)s, %(vectorizer)s)"), lock
    )
    try:
        built = yield from _build_alone(vectorizer)
    except psycopg.Error:
        yield unlock
        raise
    yield unlock
    return built


def _named(name: str) -> Flow[Vectorizer]:
    for vectorizer in (yield from define_vectorizers()):
        if vectorizer.name == name:
            return vectorizer
    # Fails with the nearest name.
    yield Statement(sql.SQL("SELECT qwen_embed.named(%(name)s)"), {"name": name})
    raise DatabaseError(f"the vectorizer {name} was dropped just now")


def _build_alone(vectorizer: Vectorizer) -> Flow[bool]:
    where = {"schema": vectorizer.target_schema, "table": vectorizer.target_table}
    states = yield Statement(_sql.query("index_state"), where)
    if not states or states[0]["indisvalid"]:
        return False
    if not states[0]["may_build"]:
        raise DatabaseError(
            f"only the owner of {vectorizer.target_table} may index it. Run as that role: "
            f"qwen-embed pg index {vectorizer.name}"
        )
    names: list[dict[str, Any]] = yield Statement(
        sql.SQL("SELECT qwen_embed.derived_name(%(table)s, '_hnsw') AS name"),
        {"table": vectorizer.target_table},
    )
    # Only our own: one of another name that is not valid may be one that its owner builds just now.
    if any(state["relname"] == names[0]["name"] for state in states):
        invalid = sql.Identifier(vectorizer.target_schema or "", names[0]["name"])
        yield Statement(sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(invalid))
    yield from _create(vectorizer, names[0]["name"])
    return True


def _create(vectorizer: Vectorizer, name: str) -> Flow[None]:
    types = yield from vector_types()
    yield Statement(
        sql.SQL("CREATE INDEX CONCURRENTLY {} ON {} USING hnsw (embedding {})").format(
            sql.Identifier(name),
            sql.Identifier(vectorizer.target_schema or "", vectorizer.target_table or ""),
            sql.Identifier(types.schema, _OPERATORS[vectorizer.storage]),
        )
    )
