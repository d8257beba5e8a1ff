"""Workers: the product's own, in processes of their own, with a journal of what they paid for.

A batch is processed in one task, so what `embed` was asked there and the report that the batch was
finished belong together.
"""

from __future__ import annotations

import argparse
import asyncio
import contextvars
import itertools
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen_embed_plugins import postgres
from qwen_embed_plugins.embedder import AsyncEmbedder
from qwen_embed_plugins.errors import DatabaseError
from qwen_embed_plugins.postgres import kept
from tests.chaos import planted
from tests.chaos.journal import Journal

if TYPE_CHECKING:
    from qwen_embed_plugins.spaces import EmbeddingSpace
    from qwen_embed_plugins.types import EmbedResult, Role

LEASE_SECONDS = 2.0
BATCH_SIZE = 20
IN_FLIGHT = 3
NO_SERVER = 3
ABORTED = 4

_asked: contextvars.ContextVar[list[int] | None] = contextvars.ContextVar("asked", default=None)


class Recording:
    """An embedder that notes which texts go out."""

    def __init__(self, inner: AsyncEmbedder, journal: Journal, numbers: itertools.count[int]):
        self._inner, self._journal, self._numbers = inner, journal, numbers

    @property
    def space(self) -> EmbeddingSpace:
        return self._inner.space

    async def embed(self, texts: Sequence[str], role: Role = "document") -> EmbedResult:
        call = next(self._numbers)
        _asked.set([*(_asked.get() or []), call])
        self._journal.note("asked", call=call, texts=list(texts))
        result = await self._inner.embed(texts, role=role)
        failed = [attempt.texts for attempt in result.attempts if attempt.fault is not None]
        self._journal.note("answered", call=call, errors=len(result.errors), failed=failed)
        return result

    async def aclose(self) -> None:
        await self._inner.aclose()


class Recorder:
    """Notes each batch that was finished, and whether its answers were dropped."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._lost: dict[str, int] = {}

    def __call__(self, progress: postgres.WorkerProgress) -> None:
        before = self._lost.get(progress.name, 0)
        self._lost[progress.name] = progress.lost
        lost = progress.lost > before
        for call in _asked.get() or []:
            self._journal.note("finished", call=call, lost=lost)


def note_what_is_set_aside(journal: Journal) -> None:
    """Note which vectors this process keeps for rows that it could not write."""
    keep = kept.Kept.keep

    def noting(self: kept.Kept, space: str, unused: Iterable[kept.Ready]) -> None:
        ready = list(unused)
        keep(self, space, ready)
        if ready:
            journal.note("set_aside", texts=[item.text for item, _, _ in ready])

    kept.Kept.keep = noting  # type: ignore[method-assign]


async def watch_for_standstills(journal: Journal) -> None:
    """Note when the worker's loop stood still: stopped, or on a machine that is busy with others.
    Runs beside it until the loop ends."""
    last = time.monotonic()
    while True:
        await asyncio.sleep(0.1)
        now = time.monotonic()
        if now - last > LEASE_SECONDS / 3:
            journal.note("stood_still", seconds=now - last)
        last = now


def main(arguments: Sequence[str]) -> int:
    """The process of one worker; gives its exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("dsn")
    parser.add_argument("path", type=Path)
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--plant", choices=sorted(planted.BUGS))
    given = parser.parse_args(arguments)
    if given.plant:
        planted.BUGS[given.plant]()
    journal = Journal(given.path)
    note_what_is_set_aside(journal)
    numbers = itertools.count()
    watching: list[asyncio.Task[None]] = []

    def embedder_for(model: str, dimensions: int) -> Any:
        journal.note("started")  # it has read its vectorizers, so it was connected
        watching.append(asyncio.create_task(watch_for_standstills(journal)))
        embedder = AsyncEmbedder(model=model, dimensions=dimensions)
        return Recording(embedder, journal, numbers)

    journal.note("begins")
    try:
        summary = postgres.run_worker(
            given.dsn,
            once=given.once,
            embedder_for=embedder_for,
            batch_size=BATCH_SIZE,
            in_flight=IN_FLIGHT,
            lease_seconds=LEASE_SECONDS,
            poll_seconds=0.1,
            on_progress=Recorder(journal),
        )
    except DatabaseError as error:
        print(error, file=sys.stderr)
        return NO_SERVER
    except asyncio.CancelledError:
        return ABORTED
    journal.note("ends", embedded=summary.embedded, waiting=summary.waiting)
    return 0
