"""Backfills and sweeps: walks over a table by key, in portions, that only append keys to the log.

Only the holder of a key's lease writes or deletes its vector. A sweep that deleted orphans itself
could remove the vector that a worker had just stored for a row inserted anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import psycopg
from psycopg import sql

from qwen_embed_plugins.postgres import _sql, blame
from qwen_embed_plugins.postgres._flow import Flow, Row, Statement

if TYPE_CHECKING:
    from qwen_embed_plugins.postgres.definition import Vectorizer

Progress = Literal["nothing", "full", "walked"]
"""nothing: no walk, or another worker is at it; full: the log is long, live changes go first."""


def walk(vectorizer: Vectorizer, *, portion: int, longest_log: int) -> Flow[Progress]:
    """One portion of the oldest walk of a vectorizer, where the log has room for it."""
    tasks = yield Statement(_sql.query("next_task"), {"vectorizer": vectorizer.id})
    if not tasks:
        return "nothing"
    short = yield Statement(vectorizer.query("log_is_short"), {"limit": longest_log})
    if not next(iter(short[0].values())):
        return "full"
    task = tasks[0]
    if task["kind"] == "orphans" and task["reached"] is None:
        yield Statement(vectorizer.query("walk_dead"))
    rows = yield from _portion(vectorizer, task, portion)
    if rows and rows[0]["walked"] == portion:
        values = {"task": task["id"], "reached": rows[0]["reached"], "walked": portion}
        yield Statement(_sql.query("move_task"), values)
    else:
        yield Statement(_sql.query("end_task"), {"task": task["id"]})
    return "walked"


def _portion(vectorizer: Vectorizer, task: Row, portion: int) -> Flow[list[Row]]:
    if task["of_part"] and task["part_table"] is None:
        return []
    alias = "source" if task["kind"] == "backfill" else "target"
    # A partition has the columns of the whole by the same names.
    part = (
        {"source": sql.Identifier(task["part_schema"], task["part_table"])}
        if task["of_part"]
        else {}
    )
    after, limit = vectorizer.after(alias, task["reached"]), {"limit": portion}
    query = vectorizer.query(f"walk_{alias}", after=after, **part)
    rows = yield from blame.tried(Statement(query, limit))
    if isinstance(rows, psycopg.Error):
        if alias == "target":
            raise rows
        # A text of this portion cannot be computed. Whoever reads its rows finds out which.
        query = vectorizer.query("walk_source_unread", after=after, **part)
        rows = yield Statement(query, limit)
    return rows
