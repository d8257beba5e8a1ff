"""Where facts were read: numbers beside the facts, the sources themselves below them."""

from __future__ import annotations

from typing import Any

from qwen_embed_plugins.cli.output import print_pairs
from qwen_embed_plugins.offers import Source


def source_as_dict(source: Source) -> dict[str, Any]:
    """A source, fit for JSON."""
    return {
        "url": source.url,
        "read": source.read,
        "evidence": source.evidence,
        "verified": source.verified,
    }


class SourceNotes:
    """Numbers the sources that a page names, and prints them at its end."""

    def __init__(self) -> None:
        self._sources: list[Source] = []

    def note(self, source: Source) -> str:
        """The source's number, and whether nobody has verified what stands there."""
        if source not in self._sources:
            self._sources.append(source)
        number = f"[{self._sources.index(source) + 1}]"
        return number if source.verified else f"{number} unverified"

    def print(self) -> None:
        """The sources in the order in which they were named."""
        print_pairs(
            [
                (f"[{number}]", f"{source.url} ({source.evidence}, read {source.read})")
                for number, source in enumerate(self._sources, 1)
            ]
        )
