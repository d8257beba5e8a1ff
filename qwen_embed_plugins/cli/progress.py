"""How far long work has come: a bar on a terminal, plain lines otherwise, silence with --quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import click

from qwen_embed_plugins.cli.output import console, moves_its_cursor

SECONDS_BETWEEN_LINES = 5.0


class Meter(Protocol):
    """Is told how much is done; safe from any thread."""

    def show(self, done: int, total: int | None = None) -> None:
        """So much is done, of so much if known. It may also go down again."""


@contextmanager
def metered(title: str, total: int | None = None, *, quiet: bool = False) -> Iterator[Meter]:
    """A meter for the work inside the block, on standard error."""
    if quiet:
        yield _Silence()
    elif moves_its_cursor(sys.stderr):
        with _bar(title, total) as meter:
            yield meter
    else:
        yield _Lines(title, total)


class _Silence:
    def show(self, done: int, total: int | None = None) -> None:
        pass


class _Lines:
    """A line at most every few seconds, and none for work that is shorter than that or stands."""

    def __init__(
        self, title: str, total: int | None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._title = title
        self._total = total
        self._now = now
        self._last = now()
        self._said = 0

    def show(self, done: int, total: int | None = None) -> None:
        self._total = self._total if total is None else total
        if done == self._said or self._now() - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last = self._now()
        self._said = done
        whole = "" if self._total is None else f" of {self._total}"
        click.echo(f"{self._title}: {done}{whole}", err=True)


@contextmanager
def _bar(title: str, total: int | None) -> Iterator[Meter]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True),
    )
    # Standard output is left alone: it may be a file, and its bytes are the result.
    with Progress(*columns, console=console(sys.stderr), redirect_stdout=False) as progress:
        yield _Bar(progress, progress.add_task(title, total=total, rate=""))


class _Bar:
    def __init__(self, progress: Any, task: Any) -> None:
        self._progress = progress
        self._task = task

    def show(self, done: int, total: int | None = None) -> None:
        speed = self._progress.tasks[0].speed
        changes: dict[str, Any] = {"rate": rate_text(speed) if speed else ""}
        if total is not None:
            changes["total"] = total
        self._progress.update(self._task, completed=done, **changes)


def rate_text(per_second: float) -> str:
    """So many a second; a minute where that would be none.

    >>> rate_text(1234.5), rate_text(2.5), rate_text(0.25)
    ('1234/s', '2.5/s', '15/min')
    """
    if per_second < 1:
        return f"{60 * per_second:.0f}/min"
    return f"{per_second:.0f}/s" if per_second >= 10 else f"{per_second:.1f}/s"
