"""LangChain's `Embeddings` on the router. Needs the extra: `qwen-embed-plugins[langchain]`."""

from __future__ import annotations

try:
    import langchain_core  # noqa: F401
except ModuleNotFoundError as error:
    from qwen_embed_plugins.errors import ConfigurationError

    raise ConfigurationError(
        "LangChain is not installed: pip install 'qwen-embed-plugins[langchain]'"
    ) from error

from qwen_embed_plugins.langchain.embeddings import QwenEmbeddings

__all__ = ["QwenEmbeddings"]
