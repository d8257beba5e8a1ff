"""Cosines between the vectors of two offers."""

from __future__ import annotations

import numpy as np

from qwen_embed_plugins.parity import cosines


def test_no_cosine_is_beyond_one_by_rounding() -> None:
    rows = np.random.RandomState(0).standard_normal((1000, 64)).astype(np.float32)
    assert np.allclose(cosines(rows, rows), 1)
    assert cosines(rows, rows).max() == 1
    assert cosines(rows, -rows).min() == -1
