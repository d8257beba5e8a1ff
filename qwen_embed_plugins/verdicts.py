"""Verdicts: what has been measured of an offer, kept in the state until it is measured again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
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
    `findings` are further sentences, each about one fault or habit that was seen. `since` is when
    it was let in again after a refusal, or seen to give other vectors than before: what it gave
    until then is not believed any more. 0 if that never was.
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
    since: float = 0.0

    def following(self, before: Verdict | None) -> Verdict:
        """The same, knowing what was measured before it."""
        if before is None:
            return self
        since = before.since if before.serves or not self.serves else self.at
        return replace(self, since=max(since, self.since))

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
