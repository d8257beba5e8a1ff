"""Splitting a long text into chunks: what a chunker is, and the built-in one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from qwen_embed_plugins.errors import ConfigurationError
from qwen_embed_plugins.tokens import TokenCounter

Chunker: TypeAlias = Callable[..., Iterable[tuple[int, str]]]
"""Gives the chunks of a text in order, each with the place of its first character: `text[start:]`
begins with the chunk. It is called by keyword, with what it names of `text`, `tokens` (the longest
chunk), `overlap` (tokens that neighbours may share) and `count` (how many tokens a string has)."""

ARGUMENTS = ("text", "tokens", "overlap", "count")

BUILT_IN = "semantic"

_WINDOW_CHARACTERS_PER_TOKEN = 32


def by_meaning(
    text: str, tokens: int, overlap: int, count: TokenCounter
) -> Iterator[tuple[int, str]]:
    """Chunks that end where a paragraph, a sentence or a word does, the largest of these that fits.

    White space around a chunk is left out. Raises `ConfigurationError` without the extra.
    """
    splitter = _splitter(count, tokens, overlap)
    # The library's time grows with the square of a text that has no spaces (300,000 Chinese
    # characters took 19 s). It sees a window, whose last chunk ends by chance and is done again.
    width = tokens * _WINDOW_CHARACTERS_PER_TOKEN
    start = reached = 0
    while start < len(text):
        window = text[start : start + width]
        ends = start + width >= len(text)
        chunks = splitter.chunk_indices(window)
        if not ends and len(chunks) < 2:
            width *= 2
            continue
        for place, chunk in chunks if ends else chunks[:-1]:
            # What a window begins with may be no more than what the last chunk shares.
            if start + place + len(chunk) > reached:
                reached = start + place + len(chunk)
                yield start + place, chunk
        if ends:
            return
        start, width = start + chunks[-1][0], tokens * _WINDOW_CHARACTERS_PER_TOKEN


def _splitter(count: TokenCounter, tokens: int, overlap: int) -> Any:
    try:
        from semantic_text_splitter import TextSplitter
    except ModuleNotFoundError:
        raise ConfigurationError(
            "chunk_tokens: the package that splits texts is not installed: "
            "pip install 'qwen-embed-plugins[postgres]'"
        ) from None
    # The end that a model adds to each text is not the text's: what fits is what is left beside it.
    # The library also takes for granted that no text has more tokens than bytes.
    added = count("")
    room = max(1, tokens - added)
    return TextSplitter.from_callback(
        lambda text: count(text) - added, room, overlap=min(overlap, room - 1), trim=True
    )
