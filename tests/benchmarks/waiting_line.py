"""What a claim, a finish and an idle look cost, however many rows wait and whatever vacuum may not
remove: `python -m tests.benchmarks.waiting_line [--rows N]`.

A worker's own transactions are timed, over the real flows, on an embedded Postgres with a stub for
the provider. Prints medians; asserts nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from qwen_embed_plugins import postgres
from qwen_embed_plugins.postgres import pipeline, tending
from qwen_embed_plugins.postgres.session import Session
from tests.integration.conftest import DIMENSIONS, MODEL, Database
from tests.postgres_servers import embedded_server

BATCH = 500


class Timed(Session):
    """A worker's session that notes how long each of its transactions took."""

    noted: list[tuple[str, float]] = []  # noqa: RUF012  one run at a time, in one process

    async def transact(self, flow: Any) -> Any:
        with noting(flow.__name__):
            return await super().transact(flow)

    async def ask(self, question: Any) -> Any:
        with noting("ask"):
            return await super().ask(question)


@contextmanager
def noting(what: str) -> Iterator[None]:
    began = time.perf_counter()
    try:
        yield
    finally:
        Timed.noted.append((what, (time.perf_counter() - began) * 1000))


def milliseconds(*kinds: str) -> list[float]:
    return [taken for kind, taken in Timed.noted if kind in kinds]


@contextmanager
def held_snapshot(dsn: str) -> Iterator[None]:
    """Another session whose old snapshot keeps vacuum from removing anything."""
    with psycopg.connect(dsn) as reader:
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        reader.execute("SELECT 1")
        yield


def tenths(figures: list[float]) -> str:
    size = max(1, len(figures) // 10)
    first, last = figures[:size], figures[-size:]
    return (
        f"first tenth {statistics.median(first):6.1f} ms, last tenth "
        f"{statistics.median(last):6.1f} ms, worst {max(figures):6.1f} ms"
    )


def drain(db: Database, rows: int) -> None:
    """Rows that stand already with the vector of their text: all but the request and the write."""
    Timed.noted.clear()
    began = time.perf_counter()
    summary = db.work(batch_size=BATCH, in_flight=1)
    seconds = time.perf_counter() - began
    assert summary.equal == rows
    say(f"  take: {tenths(milliseconds('take'))}")
    say(f"  finish: {tenths(milliseconds('_finish_flow'))}; {rows / seconds:,.0f} rows/s in all")


def idle(db: Database, seconds: float) -> None:
    async def run() -> None:
        stopping = asyncio.Event()
        worker = asyncio.create_task(db.awork(once=False, stopping=stopping, poll_seconds=0.7))
        await asyncio.sleep(3.0)
        Timed.noted.clear()
        await asyncio.sleep(seconds)
        looks = milliseconds("ask")
        say(
            f"  idle: {len(Timed.noted) / seconds:.2f} transactions a second; a look "
            f"{statistics.median(looks):.2f} ms, worst {max(looks):.1f} ms"
        )
        stopping.set()
        await worker

    asyncio.run(run())


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def run(rows: int, *, held: bool) -> None:
    with embedded_server(18) as server, server.database("template1") as name:
        db = Database(server.dsn(name))
        postgres.install(db.dsn)
        db.rows("CREATE TABLE docs (id int PRIMARY KEY, body text, other int DEFAULT 0)")
        db.rows(f"INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, {rows}) i")
        db.create(backfill=False)
        db.rows(
            "INSERT INTO docs_embedding (id, text, embedding, content_hash, offer, space) "
            f"SELECT id, body, array_fill(1, '{{{DIMENSIONS}}}')::vector, "
            "sha256(convert_to(body, 'UTF8')), 'stub', %s FROM docs",
            f"{MODEL}/{DIMENSIONS}",
        )
        db.rows("VACUUM ANALYZE docs, docs_embedding")
        db.rows("INSERT INTO qwen_embed.log_1 (op, k1) SELECT 'c', id FROM docs")
        say(f"{rows:,} rows wait, vacuum {'held back' if held else 'free'}:")
        if held:
            with held_snapshot(db.dsn):
                drain(db, rows)
                idle(db, 15.0)
        else:
            drain(db, rows)
            idle(db, 15.0)
        db.conn.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    arguments = parser.parse_args()
    # The one seam: a worker's own transactions.
    for module in (pipeline, tending):
        setattr(module, "Session", Timed)  # noqa: B010  the type checker knows no such export
    for rows in (1_000, arguments.rows):
        for held in (False, True):
            run(rows, held=held)


if __name__ == "__main__":
    main()
