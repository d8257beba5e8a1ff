"""Verdicts: what has been measured of an offer, kept in the state until it is measured again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any, Literal

import orjson

Measure = Literal["verify", "canary", "reading"]
"""What a verdict rests on: the whole examination, a known text among others, or two long texts."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an offer may serve a model's space, and why.

    `reason` is a sentence for people. `at` is in seconds since the epoch. The cosines compare its
    vectors with those of `reference` for the same texts; None where nothing was compared.
    `findings` are further sentences, each about one fault or habit that was seen.
    """

    model: str
    serves: bool
    reason: str
    measure: Measure
    at: float
    reference: str | None = None
    cosine_min: float | None = None
    cosine_mean: float | None = None
    findings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """All of it, fit for JSON."""
        return asdict(self)

    @property
    def date(self) -> str:
        """The day it was measured, UTC, as ISO writes it."""
        return datetime.fromtimestamp(self.at, timezone.utc).date().isoformat()


def to_json(verdict: Verdict) -> bytes:
    return orjson.dumps(verdict.as_dict())


def from_json(content: bytes | str) -> Verdict:
    stored: Mapping[str, Any] = orjson.loads(content)
    return Verdict(**{**stored, "findings": tuple(stored["findings"])})
