"""Amounts as people read them, days as they write them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from decimal import Decimal

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_embed_plugins.amounts import MOST, units, usd
from qwen_embed_plugins.cli.amounts import (
    BAR_WIDTH,
    bar,
    dollars_text,
    exact_usd,
    iso,
    spent_text,
)
from qwen_embed_plugins.cli.usage import _since, usage

TODAY = datetime.now(timezone.utc).date()


@pytest.mark.parametrize(
    ("amount", "left", "spent"),
    [
        ("0", "0", "0"),
        ("0.000000000001", "<0.0001", "<0.0001"),
        ("0.0001", "0.0001", "0.0001"),
        ("0.00019", "0.0001", "0.0002"),
        ("0.99999", "0.9999", "1.00"),
        ("1", "1.00", "1.00"),
        ("999999.5", "999,999.50", "999,999.50"),
    ],
)
def test_money_is_rounded_for_people_and_never_up_where_it_is_left(
    amount: str, left: str, spent: str
) -> None:
    assert dollars_text(units(Decimal(amount))) == left
    assert spent_text(units(Decimal(amount))) == spent


@given(st.integers(0, MOST))
def test_money_is_exact_for_programs(amount: int) -> None:
    said = exact_usd(amount)
    assert Decimal(said) == usd(amount)
    assert "E" not in said


@given(st.integers(0, MOST), st.integers(0, MOST))
def test_a_bar_is_full_or_empty_only_if_that_is_true(one: int, other: int) -> None:
    left, limit = sorted((one, other))
    drawn = bar(left, limit)
    assert len(drawn) == BAR_WIDTH
    assert len(set(drawn)) == (1 if left in (0, limit) else 2)


def test_no_moment_is_none() -> None:
    assert iso(None) is None


def since(said: str) -> object:
    return _since(click.Context(usage), usage.params[0], said)


def test_days_are_those_of_utc_with_today_among_them() -> None:
    assert since("1d") == TODAY
    assert since(" 7D ") == TODAY - timedelta(6)
    assert since(TODAY.isoformat()) == TODAY
    assert since("2026-11-01").isoformat() == "2026-11-01"  # type: ignore[attr-defined]


@pytest.mark.parametrize("said", ["", "0d", "-1d", "d", "yesterday", "9999-12-31", "2026-13-01"])
def test_what_is_no_day_is_refused(said: str) -> None:
    with pytest.raises(click.BadParameter, match="expected a day that is not ahead"):
        since(said)
