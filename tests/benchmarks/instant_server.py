"""A server that answers at once, or after a set time, with vectors that were encoded before the
first request.

It runs in a process of its own, so that it takes no time of the client's. Each text has a vector of
its own, the same each time: one of a pool, but for its first numbers.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import struct
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
OWN = 3
"""Numbers at a vector's beginning that are its text's own: three take whole 16 signs of base64."""


class Answers:
    """The bodies of answers."""

    def __init__(self, dimensions: int, *, floats_only: bool) -> None:
        self._floats_only = floats_only
        numbers = np.random.default_rng(7).standard_normal((POOL, dimensions))
        self.vectors = (numbers / np.linalg.norm(numbers, axis=1, keepdims=True)).astype(np.float32)
        encoded = [pybase64.b64encode(row[OWN:].tobytes()) for row in self.vectors]
        self._base64 = [tail + b'"}' for tail in encoded]
        self._floats: list[bytes] = []
        self._own_in_base64: dict[str, tuple[int, bytes]] = {}

    def body(self, request: bytes) -> list[bytes]:
        """The body in parts, so that a vector is copied once, when it is sent: what the server
        takes of two cores is not the worker's fault."""
        asked = orjson.loads(request)
        texts = asked["input"]
        texts = [texts] if isinstance(texts, str) else texts
        in_base64 = asked.get("encoding_format") == "base64" and not self._floats_only
        row = self._in_base64 if in_base64 else self._in_floats
        parts = [b'{"object":"list","data":[']
        for index, text in enumerate(texts):
            own, tail = row(text)
            parts += (b',{"object":"embedding","index":%d,"embedding":%b' % (index, own), tail)
        parts[1] = parts[1][1:]  # no comma before the first
        parts.append(
            b'],"model":"%b","usage":{"prompt_tokens":%d,"total_tokens":%d}}'
            % (asked["model"].encode(), 8 * len(texts), 8 * len(texts))
        )
        return parts

    def _in_base64(self, text: Any) -> tuple[bytes, bytes]:
        key = text if isinstance(text, str) else repr(text)
        if key not in self._own_in_base64:
            # Once: a text comes again in each round.
            place, own = own_numbers(text)
            encoded = b'"' + pybase64.b64encode(struct.pack("<3f", *own))
            self._own_in_base64[key] = place, encoded
        place, encoded = self._own_in_base64[key]
        return encoded, self._base64[place]

    def _in_floats(self, text: Any) -> tuple[bytes, bytes]:
        if not self._floats:
            self._floats = [
                orjson.dumps(row[OWN:], option=orjson.OPT_SERIALIZE_NUMPY)[1:] + b"}"
                for row in self.vectors
            ]
        place, own = own_numbers(text)
        return b"[%.7f,%.7f,%.7f," % own, self._floats[place]


def own_numbers(text: Any) -> tuple[int, tuple[float, float, float]]:
    """Which vector of the pool is a text's, and with which numbers at its beginning. Lists of
    tokens, which OpenAI's client for LangChain may send, count as texts."""
    written = text.encode() if isinstance(text, str) else repr(text).encode()
    first, second = zlib.crc32(written), zlib.crc32(written, 1)
    parts = (first & 0xFFFF, first >> 16, second & 0xFFFF)
    return second % POOL, (parts[0] / 2**22, parts[1] / 2**22, parts[2] / 2**22)


class _Protocol(asyncio.Protocol):
    def __init__(self, answers: Answers, latency_seconds: float) -> None:
        self._answers = answers
        self._latency_seconds = latency_seconds
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
            parts = self._answers.body(content) if content else [b'{"data":[]}']
            head = (
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
                % sum(map(len, parts))
            )
            answer = b"".join([head, *parts])
            if self._latency_seconds:
                asyncio.get_running_loop().call_later(self._latency_seconds, self._write, answer)
            else:
                self._write(answer)

    def _write(self, answer: bytes) -> None:
        self._transport.write(answer)


def _serve(ready: Connection, dimensions: int, floats_only: bool, latency_seconds: float) -> None:
    async def run() -> None:
        answers = Answers(dimensions, floats_only=floats_only)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: _Protocol(answers, latency_seconds), "127.0.0.1", 0
        )
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    with on_core(1):
        asyncio.run(run())


@contextmanager
def instant_server(
    dimensions: int, *, floats_only: bool = False, latency_seconds: float = 0.0
) -> Iterator[str]:
    """Its base address, as in `base_url`. It may know JSON numbers alone, whatever it is asked."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    arguments = (there, dimensions, floats_only, latency_seconds)
    process = context.Process(target=_serve, args=arguments, daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{here.recv()}/v1"
    finally:
        process.terminate()
        process.join()
