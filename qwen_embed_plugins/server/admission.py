"""How much is let in: so many requests at a time, bodies of so many bytes, each read in time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.datastructures import Headers
from starlette.requests import Request

from qwen_embed_plugins.server.refusals import Refusal

BODIES_AT_ONCE = 16
"""So many bodies of the largest size may be held at a time."""

BODY_SECONDS = 60.0
"""How long a client may take to send a body."""

RETRY_SECONDS = 1


class Room:
    """The requests that are being read, wait or are under way, and the bytes of their bodies."""

    def __init__(self, most_requests: int, most_body_bytes: int) -> None:
        self._most_requests = most_requests
        self._most_body_bytes = most_body_bytes
        self._most_bytes = most_body_bytes * BODIES_AT_ONCE
        self._bytes = 0
        self.requests = 0

    @contextmanager
    def entered(self, headers: Headers) -> Iterator[None]:
        """Be in it meanwhile. Raises `Refusal` if it is full: 503, try again soon."""
        size = self._expected(headers)
        if self.requests >= self._most_requests or self._bytes + size > self._most_bytes:
            raise Refusal(
                503,
                "overloaded",
                f"{self.requests} requests are under way or wait, more than this server takes; "
                "try again",
                retry_after_seconds=RETRY_SECONDS,
            )
        self.requests += 1
        self._bytes += size
        try:
            yield
        finally:
            self.requests -= 1
            self._bytes -= size

    def _expected(self, headers: Headers) -> int:
        """How many bytes a body will have: as it says, else as many as it may."""
        declared = headers.get("content-length")
        if declared is None:
            return self._most_body_bytes
        size = int(declared)  # a number: the HTTP server has read it
        if size > self._most_body_bytes:
            raise self._too_large(f"{size:,} bytes")
        return size

    async def body(self, request: Request) -> bytes:
        """A request's body. Raises `Refusal` if it is too large or takes too long."""
        encoding = request.headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            message = f"content-encoding: {encoding[:40]}: send the body as it is"
            raise Refusal(415, "unsupported_encoding", message)
        try:
            return await asyncio.wait_for(self._read(request), BODY_SECONDS)
        except asyncio.TimeoutError:
            message = f"the body did not come within {BODY_SECONDS:.0f} s"
            raise Refusal(408, "body_too_slow", message) from None

    async def _read(self, request: Request) -> bytes:
        content = bytearray()
        async for chunk in request.stream():
            content += chunk
            if len(content) > self._most_body_bytes:
                raise self._too_large("more")
        return bytes(content)

    def _too_large(self, size: str) -> Refusal:
        message = (
            f"the body has {size}; this server takes {self._most_body_bytes:,}. Send fewer texts "
            "at once"
        )
        return Refusal(413, "body_too_large", message)
