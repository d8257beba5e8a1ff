"""An offline stand-in that knows words, not meaning: for demos, tests and machines without a model.

A text becomes its words and their pieces, hashed into 1,024 numbers. Texts that share words or
stems come near each other, in any script; synonyms and translations do not. Its vectors are a space
of their own (`lexical/1024`) and never stand among a model's.
"""

from __future__ import annotations

import math
import re
import unicodedata
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np

from qwen_embed_plugins.hookspecs import hookimpl
from qwen_embed_plugins.models import Model
from qwen_embed_plugins.provider import Provider
from qwen_embed_plugins.providers import _catalogue
from qwen_embed_plugins.types import Answer, Batch, Call, Exchange

if TYPE_CHECKING:
    import numpy.typing as npt

    from qwen_embed_plugins.types import Matrix

DIMENSIONS = 1024

LEXICAL = Model(
    name="lexical",
    dimensions=DIMENSIONS,
    context_tokens=1_000_000,
    # No shorter prefix: hashing spreads the words evenly, so each cut number loses some of them.
    min_dimensions=None,
    # Queries go bare: the words of an instruction would be taken for words of the query.
    format_query=None,
    dense=False,
    source=__name__,
)

# Han, kana and hangul: scripts whose words are one to three signs long and have no spaces.
_DENSE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\U00020000-\U0003ffff"


@cache
def _pieces() -> re.Pattern[str]:
    """Runs of one kind of script. Compiled when it is used: it takes longer than the whole rest of
    this module to load, and all providers are loaded where one is asked."""
    return re.compile(rf"[{_DENSE}]+|[^\W{_DENSE}]+")


def lexical_vectors(texts: Sequence[str]) -> Matrix:
    """Unit vectors of the texts, float32 (n, 1024): equal on every machine and in every process."""
    matrix = np.zeros((len(texts), DIMENSIONS), dtype=np.float32)
    for row, text in zip(matrix, texts, strict=True):
        row[:] = _vector(text)
    return matrix


def _vector(text: str) -> npt.NDArray[np.float64]:
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = _pieces().findall(folded) or [folded]
    hashes, counts = np.unique(
        np.concatenate([_features(word) for word in words]), return_counts=True
    )
    signs = np.where(hashes & 0x80000000, -1.0, 1.0)
    # The square root of a count, for its exactness: unlike a logarithm it is rounded in one way
    # only, so that vectors agree to the last bit.
    vector = np.bincount(hashes % DIMENSIONS, weights=signs * np.sqrt(counts), minlength=DIMENSIONS)
    length = math.sqrt(math.fsum((vector * vector).tolist()))
    if length == 0.0:  # nothing but features that met in one place with opposite signs
        vector[zlib.crc32(_bytes(text)) % DIMENSIONS] = length = 1.0
    return vector / length


def _features(word: str) -> npt.NDArray[np.uint32]:
    # A run of Chinese may be a whole text: only what is likely to come again is kept.
    return _kept_hashes(word) if len(word) <= 24 else _hashes(word)


def _hashes(word: str) -> npt.NDArray[np.uint32]:
    hashes = [zlib.crc32(_bytes(feature)) for feature in _named_features(word)]
    return np.array(hashes, dtype=np.uint32)


_kept_hashes = lru_cache(maxsize=32768)(_hashes)


def _named_features(word: str) -> Iterator[str]:
    """A word and its pieces. The word itself comes twice, for it says the most."""
    if _pieces().match(word) and not re.match(rf"[{_DENSE}]", word):
        yield f"w {word}"
        yield f"W {word}"
        framed, sizes = f"<{word}>", (3, 4, 5)
    else:
        framed, sizes = word, (1, 2, 3)
    for size in sizes:
        for start in range(len(framed) - size + 1):
            yield f"{size} {framed[start : start + size]}"
    yield f"t {framed[:200]}"


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


class Lexical(Provider):
    """Computes in process. Serves the model `lexical` only, and only when named."""

    name = "lexical"
    needs_naming = True
    never_cuts = True

    def exchange(self, batch: Batch) -> Exchange:
        vectors = yield Call(partial(lexical_vectors, tuple(batch.texts)))
        return Answer(vectors)


@hookimpl
def register_models(register: Callable[[Model], None]) -> None:
    register(LEXICAL)


@hookimpl
def register_providers(register: Callable[..., None]) -> None:
    register(Lexical, offers=_catalogue.offers_of("lexical"))
