"""What a server has done: for the line that it ends with, and for Prometheus."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from qwen_embed_plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from qwen_embed_plugins.events import Event
    from qwen_embed_plugins.types import EmbedResult

ANSWERED, GONE = 200, 499
"""Statuses: with vectors; of a client that left before its answer, as nginx writes it down."""

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


@dataclass(eq=False, slots=True)
class Counts:
    """Requests for embeddings by status, and what they took. `attempts` are requests to offers,
    by offer and kind of fault ("" for none). Sees attempts as an observing plugin."""

    statuses: Counter[int] = field(default_factory=Counter)
    texts: int = 0
    tokens: int = 0
    cost: Decimal = Decimal(0)
    attempts: Counter[tuple[str, str]] = field(default_factory=Counter)
    since: float = field(default_factory=time.monotonic)

    @property
    def answered(self) -> int:
        """How many got their vectors."""
        return self.statuses[ANSWERED]

    @property
    def gone(self) -> int:
        """How many clients left before their answer."""
        return self.statuses[GONE]

    @property
    def refused(self) -> int:
        """How many were told why they get none."""
        return self.statuses.total() - self.answered - self.gone

    @property
    def seconds(self) -> float:
        """Since the server began."""
        return time.monotonic() - self.since

    def pay(self, result: EmbedResult) -> None:
        """Add what a call embedded and cost."""
        self.texts += result.usage.texts
        self.tokens += result.usage.tokens
        self.cost += result.cost

    @hookimpl
    def observe(self, event: Event) -> None:
        """Count a request to an offer."""
        from qwen_embed_plugins.events import AttemptFinished

        if isinstance(event, AttemptFinished):
            self.attempts[event.offer, event.fault or ""] += 1


class Metrics:
    """The counts in Prometheus's words; `under_way` and `joined` are asked at each scrape."""

    def __init__(
        self, counts: Counts, under_way: Callable[[], int], joined: Callable[[], int]
    ) -> None:
        self._counts = counts
        self._under_way = under_way
        self._joined = joined
        self.registry = CollectorRegistry()
        self._seconds = Histogram(
            "qwen_embed_server_seconds",
            "From a request's headers to its answer, of those that got vectors",
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.registry.register(self)

    def ended(self, status: int, seconds: float) -> None:
        """A request for embeddings ended so, after so long."""
        self._counts.statuses[status] += 1
        if status == ANSWERED:
            self._seconds.observe(seconds)

    def describe(self) -> Iterable[Metric]:
        """None in advance: names are those of `collect`."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """What a scrape reads."""
        counts = self._counts
        requests = CounterMetricFamily(
            "qwen_embed_server_requests", "Requests for embeddings that ended", labels=["status"]
        )
        for status, count in sorted(counts.statuses.items()):
            requests.add_metric([str(status)], count)
        yield requests
        attempts = CounterMetricFamily(
            "qwen_embed_server_attempts",
            "Requests to offers, by the kind of fault they ended with",
            labels=["offer", "fault"],
        )
        for (offer, fault), count in sorted(counts.attempts.items()):
            attempts.add_metric([offer, fault], count)
        yield attempts
        for name, says, value in (
            ("texts", "Texts that were embedded", counts.texts),
            ("joined_texts", "Texts that shared a request with other clients'", self._joined()),
            ("tokens", "Tokens that providers counted", counts.tokens),
            ("cost_usd", "What was spent, in US dollars", float(counts.cost)),
        ):
            yield CounterMetricFamily(f"qwen_embed_server_{name}", says, value=value)
        yield GaugeMetricFamily(
            "qwen_embed_server_under_way",
            "Requests that are being read, wait or are under way",
            value=self._under_way(),
        )
