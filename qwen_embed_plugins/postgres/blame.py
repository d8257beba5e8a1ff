"""Which errors of the server are one row's own fault, and how to find that row.

A statement over many rows fails as a whole. It runs under a savepoint, and what a row may be to
blame for is taken apart by halves until the row is alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import psycopg
from psycopg import sql

from qwen_embed_plugins.errors import without_secrets
from qwen_embed_plugins.postgres._flow import Flow, Row, Statement

T = TypeVar("T")

# Data exceptions and limits: no other row, and no change of a table's definition, is concerned.
_OF_THE_ROW = {"22", "54"}
# Constraints, triggers and functions of the user: a row's fault where other rows pass.
_PERHAPS_OF_THE_ROW = {"21", "23", "2F", "38", "39", "P0"}


def is_of_a_row(error: psycopg.Error) -> bool:
    """Whether a row may be to blame for it."""
    return _class(error) in _OF_THE_ROW | _PERHAPS_OF_THE_ROW


def is_surely_of_the_row(error: psycopg.Error) -> bool:
    """Whether a row is to blame for it even if all rows fail alike."""
    return _class(error) in _OF_THE_ROW


def _class(error: psycopg.Error) -> str:
    return (error.sqlstate or "")[:2]


def reason(error: psycopg.Error) -> str:
    """What is wrong, in one line, without the values that a message of the server may quote."""
    name, said = type(error).__name__, error.diag.message_primary or ""
    said = said.splitlines()[0] if said else ""
    if _class(error) == "22":
        # They quote the value itself: `invalid input syntax for type integer: "…"`.
        said = said.split('"')[0].strip(" :")
    elif _class(error) not in {"23", "54"}:
        said = ""
    return without_secrets(f"{name}: {said}" if said else name)


def tried(statement: Statement) -> Flow[list[Row] | psycopg.Error]:
    """The rows of a statement, or the error that a row may be to blame for; the transaction goes
    on in either case. Raises other errors."""
    yield Statement(sql.SQL("SAVEPOINT tried"))
    try:
        rows = yield statement
    except psycopg.Error as error:
        if not is_of_a_row(error):
            raise
        yield Statement(sql.SQL("ROLLBACK TO SAVEPOINT tried; RELEASE SAVEPOINT tried"))
        return error
    yield Statement(sql.SQL("RELEASE SAVEPOINT tried"))
    return rows


def apart(
    parts: Sequence[T], attempt: Callable[[Sequence[T]], Flow[psycopg.Error | None]]
) -> Flow[dict[T, psycopg.Error]]:
    """Attempt all parts at once; where that fails, each half on its own. Gives those that fail
    alone, with their errors."""
    error = (yield from attempt(parts)) if parts else None
    if error is None:
        return {}
    if len(parts) == 1:
        return {parts[0]: error}
    middle = len(parts) // 2
    first = yield from apart(parts[:middle], attempt)
    return {**first, **(yield from apart(parts[middle:], attempt))}
