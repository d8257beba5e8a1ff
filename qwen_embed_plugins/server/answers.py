"""Answers in OpenAI's shapes, as bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pybase64

from qwen_embed_plugins.server.asked import Encoding
from qwen_embed_plugins.spaces import EmbeddingSpace

if TYPE_CHECKING:
    from qwen_embed_plugins.types import Matrix

ROWS_AT_ONCE = 32
"""So many rows are written before others have their turn: 32 of 4,096 numbers take some 10 ms."""


async def embeddings(
    vectors: Matrix, encoding: Encoding, space: EmbeddingSpace, tokens: int
) -> bytes:
    """The answer with all vectors, in order. Base64 is of float32, the lowest byte first."""
    rows = np.ascontiguousarray(vectors, dtype="<f4")
    written = _WRITTEN[encoding]
    parts = [b'{"object":"list","data":[']
    for index, row in enumerate(rows):
        if index:
            parts.append(b",")
        parts.append(b'{"object":"embedding","index":%d,"embedding":' % index)
        parts.append(written(row))
        parts.append(b"}")
        if index % ROWS_AT_ONCE == ROWS_AT_ONCE - 1:
            await asyncio.sleep(0)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    parts.append(b'],"model":%b,"usage":%b}' % (orjson.dumps(space.model), orjson.dumps(usage)))
    return b"".join(parts)


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
