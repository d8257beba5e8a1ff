"""Signals that end a command, all of them as Ctrl-C does: whatever it started is stopped."""

from __future__ import annotations

import signal
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def interrupting() -> Iterator[None]:
    """SIGTERM and SIGHUP raise `KeyboardInterrupt`. By default they end a process at once, and an
    embedded server that it had started would run on."""

    def interrupt(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    # Only the main thread may set handlers; what the caller of `main` ignores stays ignored.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [number for number in ENDING if signal.getsignal(number) == signal.SIG_DFL]
    with _handled(numbers, interrupt):
        yield


def run(work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, blocking; a signal that ends a command cancels the work, and when that has
    ended `KeyboardInterrupt` is raised.

    Raised by a handler in the midst of a loop, it may drop the step that a task was to make next,
    and whoever waits for that task waits for ever.
    """
    import asyncio  # no command but the one that needs it pays for the import

    async def cancellable() -> T:
        task, loop = asyncio.create_task(work), asyncio.get_running_loop()

        def cancel(*_: object) -> None:
            task.cancel()
            loop.call_soon_threadsafe(lambda: None)  # it may wait for a socket

        with _handled(_heeded(), cancel):
            return await task

    try:
        return asyncio.run(cancellable())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _heeded() -> list[signal.Signals]:
    if threading.current_thread() is not threading.main_thread():
        return []
    numbers = [signal.SIGINT, *ENDING]
    return [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]


@contextmanager
def ignored() -> Iterator[None]:
    """While a server is stopped: an impatient second Ctrl-C must not leave it running."""
    with _handled([signal.SIGINT, *ENDING], signal.SIG_IGN):
        yield


@contextmanager
def _handled(numbers: list[signal.Signals], handler: Any) -> Iterator[None]:
    before = [(number, signal.signal(number, handler)) for number in numbers]
    try:
        yield
    finally:
        for number, old in before:
            signal.signal(number, old)
