"""Windows and meters: what is counted stays counted as long as it must, and no longer."""

from __future__ import annotations

import math
from datetime import datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qwen_embed_plugins.amounts import Amount
from qwen_embed_plugins.meters import (
    Kind,
    Meter,
    clock,
    in_dollars,
    refusal,
    use_meter,
)
from qwen_embed_plugins.windows import (
    DAY,
    MINUTE,
    UTC_DAY,
    Daily,
    Ever,
    Rolling,
    UnderWay,
    Window,
    daily,
)

NAMED = [
    "UTC",
    "America/Los_Angeles",
    "Europe/Berlin",
    "America/St_Johns",  # half an hour off
    "Australia/Lord_Howe",  # changes by half an hour
    "America/Havana",  # its midnight occurs twice
    "America/Santiago",  # its midnight is left out
    "Africa/Cairo",  # goes back from midnight into the day before
    "Asia/Kathmandu",
]
ZONES = st.one_of(
    st.sampled_from(NAMED).map(ZoneInfo),
    st.integers(-23 * 60, 23 * 60).map(lambda ahead: timezone(timedelta(minutes=ahead))),
)
HOURS = st.builds(time, st.integers(0, 23), st.integers(0, 59))
MOMENTS = st.floats(
    datetime(2023, 1, 1, tzinfo=timezone.utc).timestamp(),
    datetime(2037, 1, 1, tzinfo=timezone.utc).timestamp(),
)


def at(said: str, zone: str) -> float:
    return datetime.fromisoformat(said).replace(tzinfo=ZoneInfo(zone)).timestamp()


LOS_ANGELES, BERLIN = ZoneInfo("America/Los_Angeles"), ZoneInfo("Europe/Berlin")


@given(window=st.builds(Daily, HOURS, ZONES), moment=MOMENTS, within=st.floats(0, 1))
# The night on which an hour is left out, and the one on which it comes twice.
@example(Daily(time(2, 30), LOS_ANGELES), at("2026-03-08T00:00", "America/Los_Angeles"), 0.5)
@example(Daily(time(1, 30), LOS_ANGELES), at("2026-11-01T00:00", "America/Los_Angeles"), 0.07)
@example(Daily(time(2, 30), BERLIN), at("2026-03-29T00:00", "Europe/Berlin"), 0.1)
@example(Daily(time(2, 30), BERLIN), at("2026-10-25T00:00", "Europe/Berlin"), 0.14)
def test_a_day_is_one_count_from_one_beginning_to_the_next(
    window: Daily, moment: float, within: float
) -> None:
    period, ends = window.held_in(moment), window.ends(moment)
    assert moment < ends <= moment + 26 * 3600
    between = min(moment + within * (ends - moment), math.nextafter(ends, 0))
    assert window.held_in(between) == period == window.used_in(between)
    assert window.ends(between) == ends
    assert window.held_in(ends) == period + 1
    assert window.held_in(math.nextafter(ends, 0)) == period


@given(window=st.builds(Daily, HOURS, ZONES), moment=MOMENTS)
def test_a_day_begins_at_its_hour(window: Daily, moment: float) -> None:
    begins = datetime.fromtimestamp(window.ends(moment), window.zone)
    # An hour that is left out is taken from the clock before the change.
    assert begins.time() == window.at or (
        datetime.combine(begins.date(), window.at, window.zone).astimezone(timezone.utc)
        == begins.astimezone(timezone.utc)
    )


@given(window=st.sampled_from([MINUTE, DAY]), used=MOMENTS, after=st.floats(0, 1))
def test_the_last_minute_is_remembered_and_then_forgotten(
    window: Rolling, used: float, after: float
) -> None:
    period = window.used_in(used)
    later = used + window.seconds
    live = min(used + after * window.seconds, math.nextafter(later, 0))
    assert window.first_live(live) <= period
    assert window.first_live(math.nextafter(later, 0)) <= period
    assert window.first_live(later + window.step) > period
    assert later <= window.ends(used) <= later + window.step
    assert window.first_live(window.ends(used)) > period


@given(reserved=MOMENTS, lasts=st.floats(0, 3600), later=st.floats(0, 59.9))
def test_no_server_sees_more_in_a_minute(reserved: float, lasts: float, later: float) -> None:
    """From when it is reserved until a minute after it was settled a request is counted."""
    meter = Meter("minute", "a", "", MINUTE, requests=1)
    held = meter.held_key(reserved)
    assert meter.held_key(reserved + lasts) == held, "also if it takes longer than a minute"
    used = meter.used_key(reserved + lasts, held)
    assert used is not None
    assert used.period >= MINUTE.first_live(reserved + lasts + later)
    assert used.period > held.period, "what is held and what was used are two counts"
    assert used._replace(period=held.period) == held


def test_what_is_under_way_is_forgotten_at_its_end() -> None:
    meter = Meter("flight", "a", "", UnderWay(), requests=1)
    assert meter.used_key(5.0, meter.held_key(0.0)) is None


@given(moment=MOMENTS, later=st.floats(0, 3e6))
def test_use_counts_on_the_day_on_which_it_was_reserved(moment: float, later: float) -> None:
    meter = use_meter("a", "o")
    held = meter.held_key(moment)
    assert meter.used_key(moment + later, held) == held
    assert held.period == int(moment // 86_400)
    ever = Meter("grant", "a", "", Ever(), tokens=1)
    assert ever.held_key(moment) == ever.held_key(moment + later)


@pytest.mark.parametrize(
    ("said", "window"),
    [
        ("00:00 UTC", UTC_DAY),
        ("00:00", UTC_DAY),
        (" 0:00  Z ", UTC_DAY),
        ("08:30 +03:00", Daily(time(8, 30), timezone(timedelta(hours=3)))),
        ("08:30 UTC+03:00", Daily(time(8, 30), timezone(timedelta(hours=3)))),
        ("23:59 -09:30", Daily(time(23, 59), timezone(-timedelta(hours=9, minutes=30)))),
        ("00:00 America/Los_Angeles", Daily(time(), ZoneInfo("America/Los_Angeles"))),
    ],
)
def test_resets_as_people_write_them(said: str, window: Daily) -> None:
    assert daily(said) == window
    assert daily(str(window)) == window


def test_a_machine_without_time_zones_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> None:
        raise LookupError(name)

    monkeypatch.setattr("zoneinfo.ZoneInfo", unknown)
    monkeypatch.setattr("zoneinfo.available_timezones", set)
    with pytest.raises(ValueError, match=r"install the package tzdata, or write .* \"08:00 \+03"):
        daily("00:00 Europe/Berlin")
    assert daily("00:00 UTC") == UTC_DAY
    assert daily("00:00 +01:00").zone == timezone(timedelta(hours=1))


# Meters

COUNTS = st.integers(0, 10**6)
AMOUNTS = st.builds(Amount, COUNTS, COUNTS, COUNTS)
LIMITS = st.none() | st.integers(1, 10**6)
WINDOWS: dict[Kind, Window] = {
    "budget": UTC_DAY,
    "grant": Ever(),
    "credit": Ever(),
    "daily": UTC_DAY,
    "day": DAY,
    "minute": MINUTE,
    "flight": UnderWay(),
}
PER_TIME: tuple[Kind, ...] = ("daily", "day", "minute", "flight")


def meters(*kinds: Kind) -> st.SearchStrategy[Meter]:
    return st.sampled_from(kinds or tuple(WINDOWS)).flatmap(
        lambda kind: st.builds(
            Meter,
            st.just(kind),
            st.just("a"),
            st.just("o"),
            st.just(WINDOWS[kind]),
            requests=LIMITS,
            tokens=LIMITS,
            money=LIMITS,
            setting=st.just("s"),
        )
    )


def within(meter: Meter, amount: Amount) -> bool:
    """Whether each part keeps to its limit, written out."""
    return all(
        limit is None or part <= limit
        for limit, part in [
            (meter.requests, amount.requests),
            (meter.tokens, amount.tokens),
            (meter.money, amount.money),
        ]
    )


@given(meter=meters(), counted=AMOUNTS, bound=AMOUNTS)
def test_a_meter_refuses_what_goes_beyond_a_limit_and_nothing_else(
    meter: Meter, counted: Amount, bound: Amount
) -> None:
    refused = refusal(meter, counted, bound, None)
    assert (refused is None) == within(meter, counted + bound)
    if refused is not None:
        part = meter.lacks(counted + bound)
        assert part is not None
        assert refused.left == max(0, getattr(meter, part) - getattr(counted, part))
        assert refused.left < getattr(bound, part) or not within(meter, counted)
        assert "\n" not in refused.message


@given(meter=meters(), counted=AMOUNTS)
def test_what_is_left_may_be_taken_and_one_more_may_not(meter: Meter, counted: Amount) -> None:
    parts = ("requests", "tokens", "money")
    left = dict(zip(parts, meter.left(counted), strict=True))
    for part in parts:
        limit, rest = getattr(meter, part), left[part]
        if limit is None or rest is None:
            assert limit is rest is None
            continue
        assert rest == max(0, limit - getattr(counted, part))
        alone = Amount(**{part: getattr(counted, part)})
        assert (meter.lacks(alone + Amount(**{part: rest})) is None) == (
            getattr(counted, part) <= limit
        )
        assert meter.lacks(alone + Amount(**{part: rest + 1})) == part


@given(meter=meters(*PER_TIME), amount=AMOUNTS, credit=COUNTS)
def test_no_limit_per_time_is_too_small_for_one_attempt(
    meter: Meter, amount: Amount, credit: int
) -> None:
    """Else it would wait for ever. It takes all of the limit, so that it goes alone."""
    bound = meter.bound(amount, credit)
    assert within(meter, bound)
    assert amount.covers(bound)
    assert bound == amount or not within(meter, amount)
    assert meter.counts(amount, credit) == amount, "what it used is counted in full"


@given(meter=meters("budget", "grant", "credit"), amount=AMOUNTS, credit=COUNTS)
def test_money_and_grants_are_never_bound_below_the_amount(
    meter: Meter, amount: Amount, credit: int
) -> None:
    money = amount.money if meter.kind == "budget" else credit
    whole = Amount(amount.requests, amount.tokens, money)
    assert meter.bound(amount, credit) == meter.counts(amount, credit) == whole


def said(kind: Kind, counted: Amount, until: float | None = None, **given_: Any) -> str:
    stated: dict[str, Any] = {"setting": "s", "table": "[providers.far]", **given_}
    meter = Meter(kind, "a", "", WINDOWS[kind], **stated)
    refused = refusal(meter, counted, Amount(1, 10, 5 * 10**11), until)
    assert refused is not None
    assert refused.until == until
    return refused.message


def test_a_refusal_names_the_setting_that_holds_the_limit() -> None:
    both: dict[str, Any] = {
        "requests": 20,
        "tokens": 500,
        "setting": "requests_per_minute and tokens_per_minute",
    }
    message = said("minute", Amount(requests=20), 0.0, **both)
    assert message == "requests_per_minute = 20 is used up until 1970-01-01 00:00:00 UTC"
    message = said("minute", Amount(tokens=491), **both)
    assert message == "tokens_per_minute = 500 is used up"
    message = said("day", Amount(requests=5), requests=5, setting="requests_per_day")
    assert message == "requests_per_day = 5 is used up"
    message = said("flight", Amount(requests=2), requests=2, setting="max_concurrency")
    assert message == "2 requests are under way, as many as max_concurrency allows"


def test_a_refusal_of_money_says_how_much_and_what_to_do() -> None:
    message = said("budget", Amount(money=8 * 10**11), money=10**12, setting="usd_per_day")
    assert message == (
        "budget usd_per_day = 1.00 US dollars would be overrun (1.300000); it renews at 00:00 "
        'UTC; raise it under [providers.far], or set usd_per_day = "unlimited"'
    )
    assert said("credit", Amount(), money=10**9) == "its grant of 0.001 US dollars is spent"
    assert said("grant", Amount(tokens=5), tokens=9) == "its grant of 9 tokens is spent"


@given(usd=st.decimals(0, 10**6, places=14))
def test_a_limit_in_dollars_is_never_rounded_up(usd: Decimal) -> None:
    units = in_dollars(usd)
    assert units is not None
    assert units <= usd * 10**12 < units + 1
    assert in_dollars(None) is None


@given(MOMENTS)
def test_a_clock_is_read_in_utc(moment: float) -> None:
    shown = datetime.strptime(clock(moment), "%Y-%m-%d %H:%M:%S UTC").replace(tzinfo=timezone.utc)
    assert -1e-6 < moment - shown.timestamp() < 1
