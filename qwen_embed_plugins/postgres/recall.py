"""What an index is worth: its searches beside exact ones, on the user's own rows."""

from __future__ import annotations

import contextlib
import statistics
import time
from dataclasses import dataclass, field

from psycopg import errors as pg
from psycopg import sql

from qwen_embed_plugins.postgres import _sql, connect
from qwen_embed_plugins.postgres._flow import Flow, Row, Statement, arun, run
from qwen_embed_plugins.postgres.indexes import IndexSite, _require_autocommit, find_site

_PAGES_FROM_ROWS = 200_000
_SAMPLED_FOR_EACH = 40
"""Rows that are drawn from for each query: SYSTEM samples whole blocks of neighbouring rows."""
_SAME = 1e-6
"""Two equally near rows may stand in either order; float32 differs by less between two plans."""


@dataclass(frozen=True, slots=True)
class IndexFigures:
    """An index, and what `queries` searches through it gave beside exact ones.

    `index` and `size_bytes` are None while there is no finished index. `recall` is the share of the
    `k` nearest rows that were found, 1 at best; it and the medians of the times of one search are
    None if nothing could be measured: no rows, or not even one exact search within the time given.
    """

    name: str
    index_kind: str
    index: str | None
    size_bytes: int | None
    k: int
    queries: int
    recall: float | None
    index_seconds: float | None
    exact_seconds: float | None


@dataclass(slots=True)
class _Tally:
    found: int = 0
    wanted: int = 0
    by_index: list[float] = field(default_factory=list)
    exactly: list[float] = field(default_factory=list)

    def add(self, near: list[float], nearest: list[float]) -> None:
        # The nearest is the query itself.
        self.found += sum(distance <= nearest[-1] + _SAME for distance in near) - 1
        self.wanted += len(nearest) - 1


def measure_index(
    target: connect.Target, /, name: str, *, k: int = 10, queries: int = 50, seconds: float = 20.0
) -> IndexFigures:
    """Compare searches through a vectorizer's index with exact ones. Blocks.

    Up to `queries` vectors of the table, drawn at random, search for their `k` neighbours, one
    after another, for about `seconds` at most. What users ask may lie further from the rows than
    they from each other, so take it for a comparison of indexes. Raises `DatabaseError` for an
    unknown name, and `ConfigurationError` for a connection that is not in autocommit.
    """
    with connect.explained(target), connect.opened(target) as connection:
        _require_autocommit(connection.autocommit)
        return run(connection, _measure(name, k, queries, seconds))


async def ameasure_index(
    target: connect.AsyncTarget,
    /,
    name: str,
    *,
    k: int = 10,
    queries: int = 50,
    seconds: float = 20.0,
) -> IndexFigures:
    """As `measure_index`, awaiting."""
    with connect.explained(target):
        async with connect.aopened(target) as connection:
            _require_autocommit(connection.autocommit)
            return await arun(connection, _measure(name, k, queries, seconds))


def _measure(name: str, k: int, queries: int, seconds: float) -> Flow[IndexFigures]:
    site = yield from find_site(name)
    tally = _Tally()
    if site.standing is not None and queries > 0:
        before = yield Statement(sql.SQL("SELECT current_setting('statement_timeout') AS timeout"))
        # One exact search of a large table may take longer than all that was granted.
        with contextlib.suppress(pg.QueryCanceled):
            yield from _compare(site, tally, k, queries, time.perf_counter() + seconds)
        yield _limit(before[0]["timeout"])
    return IndexFigures(
        site.name,
        site.index_kind,
        site.standing,
        site.standing_bytes,
        k,
        len(tally.exactly),
        tally.found / tally.wanted if tally.wanted else None,
        statistics.median(tally.by_index) if tally.exactly else None,
        statistics.median(tally.exactly) if tally.exactly else None,
    )


def _compare(site: IndexSite, tally: _Tally, k: int, queries: int, end: float) -> Flow[None]:
    for vector in (yield from _sample(site, queries)):
        values = {"vectorizer": site.id, "vector": vector, "k": k + 1}
        left = int(1000 * (end - time.perf_counter()))
        if left <= 0:
            return
        yield _limit(f"{left}ms")
        near, by_index = yield from _timed(site, {**values, "exact": False})
        nearest, exactly = yield from _timed(site, {**values, "exact": True})
        if nearest:
            tally.add(near, nearest)
            tally.by_index.append(by_index)
            tally.exactly.append(exactly)


def _timed(site: IndexSite, values: Row) -> Flow[tuple[list[float], float]]:
    query = _sql.query("search_distances").format(vector=_vector(site))
    began = time.perf_counter()
    rows = yield Statement(query, values)
    return [row["distance"] for row in rows], time.perf_counter() - began


def _sample(site: IndexSite, count: int) -> Flow[list[str]]:
    rows = max(1.0, site.estimated_rows if site.rows and site.rows > 0 else 1.0)
    query = _sql.query("sample_vectors").format(
        vector=_vector(site),
        table=sql.Identifier(site.schema or "", site.table or ""),
        # Whole pages of a small table may be none at all.
        method=sql.SQL("SYSTEM" if rows > _PAGES_FROM_ROWS else "BERNOULLI"),
        percent=sql.Literal(min(100.0, 100.0 * count * _SAMPLED_FOR_EACH / rows)),
    )
    return [row["vector"] for row in (yield Statement(query, {"count": count}))]


def _vector(site: IndexSite) -> sql.Composed:
    return sql.SQL("{}.vector").format(sql.SQL(site.vector_schema.replace("%", "%%")))


def _limit(timeout: str) -> Statement:
    return Statement(
        sql.SQL("SELECT set_config('statement_timeout', %(timeout)s, false)"), {"timeout": timeout}
    )
