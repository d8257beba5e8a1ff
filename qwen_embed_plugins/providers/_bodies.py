"""JSON bodies that are nearly all vectors, parsed without an object for each number or a copy of
each string.

What comes out is what `orjson.loads` gives, but for the vectors: base64 under `embedding` stays a
`memoryview` of the body, and a long list of numbers is an array where `simdjson` is installed.
Whatever looks odd is parsed again as a whole, so that mistakes are told as they always are.
"""

from __future__ import annotations

import random
import threading
from functools import cache
from typing import Any

import numpy as np
import orjson

_LARGE_BYTES = 8_192
"""Smaller bodies are parsed whole: they hold a vector at most."""

_MARK = b'"embedding":"'
_FIRST_MARK_WITHIN = 4_096
_SHORTEST_ARRAY = 32

_FIRST_NUMBER = (1 << 50) + random.getrandbits(40)
"""What stands in for cut-out strings begins here: no server writes such a number by chance."""

_parsers = threading.local()


def loads(content: bytes) -> Any:
    """The body as Python values. Raises `orjson.JSONDecodeError`."""
    if len(content) >= _LARGE_BYTES:
        if content.find(_MARK, 0, _FIRST_MARK_WITHIN) >= 0:
            # An escape, such as \/, is for the parser.
            body = None if b"\\" in content else _without_strings(content)
        else:
            body = _with_arrays(content)
        if body is not None:
            return body
    return orjson.loads(content)


def _without_strings(content: bytes) -> Any | None:
    """An OpenAI-shaped body whose base64 was cut out before it was parsed; None if it is another.

    For 32 vectors of 4,096 numbers the parser sees two thousandths of it. The mark cannot stand
    inside a string of JSON, where quotes are escaped. Cut-out strings leave their number behind: a
    body is right if its rows have just those numbers.
    """
    pieces: list[bytes] = []
    cut: list[memoryview] = []
    whole, end = memoryview(content), 0
    while (start := content.find(_MARK, end)) >= 0:
        start += len(_MARK)
        pieces += (content[end : start - 1], b"%d" % (_FIRST_NUMBER + len(cut)))
        end = content.find(b'"', start) + 1
        if not end:
            return None
        cut.append(whole[start : end - 1])
    pieces.append(content[end:])
    try:
        body = orjson.loads(b"".join(pieces))
        rows = body["data"]
        numbers = [row["embedding"] for row in rows]
        if numbers != [*range(_FIRST_NUMBER, _FIRST_NUMBER + len(cut))]:
            return None
    except (orjson.JSONDecodeError, TypeError, KeyError):
        return None
    for row, text in zip(rows, cut, strict=True):
        row["embedding"] = text
    return body


@cache
def _simdjson() -> Any | None:
    """The parser that gives arrays of numbers as buffers, if it is installed."""
    try:
        import simdjson
    except ImportError:
        return None
    return simdjson


def _with_arrays(content: bytes) -> Any | None:
    """The body with long lists of numbers as float32 arrays; None without simdjson, or if it cannot
    read the body."""
    simdjson = _simdjson()
    if simdjson is None:
        return None
    # Each thread has its own, whose memory is used again. What it gave lasts until its next body.
    parser = getattr(_parsers, "parser", None) or simdjson.Parser()
    _parsers.parser = None
    try:
        body = _plain(parser.parse(content), simdjson)
    except (ValueError, TypeError, LookupError, RuntimeError):
        return None
    _parsers.parser = parser
    return body


def _plain(value: Any, simdjson: Any) -> Any:
    if isinstance(value, simdjson.Object):
        names = list(value.keys())
        if len(set(names)) < len(names):
            raise ValueError("a name stands twice: simdjson gives the first value, others the last")
        # items() would make lists of Python numbers.
        return {name: _plain(value[name], simdjson) for name in names}
    if not isinstance(value, simdjson.Array):
        return value
    if len(value) >= _SHORTEST_ARRAY and isinstance(value[0], (int, float)):
        numbers = np.frombuffer(value.as_buffer(of_type="d"), np.float64)
        if len(numbers) != len(value):  # lists within are flattened
            raise ValueError("a list holds lists")
        with np.errstate(over="ignore"):  # beyond float32 becomes infinite, which checks refuse
            return numbers.astype(np.float32)
    return [_plain(part, simdjson) for part in value]
