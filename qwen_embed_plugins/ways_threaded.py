"""The way out to plain servers for tasks: the one for threads, a thread for each request.

A thread that waits for a server near by holds no lock of the interpreter, and the standard library
reads a long answer with fewer copies and calls than any client that is driven by the loop.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from qwen_embed_plugins.deadlines import Deadline
from qwen_embed_plugins.types import WireRequest, WireResponse
from qwen_embed_plugins.ways_plain import Cut, PlainWay

if TYPE_CHECKING:
    from qwen_embed_plugins.effects import Job

MOST_THREADS = 512
"""Made when they are needed. A request beyond waits for one, and its deadline goes on."""


class ThreadedWay:
    """Connections of one event loop. A request whose task is cancelled is cut off, so that its
    thread ends at once; one that looks a name up ends when that is done."""

    def __init__(self) -> None:
        self._way = PlainWay()
        self._threads = ThreadPoolExecutor(MOST_THREADS, "qwen-embed-http")
        # For a loop that nobody shuts down.
        weakref.finalize(self, _close, self._way, os.getpid())

    async def fetch(self, request: WireRequest, job: Job, deadline: Deadline) -> WireResponse:
        cut = Cut()
        response = self._threads.submit(self._way.fetch, request, job, deadline, cut)
        try:
            return await asyncio.wrap_future(response)
        finally:
            cut.cut()

    async def aclose(self) -> None:
        """Close the connections, those in use once their answer is there."""
        self._threads.shutdown(wait=False)
        self._way.close()


def _close(way: PlainWay, owner: int) -> None:
    """Close its connections in the process that made them. In a fork of it a thread that is not
    there may hold the lock."""
    if os.getpid() == owner:
        way.close()
