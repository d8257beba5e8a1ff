"""The ways out over httpx: through proxies, with TLS, and to addresses that need reading.

A client of httpx's where there is a proxy, its transport alone where there is none: the client's
cookies, redirects and logins, which we have no use for, cost as much again as the transport.
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import httpx

from qwen_embed_plugins.deadlines import Deadline
from qwen_embed_plugins.errors import ConfigurationError, without_secrets
from qwen_embed_plugins.proxies import keep_passwords_out_of_logs
from qwen_embed_plugins.sockets import FAILURES, Keeping, keep_deadlines
from qwen_embed_plugins.types import TransportFailure, WireRequest, WireResponse
from qwen_embed_plugins.ways import (
    CONNECT_SECONDS,
    KEEPALIVE_SECONDS,
    MAX_IDLE,
    Talk,
    headers_of,
    is_direct,
)

if TYPE_CHECKING:
    import ssl

    from qwen_embed_plugins.effects import Job


class HttpxWay:
    """Connections of one client or transport, as the settings and the environment want it for the
    job that is the first. Raises `ConfigurationError` where they cannot be read."""

    def __init__(self, job: Job) -> None:
        with _configuring():
            options = common_options(job)
            self._http = httpx.HTTPTransport(**options) if is_direct(job) else _client(options)
        keep_deadlines(self._http)

    def fetch(self, request: WireRequest, job: Job, deadline: Deadline) -> WireResponse:
        talk = Talk(request, job, deadline)
        try:
            with Keeping(deadline), self._answer(_to_send(request, job)) as answer:
                talk.expect_as_told(answer.headers.get("content-length"))
                for part in answer.iter_bytes():
                    talk.add(part)
                return talk.response(answer.status_code, answer.headers.multi_items())
        except FAILURES as error:
            raise _failure(error, talk) from error

    @contextmanager
    def _answer(self, request: httpx.Request) -> Iterator[httpx.Response]:
        """Send it and give the answer, whose body is yet to be read."""
        if isinstance(self._http, httpx.HTTPTransport):
            answer = self._http.handle_request(request)
        else:
            answer = self._http.send(request, stream=True)
        try:
            yield answer
        finally:
            answer.close()

    def close(self) -> None:
        self._http.close()


class AsyncHttpxWay:
    """`HttpxWay`, awaiting, for one event loop."""

    def __init__(self, job: Job) -> None:
        with _configuring():
            options = common_options(job)
            self._http = (
                httpx.AsyncHTTPTransport(**options) if is_direct(job) else _async_client(options)
            )
        keep_deadlines(self._http)

    async def fetch(self, request: WireRequest, job: Job, deadline: Deadline) -> WireResponse:
        talk = Talk(request, job, deadline)
        try:
            async with Keeping(deadline), self._answer(_to_send(request, job)) as answer:
                talk.expect_as_told(answer.headers.get("content-length"))
                async for part in answer.aiter_bytes():
                    talk.add(part)
                return talk.response(answer.status_code, answer.headers.multi_items())
        except FAILURES as error:
            raise _failure(error, talk) from error

    @asynccontextmanager
    async def _answer(self, request: httpx.Request) -> AsyncIterator[httpx.Response]:
        if isinstance(self._http, httpx.AsyncHTTPTransport):
            answer = await self._http.handle_async_request(request)
        else:
            answer = await self._http.send(request, stream=True)
        try:
            yield answer
        finally:
            await answer.aclose()

    async def aclose(self) -> None:
        await self._http.aclose()


def _client(options: dict[str, Any]) -> httpx.Client:
    keep_passwords_out_of_logs()
    return httpx.Client(**options)


def _async_client(options: dict[str, Any]) -> httpx.AsyncClient:
    keep_passwords_out_of_logs()
    return httpx.AsyncClient(**options)


def common_options(job: Job) -> dict[str, Any]:
    unlimited = httpx.Limits(
        max_connections=None,
        max_keepalive_connections=MAX_IDLE,
        keepalive_expiry=KEEPALIVE_SECONDS,
    )
    options = _proxy_options(job)
    named = (os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
    tls = _tls(options["trust_env"], *(named if options["trust_env"] else ()))
    return {**options, "limits": unlimited, "verify": tls}


def _proxy_options(job: Job) -> dict[str, Any]:
    """How to reach an offer: its own proxy, directly if it is near, else as the environment says.

    A proxy of the environment's is for the outside; a server on this machine or in the private
    network would not be reached through it.
    """
    if job.offer.proxy:
        # To httpx both mean the same, and not every version that we take knows the second name.
        proxy = job.offer.proxy.replace("socks5h://", "socks5://", 1)
        return {"proxy": proxy, "trust_env": False}
    return {"trust_env": not job.offer.private}


@lru_cache(maxsize=8)
def _tls(trust_env: bool, *named: str | None) -> ssl.SSLContext:
    """One for all clients, while the environment names the same certificates: to read them takes
    some 30 ms, in which an event loop would stand still."""
    return httpx.create_ssl_context(trust_env=trust_env)


def _to_send(request: WireRequest, job: Job) -> httpx.Request:
    url, login = _parsed(request.url)
    seconds = job.timeout_seconds
    timeout = httpx.Timeout(seconds, connect=min(CONNECT_SECONDS, seconds))
    return httpx.Request(
        request.method,
        url,
        content=request.content,
        headers={**headers_of(request), **login},
        extensions={"timeout": timeout.as_dict()},
    )


@lru_cache(maxsize=64)
def _parsed(url: str) -> tuple[httpx.URL, dict[str, str]]:
    """The address without user and password, which httpx would write into its log, and a header
    with them."""
    parsed = httpx.URL(url)
    if not parsed.userinfo:
        return parsed, {}
    login = f"{parsed.username}:{parsed.password}".encode()
    header = {"authorization": f"Basic {b64encode(login).decode()}"}
    return parsed.copy_with(userinfo=b""), header


def _failure(error: Exception, talk: Talk) -> TransportFailure:
    """Our failure for an exception of httpx's, saying what happened and where."""
    if isinstance(error, httpx.ConnectTimeout):
        return talk.no_connection_in_time()
    refused = isinstance(error, (httpx.ConnectError, httpx.ProxyError))
    if refused or not isinstance(error, httpx.HTTPError):
        return talk.cannot_connect(error)
    if isinstance(error, httpx.TimeoutException):
        return talk.no_answer_in_time()
    return talk.broke(error)


@contextmanager
def _configuring() -> Iterator[None]:
    try:
        yield
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        # httpx quotes the part that it cannot read, which may be the end of a password.
        unread = isinstance(error, httpx.InvalidURL)
        said = "an address cannot be read" if unread else without_secrets(str(error))
        raise ConfigurationError(
            f"the HTTP client cannot be set up: {said}; check the proxies in the settings and in "
            "the environment"
        ) from error
