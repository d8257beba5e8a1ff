"""When quotas that count by the day begin again."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone, tzinfo
from time import time


def next_midnight(zone: tzinfo = timezone.utc) -> float:
    """The next midnight of that time zone, in seconds since the epoch."""
    tomorrow = datetime.fromtimestamp(time(), zone).date() + timedelta(days=1)
    return datetime(tomorrow.year, tomorrow.month, tomorrow.day, tzinfo=zone).timestamp()
