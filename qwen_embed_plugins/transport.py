"""The HTTP seam: which way out a request takes, and when connections are closed.

What sends is made on first use, one for each way out (`ways.py`); no HTTP client is loaded before.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, TypeAlias

from qwen_embed_plugins.deadlines import Deadline
from qwen_embed_plugins.types import WireRequest, WireResponse
from qwen_embed_plugins.ways import AsyncWay, Way, is_direct, plain_address

if TYPE_CHECKING:
    from qwen_embed_plugins.effects import Job

Key: TypeAlias = "tuple[str | None, bool] | None"
"""What jobs that share a way have in common: None stands for plain servers."""


def _is_plain(request: WireRequest, job: Job) -> bool:
    """Whether nothing is between us and the server: no proxy, no TLS."""
    return plain_address(request.url) is not None and is_direct(job)


def _key(request: WireRequest, job: Job) -> Key:
    return None if _is_plain(request, job) else (job.offer.proxy, job.offer.private)


class HttpTransport:
    """Blocking transport. Safe from any thread; not carried across a fork (make a new one)."""

    def __init__(self) -> None:
        self._ways: dict[Key, Way] = {}
        self._lock = threading.Lock()
        self._out: Counter[Way] = Counter()
        self._retired: set[Way] = set()
        # Many users never close an embedder; its connections end with it all the same.
        weakref.finalize(self, _close_ways, self._ways, os.getpid())

    def send(self, request: WireRequest, job: Job, deadline: Deadline) -> WireResponse:
        """Send a request and give the whole answer, or raise `TransportFailure`."""
        way = self._taken(request, job)
        try:
            return way.fetch(request, job, deadline)
        finally:
            self._give_back(way)

    def _taken(self, request: WireRequest, job: Job) -> Way:
        """The way out for a job, which stays open until the job gives it back."""
        with self._lock:
            way = self._made(request, job)
            self._out[way] += 1
        return way

    def _give_back(self, way: Way) -> None:
        with self._lock:
            self._out[way] -= 1
            done = not self._out[way]
            if done:
                del self._out[way]
            close = done and way in self._retired
            if close:
                self._retired.remove(way)
        if close:
            way.close()

    def _made(self, request: WireRequest, job: Job) -> Way:
        key = _key(request, job)
        if key not in self._ways:
            self._ways[key] = _way_for(key, job)
        return self._ways[key]

    def close(self) -> None:
        """Close all connections: those in use once their answer is there.

        A socket that is closed under a thread which reads from it does not wake that thread, which
        would wait out its time limit.
        """
        with self._lock:
            ways = list(self._ways.values())
            self._ways.clear()
            in_use = {way for way in ways if way in self._out}
            self._retired |= in_use
        for way in ways:
            if way not in in_use:
                way.close()


def _way_for(key: Key, job: Job) -> Way:
    if key is None:
        from qwen_embed_plugins.ways_plain import PlainWay

        return PlainWay()
    from qwen_embed_plugins.ways_httpx import HttpxWay

    return HttpxWay(job)


def _close_ways(ways: dict[Key, Way], owner: int) -> None:
    """Close them in the process that made them: a fork's connections are its parent's."""
    if os.getpid() == owner:
        for way in list(ways.values()):
            way.close()
    ways.clear()


class AsyncHttpTransport:
    """Awaiting transport. One object serves any number of event loops, one after another or at
    once: each loop has its own connections, closed when the loop shuts down."""

    def __init__(self) -> None:
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopWays] = (
            weakref.WeakKeyDictionary()
        )

    async def send(self, request: WireRequest, job: Job, deadline: Deadline) -> WireResponse:
        """Send a request and give the whole answer, or raise `TransportFailure`."""
        way = await (await self._loop_ways()).get(request, job)
        return await way.fetch(request, job, deadline)

    async def _loop_ways(self) -> _LoopWays:
        loop = asyncio.get_running_loop()
        ways = self._loops.get(loop)
        if ways is None:
            ways = self._loops[loop] = _LoopWays()
            await ways.watch()
        return ways

    async def aclose(self) -> None:
        """Close the running loop's connections."""
        ways = self._loops.pop(asyncio.get_running_loop(), None)
        if ways is not None:
            await ways.aclose()


class _LoopWays:
    """The ways out of one event loop.

    An event loop closes its open async generators when it shuts down, as `asyncio.run` does at its
    end. One generator that stands open for the loop's life is therefore the loop's own "closing"
    signal, and the connections are closed while the loop can still do it.
    """

    def __init__(self) -> None:
        self._ways: dict[Key, AsyncWay] = {}
        self._guard = self._until_shutdown()

    async def watch(self) -> None:
        await self._guard.__anext__()

    async def _until_shutdown(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await self._close_ways()

    async def get(self, request: WireRequest, job: Job) -> AsyncWay:
        key = _key(request, job)
        if key not in self._ways:
            # An HTTP client takes a sixth of a second to load, in which the loop would stand still.
            make = await asyncio.to_thread(_async_maker, key)
            if key not in self._ways:
                self._ways[key] = make(job)
        return self._ways[key]

    async def _close_ways(self) -> None:
        ways, self._ways = self._ways, {}
        for way in ways.values():
            await way.aclose()

    async def aclose(self) -> None:
        await self._guard.aclose()


def _async_maker(key: Key) -> Callable[[Job], AsyncWay]:
    if key is None:
        from qwen_embed_plugins.ways_threaded import ThreadedWay

        return lambda _: ThreadedWay()
    from qwen_embed_plugins.ways_httpx import AsyncHttpxWay

    return AsyncHttpxWay
