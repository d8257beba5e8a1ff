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

    `format_query` puts the instruction before a query; None means that queries go bare. `dense`
    says that a rightly computed vector has no run of exact zeros, which lets padding be seen.
    """

    name: str
    dimensions: int
    context_tokens: int
    hub_name: str | None = None
    min_dimensions: int | None = None
    format_query: Callable[[str, str], str] | None = None
    dense: bool = True
    source: str = ""

    def takes_dimensions(self, dimensions: int) -> bool:
        """Whether vectors of this length exist: the native one, or a prefix where trained for."""
        if dimensions == self.dimensions:
            return True
        return self.min_dimensions is not None and (
            self.min_dimensions <= dimensions < self.dimensions
        )


_QWEN3_SOURCE = "QwenLM/Qwen3-Embedding README and model cards, read 2026-11"


def _qwen3(size: str, dimensions: int) -> Model:
    return Model(
        name=f"qwen3-embedding-{size.lower()}",
        dimensions=dimensions,
        context_tokens=32768,
        hub_name=f"Qwen/Qwen3-Embedding-{size}",
        min_dimensions=32,
        format_query=qwen3_query,
        source=_QWEN3_SOURCE,
    )


QWEN3_MODELS = (_qwen3("8B", 4096), _qwen3("4B", 2560), _qwen3("0.6B", 1024))
