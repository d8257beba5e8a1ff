"""The HTTP seam on httpx: bytes out, bytes in, every failure mapped, every answer bounded.

httpx stays behind this module: nothing of it is in a signature elsewhere. Clients are made on
first use, one for each way out (direct, the environment's proxies, a provider's own proxy).
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from qwen_embed_plugins.deadlines import Deadline
from qwen_embed_plugins.errors import ConfigurationError, without_secrets
from qwen_embed_plugins.proxies import keep_passwords_out_of_logs, place_of
from qwen_embed_plugins.types import TransportFailure, WireRequest, WireResponse

if TYPE_CHECKING:
    import ssl

    import httpx

    from qwen_embed_plugins.effects import Job

CONNECT_SECONDS = 10.0
KEEPALIVE_SECONDS = 4.0
"""Below the 5 seconds after which uvicorn (vLLM, Infinity) and Node close an idle connection: a
request that meets the closing fails, and nobody knows whether it was served."""

HEADERS = {"content-type": "application/json", "accept-encoding": "identity"}
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


def common_options(job: Job) -> dict[str, Any]:
    import httpx

    keep_passwords_out_of_logs()
    unlimited = httpx.Limits(
        max_connections=None, max_keepalive_connections=64, keepalive_expiry=KEEPALIVE_SECONDS
    )
    options = client_options(job)
    named = (os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
    tls = _tls(options["trust_env"], *(named if options["trust_env"] else ()))
    return {**options, "limits": unlimited, "headers": {}, "verify": tls}


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


def _arguments(request: WireRequest, job: Job) -> dict[str, Any]:
    login = _login_apart(request.url) if "@" in request.url else {}
    return {
        "method": request.method,
        "url": request.url,
        "content": request.content,
        "headers": {**HEADERS, **request.headers},
        "timeout": timeouts(job),
        **login,
    }


def _login_apart(url: str) -> dict[str, Any]:
    """The address without user and password, which httpx would write into its log."""
    import httpx

    parsed = httpx.URL(url)
    if not parsed.userinfo:
        return {}
    plain = parsed.copy_with(userinfo=b"")
    return {"url": plain, "auth": (parsed.username, parsed.password)}


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
        self._clients: dict[tuple[str | None, bool], httpx.Client] = {}
        self._lock = threading.Lock()
        self._out: Counter[httpx.Client] = Counter()
        self._retired: set[httpx.Client] = set()
        # Many users never close an embedder; its connections end with it all the same.
        weakref.finalize(self, _close_clients, self._clients, os.getpid())

    def send(self, request: WireRequest, job: Job, deadline: Deadline) -> WireResponse:
        """Send a request and give the whole answer, or raise `TransportFailure`."""
        from qwen_embed_plugins.sockets import FAILURES, Keeping

        body = _Body(request, job)
        with self._client(job) as client:
            try:
                with Keeping(deadline), client.stream(**_arguments(request, job)) as answer:
                    for part in answer.iter_bytes():
                        body.add(part)
            except FAILURES as error:
                raise failure(error, request, job, deadline) from error
        return body.response(answer)

    @contextmanager
    def _client(self, job: Job) -> Iterator[httpx.Client]:
        """The client for a job, which stays open until the job is done with it."""
        with self._lock:
            client = self._made(job)
            self._out[client] += 1
        try:
            yield client
        finally:
            with self._lock:
                self._out[client] -= 1
                done = not self._out[client]
                if done:
                    del self._out[client]
                close = done and client in self._retired
                if close:
                    self._retired.remove(client)
            if close:
                client.close()

    def _made(self, job: Job) -> httpx.Client:
        key = client_key(job)
        if key not in self._clients:
            import httpx

            from qwen_embed_plugins.sockets import keep_deadlines

            try:
                client = httpx.Client(**common_options(job))
            except (ImportError, ValueError, httpx.InvalidURL) as error:
                raise _misconfigured(error) from error
            keep_deadlines(client)
            self._clients[key] = client
        return self._clients[key]

    def close(self) -> None:
        """Close all connections: those in use once their answer is there.

        A socket that is closed under a thread which reads from it does not wake that thread, which
        would wait out its time limit.
        """
        with self._lock:
            clients = list(self._clients.values())
            self._clients.clear()
            in_use = {client for client in clients if client in self._out}
            self._retired |= in_use
        for client in clients:
            if client not in in_use:
                client.close()


def _close_clients(clients: dict[tuple[str | None, bool], httpx.Client], owner: int) -> None:
    """Close clients in the process that made them: a fork's connections are its parent's."""
    if os.getpid() == owner:
        for client in list(clients.values()):
            client.close()
    clients.clear()


class AsyncHttpTransport:
    """Awaiting transport. One object serves any number of event loops, one after another or at
    once: each loop has its own clients, closed when the loop shuts down."""

    def __init__(self) -> None:
        # Loaded now and not by the first request, which would stop its event loop meanwhile.
        import qwen_embed_plugins.sockets  # noqa: F401

        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopClients] = (
            weakref.WeakKeyDictionary()
        )

    async def send(self, request: WireRequest, job: Job, deadline: Deadline) -> WireResponse:
        """Send a request and give the whole answer, or raise `TransportFailure`."""
        from qwen_embed_plugins.sockets import FAILURES, Keeping

        body = _Body(request, job)
        client = await self._client(job)
        try:
            async with Keeping(deadline), client.stream(**_arguments(request, job)) as answer:
                async for part in answer.aiter_bytes():
                    body.add(part)
        except FAILURES as error:
            raise failure(error, request, job, deadline) from error
        return body.response(answer)

    async def _client(self, job: Job) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        clients = self._loops.get(loop)
        if clients is None:
            clients = self._loops[loop] = _LoopClients()
            await clients.watch()
        return clients.get(job)

    async def aclose(self) -> None:
        """Close the running loop's connections."""
        clients = self._loops.pop(asyncio.get_running_loop(), None)
        if clients is not None:
            await clients.aclose()


class _LoopClients:
    """The clients of one event loop.

    An event loop closes its open async generators when it shuts down, as `asyncio.run` does at its
    end. One generator that stands open for the loop's life is therefore the loop's own "closing"
    signal, and the connections are closed while the loop can still do it.
    """

    def __init__(self) -> None:
        self._clients: dict[tuple[str | None, bool], httpx.AsyncClient] = {}
        self._guard = self._until_shutdown()

    async def watch(self) -> None:
        await self._guard.__anext__()

    async def _until_shutdown(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await self._close_clients()

    def get(self, job: Job) -> httpx.AsyncClient:
        key = client_key(job)
        if key not in self._clients:
            import httpx

            from qwen_embed_plugins.sockets import keep_deadlines

            try:
                client = httpx.AsyncClient(**common_options(job))
            except (ImportError, ValueError, httpx.InvalidURL) as error:
                raise _misconfigured(error) from error
            keep_deadlines(client)
            self._clients[key] = client
        return self._clients[key]

    async def _close_clients(self) -> None:
        clients, self._clients = self._clients, {}
        for client in clients.values():
            await client.aclose()

    async def aclose(self) -> None:
        await self._guard.aclose()
