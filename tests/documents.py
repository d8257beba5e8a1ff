"""The fenced blocks of a document, for tests that run what the documents show."""

from __future__ import annotations

import re
from typing import NamedTuple

_PARTS = re.compile(
    r"^## (?P<heading>[^\n]+)$"
    r"|(?:`(?P<file>[\w.-]+)`:\n\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.M | re.S,
)


class Block(NamedTuple):
    """A fenced block, the heading that it stands under, and the file that the line before it
    names ("`setup.py`:"), if it does."""

    heading: str
    language: str
    text: str
    file: str | None = None


def blocks_of(document: str) -> list[Block]:
    """Every fenced block, in order."""
    heading = ""
    found = []
    for match in _PARTS.finditer(document):
        if match["heading"]:
            heading = match["heading"]
        else:
            found.append(Block(heading, match["language"], match["text"], match["file"]))
    assert len(found) * 2 == len(re.findall(r"^ *```", document, re.M)), "a fence was overlooked"
    return found
