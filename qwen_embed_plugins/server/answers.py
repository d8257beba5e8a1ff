"""Answers in OpenAI's shapes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pybase64
from starlette.responses import Response, StreamingResponse

from qwen_embed_plugins.server.asked import Encoding
from qwen_embed_plugins.spaces import EmbeddingSpace

if TYPE_CHECKING:
    from qwen_embed_plugins.types import Matrix

JSON = "application/json"

ROWS_AT_ONCE = 32
"""So many rows are one part: 32 of 4,096 numbers take some 10 ms to write, and are 1.5 MB."""


def embeddings(vectors: Matrix, encoding: Encoding, space: EmbeddingSpace, tokens: int) -> Response:
    """The answer with all vectors, in order. Base64 is of float32, the lowest byte first.

    A long one is written as its client reads it: 2,048 vectors may be 90 MB of JSON.
    """
    parts = _parts(np.ascontiguousarray(vectors, dtype="<f4"), encoding, space, tokens)
    if len(vectors) <= ROWS_AT_ONCE:
        return Response(b"".join(parts), media_type=JSON)
    return StreamingResponse(_in_turn(parts), media_type=JSON)


async def _in_turn(parts: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The parts one by one, and others' turn between them: the loop has to see a client leave."""
    for part in parts:
        yield part
        await asyncio.sleep(0)


def _parts(rows: Matrix, encoding: Encoding, space: EmbeddingSpace, tokens: int) -> Iterator[bytes]:
    written = _WRITTEN[encoding]
    yield b'{"object":"list","data":['
    for first in range(0, len(rows), ROWS_AT_ONCE):
        items = [
            b'{"object":"embedding","index":%d,"embedding":%b}' % (first + place, written(row))
            for place, row in enumerate(rows[first : first + ROWS_AT_ONCE])
        ]
        yield (b"," if first else b"") + b",".join(items)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    yield b'],"model":%b,"usage":%b}' % (orjson.dumps(space.model), orjson.dumps(usage))


def as_json(content: Any, status: int = 200) -> Response:
    """Any other answer."""
    return Response(orjson.dumps(content), status, media_type=JSON)


def _floats(row: Any) -> bytes:
    return orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)


def _base64(row: Any) -> bytes:
    return b'"%b"' % pybase64.b64encode(row.data)


_WRITTEN: dict[Encoding, Callable[[Any], bytes]] = {"float": _floats, "base64": _base64}


def model(space: EmbeddingSpace, since: int) -> dict[str, Any]:
    """The one model that is served. `since` stands where OpenAI says when a model was made."""
    return {
        "id": space.model,
        "object": "model",
        "created": since,
        "owned_by": "qwen-embed-plugins",
        "dimensions": space.dimensions,
    }
