"""The checks that every vector passes before anyone sees it, in one pass over the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qwen_embed_plugins.spaces import squared_lengths

if TYPE_CHECKING:
    import numpy.typing as npt

    from qwen_embed_plugins.models import Model
    from qwen_embed_plugins.spaces import Squares
    from qwen_embed_plugins.types import Matrix

PADDING_RUN = 32
"""So many exact zeros at a dense vector's end are padding: a model's outputs are never all 0.0."""


class BadAnswer(ValueError):
    """The answer as a whole cannot be trusted: wrong count or wrong length."""


def as_matrix(vectors: Any, count: int, dimensions: int, model: str) -> Matrix:
    """The answer as float32 (count, dimensions), or `BadAnswer` with what was found."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            matrix = np.asarray(vectors, dtype=np.float32)
    except Exception:  # whatever a plugin's own array type raises
        raise BadAnswer("the answer's vectors differ in length or hold something else") from None
    if matrix.ndim != 2 or matrix.shape[0] != count:
        found = matrix.shape[0] if matrix.ndim else 0
        raise BadAnswer(f"{count} texts were sent and {found} vectors came back")
    if matrix.shape[1] != dimensions:
        raise BadAnswer(
            f"the vectors have {matrix.shape[1]} numbers where {model} gives {dimensions}"
        )
    return matrix


def row_faults(
    matrix: Matrix, dimensions: int, *, dense: bool, kept: Squares | None = None
) -> dict[int, str]:
    """What is wrong with single rows, by row: not finite, padded, or zero in the part of
    `dimensions` numbers that will be kept. Empty: all are right.

    `kept` are the squared lengths of that part, if known.
    """
    if kept is None:
        kept = squared_lengths(matrix[:, :dimensions])
    squares = squared_lengths(matrix) if dimensions < matrix.shape[1] else kept
    # One comparison is false for NaN, infinity and zero alike.
    bad = ~((squares > 1e-12) & (squares < np.inf))
    if dimensions < matrix.shape[1]:
        bad |= ~(kept > 1e-12)
    # A padded row ends in zero, and to look at all ends takes a fifth of a look at all runs.
    if dense and matrix.shape[1] > PADDING_RUN and np.count_nonzero(matrix[:, -1]) < len(matrix):
        bad |= ~matrix[:, -PADDING_RUN:].any(axis=1)
    if not np.count_nonzero(bad):
        return {}
    return {int(row): _row_fault(matrix[row]) for row in np.flatnonzero(bad)}


def equal_rows(matrix: Matrix, model: Model) -> list[int]:
    """Rows that another row equals to the last bit.

    Texts are sent once each, so for a dense model this is a sign that a server gave one text's
    vector to another; routes without indexes have no other. It is no proof: a tokenizer may read
    two texts alike (composed and decomposed accents).
    """
    if not model.dense or len(matrix) == 1 or matrix.shape[1] < 2:
        return []
    first_two = np.ascontiguousarray(matrix[:, :2]).view(np.uint64).ravel()
    if len(set(first_two.tolist())) == len(matrix):
        return []
    _, groups, counts = np.unique(matrix, axis=0, return_inverse=True, return_counts=True)
    return [int(row) for row in np.flatnonzero(counts[groups.ravel()] > 1)]


def _row_fault(row: npt.NDArray[np.float32]) -> str:
    if not np.isfinite(row).all():
        return "the vector holds NaN or infinity"
    if not row.any():
        return "the vector is all zeros"
    if not row[-PADDING_RUN:].any():
        return f"the vector is padded: its last {PADDING_RUN} or more numbers are zero"
    return "the vector's length is too small or too large to be normalised"
