"""An actor's process. All are forked from one that has imported everything, since a worker that is
shot each second would spend its life on imports."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

Main = Callable[[Sequence[str]], int]


def _nursery() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.chaos.workers", "tests.chaos.writers"])
    return context


class Process:
    """A running `main(arguments)`, and the file with what it complained of."""

    def __init__(
        self,
        main: Main,
        arguments: Sequence[str],
        *,
        errors: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._errors = errors
        whole = {**os.environ, **(environment or {})}
        self._process: BaseProcess = _nursery().Process(
            target=_run, args=(main, list(arguments), str(errors), whole), daemon=True
        )
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        if self._process.exitcode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once, also if it is stopped."""
        self.send(signal.SIGKILL)
        self._process.join()

    def code(self) -> int | None:
        """How it ended; None while it runs."""
        return self._process.exitcode

    def wait(self, seconds: float) -> int | None:
        """How it ended, or None if it has not after so long."""
        self._process.join(seconds)
        return self._process.exitcode

    def complaint(self) -> str:
        return self._errors.read_text("utf-8", "replace")[-3000:] if self._errors.exists() else ""


def _run(main: Main, arguments: list[str], errors: str, environment: dict[str, str]) -> None:
    stream = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    faulthandler.enable()
    os.environ.clear()
    os.environ.update(environment)
    sys.exit(main(arguments))
