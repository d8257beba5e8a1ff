"""The worker's metrics, read as Prometheus reads them; and its log, one object a line."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import httpx
import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from qwen_embed_plugins.errors import ConfigurationError
from qwen_embed_plugins.postgres import connect
from tests.integration.test_progress import until

if TYPE_CHECKING:
    from tests.integration.conftest import Database

Samples = dict[tuple[str, tuple[str, ...]], float]
WORKER_LOG = "qwen_embed_plugins.postgres.worker"


async def scraped(port: int, host: str = "127.0.0.1") -> Samples:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"http://{host}:{port}/metrics")
    assert answer.status_code == 200
    samples: Samples = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            labels = sorted(sample.labels.items())
            samples[sample.name, tuple(value for _, value in labels)] = sample.value
    return samples


def serve(
    db: Database,
    caplog: pytest.LogCaptureFixture,
    play: Callable[[int], Awaitable[None]],
    **options: Any,
) -> None:
    """Run a worker with metrics on a free port, and `play` beside it."""
    caplog.set_level(logging.INFO, WORKER_LOG)

    async def run() -> None:
        stopping = asyncio.Event()
        worker = asyncio.create_task(
            db.awork(once=False, stopping=stopping, metrics_port=0, **options)
        )
        while not (ports := [r.port for r in caplog.records if hasattr(r, "port")]):
            await asyncio.sleep(0.02)
            assert not worker.done()
        try:
            await play(ports[0])
        finally:
            stopping.set()
            await worker
        with pytest.raises(httpx.ConnectError):
            await scraped(ports[0])

    asyncio.run(asyncio.wait_for(run(), 60))


def test_what_is_counted(db: Database, caplog: pytest.LogCaptureFixture) -> None:
    db.create(name='odd "name"\\', backfill=False)
    db.create(name="other", target_name="other", backfill=False)
    db.rows("INSERT INTO docs VALUES (1, 'one'), (2, 'two'), (3, 'bad')")
    db.stub.refuse = lambda text: ("bad_input", "no") if text == "bad" else None
    odd = ('odd "name"\\',)

    async def play(port: int) -> None:
        await until(db, "(SELECT sum(pending + leased) FROM qwen_embed.status) = 0")
        db.rows("SELECT qwen_embed.pause('other')")
        await asyncio.sleep(2.5)  # the worker reads the definitions every two seconds
        db.rows("INSERT INTO docs VALUES (4, 'four')")
        await until(db, "(SELECT count(*) FROM docs_embedding) = 3")
        found = await scraped(port)
        assert found["qwen_embed_database_up", ()] == 1
        assert found["qwen_embed_worker_rows_total", odd] == 4
        assert found["qwen_embed_worker_vectors_total", odd] == 3
        assert found["qwen_embed_worker_dead_rows_total", odd] == 1
        assert found["qwen_embed_worker_tokens_total", odd] == 0, "the stub counts none"
        assert found["qwen_embed_worker_cost_usd_total", odd] == 0
        assert found["qwen_embed_batch_seconds_count", odd] >= 2
        assert found["qwen_embed_dead_rows", odd] == 1
        assert found["qwen_embed_pending_rows", odd] == 0
        assert found["qwen_embed_lag_seconds", odd] == 0
        assert found["qwen_embed_pending_rows", ("other",)] == 1
        assert found["qwen_embed_lag_seconds", ("other",)] > 0
        assert found["qwen_embed_state", ("paused", "other")] == 1
        assert found["qwen_embed_workers", odd] == 1

    serve(db, caplog, play)


def test_a_lost_lease_is_counted(db: Database, caplog: pytest.LogCaptureFixture) -> None:
    db.create(backfill=False)
    db.rows("INSERT INTO docs VALUES (1, 'one')")

    async def during(_: Sequence[str]) -> None:
        if db.stub.calls == 1:
            db.rows("DELETE FROM qwen_embed.lease")
            db.rows(
                "UPDATE qwen_embed.work_1 SET token = NULL, dirty = false WHERE token IS NOT NULL"
            )

    db.stub.during = during

    async def play(port: int) -> None:
        await until(db, "(SELECT count(*) FROM docs_embedding) = 1")
        found = await scraped(port)
        assert found["qwen_embed_leases_lost_total", ("docs",)] == 1
        assert found["qwen_embed_worker_lost_answers_total", ("docs",)] == 1

    serve(db, caplog, play)


def test_without_the_database_the_worker_s_own_counts_are_served(
    db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    db.create(backfill=False)
    db.rows("INSERT INTO docs VALUES (1, 'one')")
    name = db.value("SELECT current_database()")

    async def play(port: int) -> None:
        await until(db, "(SELECT count(*) FROM docs_embedding) = 1")
        with db.connect(dbname="postgres", autocommit=True) as admin:
            admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            try:
                found = await scraped(port)
            finally:
                admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        assert found["qwen_embed_database_up", ()] == 0
        assert found["qwen_embed_worker_rows_total", ("docs",)] == 1
        assert ("qwen_embed_pending_rows", ("docs",)) not in found

    serve(db, caplog, play)


def test_metrics_are_for_this_machine_unless_told(db: Database) -> None:
    from qwen_embed_plugins.postgres.metrics import served

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(ConfigurationError, match=f"port {port}"),
            served(db.dsn, host="127.0.0.1", port=port),
        ):
            pass
    with served(db.dsn, host="127.0.0.1", port=0) as metrics:
        assert metrics.registry is not None


def test_a_worker_s_reason_quotes_no_value(db: Database) -> None:
    with pytest.raises(psycopg.DataError) as caught:
        db.rows("SELECT %s::text::int", "a whole secret text")
    said = connect.explain_to_worker(caught.value)
    assert "secret" not in said
    assert said == "InvalidTextRepresentation: invalid input syntax for type integer"
