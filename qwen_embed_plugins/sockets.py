"""Connections of httpx's that keep to the deadline of the request which uses them.

httpx bounds each operation on a socket: a server that sends a byte now and then, or a proxy that
takes its time at each step, outlives any such bound. Here each operation gets what remains of the
request. The request is known by a context variable, since a connection serves one after another.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, TypeAlias

import httpcore
import httpx
import socksio

from qwen_embed_plugins.addresses import addresses, share
from qwen_embed_plugins.deadlines import Deadline
from qwen_embed_plugins.types import TransportFailure
from qwen_embed_plugins.ways import READ_BYTES, SLICE_BYTES

# httpcore lets the last one out when a SOCKS proxy breaks off or speaks something else.
FAILURES = (httpx.HTTPError, httpx.InvalidURL, socksio.SOCKSError)
"""What a client raises when there is no whole answer."""

Options: TypeAlias = Iterable[httpcore.SOCKET_OPTION] | None


class Keeping:
    """`with Keeping(deadline):` operations on connections end by then, with httpcore's timeouts.

    A class, not a generator: it is entered for every request.
    """

    __slots__ = ("_opened", "_token", "deadline")

    def __init__(self, deadline: Deadline) -> None:
        self.deadline = deadline
        self._opened: list[Any] = []

    def opened(self, stream: Any) -> Any:
        """The stream, noted as one that this request opened."""
        self._opened.append(stream)
        return stream

    def __enter__(self) -> None:
        self._token = _under_way.set(self)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for stream in self._left_open(kind):
            stream.close()

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for stream in self._left_open(kind):
            await stream.aclose()

    def _left_open(self, kind: type[BaseException] | None) -> list[Any]:
        """What to close at the end: httpcore forgets a connection whose SOCKS handshake fails."""
        _under_way.reset(self._token)
        # After a failure of our own (an answer too big), it may already serve another request.
        done = kind is None or issubclass(kind, TransportFailure)
        return [] if done else self._opened


_under_way: ContextVar[Keeping | None] = ContextVar("_under_way", default=None)
"""What the request of this thread or task is kept to."""


def keep_deadlines(
    way: httpx.Client | httpx.AsyncClient | httpx.HTTPTransport | httpx.AsyncHTTPTransport,
) -> None:
    """Make every connection of a new client or transport, through whatever proxy, keep to
    deadlines."""
    # httpx has no public parameter for the network backend. Should a later one name these parts
    # otherwise, single operations stay bounded, and a test of ours says that the whole is not.
    transports: list[Any] = [way]
    if isinstance(way, (httpx.Client, httpx.AsyncClient)):
        transports = [way._transport, *way._mounts.values()]
    wrapper = Backend if isinstance(way, (httpx.Client, httpx.HTTPTransport)) else AsyncBackend
    for transport in transports:
        with suppress(AttributeError):
            pool: Any = transport._pool
            pool._network_backend = wrapper(pool._network_backend)


def _remaining(timeout: float | None, too_late: type[httpcore.TimeoutException]) -> float | None:
    """How long an operation may take that is bounded by itself and by its request."""
    request = _under_way.get()
    if request is None:
        return timeout
    left = request.deadline.left_seconds()
    if left <= 0:
        raise too_late("no time left for this request")
    return left if timeout is None else min(left, timeout)


def _opened(stream: Any) -> Any:
    request = _under_way.get()
    return request.opened(stream) if request else stream


class Stream(httpcore.NetworkStream):
    """A blocking stream within the deadline."""

    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(
            max(max_bytes, READ_BYTES), _remaining(timeout, httpcore.ReadTimeout)
        )

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), SLICE_BYTES):
            part = buffer[start : start + SLICE_BYTES]
            self._inner.write(part, _remaining(timeout, httpcore.WriteTimeout))

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        left = _remaining(timeout, httpcore.ConnectTimeout)
        return Stream(_opened(self._inner.start_tls(ssl_context, server_hostname, left)))

    def close(self) -> None:
        self._inner.close()

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class Backend(httpcore.NetworkBackend):
    """Opens blocking streams within the deadline."""

    def __init__(self, inner: httpcore.NetworkBackend) -> None:
        self._inner = inner

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Options = None,
    ) -> httpcore.NetworkStream:
        try:
            found = addresses(host, port)
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        failed: Exception = httpcore.ConnectError(f"{host} has no address")
        for tried, address in enumerate(found):
            seconds = _share(timeout, len(found) - tried)
            try:
                stream = self._inner.connect_tcp(
                    address, port, seconds, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
            else:
                return Stream(_opened(stream))
        raise failed


def _share(timeout: float | None, addresses: int) -> float | None:
    left = _remaining(None, httpcore.ConnectTimeout)
    return timeout if left is None else share(left, addresses, timeout)


class AsyncStream(httpcore.AsyncNetworkStream):
    """An awaiting stream within the deadline."""

    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return await self._inner.read(
            max(max_bytes, READ_BYTES), _remaining(timeout, httpcore.ReadTimeout)
        )

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._inner.write(buffer, _remaining(timeout, httpcore.WriteTimeout))

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        left = _remaining(timeout, httpcore.ConnectTimeout)
        stream = await self._inner.start_tls(ssl_context, server_hostname, left)
        return AsyncStream(_opened(stream))

    async def aclose(self) -> None:
        await self._inner.aclose()

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class AsyncBackend(httpcore.AsyncNetworkBackend):
    """Opens awaiting streams within the deadline."""

    def __init__(self, inner: httpcore.AsyncNetworkBackend) -> None:
        self._inner = inner

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Options = None,
    ) -> httpcore.AsyncNetworkStream:
        left = _remaining(timeout, httpcore.ConnectTimeout)
        stream = await self._inner.connect_tcp(host, port, left, local_address, socket_options)
        return AsyncStream(_opened(stream))
