"""What `--metrics-port` serves: a worker's own counts, and the state of the database.

`prometheus_client` writes the format and serves it: 64 kB of plain Python without dependencies. The
database is asked once for each scrape, on a connection of its own, and not at all between them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg

from qwen_embed_plugins.errors import ConfigurationError, QwenEmbedError
from qwen_embed_plugins.postgres import connect, vectorizers
from qwen_embed_plugins.postgres._flow import run

if TYPE_CHECKING:
    from prometheus_client import Histogram
    from prometheus_client.metrics_core import Metric

    from qwen_embed_plugins.postgres.lanes import Lane

log = logging.getLogger("qwen_embed_plugins.postgres.worker")

_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_ASKING_MS = 5000
_CONNECTING_SECONDS = 3

_STATE = "qwen_embed_state"
_GAUGES = {
    "pending": ("qwen_embed_pending_rows", "Recorded changes that no worker holds"),
    "leased": ("qwen_embed_leased_rows", "Changed rows that a worker holds"),
    "dead": ("qwen_embed_dead_rows", "Rows whose text was refused for good"),
    "lag": ("qwen_embed_lag_seconds", "Age of the oldest change whose row is not in step"),
    "to_walk": ("qwen_embed_to_walk_rows", "About how many rows a backfill has yet to reach"),
    "workers": ("qwen_embed_workers", "Workers that run and serve it"),
}
_COUNTERS = {
    "rows": ("qwen_embed_worker_rows", "Rows that this worker brought in step"),
    "embedded": ("qwen_embed_worker_vectors", "Vectors that this worker had made and stored"),
    "dead": ("qwen_embed_worker_dead_rows", "Texts that were refused for good here"),
    "lost": ("qwen_embed_worker_lost_answers", "Answers dropped, since their lease was gone"),
    "tokens": ("qwen_embed_worker_tokens", "Tokens that providers counted for this worker"),
    "cost": ("qwen_embed_worker_cost_usd", "What this worker spent, in US dollars"),
}


class Metrics:
    """One worker's metrics. The pipeline tells of batches; the rest is looked up at a scrape."""

    def __init__(self, address: str) -> None:
        from prometheus_client import CollectorRegistry, Counter
        from prometheus_client import Histogram as NewHistogram

        self.lanes: Callable[[], Sequence[Lane]] = tuple
        self.registry = CollectorRegistry()
        self._address = address
        self._batches: Histogram = NewHistogram(
            "qwen_embed_batch_seconds",
            "From a batch's texts read to its vectors stored",
            ["vectorizer"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._leases_lost = Counter(
            "qwen_embed_leases_lost",
            "Batches that another worker took over meanwhile",
            ["vectorizer"],
            registry=self.registry,
        )
        self.registry.register(self)

    def batch_ended(self, name: str, seconds: float) -> None:
        """A batch took so long, from its texts read to its vectors stored."""
        self._batches.labels(name).observe(seconds)

    def lease_lost(self, name: str) -> None:
        """A batch's answer came too late."""
        self._leases_lost.labels(name).inc()

    def describe(self) -> Iterable[Metric]:
        """None in advance: registering must not ask the database."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """What a scrape reads, in a thread of the server's."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        lanes = list(self.lanes())
        for field, (name, says) in _COUNTERS.items():
            counter = CounterMetricFamily(name, says, labels=["vectorizer"])
            for lane in lanes:
                counter.add_metric([lane.vectorizer.name], float(getattr(lane.counts, field)))
            yield counter
        found = self._ask()
        up = float(found is not None)
        yield GaugeMetricFamily("qwen_embed_database_up", "Whether the database answered", value=up)
        yield from _gauges(found or [])

    def _ask(self) -> list[dict[str, Any]] | None:
        """Status and progress of each vectorizer; None if the server does not answer soon."""
        try:
            with (
                psycopg.connect(
                    self._address, autocommit=True, connect_timeout=_CONNECTING_SECONDS
                ) as connection,
                connection.transaction(),
            ):
                connection.execute(f"SET LOCAL statement_timeout = {_ASKING_MS}")
                states = run(connection, vectorizers.status())
                progress = {item.name: item for item in run(connection, vectorizers.progress())}
        except (psycopg.Error, QwenEmbedError) as error:
            reason = connect.explain(error) if isinstance(error, psycopg.Error) else str(error)
            log.info("metrics without the database", extra={"reason": reason})
            return None
        return [_figures(state, progress.get(state.name)) for state in states]


def _figures(
    state: vectorizers.VectorizerStatus, progress: vectorizers.VectorizerProgress | None
) -> dict[str, Any]:
    return {
        "name": state.name,
        "state": state.state,
        "pending": state.pending,
        "leased": state.leased,
        "dead": state.dead,
        "lag": state.lag.total_seconds() if state.lag is not None else 0.0,
        "to_walk": progress.to_walk if progress else 0,
        "workers": progress.workers if progress else 0,
    }


def _gauges(found: Sequence[dict[str, Any]]) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    for field, (name, says) in _GAUGES.items():
        gauge = GaugeMetricFamily(name, says, labels=["vectorizer"])
        for row in found:
            gauge.add_metric([row["name"]], float(row[field]))
        yield gauge
    state = GaugeMetricFamily(_STATE, "1 for the state it is in", labels=["vectorizer", "state"])
    for row in found:
        state.add_metric([row["name"], row["state"]], 1.0)
    yield state


@contextmanager
def served(address: str, *, host: str, port: int) -> Iterator[Metrics]:
    """Serve a worker's metrics meanwhile. Raises `ConfigurationError` if the port is taken."""
    try:
        from prometheus_client import start_http_server
    except ImportError as missing:
        raise ConfigurationError(
            "metrics need prometheus_client: pip install 'qwen-embed-plugins[postgres]'"
        ) from missing
    metrics = Metrics(address)
    try:
        server, thread = start_http_server(port, host, registry=metrics.registry)
    except OSError as error:
        raise ConfigurationError(
            f"metrics cannot be served on {host}, port {port}: {error.strerror or error}. "
            "Choose another port or host."
        ) from error
    log.info("metrics are served", extra={"host": host, "port": server.server_port})
    try:
        yield metrics
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
