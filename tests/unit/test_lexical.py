"""The offline stand-in knows words, in every script, and never gives a vector without length."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from qwen_embed_plugins.providers.lexical import DIMENSIONS, LEXICAL, lexical_vectors

DOCUMENTS = [
    "The bakery on the corner sells fresh bread every morning.",
    "How to repair a flat bicycle tyre at home.",
    "Процедура банкротства физических лиц через суд.",
    "Рецепт борща со свёклой и говядиной.",
    "如何在家里种植西红柿。",
    "北京的地铁线路很长。",
]


@pytest.mark.parametrize(
    ("query", "best"),
    [
        ("fresh BREAD", 0),
        ("repairing bicycles", 1),
        ("банкротство физического лица", 2),
        ("БОРЩ с говядиной", 3),
        ("种植西红柿", 4),
        ("北京地铁", 5),
        ("地铁", 5),
    ],
)
def test_shared_words_come_near(query: str, best: int) -> None:
    cosines = lexical_vectors(DOCUMENTS) @ lexical_vectors([query])[0]
    assert int(np.argmax(cosines)) == best
    assert cosines[best] > 0.2


def test_forms_of_one_text_are_equal() -> None:
    one, full_width, upper = lexical_vectors(["straße 12", "straße 12", "STRASSE 12"])
    assert np.array_equal(one, full_width)
    assert np.array_equal(one, upper)


@pytest.mark.parametrize(
    "text", ["!", "…", "🙂", "   ", "\u200b", "\n", "a", "я", "中", "_", "\x00"]
)
def test_no_text_is_without_a_vector(text: str) -> None:
    assert np.linalg.norm(lexical_vectors([text])) == pytest.approx(1.0, abs=1e-6)


def test_vectors_never_change() -> None:
    """To the bit: what is stored was made by another process, perhaps on another machine."""
    digest = hashlib.sha256(lexical_vectors(DOCUMENTS).tobytes()).hexdigest()[:16]
    assert digest == "df4a973010e0d794"
    program = (
        "import hashlib, sys; from qwen_embed_plugins.providers.lexical import lexical_vectors;"
        f"print(hashlib.sha256(lexical_vectors({DOCUMENTS!r}).tobytes()).hexdigest()[:16])"
    )
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "12345",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
    )
    assert printed.stdout.strip() == digest


def test_the_model_takes_its_native_length_and_bare_queries_only() -> None:
    assert LEXICAL.takes_dimensions(DIMENSIONS)
    assert not LEXICAL.takes_dimensions(512)
    assert LEXICAL.format_query is None
