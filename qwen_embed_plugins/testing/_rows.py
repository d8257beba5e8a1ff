"""How a simulated server makes its vectors, and spoils them if told to."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import orjson
import pybase64

from qwen_embed_plugins.testing.behaviour import Behaviour, Dimensions
from qwen_embed_plugins.testing.vectors import reference_vector

if TYPE_CHECKING:
    from qwen_embed_plugins.testing.vectors import Vector


# 1,024 rows of 4,096 numbers as JSON are 46 MB: as many texts as a test repeats, no more.
@lru_cache(maxsize=1024)
def row_json(
    text: str, native: int, asked: int | None, encoding: str, behaviour: Behaviour
) -> bytes:
    """The JSON value of a text's vector: a list of numbers, or a string of base64."""
    vector = _vector(text, native, behaviour)
    if asked is not None:
        vector = _resized(vector, asked, behaviour.dimensions)
    if behaviour.rows != "none" and behaviour.rows_with in text:
        vector = _damaged(vector, behaviour)
    if encoding == "base64":
        return b'"' + pybase64.b64encode(vector.astype("<f4").tobytes()) + b'"'
    return _numbers(vector, spelled=b"NaN" if behaviour.rows == "nan" else b"null")


def _numbers(vector: Vector, *, spelled: bytes) -> bytes:
    listed = orjson.dumps(np.ascontiguousarray(vector), option=orjson.OPT_SERIALIZE_NUMPY)
    return listed.replace(b"null", spelled)  # orjson writes null for what is not finite


def _vector(text: str, native: int, behaviour: Behaviour) -> Vector:
    vector = reference_vector(text, native, seed=behaviour.seed)
    if behaviour.noise:
        stray = reference_vector(text, native, seed=behaviour.seed + 7919)
        vector = _unit(vector + behaviour.noise * stray)
    return vector


def _resized(vector: Vector, asked: int, how: Dimensions) -> Vector:
    if how == "cut":
        return vector[:asked]
    if how == "shorten" and asked < len(vector):
        return _unit(vector[:asked])
    if how == "pad":
        return _unit(_padded(vector[:asked], asked))
    return vector


def _damaged(vector: Vector, behaviour: Behaviour) -> Vector:
    half = len(vector) // 2
    match behaviour.rows:
        case "scaled":
            return vector * np.float32(behaviour.scale)
        case "not_normalised":
            return vector * np.float32(behaviour.scale * (1.0 + abs(float(vector[0]))))
        case "null" | "nan":
            return _starting_with(vector, np.nan)
        case "infinite":
            return _starting_with(vector, np.inf)
        case "zero":
            return np.zeros_like(vector)
        case "padded":
            return _unit(_padded(vector[:half], len(vector)))
        case "cut":
            return vector[:half]
        case "long":
            return _padded(vector, 2 * len(vector))
        case _:
            return vector


def _unit(vector: Vector) -> Vector:
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)


def _padded(vector: Vector, length: int) -> Vector:
    return np.pad(vector, (0, length - len(vector)))


def _starting_with(vector: Vector, number: float) -> Vector:
    changed = vector.copy()
    changed[0] = number
    return changed
