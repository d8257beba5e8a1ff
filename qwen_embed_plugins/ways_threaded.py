"""The way out to plain servers for tasks: the one for threads, a thread for each request.

A thread that waits for a server near by holds no lock of the interpreter, and the standard library
reads a long answer with fewer copies and calls than any client that is driven by the loop.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING

from qwen_embed_plugins.deadlines import Deadline
from qwen_embed_plugins.threads import Workers
from qwen_embed_plugins.types import WireRequest, WireResponse
from qwen_embed_plugins.ways import Talk
from qwen_embed_plugins.ways_plain import Cut, PlainWay

if TYPE_CHECKING:
    from qwen_embed_plugins.effects import Job

GRACE_SECONDS = 0.25
"""A thread keeps to the deadline itself, and says better what was late; but not while it looks a
name up."""


class ThreadedWay:
    """Connections of one event loop.

    A request whose task is cancelled is cut off, so that its server and its thread need not go on.
    A thread that looks a name up or begins to connect just then ends by itself, in seconds, and
    keeps nobody waiting.
    """

    def __init__(self) -> None:
        self._way, self._threads = PlainWay(), Workers()
        # For a loop that nobody shuts down.
        weakref.finalize(self, _close, self._way, self._threads, os.getpid())

    async def fetch(self, request: WireRequest, job: Job, deadline: Deadline) -> WireResponse:
        loop, way, cut = asyncio.get_running_loop(), self._way, Cut()
        answer: asyncio.Future[WireResponse] = loop.create_future()

        def ask() -> None:
            try:
                response = way.fetch(request, job, deadline, cut)
            except Exception as error:
                _tell(loop, answer, error)
            else:
                _tell(loop, answer, response)

        def late() -> None:
            cut.cut()
            if not answer.done():
                talk = Talk(request, job, deadline)
                failed = talk.no_answer_in_time if cut.is_heard else talk.no_connection_in_time
                answer.set_exception(failed())

        timer = loop.call_later(max(0.0, deadline.left_seconds()) + GRACE_SECONDS, late)
        try:
            try:
                self._threads.submit(ask)
            except RuntimeError as error:  # no more threads are to be had
                raise Talk(request, job, deadline).cannot_connect(error) from error
            return await answer
        finally:
            timer.cancel()
            cut.cut()

    async def aclose(self) -> None:
        """Close the connections, those in use once their answer is there."""
        self._threads.close()
        self._way.close()


def _tell(
    loop: asyncio.AbstractEventLoop,
    answer: asyncio.Future[WireResponse],
    what: WireResponse | Exception,
) -> None:
    """Hand what a thread found over to the task that waits for it, if one still does."""

    def settle() -> None:
        if answer.done():
            return
        if isinstance(what, Exception):
            answer.set_exception(what)
        else:
            answer.set_result(what)

    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(settle)


def _close(way: PlainWay, threads: Workers, owner: int) -> None:
    """Close them in the process that made them. In a fork of it a thread that is not there may hold
    the locks."""
    if os.getpid() == owner:
        threads.close()
        way.close()
