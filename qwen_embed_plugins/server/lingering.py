"""Answers to requests whose body was not read, which the client must get all the same.

A client that is still sending when its connection closes sees a broken connection and no answer.
So the answer goes out at once, and what still comes is read and thrown away for a moment: no more
than some megabytes, no longer than some seconds.
"""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

LINGER_BYTES = 16_000_000
LINGER_SECONDS = 2.0


class Lingering:
    """Around an application: closes the connections of requests whose body it did not read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or not _has_body(scope):
            await self._app(scope, receive, send)
            return
        unread = True

        async def receiving() -> Message:
            nonlocal unread
            message = await receive()
            unread = unread and bool(message.get("more_body"))
            return message

        async def sending(message: Message) -> None:
            if unread and message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), (b"connection", b"close")]
                message = {**message, "headers": headers}
            if unread and message["type"] == "http.response.body" and not message.get("more_body"):
                await send({**message, "more_body": True})
                await _drain(receiving)
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        await self._app(scope, receiving, sending)


def _has_body(scope: Scope) -> bool:
    headers = dict(scope["headers"])
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"


async def _drain(receive: Receive) -> None:
    async def read_on() -> None:
        left = LINGER_BYTES
        while left > 0:
            message = await receive()
            if not message.get("more_body"):
                return
            left -= len(message["body"])

    try:
        await asyncio.wait_for(read_on(), LINGER_SECONDS)
    except asyncio.TimeoutError:
        return
