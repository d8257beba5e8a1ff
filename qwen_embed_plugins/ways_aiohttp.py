"""The way out to plain servers for tasks: aiohttp, where it is installed (extra `fast`)."""

from __future__ import annotations

import asyncio
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import aiohttp
from yarl import URL

from qwen_embed_plugins.deadlines import Deadline
from qwen_embed_plugins.types import WireRequest, WireResponse
from qwen_embed_plugins.ways import (
    CONNECT_SECONDS,
    KEEPALIVE_SECONDS,
    READ_BYTES,
    Talk,
    headers_of,
)

if TYPE_CHECKING:
    from qwen_embed_plugins.effects import Job

LONGEST_LINE_BYTES = 65_536
"""As http.client has it; aiohttp's own is an eighth of that."""

EXACT_SECONDS = 86_400
"""Limits are not rounded up to whole seconds."""


class _Progress:
    """How far a request has come: its time may be up before there is a connection, and then nobody
    has heard of it."""

    connected = False


def _tracing() -> aiohttp.TraceConfig:
    async def note(_: aiohttp.ClientSession, context: Any, __: object) -> None:
        context.trace_request_ctx.connected = True

    tracing = aiohttp.TraceConfig()
    tracing.on_connection_create_end.append(note)
    tracing.on_connection_reuseconn.append(note)
    return tracing


async def _hear() -> None:
    """Let the loop take in what came while it did not run: that a connection was closed."""
    for _ in range(2):
        await asyncio.sleep(0)


class AiohttpWay:
    """Connections of one event loop, which runs."""

    def __init__(self) -> None:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_SECONDS)
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            read_bufsize=READ_BYTES,
            max_line_size=LONGEST_LINE_BYTES,
            max_field_size=LONGEST_LINE_BYTES,
            trace_configs=[_tracing()],
        )
        self._under_way = 0
        self._retired = False
        weakref.finalize(self, _let_go, self._session, connector)

    async def fetch(self, request: WireRequest, job: Job, deadline: Deadline) -> WireResponse:
        if not self._under_way:
            await _hear()
        self._under_way += 1
        try:
            return await self._fetch(request, Talk(request, job, deadline))
        finally:
            self._under_way -= 1
            if self._retired and not self._under_way:
                await self._session.close()

    async def _fetch(self, request: WireRequest, talk: Talk) -> WireResponse:
        left = talk.deadline.left_seconds()
        if left <= 0:
            raise talk.no_answer_in_time()
        limits = aiohttp.ClientTimeout(left, CONNECT_SECONDS, ceil_threshold=EXACT_SECONDS)
        progress = _Progress()
        try:
            async with self._session.request(
                request.method,
                URL(request.url, encoded=True),
                data=request.content or None,
                headers=headers_of(request),
                allow_redirects=False,
                timeout=limits,
                trace_request_ctx=progress,
            ) as answer:
                talk.expect_as_told(answer.headers.get("content-length"))
                async for part in answer.content.iter_any():
                    talk.add(part)
                return talk.response(answer.status, answer.headers.items())
        except asyncio.TimeoutError as error:
            late = talk.no_answer_in_time if progress.connected else talk.no_connection_in_time
            raise late() from error
        except aiohttp.ClientConnectorError as error:
            raise talk.cannot_connect(error.os_error) from error
        except aiohttp.ClientResponseError as error:
            raise talk.broke(OSError(error.message)) from error
        except (aiohttp.ClientError, OSError) as error:
            raise talk.broke(error) from error
        except ValueError as error:
            raise talk.cannot_be_sent() from error

    async def aclose(self) -> None:
        """Close the connections; while requests are under way, with the last of them."""
        self._retired = True
        if not self._under_way:
            await self._session.close()


def _let_go(session: aiohttp.ClientSession, connector: Any) -> None:
    """For a loop that nobody shut down: aiohttp would complain to the user of a session that is
    not his. `close()` would want the loop, which is closed or will not run again."""
    if not session.closed:
        with suppress(Exception):
            connector._close()
        session.detach()
