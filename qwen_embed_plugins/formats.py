"""How a text is sent: with the prefix that its model requires for its role, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from qwen_embed_plugins.catalogue import ConfiguredOffer
from qwen_embed_plugins.types import Role


def formatted(
    texts: Sequence[str], role: Role, instruction: str | None, offer: ConfiguredOffer
) -> list[str]:
    """The texts as this offer gets them. Where the server adds the prefix, they stay bare: twice
    would be another vector."""
    model = offer.model
    if offer.provider.adds_instruction:
        return list(texts)
    if role == "query" and model.format_query is not None:
        return [model.format_query(text, instruction or "") for text in texts]
    if role == "document" and model.format_document is not None:
        return [model.format_document(text) for text in texts]
    return list(texts)
