"""What is used, held and left of meters, and what is free for a space."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from qwen_embed_plugins import Settings
from qwen_embed_plugins.amounts import NOTHING, Amount, units
from qwen_embed_plugins.books import Count
from qwen_embed_plugins.catalogue import (
    ConfiguredOffer,
    build_catalogue,
    offers_of_all_models,
)
from qwen_embed_plugins.meters import Key, Meter
from qwen_embed_plugins.plugins import load_plugins
from qwen_embed_plugins.standing import Free, Record, free
from qwen_embed_plugins.windows import DAY, EPOCH, MINUTE, UTC_DAY, Ever, UnderWay

NOW = 1_800_000_000.0
TODAY = int(NOW // 86_400)
GRANT = Meter("grant", "far", "", Ever(), tokens=1000)
DAILY = Meter("grant", "far", "", UTC_DAY, tokens=100)
BUDGET = Meter("budget", "", "", UTC_DAY, money=units(Decimal(1)))
PER_MINUTE = Meter("minute", "far", "", MINUTE, requests=10, tokens=500)
PER_DAY = Meter("day", "far", "", DAY, requests=2)
FLIGHT = Meter("flight", "far", "", UnderWay(), requests=4)


def count(meter: Meter, used: Amount, held: Amount = NOTHING) -> Count:
    return Count(meter.held_key(NOW), used, held)


def slice_of(meter: Meter, at: float, used: Amount) -> Count:
    """What was settled at a moment, of a limit over the last minute or day."""
    key = meter.used_key(at, meter.held_key(at))
    assert key is not None
    return Count(key, used, NOTHING)


def test_what_is_held_is_not_left() -> None:
    standing = Record([count(GRANT, Amount(3, 600), Amount(1, 150))], NOW).of(GRANT)
    assert (standing.used, standing.held) == (Amount(3, 600), Amount(1, 150))
    assert standing.left == (None, 250, None)
    assert standing.renews_at is None
    assert not standing.is_used_up


def test_a_meter_that_nobody_moved_is_whole() -> None:
    assert Record([], NOW).of(GRANT).left == (None, 1000, None)
    assert Record([], NOW).of(PER_MINUTE).left == (10, 500, None)


def test_what_was_used_beyond_a_limit_leaves_nothing() -> None:
    standing = Record([count(GRANT, Amount(3, 900), Amount(1, 200))], NOW).of(GRANT)
    assert standing.left == (None, 0, None)
    assert standing.is_used_up


def test_each_day_is_counted_by_itself() -> None:
    yesterday = Count(Key("grant", "far", "", TODAY - 1), Amount(1, 100), NOTHING)
    standing = Record([yesterday, count(DAILY, Amount(1, 40))], NOW).of(DAILY)
    assert standing.left == (None, 60, None)
    assert standing.renews_at == (TODAY + 1) * 86_400


def test_meters_of_one_account_do_not_mix() -> None:
    counts = [count(GRANT, Amount(1, 1)), count(BUDGET, Amount(1, 1, 5)), count(FLIGHT, NOTHING)]
    record = Record(counts, NOW)
    assert record.of(DAILY).left == (None, 100, None)
    assert record.of(BUDGET).left == (None, None, 10**12 - 5)
    assert record.of(Meter("grant", "far", "other-model", Ever(), tokens=9)).left == (None, 9, None)


def test_the_last_minute_is_the_sum_of_its_slices() -> None:
    counts = [
        slice_of(PER_MINUTE, NOW - 90, Amount(100, 100)),
        slice_of(PER_MINUTE, NOW - 40, Amount(4, 40)),
        slice_of(PER_MINUTE, NOW - 5, Amount(5, 50)),
        Count(PER_MINUTE.held_key(NOW), NOTHING, Amount(1, 10)),
    ]
    standing = Record(counts, NOW).of(PER_MINUTE)
    assert (standing.used, standing.held) == (Amount(9, 90), Amount(1, 10))
    assert standing.left == (0, 400, None)
    assert standing.is_used_up
    assert standing.renews_at is not None
    assert 20 <= standing.renews_at - NOW <= 22  # when the oldest is forgotten


def test_a_limit_with_room_says_no_time() -> None:
    standing = Record([slice_of(PER_DAY, NOW - 1, Amount(1, 10))], NOW).of(PER_DAY)
    assert (standing.left, standing.renews_at) == ((1, None, None), None)


def test_what_is_under_way_has_nothing_used() -> None:
    standing = Record([count(FLIGHT, NOTHING, Amount(4))], NOW).of(FLIGHT)
    assert (standing.left, standing.renews_at) == ((0, None, None), None)


# What is free for a space

MODEL = "qwen3-embedding-8b"


def table(**terms: Any) -> dict[str, Any]:
    return {
        "kind": "openai-compatible",
        "base_url": "https://far.example/v1",
        "price_per_million": "0.05",
        **terms,
    }


def configured(**tables: Mapping[str, Any]) -> tuple[ConfiguredOffer, ...]:
    settings = Settings.load(environ={}, use=list(tables), providers=tables)
    catalogue = build_catalogue(settings, load_plugins(found=()))
    assert not catalogue.left_out
    return catalogue.offers


def test_grants_of_several_accounts_add_up() -> None:
    offers = configured(
        a=table(free_tokens=1000, free_tokens_per_day=70), b=table(free_usd="1.5"), c=table()
    )
    key = Key("grant", "a", "", 0)
    record = Record([Count(key, Amount(1, 100), Amount(1, 50))], NOW)
    assert free(offers, record) == Free(850, 70, units(Decimal("1.5")), 30_000_000)
    assert free(offers, record).tokens == 30_000_920


def test_tables_of_one_account_share_what_is_free() -> None:
    shared = table(account="team", free_tokens=1000)
    offers = configured(a=shared, b=shared)
    assert free(offers, Record([], NOW)).tokens == 1000
    larger = {**shared, "free_tokens": 1500}
    used = Count(Key("grant", "team", "", 0), Amount(1, 400), NOTHING)
    assert free(configured(a=shared, b=larger), Record([used], NOW)).tokens == 1100


def test_credit_is_told_by_the_dearest_that_draws_on_it() -> None:
    offers = configured(
        a=table(account="team", free_usd=1),
        b=table(account="team", free_usd=1, price_per_million="0.10"),
    )
    assert free(offers, Record([], NOW)).credit_tokens == 10_000_000


def test_a_grant_that_lapsed_is_nothing() -> None:
    until = EPOCH + timedelta(days=TODAY)
    offers = configured(a=table(free_tokens=1000, free_until=until))
    assert free(offers, Record([], NOW + 86_400)) == Free()
    assert free(offers, Record([], NOW - 86_400)).tokens == 1000


def test_what_never_costs_is_named_and_not_counted() -> None:
    near = {"kind": "openai-compatible", "base_url": "http://127.0.0.1:1/v1"}
    assert free(configured(near=near), Record([], NOW)) == Free(endless=(f"near/{MODEL}",))


@pytest.mark.parametrize("tokens", [0, 10**18])
def test_free_tokens_may_be_none_or_very_many(tokens: int) -> None:
    offers = configured(a=table(free_tokens=tokens))
    assert free(offers, Record([], NOW)).tokens == tokens


# Offers of all models


def test_offers_of_all_models_are_those_that_are_set_up() -> None:
    settings = Settings.load(
        environ={"VOYAGE_API_KEY": "k"},
        use=["a"],
        dimensions=4096,
        providers={
            "a": table(models={"qwen3-embedding-0.6b": {"free_tokens": 5}}),
            "not-set-up": {"kind": "openai-compatible"},
        },
    )
    also = ["a/bge-m3", "a/never-heard-of", "gone/bge-m3", "odd"]
    keys = {offer.key for offer in offers_of_all_models(settings, load_plugins(found=()), also)}
    assert {"a/qwen3-embedding-8b", "a/qwen3-embedding-0.6b", "a/bge-m3"} <= keys
    assert "voyage/voyage-3.5" in keys
    assert not [key for key in keys if key.startswith(("deepinfra/", "not-set-up/", "gone/"))]
