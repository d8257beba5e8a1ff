"""A server that answers at once, with vectors that were encoded before the first request.

It runs in a process of its own, so that it takes no time of the client's. A text has the same
vector each time, and no two texts of a request have the same one.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import orjson
import pybase64

from tests.benchmarks.measuring import on_core

POOL = 1024


class Answers:
    """The bodies of answers."""

    def __init__(self, dimensions: int, *, floats_only: bool) -> None:
        self._floats_only = floats_only
        numbers = np.random.default_rng(7).standard_normal((POOL, dimensions))
        self.vectors = (numbers / np.linalg.norm(numbers, axis=1, keepdims=True)).astype(np.float32)
        self._base64 = [b'"' + pybase64.b64encode(row.tobytes()) + b'"' for row in self.vectors]
        self._floats: list[bytes] = []

    def body(self, request: bytes) -> bytes:
        asked = orjson.loads(request)
        texts = asked["input"]
        texts = [texts] if isinstance(texts, str) else texts
        in_base64 = asked.get("encoding_format") == "base64" and not self._floats_only
        encoded = self._base64 if in_base64 else self.floats
        rows = [
            b'{"object":"embedding","index":%d,"embedding":%b}' % (index, encoded[place])
            for index, place in enumerate(places(texts))
        ]
        return (
            b'{"object":"list","data":[' + b",".join(rows) + b'],"model":"%b",'
            b'"usage":{"prompt_tokens":%d,"total_tokens":%d}}'
            % (asked["model"].encode(), 8 * len(texts), 8 * len(texts))
        )

    @property
    def floats(self) -> list[bytes]:
        if not self._floats:
            self._floats = [
                orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY) for row in self.vectors
            ]
        return self._floats


def places(texts: list[Any]) -> Iterator[int]:
    """Which vectors of the pool are these texts'. Lists of tokens, as OpenAI's client for LangChain
    sends them, count as texts."""
    taken = set[int]()
    for text in texts:
        written = text.encode() if isinstance(text, str) else repr(text).encode()
        place = zlib.crc32(written) % POOL
        while place in taken:
            place = (place + 1) % POOL
        taken.add(place)
        yield place


class _Protocol(asyncio.Protocol):
    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=1 << 26)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._received[:end]).lower()
            length = head.partition(b"content-length:")[2].split(b"\r\n")[0]
            whole = end + 4 + int(length or 0)
            if len(self._received) < whole:
                return
            content = bytes(self._received[end + 4 : whole])
            del self._received[:whole]
            body = self._answers.body(content) if content else b'{"data":[]}'
            self._transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                % (len(body), body)
            )


def _serve(ready: Connection, dimensions: int, floats_only: bool) -> None:
    async def run() -> None:
        answers = Answers(dimensions, floats_only=floats_only)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Protocol(answers), "127.0.0.1", 0)
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    with on_core(1):
        asyncio.run(run())


@contextmanager
def instant_server(dimensions: int, *, floats_only: bool = False) -> Iterator[str]:
    """Its base address, as in `base_url`. It may know JSON numbers alone, whatever it is asked."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, dimensions, floats_only), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{here.recv()}/v1"
    finally:
        process.terminate()
        process.join()
