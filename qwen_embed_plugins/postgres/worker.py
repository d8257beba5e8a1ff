"""The worker as programs start it: awaited, or blocking with its signals."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Callable, Collection
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from qwen_embed_plugins.embedder import AsyncEmbedder
from qwen_embed_plugins.errors import ConfigurationError
from qwen_embed_plugins.plugins import Registry
from qwen_embed_plugins.postgres import connect
from qwen_embed_plugins.postgres.answers import EmbedsTexts
from qwen_embed_plugins.postgres.asking import EmbedderFactory
from qwen_embed_plugins.postgres.chunking import chunkings_from
from qwen_embed_plugins.postgres.finishing import WorkerProgress
from qwen_embed_plugins.postgres.metrics import served
from qwen_embed_plugins.postgres.pipeline import Pipeline, WorkerSummary
from qwen_embed_plugins.setup import SettingsLike

log = logging.getLogger(__name__)


def embedders_from(settings: SettingsLike, registry: Registry | None = None) -> EmbedderFactory:
    """Makes the embedder of whatever space a vectorizer has, from one set of settings."""

    def make(model: str, dimensions: int) -> EmbedsTexts:
        return AsyncEmbedder(settings, model=model, dimensions=dimensions, registry=registry)

    return make


async def arun_worker(
    target: str | psycopg.AsyncConnection[Any] | psycopg.Connection[Any] | None = None,
    *,
    once: bool = False,
    only: Collection[str] | None = None,
    settings: SettingsLike = None,
    embedder_for: EmbedderFactory | None = None,
    registry: Registry | None = None,
    batch_size: int = 1000,
    in_flight: int = 4,
    lease_seconds: float = 30.0,
    poll_seconds: float = 0.7,
    backfill_rows_per_second: float | None = None,
    on_progress: Callable[[WorkerProgress], None] | None = None,
    stopping: asyncio.Event | None = None,
    metrics_port: int | None = None,
    metrics_host: str = "127.0.0.1",
) -> WorkerSummary:
    """Keep the vectors of a database in step with their rows.

    With `once` it returns when nothing is left that can be done now; otherwise it runs until
    cancelled or until `stopping` is set, and survives restarts of the server. `only` names
    vectorizers. Texts go to the offers of `settings`, by default the discovered ones, or to what
    `embedder_for` makes; `registry` holds the plugins, by default the installed ones. `in_flight`
    batches of up to `batch_size` rows are under way for each vectorizer; a batch of a worker that
    dies is free again after `lease_seconds`. A backfill looks at no more than
    `backfill_rows_per_second`; live changes are not slowed. With `metrics_port` it serves metrics
    for Prometheus, by default to this machine alone. Raises `DatabaseError` if the server cannot be
    reached at the start or qwen_embed is not installed; with `once` also if the connection is lost.
    """
    address = _address_of(target)
    serving = (
        contextlib.nullcontext()
        if metrics_port is None
        else served(address, host=metrics_host, port=metrics_port)
    )
    with serving as metrics, connect.explained(address):
        worker = Pipeline(
            address=address,
            once=once,
            only=only,
            embedder_for=embedder_for or embedders_from(settings, registry),
            chunking_for=chunkings_from(settings, registry),
            batch_size=batch_size,
            in_flight=in_flight,
            lease_seconds=lease_seconds,
            poll_seconds=poll_seconds,
            on_progress=on_progress,
            stopping=stopping or asyncio.Event(),
            backfill_rows_per_second=backfill_rows_per_second,
            metrics=metrics,
        )
        return await worker.run()


def run_worker(
    target: str | psycopg.Connection[Any] | None = None, **options: Any
) -> WorkerSummary:
    """`arun_worker` for programs without an event loop: blocks until it returns.

    The first SIGTERM or SIGINT lets batches end or hands them back, within seconds; the second
    aborts. Raises `ConfigurationError` inside a running loop.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        if sys.platform == "win32":  # psycopg's async mode does not work on the default loop there
            asyncio.set_event_loop_policy(asyncio.WindowsSelectorEventLoopPolicy())
        return asyncio.run(_run_with_signals(target, options))
    raise ConfigurationError("run_worker blocks the running event loop: await arun_worker instead")


async def _run_with_signals(target: Any, options: dict[str, Any]) -> WorkerSummary:
    stopping = options.pop("stopping", None) or asyncio.Event()
    work = asyncio.ensure_future(arun_worker(target, stopping=stopping, **options))

    def stop() -> None:
        if stopping.is_set():
            work.cancel()
        else:
            log.info("worker is stopping, batches end or are handed back; a second signal aborts")
        stopping.set()

    # Windows loops and threads cannot take signals this way; there Ctrl-C ends asyncio.run itself.
    with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop)
    return await work


def _address_of(target: Any) -> str:
    if isinstance(target, (psycopg.Connection, psycopg.AsyncConnection)):
        info = target.info
        return make_conninfo("", **{**info.get_parameters(), "password": info.password or None})
    return connect.existing_address(target)
