"""The models that can be named in settings: published weights, never a provider's name for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

DEFAULT_MODEL = "qwen3-embedding-8b"

DEFAULT_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
"""The model card's task sentence (QwenLM/Qwen3-Embedding README, read 2026-11)."""


def qwen3_query(text: str, instruction: str) -> str:
    """The query as Qwen3-Embedding was trained to read it: no space after `Query:`.

    Source: `get_detailed_instruct` in the README of QwenLM/Qwen3-Embedding, read 2026-11.
    """
    return f"Instruct: {instruction}\nQuery:{text}"


@dataclass(frozen=True, slots=True)
class Model:
    """One published set of weights.

    Vectors have `dimensions` numbers; where the model was trained for it, a prefix of any length
    from `min_dimensions` on is a vector too, or only the `lengths` named.

    `format_query` puts the instruction before a query; None means that queries go bare.
    `format_document` does what the model's card requires of documents; None, as with most, means
    that they go bare. `dense` says that a rightly computed vector has no run of exact zeros, which
    lets padding be seen. `published` is what its card gives for two queries and two documents
    (`parity.CARD`): the cosines, queries by documents. A `closed` model's weights are nobody's but
    its seller's, so that no two sellers can offer it.
    """

    name: str
    dimensions: int
    context_tokens: int
    hub_name: str | None = None
    min_dimensions: int | None = None
    lengths: tuple[int, ...] = ()
    format_query: Callable[[str, str], str] | None = None
    format_document: Callable[[str], str] | None = None
    dense: bool = True
    published: tuple[tuple[float, float], tuple[float, float]] | None = None
    closed: bool = False
    source: str = ""

    def takes_dimensions(self, dimensions: int) -> bool:
        """Whether vectors of this length exist: the native one, or a prefix where trained for."""
        if dimensions == self.dimensions or dimensions in self.lengths:
            return True
        return self.min_dimensions is not None and (
            self.min_dimensions <= dimensions < self.dimensions
        )

    def possible_dimensions(self) -> str:
        """The lengths that exist, in words: "32 to 4096"."""
        if self.min_dimensions is not None:
            return f"{self.min_dimensions} to {self.dimensions}"
        if self.lengths:
            return ", ".join(str(length) for length in sorted({*self.lengths, self.dimensions}))
        return f"only {self.dimensions}"


_QWEN3_SOURCE = "QwenLM/Qwen3-Embedding README and model cards, read 2026-11"


def _qwen3(
    size: str,
    dimensions: int,
    published: tuple[tuple[float, float], tuple[float, float]] | None = None,
) -> Model:
    return Model(
        name=f"qwen3-embedding-{size.lower()}",
        dimensions=dimensions,
        context_tokens=32768,
        hub_name=f"Qwen/Qwen3-Embedding-{size}",
        min_dimensions=32,
        format_query=qwen3_query,
        published=published,
        source=_QWEN3_SOURCE,
    )


QWEN3_MODELS = (
    # The card's own sample, run by a user (QwenLM/Qwen3-Embedding#91).
    _qwen3("8B", 4096, ((0.7493, 0.0751), (0.0880, 0.6318))),
    _qwen3("4B", 2560),
    # From the card: sentence-transformers; vLLM's differ from it by 0.002.
    _qwen3("0.6B", 1024, ((0.7646, 0.1414), (0.1355, 0.6000))),
)
