"""What a claim, a finish and an idle look cost, however many rows wait and whatever vacuum may not
remove.

A worker's own transactions are timed, over the real flows, on an embedded Postgres with a stub for
the provider. The rows stand with the vector of their text already: all of a batch's life but the
request and the writing of vectors.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import psycopg

from qwen_embed_plugins import postgres
from qwen_embed_plugins.postgres import pipeline, session, tending
from qwen_embed_plugins.postgres.session import Session
from tests.benchmarks.measuring import say
from tests.integration.conftest import DIMENSIONS, MODEL, Database
from tests.postgres_servers import embedded_server

BATCH = 500
SIZES = (1_000, 100_000, 10_000_000)
WARM, BATCHES = 10, 200
"""So many go before, and so many are timed."""
FEWEST = (WARM + BATCHES + 2) * BATCH
"""Rows of the table where fewer wait, so that no row changes twice: versions of one key that vacuum
may not remove are all looked at, and that has nothing to do with how many keys wait."""
CHANGES = (
    "INSERT INTO qwen_embed.log_1 (op, k1) "
    "SELECT 'c', id FROM docs WHERE id BETWEEN %(first)s AND %(last)s"
)
IDLE_SECONDS = 10.0


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


async def drain(db: Database, rows: int) -> dict[str, float]:
    """Medians of a claim and of a finish, in milliseconds: of one worker, while as many rows come
    into the line as leave it."""
    Timed.noted.clear()
    stopping = asyncio.Event()
    starts = itertools.cycle(range(1, max(rows, FEWEST) + 1, BATCH))
    for _ in range(rows // BATCH):  # they wait from the beginning
        next(starts)
    with psycopg.connect(db.dsn, autocommit=True) as writer:

        def refill() -> None:
            start = next(starts)
            writer.execute(CHANGES, {"first": start, "last": start + BATCH - 1})

        def told(_: object) -> None:
            if len(milliseconds("_finish_flow")) >= WARM + BATCHES:
                stopping.set()
            else:
                filling.append(asyncio.get_running_loop().run_in_executor(None, refill))

        filling: list[asyncio.Future[None]] = []
        db.rows(CHANGES.replace("%(first)s", "1").replace("%(last)s", str(rows)))
        await db.awork(
            once=False, stopping=stopping, batch_size=BATCH, in_flight=1, on_progress=told
        )
        await asyncio.gather(*filling)
    return {
        "take": statistics.median(milliseconds("take")[WARM:]),
        "finish": statistics.median(milliseconds("_finish_flow")[WARM:]),
    }


async def idle(db: Database) -> dict[str, float]:
    """Transactions a second of a worker that has nothing to do, and what a look takes."""
    stopping = asyncio.Event()
    worker = asyncio.create_task(db.awork(once=False, stopping=stopping, poll_seconds=0.7))
    await asyncio.sleep(3.0)
    Timed.noted.clear()
    await asyncio.sleep(IDLE_SECONDS)
    figures = {
        "transactions": len(Timed.noted) / IDLE_SECONDS,
        "look": statistics.median(milliseconds("ask")),
    }
    stopping.set()
    await worker
    return figures


def fill(db: Database, rows: int) -> None:
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


def measure(rows: int) -> Iterator[dict[str, Any]]:
    with embedded_server(18) as server, server.database("template1") as name:
        db = Database(server.dsn(name))
        postgres.install(db.dsn)
        fill(db, max(rows, FEWEST))
        for held in (False, True):
            with held_snapshot(db.dsn) if held else nullcontext():
                figures = asyncio.run(drain(db, rows))
                db.rows("DELETE FROM qwen_embed.log_1")  # all that waits is dead rows now
                figures |= asyncio.run(idle(db))
            say(
                f"  {rows:>10,} rows wait, vacuum {'held back' if held else 'free     '}: "
                f"take {figures['take']:5.1f} ms, finish {figures['finish']:5.1f} ms; then idle: "
                f"{figures['transactions']:.2f} transactions a second, a look "
                f"{figures['look']:.2f} ms"
            )
            yield {"rows": rows, "held": held, **figures}
        db.conn.close()


def run() -> list[dict[str, Any]]:
    # The one seam: a worker's own transactions.
    for module in (pipeline, tending, session):
        setattr(module, "Session", Timed)  # noqa: B010  the type checker knows no such export
    say(f"a batch of {BATCH} rows: medians of {BATCHES} claims and finishes")
    return [figures for rows in SIZES for figures in measure(rows)]
