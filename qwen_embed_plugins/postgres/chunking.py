"""Texts of a vectorizer with `chunk_tokens`: split by its chunker, checked, nothing altered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, Protocol

from qwen_embed_plugins.chunkers import BUILT_IN, Chunker
from qwen_embed_plugins.errors import ConfigurationError
from qwen_embed_plugins.plugins import Registry, load_plugins, unknown_name
from qwen_embed_plugins.postgres.queue import Burial, Item, content_hash
from qwen_embed_plugins.registration import wanted_arguments
from qwen_embed_plugins.setup import SettingsLike, settings_from
from qwen_embed_plugins.tokenizer import load_tokenizer
from qwen_embed_plugins.tokens import TokenCounter, estimate_tokens

MOST_CHUNKS = 10_000
"""A row's chunks are written together, hence in memory together: 160 MB of 4,096 numbers each."""


class Split(NamedTuple):
    """The chunks of some rows, and the rows that have none because of `bad`."""

    items: tuple[Item, ...]
    bad: tuple[Burial, ...]


class ChunkingFactory(Protocol):
    """Makes what splits texts. Raises `ConfigurationError` for a chunker that is not there."""

    def __call__(self, chunker: str | None, tokens: int, overlap: int) -> Chunking: ...


@dataclass(frozen=True)
class Chunking:
    """A chunker with the limits of one vectorizer."""

    name: str
    chunker: Chunker
    tokens: int
    overlap: int
    count: TokenCounter

    def split(self, items: Sequence[Item]) -> Split:
        """The chunks of each row's text, in order. Takes long for long texts: call it in a thread.

        Raises `ConfigurationError` if the chunker does; what else it raises is told of the row.
        """
        chunks: list[Item] = []
        bad: list[Burial] = []
        for item in items:
            try:
                chunks += self._chunks(item)
            except ConfigurationError:
                raise
            except _TooMany as error:
                bad.append(Burial(item.id, "too_large", str(error)))
            except Exception as error:  # a plugin's bug must not stop the other rows
                said = str(error) if isinstance(error, _Unfit) else type(error).__name__
                bad.append(Burial(item.id, "bad_content", f"chunker {self.name!r}: {said}"))
        return Split(tuple(chunks), tuple(bad))

    def _chunks(self, item: Item) -> list[Item]:
        digest = content_hash(item.text)
        found = [
            item._replace(text=text, chunk=place, start=start, row_hash=digest)
            for place, (start, text) in enumerate(_checked(item.text, self._called(item.text)))
        ]
        if not found:
            raise _Unfit("gave no chunk")
        return found

    def _called(self, text: str) -> Iterable[tuple[int, str]]:
        offered = {
            "text": text,
            "tokens": self.tokens,
            "overlap": self.overlap,
            "count": self.count,
        }
        return self.chunker(**{name: offered[name] for name in wanted_arguments(self.chunker)})


class _Unfit(ValueError):
    """What a chunker gave is no part of the text."""


class _TooMany(ValueError):
    """More chunks than are held at once."""


def _checked(text: str, chunks: Iterable[tuple[int, str]]) -> Iterable[tuple[int, str]]:
    last = -1
    kept = 0
    for chunk in chunks:
        try:
            start, piece = chunk
            fits = start >= 0 and text.startswith(piece, start)
        except (TypeError, ValueError):
            raise _Unfit("gave something else than (start, text)") from None
        if not fits:
            raise _Unfit(f"gave a chunk that is not in the text at {start}")
        if start <= last:
            raise _Unfit(f"gave a chunk at {start} after one at {last}")
        last = start
        if not piece.strip():
            continue
        kept += 1
        if kept > MOST_CHUNKS:
            raise _TooMany(
                f"the row's text makes more than {MOST_CHUNKS} chunks. Raise chunk_tokens, or "
                "shorten it."
            )
        yield start, piece


def chunkings_from(settings: SettingsLike, registry: Registry | None = None) -> ChunkingFactory:
    """Makes what splits texts from one set of settings: its plugins, its tokenizer if it has one.

    Nothing is loaded before the first vectorizer asks.
    """

    @cache
    def loaded() -> tuple[Registry, TokenCounter]:
        tokenizer = settings_from(settings, {}).tokenizer
        counter = load_tokenizer(tokenizer) if tokenizer else estimate_tokens
        return registry or load_plugins(), counter

    def make(chunker: str | None, tokens: int, overlap: int) -> Chunking:
        plugins, counter = loaded()
        name = chunker or BUILT_IN
        if name not in plugins.chunkers:
            raise unknown_name(plugins, "chunkers", name)
        return Chunking(name, plugins.chunkers[name], tokens, overlap, counter)

    return make
