"""How a text is sent: with the prefix that its model requires for its role, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from qwen_embed_plugins.catalogue import ConfiguredOffer
from qwen_embed_plugins.provider import prefixed
from qwen_embed_plugins.types import Role


def formatted(
    texts: Sequence[str], role: Role, instruction: str | None, offer: ConfiguredOffer
) -> list[str]:
    """The texts as this offer gets them. Where the server adds the prefix, they stay bare: twice
    would be another vector."""
    if offer.provider.adds_instruction:
        return list(texts)
    return prefixed(texts, role, instruction, offer.model)
