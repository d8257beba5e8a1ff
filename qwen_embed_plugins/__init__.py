"""One embedding space, any provider. The public names load on first use, so importing is cheap."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qwen_embed_plugins._version import __version__
from qwen_embed_plugins.lazy_names import loading

if TYPE_CHECKING:
    from qwen_embed_plugins.embedder import AsyncEmbedder, Embedder
    from qwen_embed_plugins.errors import (
        BudgetExceeded,
        ConfigurationError,
        DatabaseError,
        InvalidInput,
        NoOfferLeft,
        PartialFailure,
        ProviderError,
        QwenEmbedError,
        SpaceMismatch,
    )
    from qwen_embed_plugins.hookspecs import hookimpl
    from qwen_embed_plugins.models import Model
    from qwen_embed_plugins.offers import Offer
    from qwen_embed_plugins.provider import Provider
    from qwen_embed_plugins.settings import Settings
    from qwen_embed_plugins.spaces import EmbeddingSpace
    from qwen_embed_plugins.types import EmbedResult


_HOMES = {
    "AsyncEmbedder": "embedder",
    "BudgetExceeded": "errors",
    "ConfigurationError": "errors",
    "DatabaseError": "errors",
    "EmbedResult": "types",
    "Embedder": "embedder",
    "EmbeddingSpace": "spaces",
    "InvalidInput": "errors",
    "Model": "models",
    "NoOfferLeft": "errors",
    "Offer": "offers",
    "PartialFailure": "errors",
    "Provider": "provider",
    "ProviderError": "errors",
    "QwenEmbedError": "errors",
    "Settings": "settings",
    "SpaceMismatch": "errors",
    "hookimpl": "hookspecs",
}

__all__ = [
    "AsyncEmbedder",
    "BudgetExceeded",
    "ConfigurationError",
    "DatabaseError",
    "EmbedResult",
    "Embedder",
    "EmbeddingSpace",
    "InvalidInput",
    "Model",
    "NoOfferLeft",
    "Offer",
    "PartialFailure",
    "Provider",
    "ProviderError",
    "QwenEmbedError",
    "Settings",
    "SpaceMismatch",
    "__version__",
    "hookimpl",
]


__getattr__ = loading(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
