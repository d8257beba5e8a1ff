"""LangChain's `Embeddings` and retriever on the router. Needs the extra:
`qwen-embed-plugins[langchain]`; the retriever also needs `[postgres]`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    import langchain_core  # noqa: F401
except ModuleNotFoundError as error:
    from qwen_embed_plugins.errors import ConfigurationError

    raise ConfigurationError(
        "LangChain is not installed: pip install 'qwen-embed-plugins[langchain]'"
    ) from error

from qwen_embed_plugins.langchain.embeddings import QwenEmbeddings
from qwen_embed_plugins.langchain.usage import CallSummary, UsageTracker, track_usage

if TYPE_CHECKING:
    from qwen_embed_plugins.langchain.retriever import QwenRetriever

__all__ = ["CallSummary", "QwenEmbeddings", "QwenRetriever", "UsageTracker", "track_usage"]


def __getattr__(name: str) -> Any:
    """The retriever when it is asked for: embeddings alone need no psycopg."""
    if name == "QwenRetriever":
        from qwen_embed_plugins.langchain.retriever import QwenRetriever

        return QwenRetriever
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
