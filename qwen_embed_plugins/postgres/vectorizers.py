"""Creating, changing, dropping and watching vectorizers: calls of the SQL functions, typed."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from psycopg import errors as pg
from psycopg import sql

from qwen_embed_plugins.errors import DatabaseError, shown
from qwen_embed_plugins.postgres._flow import Flow, Statement

_QUOTE = 'Quote its parts as SQL does, for example "My schema"."My table"'


@dataclass(frozen=True, slots=True)
class VectorizerStatus:
    """One row of the view `qwen_embed.status`; its comment in the database explains the states."""

    name: str
    source: str
    target: str
    model: str
    dimensions: int
    state: str
    pending: int
    leased: int
    dead: int
    lag: timedelta | None
    last_error: str | None


@dataclass(frozen=True, slots=True)
class VectorizerProgress:
    """One row of the view `qwen_embed.progress`; its comment in the database explains the figures.

    `rows`, `tokens` and `cost` (US dollars) are of the `workers` that run, since they started.
    """

    name: str
    workers: int
    rows_per_second: float
    tokens_per_second: float
    rows: int
    tokens: int
    cost: Decimal
    walked: int
    to_walk: int
    time_left: timedelta | None


@dataclass(frozen=True, slots=True)
class WorkerSign:
    """One row of the view `qwen_embed.workers`: a worker, and when it last gave a sign of life."""

    name: str
    version: str
    since: datetime
    beat_at: datetime
    alive: bool
    vectorizers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A row without a vector because its text was refused for good. `key` is {column: value}."""

    name: str
    key: dict[str, Any]
    kind: str
    message: str
    attempts: int
    died_at: datetime


@dataclass(frozen=True, slots=True)
class VectorizerDefinition:
    """What a vectorizer was created with. `target` is the table that its vectors are in; chunks are
    None where each text is embedded as a whole."""

    name: str
    source: str
    target: str
    columns: tuple[str, ...] | None
    template: str | None
    condition: str | None
    chunk_tokens: int | None
    chunk_overlap: int | None
    chunker: str | None
    model: str
    dimensions: int
    storage: str
    index_kind: str
    paused: bool


def create_vectorizer(
    source: str,
    *,
    columns: Sequence[str] | None = None,
    template: str | None = None,
    name: str | None = None,
    model: str | None = None,
    dimensions: int | None = None,
    target: str = "table",
    target_name: str | None = None,
    storage: str | None = None,
    index_kind: str | None = None,
    chunk_tokens: int | None = None,
    chunk_overlap: int | None = None,
    chunker: str | None = None,
    condition: str | None = None,
    backfill: bool = True,
) -> Flow[str]:
    """Make the rows of `source` embed themselves; gives the vectorizer's name. Blocks.

    `source` is a table as SQL writes it (`docs`, `"Odd schema"."Table"`). With `chunk_tokens` long
    texts are split, by the built-in chunker or one of a plugin. Its vectors appear once a worker
    runs. Raises `DatabaseError` for a table or column that does not exist, a table that
    cannot be a source, a name that is taken, and for arguments that are not supported yet.
    """
    yield from _require_table(source)
    rows = yield creation(
        source,
        chunker,
        columns=list(columns) if columns is not None else None,
        template=template,
        name=name,
        model=model,
        dimensions=dimensions,
        target=target,
        target_name=target_name,
        storage=storage,
        index_kind=index_kind,
        chunk_tokens=chunk_tokens,
        chunk_overlap=chunk_overlap,
        condition=condition,
        backfill=backfill,
    )
    return str(rows[0]["name"])


def creation(source: str, chunker: str | None = None, **arguments: Any) -> Statement:
    """The statement that creates a vectorizer. What is None is left to its default."""
    given = {key: value for key, value in arguments.items() if value is not None}
    named = sql.SQL(", ").join(
        [
            sql.SQL("%(source)s::regclass"),
            *(sql.SQL("{} => {}").format(sql.Identifier(k), sql.Placeholder(k)) for k in given),
        ]
    )
    chosen = (
        sql.SQL("")
        if chunker is None
        else sql.SQL(", qwen_embed.set_chunker(made.name, %(chunker)s)")
    )
    query = sql.SQL(
        "SELECT made.name{} FROM qwen_embed.create_vectorizer({}) AS made(name)"
    ).format(chosen, named)
    values = {"source": source, **given}
    return Statement(query, values if chunker is None else {**values, "chunker": chunker})


def _require_table(source: str) -> Flow[None]:
    try:
        rows = yield Statement(
            sql.SQL("SELECT to_regclass(%(source)s) IS NOT NULL AS found"), {"source": source}
        )
    except (pg.SyntaxError, pg.InvalidName) as error:
        raise DatabaseError(f"{shown(source)} is no table name. {_QUOTE}") from error
    if rows[0]["found"]:
        return
    tables = yield Statement(
        sql.SQL(
            "SELECT c.oid::regclass::text AS name FROM pg_catalog.pg_class c "
            "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
            "WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^(pg_|information_schema|qwen_embed$)'"
        )
    )
    near = difflib.get_close_matches(source, [row["name"] for row in tables], n=1, cutoff=0.4)
    remedy = f"Did you mean {near[0]}?" if near else f"Check its schema, and the database. {_QUOTE}"
    raise DatabaseError(f"there is no table {source}. {remedy}")


def drop_vectorizer(name: str, *, drop_target: bool = False) -> Flow[list[str]]:
    """End a vectorizer: triggers, waiting changes and view go. Its vectors go if `drop_target`.

    A side table without a vector goes too, unless something depends on it. Gives the statements
    that would remove what stayed. Waits some seconds for the table if it is in use. Raises
    `DatabaseError` for an unknown name.
    """
    kept = yield Statement(
        sql.SQL(
            "SELECT v.target_table::oid AS id, 'ALTER TABLE ' || v.source || ' DROP COLUMN ' "
            "|| quote_ident(qwen_embed.vector_column(v.id, v.source)) || ';' AS removal "
            "FROM qwen_embed.vectorizer v LEFT JOIN qwen_embed.vectorizer later "
            "ON later.replaces = v.id AND v.retired_at IS NOT NULL "
            "WHERE %(name)s IN (v.name, later.name) ORDER BY v.id DESC"
        ),
        {"name": name},
    )
    yield dropping(name, drop_target=drop_target)
    if drop_target:
        return []
    tables = yield Statement(
        sql.SQL(
            "SELECT 'DROP TABLE ' || t.oid::regclass || ';' AS removal "
            "FROM pg_catalog.pg_class t WHERE t.oid = ANY (%(ids)s) ORDER BY t.oid DESC"
        ),
        {"ids": [row["id"] for row in kept if row["id"] is not None]},
    )
    return [row["removal"] for row in (*tables, *kept) if row["removal"] is not None]


def dropping(name: str, *, drop_target: bool = False) -> Statement:
    """The statement that ends a vectorizer."""
    return Statement(
        sql.SQL("SELECT qwen_embed.drop_vectorizer(%(name)s, %(drop_target)s)"),
        {"name": name, "drop_target": drop_target},
    )


def pause(name: str) -> Flow[None]:
    """Stop the spending of one vectorizer. Changes are still recorded. Blocks."""
    yield _call("pause", name)


def resume(name: str) -> Flow[None]:
    """Undo `pause` and `suspend`, and clear what held or blocked the work. Blocks."""
    yield _call("resume", name)


def suspend(name: str) -> Flow[None]:
    """Let go of the source's columns, so that ALTER TABLE may change them, until `resume`. Blocks.

    The view and the capture of updates are gone meanwhile; in one transaction with the change and
    `resume` nobody notices. Raises `DatabaseError` while the table is in use for long.
    """
    yield _call("suspend", name)


def redefine(
    name: str,
    *,
    columns: Sequence[str] | None = None,
    template: str | None = None,
    condition: str | None = None,
) -> Flow[None]:
    """Change what the text of a row is; arguments as in `create_vectorizer`. Blocks.

    Rows whose text is another now are embedded anew, the others are not paid again.
    """
    yield Statement(
        sql.SQL("SELECT qwen_embed.redefine(%(name)s, %(columns)s, %(template)s, %(condition)s)"),
        {
            "name": name,
            "columns": list(columns) if columns is not None else None,
            "template": template,
            "condition": condition,
        },
    )


def enqueue(name: str) -> Flow[None]:
    """Have workers look at every row again; an unchanged text is not paid again. Blocks."""
    yield _call("enqueue", name)


def repair(name: str) -> Flow[None]:
    """Make missing triggers, functions and tables again, then compare every row. Blocks."""
    yield _call("repair", name)


def retry(name: str) -> Flow[int]:
    """Have workers try the dead letters again; gives how many. Blocks."""
    rows = yield _call("retry", name)
    return int(rows[0]["retry"])


def _call(function: str, name: str) -> Statement:
    query = sql.SQL("SELECT qwen_embed.{function}(%(name)s) AS {function}")
    return Statement(query.format(function=sql.Identifier(function)), {"name": name})


def move(
    name: str,
    *,
    model: str | None = None,
    dimensions: int | None = None,
    storage: str | None = None,
    index_kind: str | None = None,
    target_name: str | None = None,
) -> Flow[str]:
    """Begin to move a vectorizer to another model or length; gives the name it has meanwhile.

    Workers fill a second side table while the first one serves; `finish_move` swaps them and
    `cancel_move` gives up. Blocks. Raises `DatabaseError` if nothing would change, a move is under
    way, or the last one's vectors are still kept.
    """
    arguments = {
        "model": model,
        "dimensions": dimensions,
        "storage": storage,
        "index_kind": index_kind,
        "target_name": target_name,
    }
    named = sql.SQL(", ").join(
        sql.SQL("{} => {}").format(sql.Identifier(key), sql.Placeholder(key)) for key in arguments
    )
    rows = yield Statement(
        sql.SQL("SELECT qwen_embed.move(%(name)s, {}) AS name").format(named),
        {"name": name, **arguments},
    )
    return str(rows[0]["name"])


def move_waits_for(name: str) -> Flow[str | None]:
    """Why `finish_move` would refuse now; None if it would not. Raises if nothing moves. Blocks."""
    rows = yield _call("move_waits_for", name)
    reason: str | None = rows[0]["move_waits_for"]
    return reason


def finish_move(name: str) -> Flow[None]:
    """Swap a moved vectorizer in, in one transaction: name, view and searches follow. Blocks.

    The old vectors stay under a name with their space until `drop_old`. Raises `DatabaseError`
    while the new ones are not complete or not indexed.
    """
    yield _call("finish_move", name)


def cancel_move(name: str) -> Flow[None]:
    """Give a move up; what was filled so far is dropped. Blocks."""
    yield _call("cancel_move", name)


def drop_old(name: str) -> Flow[bool]:
    """Drop the vectors that a finished move left behind; False if there are none. Blocks."""
    rows = yield _call("drop_old", name)
    return bool(rows[0]["drop_old"])


def vector_count(name: str) -> Flow[int]:
    """About how many vectors a vectorizer has, without counting them. Blocks."""
    rows = yield _call("vector_count", name)
    return int(rows[0]["vector_count"])


def status(name: str | None = None) -> Flow[list[VectorizerStatus]]:
    """The state of each vectorizer, or of the named one. Blocks."""
    rows = yield Statement(
        sql.SQL(
            # The counts of a retired one were null before this package's own functions came.
            "SELECT name, source::text, target::text, model, dimensions, state, pending, "
            "coalesce(leased, 0) AS leased, coalesce(dead, 0) AS dead, lag, last_error "
            "FROM qwen_embed.status "
            "WHERE %(name)s::text IS NULL OR name = (qwen_embed.definition(%(name)s)).name "
            "ORDER BY name"
        ),
        {"name": name},
    )
    return [VectorizerStatus(**row) for row in rows]


def progress(name: str | None = None) -> Flow[list[VectorizerProgress]]:
    """How fast each vectorizer, or the named one, is brought in step, and for how long. Blocks."""
    rows = yield Statement(
        sql.SQL(
            "SELECT name, workers, rows_per_second, tokens_per_second, rows, tokens, cost, walked, "
            "to_walk, time_left FROM qwen_embed.progress "
            "WHERE %(name)s::text IS NULL OR name = (qwen_embed.definition(%(name)s)).name "
            "ORDER BY name"
        ),
        {"name": name},
    )
    return [VectorizerProgress(**row) for row in rows]


def workers() -> Flow[list[WorkerSign]]:
    """The workers that run, and what is left of some that were killed, newest first. Blocks."""
    rows = yield Statement(
        sql.SQL(
            "SELECT name, version, since, beat_at, alive, vectorizers FROM qwen_embed.workers "
            "ORDER BY since DESC"
        )
    )
    return [WorkerSign(**{**row, "vectorizers": tuple(row["vectorizers"])}) for row in rows]


def dead_letters(name: str | None = None) -> Flow[list[DeadLetter]]:
    """The rows whose text was refused for good, newest first. Blocks."""
    rows = yield Statement(
        sql.SQL(
            "SELECT name, key, kind, message, attempts, died_at FROM qwen_embed.dead_letters "
            "WHERE %(name)s::text IS NULL OR name = (qwen_embed.definition(%(name)s)).name "
            "ORDER BY died_at DESC"
        ),
        {"name": name},
    )
    return [DeadLetter(**row) for row in rows]


def list_vectorizers() -> Flow[list[VectorizerDefinition]]:
    """What each vectorizer was created with. Blocks."""
    rows = yield Statement(
        sql.SQL(
            "SELECT name, source::text, coalesce(target_table, source)::text AS target, columns, "
            "template, condition, chunk_tokens, chunk_overlap, chunker, "
            "model, dimensions, storage, index_kind, paused "
            "FROM qwen_embed.vectorizer ORDER BY name"
        )
    )
    return [
        VectorizerDefinition(
            **{**row, "columns": tuple(row["columns"]) if row["columns"] is not None else None}
        )
        for row in rows
    ]
