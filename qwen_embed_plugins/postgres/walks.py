"""Backfills and sweeps: walks over a table by key, in portions, that only append keys to the log.

Only the holder of a key's lease writes or deletes its vector. A sweep that deleted orphans itself
could remove the vector that a worker had just stored for a row inserted anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from psycopg import sql

from qwen_embed_plugins.postgres import _sql
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
        values = {"task": task["id"], "reached": rows[0]["reached"]}
        yield Statement(_sql.query("move_task"), values)
    else:
        yield Statement(_sql.query("end_task"), {"task": task["id"]})
    return "walked"


def _portion(vectorizer: Vectorizer, task: Row, portion: int) -> Flow[list[Row]]:
    if task["of_part"] and task["part_table"] is None:
        return []
    name, alias = (
        ("walk_source", "source") if task["kind"] == "backfill" else ("walk_target", "target")
    )
    # A partition has the columns of the whole by the same names.
    part = (
        {"source": sql.Identifier(task["part_schema"], task["part_table"])}
        if task["of_part"]
        else {}
    )
    after = vectorizer.after(alias, task["reached"])
    return (yield Statement(vectorizer.query(name, after=after, **part), {"limit": portion}))
