"""Signals that end a command, all of them as Ctrl-C does: whatever it started is stopped."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

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
