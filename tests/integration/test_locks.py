"""Other sessions' locks on our own tables: a worker waits its turn, it does not end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from qwen_embed_plugins.errors import ConfigurationError
from tests.integration.conftest import Database


def test_a_locked_lease_ends_neither_the_heartbeat_nor_the_worker(db: Database) -> None:
    db.create()
    db.rows("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 5) i")

    async def hold_the_lease(texts: Sequence[str]) -> None:
        with db.connect() as other:
            other.execute("SELECT token FROM qwen_embed.lease FOR UPDATE")
            await asyncio.sleep(1.5)  # beats fall in here, and wait at most half a second

    db.stub.during = hold_the_lease
    db.work(lease_seconds=1.5)
    db.in_step()


def test_a_service_survives_a_lock_on_its_log(db: Database) -> None:
    db.create(backfill=False)

    async def serve() -> None:
        stopping = asyncio.Event()
        service = asyncio.create_task(db.awork(once=False, stopping=stopping))
        with db.connect() as other:
            other.execute("LOCK TABLE qwen_embed.log_1")
            await asyncio.wait([service], timeout=2.0)
        db.rows("INSERT INTO docs VALUES (1, 'after the lock')")
        await _until(lambda: db.value("SELECT count(*) FROM docs_embedding") == 1, service)
        stopping.set()
        await service

    asyncio.run(serve())
    db.in_step()


def test_a_definition_under_change_does_not_end_a_worker_with_bad_news(db: Database) -> None:
    db.create()

    def refuse(model: str, dimensions: int) -> Any:
        raise ConfigurationError("no offer")

    with db.connect() as other:
        other.execute("SELECT FROM qwen_embed.vectorizer FOR UPDATE")
        summary = db.work(embedder_for=refuse)
    assert summary.waiting == {"docs": "no offer"}


async def _until(happened: Any, service: asyncio.Task[Any]) -> None:
    while not happened():
        assert not service.done(), "the service ended"
        await asyncio.sleep(0.05)
