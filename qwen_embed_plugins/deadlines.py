"""Until when an attempt may take: one moment for a whole exchange, an earlier one for a request."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment of the monotonic clock; `seconds` is how far off it was at first, for messages."""

    at: float
    seconds: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """The moment so many seconds from now."""
        return cls(time.monotonic() + seconds, seconds)

    def within(self, seconds: float) -> Deadline:
        """This moment, or the one so many seconds from now if that comes first."""
        other = Deadline.after(seconds)
        return other if other.at < self.at else self

    def left_seconds(self) -> float:
        """How long until then; negative afterwards."""
        return self.at - time.monotonic()
