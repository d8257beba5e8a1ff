"""Embedding spaces: which vectors may be compared, and how a long vector becomes a short one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qwen_embed_plugins.types import Matrix


@dataclass(frozen=True, slots=True)
class EmbeddingSpace:
    """The vectors which may be compared: one model's, of one length, normalised or not.

    >>> str(EmbeddingSpace("qwen3-embedding-8b", 1024))
    'qwen3-embedding-8b/1024'
    """

    model: str
    dimensions: int
    normalised: bool = True

    def __str__(self) -> str:
        return f"{self.model}/{self.dimensions}" + ("" if self.normalised else "/raw")


def shorten(vectors: Matrix, dimensions: int) -> Matrix:
    """The first `dimensions` numbers of each row, normalised again; float32 (n, dimensions).

    Valid for models trained so that a prefix is a vector in its own right (Matryoshka). Rows must
    be finite and not zero; the caller has checked them.
    """
    import numpy as np

    cut = np.asarray(vectors[:, :dimensions], dtype=np.float64)
    norms = np.sqrt(np.einsum("ij,ij->i", cut, cut))
    return np.asarray(cut / norms[:, None], dtype=np.float32)
