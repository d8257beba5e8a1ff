"""What calls cost: of the last one for whoever made it, of all inside a `with` for its owner.

Two ways, since LangChain hides calls. Where the caller calls the embeddings itself, the last call
of its own thread or task is kept. Inside chains and vector stores calls are made in other tasks and
threads, which inherit context variables: what `track_usage` puts there reaches them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from decimal import Decimal
from weakref import WeakKeyDictionary

from qwen_embed_plugins.types import Attempt, EmbedResult, Usage


@dataclass(frozen=True, slots=True)
class CallSummary:
    """Usage, cost in US dollars and attempts of one call, without its vectors."""

    usage: Usage
    cost: Decimal
    attempts: tuple[Attempt, ...]


class UsageTracker:
    """The sum over calls, safe under threads: how many `calls`, their `usage`, and their `cost` in
    US dollars."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls = 0
        self._usage = Usage()
        self._cost = Decimal(0)

    def add(self, result: EmbedResult) -> None:
        """Count one more call."""
        with self._lock:
            self._calls += 1
            self._usage = _sum(self._usage, result.usage)
            self._cost += result.cost

    @property
    def calls(self) -> int:
        return self._calls

    @property
    def usage(self) -> Usage:
        return self._usage

    @property
    def cost(self) -> Decimal:
        return self._cost

    def __repr__(self) -> str:
        return f"UsageTracker(calls={self.calls}, usage={self.usage}, cost={self.cost})"


def _sum(first: Usage, second: Usage) -> Usage:
    return Usage(
        tokens=first.tokens + second.tokens,
        texts=first.texts + second.texts,
        requests=first.requests + second.requests,
        estimated=first.estimated or second.estimated,
    )


_trackers: ContextVar[tuple[UsageTracker, ...]] = ContextVar("qwen_embed_trackers", default=())


@contextmanager
def track_usage() -> Iterator[UsageTracker]:
    """Counts what every `QwenEmbeddings` and `QwenRetriever` uses inside the `with`, also through
    chains, vector stores, tasks and LangChain's threads; what runs beside it is not counted.

    A thread that is started without the context (`threading.Thread`) is not seen. A call that
    raises `PartialFailure` counts, one that ends without any result does not: `qwen-embed usage`
    has every attempt.
    """
    tracker = UsageTracker()
    token = _trackers.set((*_trackers.get(), tracker))
    try:
        yield tracker
    finally:
        _trackers.reset(token)


class LastCalls:
    """What the last call of one object used, for each thread or task that made one. It is dropped
    with that thread or task."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._summaries: WeakKeyDictionary[object, CallSummary] = WeakKeyDictionary()

    def begin(self) -> None:
        """Forget the caller's last call: the next one may end without a result."""
        with self._lock:
            self._summaries.pop(_caller(), None)

    def note(self, result: EmbedResult) -> EmbedResult:
        """Note what a call used that ended with a result; gives the result."""
        for tracker in _trackers.get():
            tracker.add(result)
        with self._lock:
            self._summaries[_caller()] = CallSummary(result.usage, result.cost, result.attempts)
        return result

    def of_caller(self) -> CallSummary | None:
        """What the caller's last call used; None where none ended with a result."""
        with self._lock:
            return self._summaries.get(_caller())


def _caller() -> object:
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop runs in this thread
        task = None
    return task or threading.current_thread()
