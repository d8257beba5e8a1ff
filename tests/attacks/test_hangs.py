"""Calls that never ended: whatever a plugin raises or a thread closes, a call comes back."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from qwen_embed_plugins import Embedder, NoOfferLeft, Settings
from qwen_embed_plugins.testing import Behaviour, SimulatedServer
from qwen_embed_plugins.types import Answer, Batch, Call, Exchange, TransportFailure

Made = Callable[..., Embedder]
Ends = Callable[[Callable[[], Any]], Any]
Reaching = Callable[..., Settings]

MANY = [f"text {number}" for number in range(100)]  # several batches, so worker threads are used


class Panic(BaseException):
    """What pyo3 raises when Rust code panics: no `Exception`."""


def panic(*_: Any) -> Any:
    raise Panic("in Rust")


def calling(function: Callable[[], Any]) -> Callable[[Any, Batch], Exchange]:
    def exchange(self: Any, batch: Batch) -> Exchange:
        yield Call(function)
        return Answer(self._serve(batch.texts, batch.model.dimensions))

    return exchange


def unreachable(self: Any, batch: Batch) -> Exchange:
    yield from ()
    raise TransportFailure("connect", "cannot connect")


def raising(self: Any, answer: Any) -> Any:
    raise ValueError("boom")


NO_COUNT: Any = Answer([], "5")  # type: ignore[arg-type]

BROKEN: dict[str, dict[str, Any]] = {
    "a panic": {"exchange": calling(panic)},
    "classify raises": {"exchange": unreachable, "classify": raising},
    "classify gives nothing": {"exchange": unreachable, "classify": lambda self, answer: None},
}


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("texts", [MANY, ["one"]], ids=["many", "one"])
@pytest.mark.parametrize("broken", BROKEN)
def test_a_call_ends_whatever_a_plugin_raises(
    made: Made, ends: Ends, broken: str, texts: list[str]
) -> None:
    embedder = made(**BROKEN[broken])
    assert isinstance(ends(lambda: embedder.embed(texts)), NoOfferLeft)
    embedder.close()


@pytest.mark.usefixtures("hasty")
def test_an_awaited_call_ends_when_a_plugin_raises_what_is_no_exception(
    made: Made, ends: Ends
) -> None:
    for error in (Panic, asyncio.CancelledError):

        def fail(error: type[BaseException] = error) -> Any:
            raise error

        twin = made(exchange=calling(fail)).awaiting()
        coroutine = twin.embed(MANY)
        assert isinstance(ends(partial(asyncio.run, coroutine)), NoOfferLeft)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("answer", [None, 5, Answer([[10**400] * 1024] * 100), NO_COUNT])
def test_an_exchange_that_returns_nonsense_is_a_failure_of_its_offer(
    made: Made, answer: Any
) -> None:
    def exchange(self: Any, batch: Batch) -> Any:
        yield Call(lambda: None)
        return answer

    with made(exchange=exchange) as embedder, pytest.raises(NoOfferLeft, match="made/"):
        embedder.embed(MANY[:32])


def test_closing_while_calls_are_out_leaves_the_embedder_usable(
    reaching: Reaching, ends: Ends
) -> None:
    with SimulatedServer(Behaviour(latency_seconds=0.3)) as server:
        embedder = Embedder(reaching(server))
        results: list[Any] = []
        thread = threading.Thread(target=lambda: results.append(embedder.embed(MANY)))
        thread.start()
        while not server.request_count:
            time.sleep(0.01)
        embedder.close()
        thread.join(30)
        assert results, "the call that was out did not end"
        assert not results[0].errors
        result = ends(lambda: embedder.embed(MANY))
        assert not result.errors
        embedder.close()


@pytest.fixture
def threads() -> Callable[[], set[threading.Thread]]:
    before = set(threading.enumerate())

    def ours() -> set[threading.Thread]:
        now = set(threading.enumerate()) - before
        return {thread for thread in now if thread.name.startswith("qwen-embed")}

    return ours


def test_a_forgotten_embedder_leaves_no_threads(
    made: Made, threads: Callable[[], set[threading.Thread]]
) -> None:
    made().embed(MANY)
    gc.collect()
    for thread in threads():
        thread.join(10)
    assert not threads()


def test_waking_a_flow_whose_loop_has_closed_harms_nobody() -> None:
    from qwen_embed_plugins.drivers import _wake

    class Closing:
        """A loop that another thread closes between a look and the call."""

        def is_closed(self) -> bool:
            return False

        def call_soon_threadsafe(self, *_: Any) -> None:
            raise RuntimeError("Event loop is closed")

    _wake(Closing(), asyncio.Queue())  # type: ignore[arg-type]
