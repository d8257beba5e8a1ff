"""How many tokens a text has, roughly. An estimate routes and reserves; it never refuses."""

from __future__ import annotations

from collections.abc import Iterable

BYTES_PER_TOKEN = 4


def estimate_tokens(text: str) -> int:
    """A guess from the text's UTF-8 length: one token for four bytes.

    Bytes even scripts out better than characters do: a Cyrillic letter has two bytes and a Chinese
    one three, and tokenizers give such scripts about as many tokens more.
    """
    length = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return length // BYTES_PER_TOKEN + 1


def estimate_all(texts: Iterable[str]) -> int:
    """The estimates of several texts, added up."""
    return sum(map(estimate_tokens, texts))
