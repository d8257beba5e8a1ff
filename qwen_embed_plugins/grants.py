"""What a provider gives away, as it holds for this user. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from qwen_embed_plugins.meters import Meter


@dataclass(frozen=True, slots=True)
class ConfiguredGrant:
    """A grant that the user claimed. `meter` counts what was taken of it, in tokens or in money at
    the offer's price; `until` (seconds since the epoch) is when it lapses, None for never."""

    meter: Meter
    until: float | None = None

    def covers_at(self, moment: float) -> bool:
        """Whether it has not lapsed by then."""
        return self.until is None or moment < self.until

    def lost_at(self, moment: float) -> float:
        """When what is left of it will be lost: it lapses, or begins anew; infinite if never."""
        ends = self.meter.window.ends(moment)
        return min(float("inf") if end is None else end for end in (self.until, ends))
