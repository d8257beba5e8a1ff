"""The models that can be named in settings: published weights, never a provider's name for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

DEFAULT_MODEL = "qwen3-embedding-8b"

DEFAULT_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
"""The model card's task sentence (QwenLM/Qwen3-Embedding README, read 2026-11)."""


def qwen3_query(text: str, instruction: str) -> str:
    """The query as Qwen3-Embedding was trained to read it: no space after `Query:`. Bare without an
    instruction.

    Source: `get_detailed_instruct` in the README of QwenLM/Qwen3-Embedding, read 2026-11.
    """
    return f"Instruct: {instruction}\nQuery:{text}" if instruction else text


def nomic_query(text: str, instruction: str) -> str:
    """A query with the prefix that nomic-embed-text requires. It was trained on four prefixes and
    no other instruction, so the caller's is not used (its model card, read 2026-11)."""
    return f"search_query: {text}"


def nomic_document(text: str) -> str:
    """A document with the prefix that nomic-embed-text requires (its model card, read 2026-11)."""
    return f"search_document: {text}"


@dataclass(frozen=True, slots=True)
class Model:
    """One published set of weights.

    Vectors have `dimensions` numbers; where the model was trained for it, a prefix of any length
    from `min_dimensions` on is a vector too, or only the `lengths` named.

    `format_query` puts before a query what the model requires there: the instruction, which may be
    empty, or a prefix of its own; None means that queries go bare. `format_document` does so for
    documents; None, as with most, means that they go bare.

    `dense` says that a rightly computed vector has no run of exact zeros, which lets padding be
    seen. `published` is what its card gives for two queries and two documents (`parity.CARD`): the
    cosines, queries by documents. A `closed` model's weights are nobody's but its seller's, so that
    no two sellers can offer it.
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
    # From the cards: sentence-transformers; vLLM's differ from them by 0.002.
    _qwen3("4B", 2560, ((0.7534, 0.1147), (0.0320, 0.6258))),
    _qwen3("0.6B", 1024, ((0.7646, 0.1414), (0.1355, 0.6000))),
)

OTHER_MODELS = (
    # Alibaba calls it part of the Qwen3-Embedding series and no more. Its longest vector is half
    # as long as the 8B's, so it is a space of its own until `verify` shows something else.
    Model(
        name="dashscope-text-embedding-v4",
        dimensions=2048,
        context_tokens=8192,
        lengths=(64, 128, 256, 512, 768, 1024, 1536),
        closed=True,
        source="Alibaba Cloud Model Studio, text embedding API, read 2026-11",
    ),
    Model(
        name="bge-m3",
        dimensions=1024,
        context_tokens=8192,
        hub_name="BAAI/bge-m3",
        source="model card of BAAI/bge-m3, read 2026-11",
    ),
    # Queries and documents go through different adapters, which the service chooses by `task`.
    Model(
        name="jina-embeddings-v3",
        dimensions=1024,
        context_tokens=8192,
        hub_name="jinaai/jina-embeddings-v3",
        min_dimensions=32,
        source="Jina's announcement and API description, read 2026-11",
    ),
    # Its card centres a vector before cutting it. Cutting and normalising alone gives a space that
    # agrees with itself, which is what matters here.
    Model(
        name="nomic-embed-text-v1.5",
        dimensions=768,
        context_tokens=8192,
        hub_name="nomic-ai/nomic-embed-text-v1.5",
        min_dimensions=64,
        format_query=nomic_query,
        format_document=nomic_document,
        source="model card of nomic-ai/nomic-embed-text-v1.5, read 2026-11",
    ),
    # These three services put a prompt for the role before texts themselves, or need none.
    Model(
        name="gemini-embedding-001",
        dimensions=3072,
        context_tokens=2048,
        min_dimensions=128,
        closed=True,
        source="ai.google.dev/gemini-api/docs/embeddings, read 2026-11",
    ),
    Model(
        name="voyage-3.5",
        dimensions=2048,
        context_tokens=32000,
        lengths=(256, 512, 1024),
        closed=True,
        source="docs.voyageai.com/docs/embeddings, read 2026-11",
    ),
    # No shortest length is documented; 256 is the shortest that OpenAI has published a figure for.
    Model(
        name="text-embedding-3-large",
        dimensions=3072,
        context_tokens=8192,
        min_dimensions=256,
        closed=True,
        source="OpenAI's embeddings reference and announcement of 2024-01, read 2026-11",
    ),
)

MODELS = (*QWEN3_MODELS, *OTHER_MODELS)
"""All that the package itself registers, but for the stand-in that comes with its provider."""
