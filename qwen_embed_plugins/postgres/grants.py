"""Rights of other roles: those that search, those that work, those that own a source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from psycopg import sql

from qwen_embed_plugins.postgres._flow import Flow, Statement

RoleKind = Literal["app", "worker", "owner"]


def grant(
    role: str, kind: RoleKind = "app", *, names: Sequence[str] | None = None
) -> Flow[tuple[str, ...]]:
    """Give a role the least that it needs. Blocks.

    An `app` searches and reads vectors and status; a `worker` takes work and writes vectors; an
    `owner` makes vectorizers of tables that it owns. `names` are the vectorizers; without them all
    that there are and all that come later. Gives a line for each right that this role could not
    give: whose it is, and the statement. Raises `DatabaseError` for an unknown role or name.
    """
    rows = yield _statement("grant_to", role, kind, names)
    return tuple(row["missing"] for row in rows)


def revoke(role: str, kind: RoleKind = "app", *, names: Sequence[str] | None = None) -> Flow[None]:
    """Take back what `grant` gave, but for SELECT on the sources. Blocks."""
    yield _statement("revoke_from", role, kind, names)


def _statement(function: str, role: str, kind: str, names: Sequence[str] | None) -> Statement:
    query = sql.SQL(
        "SELECT given AS missing FROM qwen_embed.{}(%(role)s, %(kind)s, %(names)s::text[]) AS given"
    ).format(sql.Identifier(function))
    values = {"role": role, "kind": kind, "names": list(names) if names is not None else None}
    return Statement(query, values)
