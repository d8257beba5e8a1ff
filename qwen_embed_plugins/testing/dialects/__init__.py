"""The wire formats that a simulated server speaks: one module each, listed in `DIALECTS`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwen_embed_plugins.testing.dialects._dialect import Dialect, Models, RecordedRequest
from qwen_embed_plugins.testing.dialects.answering import answer, shaped
from qwen_embed_plugins.testing.dialects.cloudflare import CloudflareDialect
from qwen_embed_plugins.testing.dialects.dashscope import DashScopeDialect
from qwen_embed_plugins.testing.dialects.gemini import GeminiDialect
from qwen_embed_plugins.testing.dialects.jina import JinaDialect
from qwen_embed_plugins.testing.dialects.ollama import OllamaDialect
from qwen_embed_plugins.testing.dialects.openai import OpenAIDialect
from qwen_embed_plugins.testing.dialects.tei import TEIDialect
from qwen_embed_plugins.testing.dialects.voyage import VoyageDialect

__all__ = [
    "DIALECTS",
    "Dialect",
    "Models",
    "RecordedRequest",
    "answer",
    "dialect_of",
    "recorded",
    "shaped",
]

DIALECTS: tuple[Dialect, ...] = (
    DashScopeDialect(),  # below /api/ too, so before Ollama
    OllamaDialect(),
    TEIDialect(),
    CloudflareDialect(),
    GeminiDialect(),
    VoyageDialect(),
    JinaDialect(),
    OpenAIDialect(),  # the last: every path that no other format claims is its own
)


def dialect_of(path: str, name: str | None = None) -> Dialect:
    """The format of that name, or without a name the first to which the path belongs."""
    if name is None:
        return next(dialect for dialect in DIALECTS if dialect.belongs(path))
    for dialect in DIALECTS:
        if dialect.name == name:
            return dialect
    known = ", ".join(dialect.name for dialect in DIALECTS)
    raise ValueError(f"no dialect {name!r}; there are {known}")


def recorded(
    path: str,
    headers: Mapping[str, str],
    body: Any,
    *,
    dialect: str | None = None,
    at_seconds: float = 0.0,
    concurrent: int = 1,
) -> RecordedRequest:
    """A request as a simulated server keeps it: in which format it is and which texts it holds."""
    spoken = dialect_of(path, dialect)
    texts = spoken.texts(body)
    return RecordedRequest(path, headers, body, texts, at_seconds, concurrent, spoken)
