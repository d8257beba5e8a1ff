"""The HTTP seam on httpx: bytes out, bytes in, every failure mapped, every answer bounded.

httpx stays behind this module: nothing of it is in a signature elsewhere. What sends is made on
first use, one for each way out: a client of httpx's where there is a proxy, its transport alone
where there is none. The client's cookies, redirects and logins, which we have no use for, cost as
much again as the transport.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from base64 import b64encode
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.request import getproxies

from qwen_embed_plugins._version import __version__
from qwen_embed_plugins.deadlines import Deadline
from qwen_embed_plugins.errors import ConfigurationError, without_secrets
from qwen_embed_plugins.proxies import keep_passwords_out_of_logs, place_of
from qwen_embed_plugins.types import TransportFailure, WireRequest, WireResponse

if TYPE_CHECKING:
    import ssl

    import httpx

    from qwen_embed_plugins.effects import Job

    Way: TypeAlias = httpx.Client | httpx.HTTPTransport
    AsyncWay: TypeAlias = httpx.AsyncClient | httpx.AsyncHTTPTransport

CONNECT_SECONDS = 10.0
KEEPALIVE_SECONDS = 4.0
"""Below the 5 seconds after which uvicorn (vLLM, Infinity) and Node close an idle connection: a
request that meets the closing fails, and nobody knows whether it was served."""

HEADERS = {
    "accept": "*/*",
    "content-type": "application/json",
    "accept-encoding": "identity",
    "user-agent": f"qwen-embed-plugins/{__version__}",
}
"""No compression: unpacking a gzipped base64 answer costs several times what decoding it does."""


def client_options(job: Job) -> dict[str, Any]:
    """How to reach an offer: its own proxy, directly if it is near, else as the environment says.

    A proxy of the environment's is for the outside; a server on this machine or in the private
    network would not be reached through it.
    """
    if job.offer.proxy:
        # To httpx both mean the same, and not every version that we take knows the second name.
        proxy = job.offer.proxy.replace("socks5h://", "socks5://", 1)
        return {"proxy": proxy, "trust_env": False}
    return {"trust_env": not job.offer.private}


def client_key(job: Job) -> tuple[str | None, bool]:
    return (job.offer.proxy, job.offer.private)


def is_direct(job: Job) -> bool:
    """Whether no proxy stands between us and an offer."""
    return job.offer.proxy is None and (job.offer.private or not getproxies())


def common_options(job: Job) -> dict[str, Any]:
    import httpx

    unlimited = httpx.Limits(
        max_connections=None, max_keepalive_connections=64, keepalive_expiry=KEEPALIVE_SECONDS
    )
    options = client_options(job)
    named = (os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
    tls = _tls(options["trust_env"], *(named if options["trust_env"] else ()))
    return {**options, "limits": unlimited, "verify": tls}


@lru_cache(maxsize=8)
def _tls(trust_env: bool, *named: str | None) -> ssl.SSLContext:
    """One for all clients, while the environment names the same certificates: to read them takes
    some 30 ms, in which an event loop would stand still."""
    import httpx

    return httpx.create_ssl_context(trust_env=trust_env)


def timeouts(job: Job) -> httpx.Timeout:
    import httpx

    seconds = job.timeout_seconds
    return httpx.Timeout(seconds, connect=min(CONNECT_SECONDS, seconds))


def place(request: WireRequest, job: Job) -> str:
    """Where a request goes and by which proxy of the settings, for messages."""
    there = place_of(request.url)
    return f"{there} through the proxy {place_of(job.offer.proxy)}" if job.offer.proxy else there


def failure(
    error: Exception, request: WireRequest, job: Job, deadline: Deadline
) -> TransportFailure:
    """Our failure for an exception of the HTTP client's, saying what happened and where."""
    import httpx

    where = place(request, job)
    said = without_secrets(str(error) or type(error).__name__)[:200]
    if isinstance(error, httpx.ConnectTimeout):
        seconds = min(CONNECT_SECONDS, deadline.seconds)
        return TransportFailure(
            "connect", f"cannot connect: {where} did not answer in {seconds:g} s"
        )
    refused = isinstance(error, (httpx.ConnectError, httpx.ProxyError))
    if refused or not isinstance(error, httpx.HTTPError):
        return TransportFailure("connect", f"cannot connect to {where}: {said}")
    if isinstance(error, httpx.TimeoutException):
        return TransportFailure("timeout", f"{where} did not answer in {deadline.seconds:g} s")
    return TransportFailure("dropped", f"the connection to {where} broke: {said}")


class _Body:
    """Collects an answer's bytes, within the size that its job allows."""

    def __init__(self, request: WireRequest, job: Job) -> None:
        self._request = request
        self._job = job
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, part: bytes) -> None:
        self._size += len(part)
        self._parts.append(part)
        if self._size > self._job.max_answer_bytes:
            raise TransportFailure(
                "too_big",
                f"{place(self._request, self._job)} sent more than {self._job.max_answer_bytes} "
                "bytes, which no right answer to this request has",
            )

    def response(self, answer: httpx.Response) -> WireResponse:
        if answer.status_code == 407:
            # Only a proxy says so; the provider's plugin would look for the fault elsewhere.
            raise TransportFailure(
                "connect",
                f"cannot connect to {place(self._request, self._job)}: the proxy wants a user and "
                "a password (HTTP 407); check them in the proxy's address",
            )
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return WireResponse(answer.status_code, b"".join(self._parts), headers)


def _to_send(request: WireRequest, job: Job) -> httpx.Request:
    import httpx

    url, login = _parsed(request.url)
    return httpx.Request(
        request.method,
        url,
        content=request.content,
        headers={**HEADERS, **_lower(request.headers), **login},
        extensions={"timeout": timeouts(job).as_dict()},
    )


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of a plugin under the names that ours have, so that none is sent twice."""
    return {name.lower(): value for name, value in headers.items()}


@lru_cache(maxsize=64)
def _parsed(url: str) -> tuple[httpx.URL, dict[str, str]]:
    """The address without user and password, which httpx would write into its log, and a header
    with them."""
    import httpx

    parsed = httpx.URL(url)
    if not parsed.userinfo:
        return parsed, {}
    login = f"{parsed.username}:{parsed.password}".encode()
    header = {"authorization": f"Basic {b64encode(login).decode()}"}
    return parsed.copy_with(userinfo=b""), header


def _misconfigured(error: Exception) -> ConfigurationError:
    import httpx

    # httpx quotes the part that it cannot read, which may be the end of a password.
    unread = isinstance(error, httpx.InvalidURL)
    said = "an address cannot be read" if unread else without_secrets(str(error))
    return ConfigurationError(
        f"the HTTP client cannot be set up: {said}; check the proxies in the settings and in the "
        "environment"
    )


class HttpTransport:
    """Blocking transport. Safe from any thread; not carried across a fork (make a new one)."""

    def __init__(self) -> None:
        self._ways: dict[tuple[str | None, bool], Way] = {}
        self._lock = threading.Lock()
        self._out: Counter[Way] = Counter()
        self._retired: set[Way] = set()
        # Many users never close an embedder; its connections end with it all the same.
        weakref.finalize(self, _close_ways, self._ways, os.getpid())

    def send(self, request: WireRequest, job: Job, deadline: Deadline) -> WireResponse:
        """Send a request and give the whole answer, or raise `TransportFailure`."""
        from qwen_embed_plugins.sockets import FAILURES, Keeping

        body = _Body(request, job)
        with self._way(job) as way:
            try:
                with Keeping(deadline), _answer(way, _to_send(request, job)) as answer:
                    for part in answer.iter_bytes():
                        body.add(part)
            except FAILURES as error:
                raise failure(error, request, job, deadline) from error
        return body.response(answer)

    @contextmanager
    def _way(self, job: Job) -> Iterator[Way]:
        """The way out for a job, which stays open until the job is done with it."""
        with self._lock:
            way = self._made(job)
            self._out[way] += 1
        try:
            yield way
        finally:
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

    def _made(self, job: Job) -> Way:
        key = client_key(job)
        if key not in self._ways:
            import httpx

            from qwen_embed_plugins.sockets import keep_deadlines

            way: Way
            try:
                if is_direct(job):
                    way = httpx.HTTPTransport(**common_options(job))
                else:
                    keep_passwords_out_of_logs()
                    way = httpx.Client(**common_options(job))
            except (ImportError, ValueError, httpx.InvalidURL) as error:
                raise _misconfigured(error) from error
            keep_deadlines(way)
            self._ways[key] = way
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


@contextmanager
def _answer(way: Way, request: httpx.Request) -> Iterator[httpx.Response]:
    """Send it and give the answer, whose body is yet to be read."""
    import httpx

    if isinstance(way, httpx.HTTPTransport):
        answer = way.handle_request(request)
    else:
        answer = way.send(request, stream=True)
    try:
        yield answer
    finally:
        answer.close()


def _close_ways(ways: dict[tuple[str | None, bool], Way], owner: int) -> None:
    """Close them in the process that made them: a fork's connections are its parent's."""
    if os.getpid() == owner:
        for way in list(ways.values()):
            way.close()
    ways.clear()


class AsyncHttpTransport:
    """Awaiting transport. One object serves any number of event loops, one after another or at
    once: each loop has its own connections, closed when the loop shuts down."""

    def __init__(self) -> None:
        # Loaded now and not by the first request, which would stop its event loop meanwhile.
        import qwen_embed_plugins.sockets  # noqa: F401

        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopWays] = (
            weakref.WeakKeyDictionary()
        )

    async def send(self, request: WireRequest, job: Job, deadline: Deadline) -> WireResponse:
        """Send a request and give the whole answer, or raise `TransportFailure`."""
        from qwen_embed_plugins.sockets import FAILURES, Keeping

        body = _Body(request, job)
        way = await self._way(job)
        try:
            async with Keeping(deadline), _awaited(way, _to_send(request, job)) as answer:
                async for part in answer.aiter_bytes():
                    body.add(part)
        except FAILURES as error:
            raise failure(error, request, job, deadline) from error
        return body.response(answer)

    async def _way(self, job: Job) -> AsyncWay:
        loop = asyncio.get_running_loop()
        ways = self._loops.get(loop)
        if ways is None:
            ways = self._loops[loop] = _LoopWays()
            await ways.watch()
        return ways.get(job)

    async def aclose(self) -> None:
        """Close the running loop's connections."""
        ways = self._loops.pop(asyncio.get_running_loop(), None)
        if ways is not None:
            await ways.aclose()


@asynccontextmanager
async def _awaited(way: AsyncWay, request: httpx.Request) -> AsyncIterator[httpx.Response]:
    """`_answer`, awaiting."""
    import httpx

    if isinstance(way, httpx.AsyncHTTPTransport):
        answer = await way.handle_async_request(request)
    else:
        answer = await way.send(request, stream=True)
    try:
        yield answer
    finally:
        await answer.aclose()


class _LoopWays:
    """The ways out of one event loop.

    An event loop closes its open async generators when it shuts down, as `asyncio.run` does at its
    end. One generator that stands open for the loop's life is therefore the loop's own "closing"
    signal, and the connections are closed while the loop can still do it.
    """

    def __init__(self) -> None:
        self._ways: dict[tuple[str | None, bool], AsyncWay] = {}
        self._guard = self._until_shutdown()

    async def watch(self) -> None:
        await self._guard.__anext__()

    async def _until_shutdown(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await self._close_ways()

    def get(self, job: Job) -> AsyncWay:
        key = client_key(job)
        if key not in self._ways:
            import httpx

            from qwen_embed_plugins.sockets import keep_deadlines

            way: AsyncWay
            try:
                if is_direct(job):
                    way = httpx.AsyncHTTPTransport(**common_options(job))
                else:
                    keep_passwords_out_of_logs()
                    way = httpx.AsyncClient(**common_options(job))
            except (ImportError, ValueError, httpx.InvalidURL) as error:
                raise _misconfigured(error) from error
            keep_deadlines(way)
            self._ways[key] = way
        return self._ways[key]

    async def _close_ways(self) -> None:
        ways, self._ways = self._ways, {}
        for way in ways.values():
            await way.aclose()

    async def aclose(self) -> None:
        await self._guard.aclose()
