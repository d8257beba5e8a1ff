"""Amounts and moments as people read them, and bars of what is left."""

from __future__ import annotations

import sys
from datetime import datetime, timezone
from decimal import ROUND_FLOOR, ROUND_HALF_UP, Decimal

from qwen_embed_plugins.amounts import usd

BAR_WIDTH = 20

SMALLEST = Decimal("0.0001")


def dollars_text(units: int, *, rounding: str = ROUND_FLOOR) -> str:
    """Money in units of 1e-12 US dollars, to the hundredth of a cent and without idle zeros.

    >>> dollars_text(1_234_500_000_000_000), dollars_text(6_200_000_000), dollars_text(1)
    ('1,234.50', '0.0062', '<0.0001')
    """
    amount = usd(units)
    if 0 < amount < SMALLEST:
        return f"<{SMALLEST}"
    whole, _, cents = f"{amount.quantize(SMALLEST, rounding):,f}".partition(".")
    cents = cents.rstrip("0").ljust(2, "0")
    return f"{whole}.{cents}" if amount else "0"


def exact_usd(units: int) -> str:
    """Money in units of 1e-12 US dollars, exactly and without an exponent.

    >>> exact_usd(1_200_000_000_000), exact_usd(1), exact_usd(0)
    ('1.2', '0.000000000001', '0')
    """
    return f"{usd(units).normalize():f}"


def spent_text(units: int) -> str:
    """The same of what was spent, rounded to the nearest."""
    return dollars_text(units, rounding=ROUND_HALF_UP)


def moment_text(moment: float) -> str:
    """A moment in UTC; a day where it is its beginning.

    >>> moment_text(0), moment_text(5400)
    ('1970-01-01', '1970-01-01 01:30 UTC')
    """
    at = datetime.fromtimestamp(moment, timezone.utc)
    return f"{at:%Y-%m-%d}" if moment % 86_400 == 0 else f"{at:%Y-%m-%d %H:%M} UTC"


def iso(moment: float | None) -> str | None:
    """A moment for JSON.

    >>> iso(0)
    '1970-01-01T00:00:00Z'
    """
    if moment is None:
        return None
    return f"{datetime.fromtimestamp(moment, timezone.utc):%Y-%m-%dT%H:%M:%SZ}"


def bar(left: int, limit: int) -> str:
    """What is left of a limit. Full and empty are told only of what is."""
    full, empty = _signs()
    count = left * BAR_WIDTH // limit if limit else 0
    if left and not count:
        count = 1
    return full * count + empty * (BAR_WIDTH - count)


def _signs() -> tuple[str, str]:
    try:
        "█░".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return "#", "-"
    return "█", "░"
