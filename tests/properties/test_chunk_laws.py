"""Laws of the built-in chunker: nothing is lost, moved or too long, whatever the text."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qwen_embed_plugins.chunkers import by_meaning
from qwen_embed_plugins.tokens import TokenCounter, estimate_tokens

UNITS = st.sampled_from(
    ["word", "longerword", " ", "  ", "\n", "\n\n", ". ", "! ", ",", "7", "2026", "слово", "中文",
     "。", "é", "e\u0301", "👩‍👩‍👧", "🇪🇺", "\t", "\r\n", "\u3000", "x" * 90]
)  # fmt: skip
TEXTS = st.builds(
    lambda units, times: "".join(units) * times,
    st.lists(UNITS, min_size=1, max_size=40),
    st.integers(1, 40),
)


def bytes_and_end(text: str) -> int:
    """As a tokenizer that knows no word counts: a byte a token, and the end."""
    return len(text.encode()) + 1


COUNTERS = st.sampled_from([estimate_tokens, bytes_and_end])


@given(TEXTS, st.integers(8, 60), st.integers(0, 59), COUNTERS)
def test_chunks_cover_the_text_in_order(
    text: str, tokens: int, overlap: int, count: TokenCounter
) -> None:
    assume(overlap < tokens)
    end = 0
    last_start = -1
    for start, chunk in by_meaning(text, tokens, overlap, count):
        assert text[start : start + len(chunk)] == chunk
        assert chunk == chunk.strip() != ""
        assert count(chunk) <= tokens
        assert start > last_start
        assert start + len(chunk) > end
        assert not text[end:start].strip()
        shared = text[start:end]
        assert count(shared) - count("") <= overlap
        end, last_start = start + len(chunk), start
    assert not text[end:].strip()


@pytest.mark.parametrize("count", [estimate_tokens, lambda text: len(text.split()) + 1])
def test_neighbours_share_what_was_asked(count: TokenCounter) -> None:
    text = " ".join(f"word{chr(97 + number % 26)}" for number in range(5000))
    for overlap in (0, 10, 30):
        chunks = list(by_meaning(text, 60, overlap, count))
        shared = [
            text[after : before + len(chunk)]
            for (before, chunk), (after, _) in itertools.pairwise(chunks)
        ]
        assert len(shared) > 20
        counts = [count(part) - count("") for part in shared]
        assert all(max(0, overlap - 3) <= each <= overlap for each in counts)


def test_a_text_that_fits_is_one_chunk() -> None:
    assert list(by_meaning(" A text.\n\nOf two parts. ", 500, 50, estimate_tokens)) == [
        (1, "A text.\n\nOf two parts.")
    ]


def test_chunks_end_where_sentences_do() -> None:
    text = "One sentence is here. Another one follows it. And a third, which ends the text."
    chunks = [chunk for _, chunk in by_meaning(text, 14, 0, estimate_tokens)]
    assert chunks == [
        "One sentence is here. Another one follows it.",
        "And a third, which ends the text.",
    ]


def test_the_window_changes_no_chunk_of_prose() -> None:
    from semantic_text_splitter import TextSplitter

    text = "Some words of prose, and then more of them.\n\n" * 3000
    whole = TextSplitter.from_callback(estimate_tokens, 60, overlap=12)
    assert list(by_meaning(text, 60, 12, estimate_tokens)) == whole.chunk_indices(text)
