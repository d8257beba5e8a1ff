"""What is around a vectorizer: the server, its pgvector, what of ours is in the database."""

from __future__ import annotations

import re
from dataclasses import dataclass

from qwen_embed_plugins.postgres import _sql
from qwen_embed_plugins.postgres._flow import Flow, Statement, blocking
from qwen_embed_plugins.postgres.indexes import IndexSite, find_site
from qwen_embed_plugins.postgres.schema import require_schema

OLDEST_SERVER = 150000
OLDEST_VECTOR = (0, 8)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """One server and database as a role sees it. `vector` is the version of pgvector in the
    database, `vector_at_hand` the one that the server could put there; None where there is none."""

    version: str
    number: int
    role: str
    database: str
    vector: str | None
    vector_at_hand: str | None
    installed: bool

    @property
    def server_is_too_old(self) -> bool:
        return self.number < OLDEST_SERVER

    @property
    def vector_is_too_old(self) -> bool:
        """Whether the pgvector that is in the database lacks what we need."""
        return self.vector is not None and not _is_enough(self.vector)

    @property
    def vector_can_be_updated(self) -> bool:
        """Whether the server has one at hand that would do."""
        return self.vector_at_hand is not None and _is_enough(self.vector_at_hand)


def _is_enough(version: str) -> bool:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2]) >= OLDEST_VECTOR


def _look_around() -> Flow[Surroundings]:
    rows = yield Statement(_sql.query("surroundings"))
    return Surroundings(**rows[0])


look_around = blocking(_look_around)
"""The surroundings at an address or of a connection. Blocks; raises `DatabaseError`."""

check_schema = blocking(require_schema)
"""Raise `DatabaseError` unless this package may work on the schema there. Blocks."""

site_of_index = blocking(find_site)
"""Where the index of a vectorizer is, or is to be: an `IndexSite`. Blocks; raises for an unknown
name."""

__all__ = ["IndexSite", "Surroundings", "check_schema", "look_around", "site_of_index"]
