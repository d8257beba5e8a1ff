"""What is worth telling of any server that holds a model, in sentences for `--check`."""

from __future__ import annotations

from collections.abc import Iterator

from qwen_embed_plugins.models import Model

_HALF_PRECISION = {"f16", "fp16", "float16"}


def on_precision(model: Model, precision: str, remedy: str) -> Iterator[str]:
    """The precision of the weights, and what it does to the largest model."""
    yield f"weights are {precision}"
    if model.name == "qwen3-embedding-8b" and precision.lower() in _HALF_PRECISION:
        yield (
            f'{precision} gives NaN for some texts that begin with "import" '
            f"(QwenLM/Qwen3-Embedding#164): {remedy}"
        )


def on_context(model: Model, context_tokens: int, remedy: str) -> Iterator[str]:
    """How much of a text the server reads, where it was asked not to cut any."""
    if context_tokens < model.context_tokens:
        yield (
            f"context {context_tokens} of {model.context_tokens} tokens; longer texts are "
            f"refused: {remedy}"
        )
    else:
        yield f"context {context_tokens} tokens"
