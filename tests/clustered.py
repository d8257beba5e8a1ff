"""Vectors that lie as embeddings do: around a common mean, in clusters; and tables full of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qwen_embed_plugins import postgres
from qwen_embed_plugins.postgres.vectors import BinaryArray, BinaryArrayDumper, vector_array

if TYPE_CHECKING:
    from qwen_embed_plugins.types import Matrix
    from tests.integration.conftest import Database

_ROWS_PER_CLUSTER = 67
_PORTION = 1000


def clustered(count: int, dimensions: int, *, seed: int) -> Matrix:
    """Unit rows (count, dimensions), 67 to a cluster: 20,000 are in 300."""
    random = np.random.default_rng(seed)
    clusters = 1 + count // _ROWS_PER_CLUSTER
    mean = 0.7 * random.standard_normal(dimensions, dtype=np.float32)
    centres = mean + random.standard_normal((clusters, dimensions), dtype=np.float32)
    noise = random.standard_normal((count, dimensions), dtype=np.float32)
    return _unit(centres[random.integers(0, clusters, count)] + 0.7 * noise)


def near(rows: Matrix, count: int, *, seed: int) -> Matrix:
    """Queries (count, d): each near one of the rows, and none of them."""
    random = np.random.default_rng(seed)
    chosen = rows[random.integers(0, len(rows), count)]
    size = 0.7 / np.sqrt(rows.shape[1])
    return _unit(chosen + size * random.standard_normal(chosen.shape, dtype=np.float32))


def _unit(vectors: Matrix) -> Matrix:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def nearest(rows: Matrix, queries: Matrix, k: int) -> list[set[int]]:
    """The keys (from 1) of the k rows nearest to each query, by plain arithmetic."""
    likeness = queries @ rows.T
    return [set((np.argpartition(-each, k)[:k] + 1).tolist()) for each in likeness]


def fill(db: Database, rows: Matrix, **options: object) -> None:
    """Make docs(id, body, language, rare) and its vectorizer `docs`, with these vectors, unindexed.

    language has 100 values; rare is true of none.
    """
    count, dimensions = rows.shape
    db.rows("ALTER TABLE docs ADD language int, ADD rare boolean DEFAULT false")
    db.rows(
        "INSERT INTO docs SELECT i, 'text ' || i, 0, mod(i, 100) FROM generate_series(1, %s) i",
        count,
    )
    postgres.create_vectorizer(
        db.dsn, "docs", columns=["body"], model="qwen3-embedding-8b", dimensions=dimensions,
        backfill=False, **options,  # type: ignore[arg-type]
    )  # fmt: skip
    storage = postgres.list_vectorizers(db.dsn)[0].storage
    db.conn.adapters.register_dumper(BinaryArray, BinaryArrayDumper)
    oid = db.value(f"SELECT '{storage}'::regtype::oid::int")
    for start in range(0, count, _PORTION):
        part = rows[start : start + _PORTION]
        db.rows(
            "INSERT INTO docs_embedding (id, text, embedding, content_hash, offer, space) "
            "SELECT %s + place, 'text ' || (%s + place), vector, '', 'stub', 'any' "
            f"FROM unnest(%s::{storage}[]) WITH ORDINALITY AS part(vector, place)",
            start,
            start,
            vector_array(part, storage=storage, type_oid=oid),  # type: ignore[arg-type]
        )
