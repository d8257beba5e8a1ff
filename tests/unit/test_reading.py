"""How far an offer reads: pairs of long texts, and counts of tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_embed_plugins.reading import (
    BEYOND,
    COMMON_CAPS,
    LENGTHS,
    WITHIN,
    counted_less,
    counts_too_few,
    is_cut,
    length_to_prove,
    pair,
)
from qwen_embed_plugins.testing import reference_tokens, reference_vector
from qwen_embed_plugins.tokens import estimate_tokens


@pytest.mark.parametrize("shared", [*LENGTHS, int(32768 * WITHIN), int(32768 * BEYOND)])
def test_a_pair_begins_alike_for_so_many_tokens_and_ends_differently(shared: int) -> None:
    one, other = pair(shared)
    alike = next(place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    # The tokenizer of Qwen has 4.74 characters to the token here (counted); none has over 6.
    assert alike / 6 < shared <= alike / 4.6
    assert 0.15 < 1 - alike / len(one) < 0.35
    assert len(one) > alike


@pytest.mark.parametrize("cap", sorted(COMMON_CAPS - {32768}))
def test_a_server_that_cuts_at_a_common_length_is_seen(cap: int) -> None:
    shared = min(length for length in (*LENGTHS, 19660) if length > cap)
    cut = [text.encode()[: cap * 4].decode() for text in pair(shared)]
    assert is_cut(np.stack([reference_vector(text, 64) for text in cut]))
    whole = [reference_vector(text, 64) for text in pair(shared)]
    assert not is_cut(np.stack(whole))


def test_rounding_is_no_difference_and_a_small_one_is() -> None:
    row = reference_vector("a", 1024)
    rounded = np.asarray(row.astype(np.float16), dtype=np.float32)
    assert is_cut(np.stack([row, rounded]))
    other = reference_vector("b", 1024)
    assert not is_cut(np.stack([row, row + 0.05 * other]))


def test_short_texts_prove_nothing_and_long_ones_up_to_the_limit() -> None:
    assert length_to_prove(["word " * 200], 32768, estimate_tokens) == 0
    assert length_to_prove(["word " * 600], 32768, estimate_tokens) == 2_200
    assert length_to_prove(["word " * 15_000], 32768, estimate_tokens) == int(32768 * WITHIN)
    assert length_to_prove(["word " * 40_000], 32768, estimate_tokens) == int(32768 * BEYOND)
    assert length_to_prove([], 32768, estimate_tokens) == 0


@given(words=st.integers(1, 60_000), limit=st.sampled_from([512, 2048, 8192, 32768]))
def test_what_is_asked_for_grows_with_the_text_and_fits_the_offer(words: int, limit: int) -> None:
    shared = length_to_prove(["word " * words], limit, estimate_tokens)
    assert shared <= length_to_prove(["word " * (words + 100)], limit, estimate_tokens)
    if 0 < shared <= limit:
        assert reference_tokens(pair(shared)[0]) <= limit
    if shared > limit:
        assert shared > limit * 1.2


def test_a_count_that_equals_a_cap_or_is_under_half_shows_a_cut() -> None:
    text = "A sentence of common words that goes on. " * 40
    about = estimate_tokens(text)
    assert counted_less([text], about // 2 - 10, frozenset(), estimate_tokens) is not None
    assert counted_less([text], about * 2 // 3, frozenset(), estimate_tokens) is None
    assert (
        counted_less([text], about * 2 // 3, frozenset({about * 2 // 3}), estimate_tokens)
        is not None
    )
    assert counted_less([text], about + 1, frozenset({about + 1}), estimate_tokens) is None
    assert counted_less(["short"] * 50, 10, COMMON_CAPS, estimate_tokens) is None


def test_who_counts_short_texts_wrongly_counts_something_else() -> None:
    texts = ["a plain sentence of several words"] * 4
    assert counts_too_few(texts, 4, estimate_tokens)
    assert not counts_too_few(texts, 28, estimate_tokens)
    assert not counts_too_few([*texts, "word " * 400], 4, estimate_tokens)


def test_runs_of_characters_have_few_tokens() -> None:
    # Counted with Qwen's tokenizer: 4,000 spaces are 32 tokens.
    assert counted_less([" " * 4000 + "the end" * 20], 60, COMMON_CAPS, estimate_tokens) is None
