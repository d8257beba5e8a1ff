"""The bytes that `docs/scale.md` reckons with are those of a real side table and its indexes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qwen_embed_plugins import postgres
from tests.benchmarks.scale import LOG_BYTES, STORED, Stored
from tests.integration.conftest import Stub

if TYPE_CHECKING:
    from tests.integration.conftest import Database

ROWS = 1_000
MODELS = {1024: "qwen3-embedding-0.6b", 2560: "qwen3-embedding-4b", 4096: "qwen3-embedding-8b"}
INDEXED = {
    "hnsw": "(embedding {storage}_cosine_ops)",
    "prefix": "((subvector(embedding, 1, 1024)::halfvec(1024)) halfvec_cosine_ops)",
    "binary": "((binary_quantize(embedding)::bit({dimensions})) bit_hamming_ops)",
}


@pytest.mark.parametrize("stored", STORED, ids=lambda of: f"{of.storage}-{of.dimensions}")
def test_a_row_takes_the_bytes_that_are_told(db: Database, stored: Stored) -> None:
    fill(db, stored)
    [(log,)] = db.rows("SELECT pg_table_size('qwen_embed.log_1')")
    [(before,)] = db.rows("SELECT pg_current_wal_insert_lsn()::text")
    db.work()
    wal = db.value("SELECT pg_current_wal_insert_lsn() - %s::pg_lsn", before)
    table = db.value("SELECT pg_total_relation_size('papers_embedding')")
    assert table / ROWS == pytest.approx(stored.table, rel=0.05)
    assert log / ROWS == pytest.approx(LOG_BYTES, rel=0.25)  # empty pages weigh on few rows
    # The WAL is the server's: others may write, and after a checkpoint it holds whole pages.
    assert 0.9 * stored.wal < wal / ROWS < 1.5 * stored.wal


@pytest.mark.parametrize("stored", STORED, ids=lambda of: f"{of.storage}-{of.dimensions}")
def test_a_row_takes_the_bytes_of_an_index_that_are_told(db: Database, stored: Stored) -> None:
    fill(db, stored)
    db.work()
    for kind, size in stored.index.items():
        what = INDEXED[kind].format(storage=stored.storage, dimensions=stored.dimensions)
        db.rows(f"CREATE INDEX found ON papers_embedding USING hnsw {what}")
        assert db.value("SELECT pg_relation_size('found')") / ROWS == pytest.approx(size, rel=0.05)
        db.rows("DROP INDEX found")


def fill(db: Database, stored: Stored) -> None:
    """Rows with texts of about 800 bytes, all of them waiting."""
    model = MODELS[stored.dimensions]
    db.stub = Stub(model, stored.dimensions)
    db.rows("CREATE TABLE papers (id bigint PRIMARY KEY, body text)")
    postgres.create_vectorizer(
        db.dsn,
        "papers",
        columns=["body"],
        model=model,
        dimensions=stored.dimensions,
        storage=stored.storage,
        index_kind="none",
        backfill=False,
    )
    # Digits in no order, since what compresses well is stored compressed.
    db.rows(
        "INSERT INTO papers SELECT i, (SELECT string_agg(md5(i || ' ' || j), ' ') "
        f"FROM generate_series(1, 24) j) FROM generate_series(1, {ROWS}) i"
    )
