"""The truth that tests compare with: one vector and one token count for every text."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Vector = npt.NDArray[np.float32]


def reference_vector(text: str, dimensions: int, *, seed: int = 0) -> Vector:
    """The unit vector of a text, float32 (dimensions,): the same in every process and release.

    Another length or another seed is another space, as with real models: the vector of 1,024
    numbers is no prefix of the one of 4,096 (use `spaces.shorten` for that). No number is zero.
    """
    key = f"{seed}/{dimensions}/".encode() + text.encode("utf-8", "surrogatepass")
    digest = int.from_bytes(hashlib.blake2b(key, digest_size=16).digest(), "little")
    # Raw bits and not `Generator.standard_normal`: NumPy promises to keep only the former stable
    # from release to release (NEP 19).
    words = np.random.PCG64(digest).random_raw(-(-dimensions // 4))
    numbers = (words.astype("<u8").view("<i2")[:dimensions] | 1).astype(np.float32)
    return np.asarray(numbers / np.linalg.norm(numbers), dtype=np.float32)


def reference_tokens(text: str) -> int:
    """How many tokens the simulated servers count: four UTF-8 bytes each, and one for the end."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // 4) + 1
