"""Over which time something is counted: for ever, by day, over the last minute, or while it lasts.

Pure calendar arithmetic. A *period* is a whole number that tells one count from the next. What is
used may lie in another period than what is held: a limit over the last minute counts a request
from when it is reserved until a minute after it was settled, so that no server, however it cuts
its minutes, sees more.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from math import ceil
from typing import TypeAlias

EPOCH = date(1970, 1, 1)

SLICES = 60
"""A rolling window forgets in so many steps: a row for each, whatever the number of requests."""


@dataclass(frozen=True, slots=True)
class Ever:
    """Nothing is ever forgotten."""

    def held_in(self, moment: float) -> int:
        return 0

    def used_in(self, moment: float) -> int:
        return 0

    def ends(self, moment: float) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Daily:
    """A count that begins anew each day at an hour of a zone. A period is the day on which it
    began there, counted from 1970-01-01."""

    at: time = time()
    zone: tzinfo = timezone.utc

    def held_in(self, moment: float) -> int:
        local = datetime.fromtimestamp(moment, self.zone)
        began_yesterday = moment < self._begins(local.date())
        return (local.date() - EPOCH).days - began_yesterday

    def used_in(self, moment: float) -> int:
        return self.held_in(moment)

    def ends(self, moment: float) -> float:
        """When the next count begins, in seconds since the epoch."""
        return self._begins(EPOCH + timedelta(days=self.held_in(moment) + 1))

    def _begins(self, day: date) -> float:
        return datetime.combine(day, self.at, self.zone).timestamp()

    def __str__(self) -> str:
        zone = getattr(self.zone, "key", None) or self.zone.tzname(None) or "local"
        return f"{self.at:%H:%M} {zone}"


@dataclass(frozen=True, slots=True)
class Rolling:
    """The last so many seconds, whichever they are. A period is the step at which what was used
    is forgotten."""

    seconds: float

    @property
    def step(self) -> float:
        return self.seconds / SLICES

    def held_in(self, moment: float) -> int:
        return 0

    def used_in(self, moment: float) -> int:
        return ceil((moment + self.seconds) / self.step)

    def ends(self, moment: float) -> float:
        """When all that was used until now is forgotten."""
        return self.used_in(moment) * self.step

    def first_live(self, moment: float) -> int:
        """The first period that is not forgotten."""
        return int(moment // self.step) + 1


@dataclass(frozen=True, slots=True)
class UnderWay:
    """Counted only while an attempt is under way."""

    def held_in(self, moment: float) -> int:
        return 0

    def used_in(self, moment: float) -> None:
        return None

    def ends(self, moment: float) -> None:
        return None


Window: TypeAlias = Ever | Daily | Rolling | UnderWay

MINUTE = Rolling(60.0)
DAY = Rolling(86_400.0)
UTC_DAY = Daily()


def daily(text: str) -> Daily:
    """The window that begins anew at an hour such as "00:00 UTC", "08:00 +03:00" or
    "00:00 America/Los_Angeles". Raises ValueError, saying what was expected."""
    found = re.fullmatch(r"\s*(\d{1,2}):(\d{2})(?:\s+(\S+))?\s*", text)
    if found is None:
        raise ValueError(_NO_RESET)
    try:
        at = time(int(found[1]), int(found[2]))
    except ValueError:
        raise ValueError(_NO_RESET) from None
    return Daily(at, _zone(found[3] or "UTC"))


_NO_RESET = (
    'expected an hour and a zone, for example "00:00 UTC", "08:00 +03:00" or '
    '"00:00 America/Los_Angeles"'
)


def _zone(name: str) -> tzinfo:
    if name.upper() in ("UTC", "Z", "GMT"):
        return timezone.utc
    offset = re.fullmatch(r"(?:UTC)?([+-])([01]\d|2[0-3]):([0-5]\d)", name)
    if offset:
        ahead = timedelta(hours=int(offset[2]), minutes=int(offset[3]))
        return timezone(ahead if offset[1] == "+" else -ahead)
    from zoneinfo import ZoneInfo, available_timezones

    try:
        return ZoneInfo(name)
    except (ValueError, OSError, LookupError):  # a folder's name, and a zone that nobody knows
        if available_timezones():
            raise ValueError(_NO_RESET) from None
    # Windows and some images of containers have none of their own.
    raise ValueError(
        "no time zones are installed here: install the package tzdata, or write the zone as "
        'an offset, for example "08:00 +03:00"'
    )
