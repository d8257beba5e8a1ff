"""What a service's own error codes mean, as a table that its plugin writes down."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Literal, NamedTuple

from qwen_embed_plugins.types import Fault, FaultKind


class Meaning(NamedTuple):
    """Codes, written as a regular expression for the whole of one in any case, and their fault."""

    codes: str
    kind: FaultKind
    scope: Literal["offer", "account"] = "offer"


def meant_by(codes: Sequence[str], meanings: Sequence[Meaning], fault: Fault) -> Fault:
    """The fault with kind and scope as the first code that is in the table says; else as it was."""
    for code in codes:
        for meaning in meanings:
            if _pattern(meaning.codes).fullmatch(code):
                return replace(fault, kind=meaning.kind, scope=meaning.scope)
    return fault


@lru_cache(maxsize=256)
def _pattern(codes: str) -> re.Pattern[str]:
    return re.compile(codes, re.IGNORECASE)
