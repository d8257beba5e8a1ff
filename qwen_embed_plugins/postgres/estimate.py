"""How much a backfill or a move would have to embed, from a sample of the user's own rows."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from psycopg import sql

from qwen_embed_plugins.errors import DatabaseError
from qwen_embed_plugins.postgres._flow import Flow, Row, Statement
from qwen_embed_plugins.postgres.definition import Vectorizer, named
from qwen_embed_plugins.postgres.queue import content_hash
from qwen_embed_plugins.tokens import estimate_tokens

if TYPE_CHECKING:
    from qwen_embed_plugins.tokens import TokenCounter

_SAMPLE_ROWS = 2000
_COUNTED_ROWS = 50_000
"""Up to so many rows are counted; of more, the planner's idea is taken."""
_PAGES_FROM_ROWS = 200_000
"""From so many rows on whole pages are sampled, since choosing rows one by one reads them all."""


@dataclass(frozen=True, slots=True)
class BackfillEstimate:
    """What is to be embedded of `rows`: `texts` (chunks, where they are split) of `tokens` in all.

    Taken from `sample`, texts of `sampled` rows, unless these are all rows there are (`is_exact`;
    even then tokens are estimated).
    """

    name: str
    rows: int
    texts: int
    tokens: int
    sampled: int
    sample: tuple[str, ...]
    is_exact: bool


def estimate_backfill(
    name: str, *, everything: bool = False, count_tokens: TokenCounter = estimate_tokens
) -> Flow[BackfillEstimate]:
    """Estimate what a backfill would embed: texts without a vector or with another text's. Blocks.

    `everything` counts each row with a text, as a move to another space does. Reads at most some
    thousands of rows, and counts tables that are not large. Raises `DatabaseError` for an unknown
    name or without the right to see every row.
    """
    vectorizer = yield from named(name)
    if not vectorizer.workable:
        raise DatabaseError(vectorizer.problem or f"the tables of {name} are missing")
    # As workers do: hidden rows would make the estimate too low, so they are an error.
    yield Statement(sql.SQL("SET LOCAL row_security = off"))
    rows, is_counted = yield from _row_count(vectorizer)
    sampled = yield from _sampled_rows(vectorizer, rows)
    wanted = [row["content"] for row in sampled if _needs_a_vector(row, vectorizer, everything)]
    is_exact = is_counted and len(sampled) == rows
    factor = 1.0 if is_exact else rows / max(1, len(sampled))
    tokens = sum(map(count_tokens, wanted))
    return BackfillEstimate(
        vectorizer.name,
        rows=rows,
        texts=ceil(sum(_pieces(text, vectorizer, count_tokens) for text in wanted) * factor),
        tokens=ceil(tokens * factor),
        sampled=len(sampled),
        sample=tuple(wanted),
        is_exact=is_exact,
    )


def _needs_a_vector(row: Row, vectorizer: Vectorizer, everything: bool) -> bool:
    content: str | None = row["content"]
    if content is None or not content.strip():
        return False
    stands = row["content_hash"] == content_hash(content) and row["space"] == vectorizer.space
    return everything or not stands


def _pieces(text: str, vectorizer: Vectorizer, count_tokens: TokenCounter) -> int:
    if vectorizer.chunk_tokens is None:
        return 1
    step = vectorizer.chunk_tokens - (vectorizer.chunk_overlap or 0)
    return max(1, ceil(count_tokens(text) / step))


def _row_count(vectorizer: Vectorizer) -> Flow[tuple[int, bool]]:
    about = (yield Statement(vectorizer.query("rows_about")))[0]["rows"]
    if about > _COUNTED_ROWS:
        return int(about), False
    query = vectorizer.query("count_rows")
    counted = (yield Statement(query, {"limit": _COUNTED_ROWS + 1}))[0]["rows"]
    if counted <= _COUNTED_ROWS:
        return int(counted), True
    # It grew since the planner looked at it, or was never looked at: by its size, then.
    by_size = (yield Statement(vectorizer.query("rows_by_size")))[0]["rows"]
    return max(int(counted), int(by_size)), False


def _sampled_rows(vectorizer: Vectorizer, rows: int) -> Flow[list[Row]]:
    percent = min(100.0, 100.0 * _SAMPLE_ROWS / max(1, rows))
    method = "SYSTEM" if rows > _PAGES_FROM_ROWS else "BERNOULLI"
    query = vectorizer.query("sample_rows", method=sql.SQL(method), percent=sql.Literal(percent))
    return (yield Statement(query, {"limit": 4 * _SAMPLE_ROWS}))
