"""Grants, limits and roles: what settings and built-in offers come to, and what wrong ones say."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from qwen_embed_plugins import ConfigurationError, Offer, Provider, Settings
from qwen_embed_plugins.catalogue import ConfiguredOffer, build_catalogue
from qwen_embed_plugins.meters import Meter
from qwen_embed_plugins.offers import Grant, Source
from qwen_embed_plugins.plugins import RegisteredProvider, Registry, load_plugins
from qwen_embed_plugins.provider_settings import ProviderSettings
from qwen_embed_plugins.providers import _catalogue
from qwen_embed_plugins.windows import DAY, MINUTE, UTC_DAY, Ever, UnderWay, daily

MODEL = "qwen3-embedding-8b"
SUB = f'[providers.far.models."{MODEL}"]'
FAR = "https://far.example/v1"
NEAR = "http://127.0.0.1:8000/v1"

ONCE = Grant(tokens=1_000_000)
DAILY = Grant(tokens_per_day=9_300_000, reset="08:00 +03:00", shared=True)
MIXED = Grant(tokens=1000, usd=Decimal("1.80"), shared=True)

HEARSAY = Source("https://example.org/thread", "2026-10", "hearsay")


class Far(Provider):
    name = "far"
    base_url = FAR


def registry_with(**terms: Any) -> Registry:
    """A registry whose provider `far` offers the model on these terms."""
    registry = load_plugins(found=())
    offer = Offer(MODEL, "w", **{"price_per_million": Decimal("0.10"), **terms})
    registry.declared.providers["far"] = RegisteredProvider(Far, (offer,), "test")
    return registry


def configured(
    table: Mapping[str, Any],
    *,
    budget: Mapping[str, Any] | None = None,
    sub: Mapping[str, Any] | None = None,
    **terms: Any,
) -> ConfiguredOffer:
    """The offer of `[providers.far]`, with a sub-table for its model."""
    models = {} if sub is None else {"models": {MODEL: sub}}
    settings = Settings.load(
        environ={}, use=["far"], providers={"far": {**table, **models}}, budget=budget
    )
    catalogue = build_catalogue(settings, registry_with(**terms))
    assert catalogue.offers, catalogue.left_out
    [offer] = catalogue.offers
    return offer


def grant_meter(offer: ConfiguredOffer) -> Meter:
    [grant] = offer.grants
    return grant.meter


# What settings state


def test_what_is_stated_is_counted_of_the_whole_account() -> None:
    offer = configured(
        {
            "account": "team-a",
            "free_usd": "1.80",
            "free_tokens": 36_000_000,
            "free_tokens_per_day": 500,
            "free_reset": "08:00 +03:00",
            "free_until": date(2027, 1, 31),
        }
    )
    where: dict[str, Any] = {"table": "[providers.far]"}
    assert [grant.meter for grant in offer.grants] == [
        Meter(
            *("grant", "team-a", "", daily("08:00 +03:00")),
            tokens=500,
            setting="free_tokens_per_day",
            **where,
        ),
        Meter("grant", "team-a", "", Ever(), tokens=36_000_000, setting="free_tokens", **where),
        Meter("credit", "team-a", "", Ever(), money=18 * 10**11, setting="free_usd", **where),
    ]
    ends = datetime(2027, 1, 31, tzinfo=timezone.utc).timestamp()
    assert {grant.until for grant in offer.grants} == {ends}
    assert offer.grants[0].covers_at(ends - 1)
    assert not offer.grants[0].covers_at(ends)
    assert offer.has_grants
    assert offer.unclaimed is None


def test_a_daily_grant_begins_anew_at_midnight_in_utc_unless_said() -> None:
    assert grant_meter(configured({"free_tokens_per_day": 5})).window == UTC_DAY


def test_a_sub_table_speaks_for_its_model_alone() -> None:
    offer = configured({"free_tokens": 5}, sub={"free_tokens": 7})
    meter = Meter("grant", "far", MODEL, Ever(), tokens=7, setting="free_tokens", table=SUB)
    assert grant_meter(offer) == meter
    assert configured({"free_tokens": 5}, sub={"free": False}).grants == ()
    assert grant_meter(configured({"free": False}, sub={"free_tokens": 7})) == meter


def test_nothing_is_no_grant() -> None:
    offer = configured({"free_tokens": 0, "free_tokens_per_day": 0, "free_usd": 0}, grant=ONCE)
    assert not offer.has_grants
    assert offer.unclaimed == ONCE


def test_two_tables_of_one_account_share_a_count() -> None:
    table = {"kind": "openai-compatible", "base_url": FAR, "account": "team", "trust": True}
    own = {"price_per_million": "0.1"}
    tables = {name: {**table, **own, "free_tokens": limit} for name, limit in (("a", 5), ("b", 7))}
    settings = Settings.load(environ={}, use=["a", "b"], providers=tables)
    offers = build_catalogue(settings, load_plugins(found=())).offers
    first, second = map(grant_meter, offers)
    assert first.held_key(0) == second.held_key(0)
    assert (first.tokens, second.tokens) == (5, 7)


# The built-in grant


def test_a_built_in_grant_is_not_claimed_by_itself() -> None:
    offer = configured({}, grant=ONCE)
    assert (offer.grants, offer.unclaimed) == ((), ONCE)
    assert configured({"free": False}, grant=ONCE).unclaimed is None, "declined: no more advice"
    assert configured({"free_tokens": 5}, grant=ONCE).unclaimed is None
    assert configured({}, grant=Grant(note="a free tier")).unclaimed is None, "nothing to claim"
    assert configured({"base_url": NEAR}, grant=ONCE).unclaimed is None, "another server"


def test_a_built_in_grant_is_claimed() -> None:
    where: dict[str, Any] = {"setting": "free", "table": "[providers.far]"}
    once = configured({"free": True}, grant=ONCE)
    assert grant_meter(once) == Meter("grant", "far", MODEL, Ever(), tokens=1_000_000, **where)
    assert once.unclaimed is None
    renewed = configured({"free": True}, grant=DAILY)
    window = daily("08:00 +03:00")
    assert grant_meter(renewed) == Meter("grant", "far", "", window, tokens=9_300_000, **where)
    tokens, credit = (grant.meter for grant in configured({"free": True}, grant=MIXED).grants)
    assert (tokens.kind, tokens.tokens, tokens.offer) == ("grant", 1000, "")
    assert (credit.kind, credit.money, credit.offer) == ("credit", 18 * 10**11, "")


def test_a_shared_grant_is_one_count_also_if_claimed_for_single_models() -> None:
    meter = grant_meter(configured({}, sub={"free": True}, grant=DAILY))
    assert (meter.offer, meter.table) == ("", SUB)
    assert grant_meter(configured({}, sub={"free": True}, grant=ONCE)).offer == MODEL


def test_what_is_stated_replaces_the_built_in_grant() -> None:
    meter = grant_meter(configured({"free": True, "free_tokens": 7}, grant=MIXED))
    assert (meter.tokens, meter.setting) == (7, "free_tokens")
    meter = grant_meter(configured({"free": True, "free_usd": 0}, grant=MIXED))
    assert (meter.kind, meter.tokens) == ("grant", 1000), "without the part stated to be none"
    own = {"free": True, "free_reset": "00:00 UTC"}
    assert grant_meter(configured(own, grant=DAILY)).window == UTC_DAY


def test_a_grant_that_lasts_some_days_is_claimed_with_its_end() -> None:
    lasting = Grant(tokens=1_000_000, days=90)
    said = "its grant lasts 90 days, and after them it bills: name the first day after them, for ex"
    with pytest.raises(ConfigurationError, match=said):
        configured({"free": True}, grant=lasting)
    [grant] = configured({"free": True, "free_until": "2027-01-31"}, grant=lasting).grants
    assert grant.until == datetime(2027, 1, 31, tzinfo=timezone.utc).timestamp()


@pytest.mark.parametrize(
    ("table", "terms"),
    [
        ({}, {}),
        ({}, {"grant": Grant(note="a free tier of its own", reset="00:00 UTC")}),
        ({"base_url": NEAR}, {"grant": ONCE}),
        ({"free_tokens": 0}, {"grant": ONCE}),
    ],
    ids=["none", "without amounts", "another server", "stated to be none"],
)
def test_a_grant_that_nobody_knows_cannot_be_claimed(
    table: dict[str, Any], terms: dict[str, Any]
) -> None:
    said = r"providers\.far: free = true: no grant of it is known for .*; state it: free_tokens = "
    with pytest.raises(ConfigurationError, match=said):
        configured({"free": True, **table}, **terms)


def test_a_plugins_wrong_reset_is_told_when_its_grant_is_claimed() -> None:
    wrong = Grant(tokens_per_day=5, reset="00:00 Pacific")
    with pytest.raises(ConfigurationError, match="begins anew at '00:00 Pacific': expected an hou"):
        configured({"free": True}, grant=wrong)
    assert configured({}, grant=wrong).unclaimed == wrong
    stated = configured({"free": True, "free_reset": "08:00 -08:00"}, grant=wrong)
    assert grant_meter(stated).window == daily("08:00 -08:00")


@pytest.mark.parametrize(
    ("provider", "offer"),
    [(name, offer) for name in _catalogue.providers() for offer in _catalogue.offers_of(name)],
    ids=lambda value: getattr(value, "model", value),
)
def test_every_built_in_reset_is_a_time(provider: str, offer: Offer) -> None:
    daily((offer.grant and offer.grant.reset) or "00:00 UTC")


# Limits


def test_limits_of_an_account() -> None:
    offer = configured(
        {
            "account": "team-a",
            "max_concurrency": 8,
            "tokens_per_minute": 1_000_000,
            "requests_per_minute": 200,
            "requests_per_day": 5000,
            "usd_total": 20,
            "usd_per_day": "0.50",
        }
    )
    where: dict[str, Any] = {"table": "[providers.far]"}
    assert list(offer.limits) == [
        Meter("budget", "team-a", "", UTC_DAY, money=5 * 10**11, setting="usd_per_day", **where),
        Meter("budget", "team-a", "", Ever(), money=20 * 10**12, setting="usd_total", **where),
        Meter("day", "team-a", "", DAY, requests=5000, setting="requests_per_day", **where),
        Meter(
            *("minute", "team-a", "", MINUTE),
            requests=200,
            tokens=1_000_000,
            setting="requests_per_minute and tokens_per_minute",
            **where,
        ),
        Meter("flight", "team-a", "", UnderWay(), requests=8, setting="max_concurrency", **where),
    ]


def test_days_of_the_calendar_are_counted_where_their_beginning_is_stated() -> None:
    [meter] = configured({"requests_per_day": 5, "free_reset": "00:00 -08:00"}).limits
    assert (meter.kind, meter.window) == ("daily", daily("00:00 -08:00"))


def test_a_limit_of_a_sub_table_is_the_models() -> None:
    stated = {"requests_per_minute": 200, "tokens_per_minute": 500, "max_concurrency": 8}
    of_all, own, under_way = configured(
        stated, sub={"tokens_per_minute": 100, "max_concurrency": 2}
    ).limits
    assert (of_all.offer, of_all.requests, of_all.tokens) == ("", 200, None)
    assert (own.offer, own.requests, own.tokens, own.table) == (MODEL, None, 100, SUB)
    assert (under_way.offer, under_way.requests) == (MODEL, 2)
    assert of_all.held_key(0) != own.held_key(0)


def test_a_budget_that_is_unlimited_is_none() -> None:
    assert configured({"usd_per_day": "unlimited"}).limits == ()
    [meter] = configured({"usd_per_day": 0}).limits
    assert meter.money == 0


LIMITS: dict[str, Any] = {
    "requests_per_minute": 3,
    "tokens_per_minute": 4,
    "requests_per_day": 5,
    "max_concurrency": 6,
}


def test_the_providers_own_word_is_enforced_and_a_rumour_is_not() -> None:
    kinds = [meter.kind for meter in configured({}, **LIMITS).limits]
    assert kinds == ["day", "minute", "flight"]
    doubtful: dict[str, Any] = {"sources": dict.fromkeys(LIMITS, HEARSAY)}
    shown = configured({}, **LIMITS, **doubtful)
    assert shown.limits == ()
    assert shown.offer.requests_per_minute == 3, "still there to be shown"
    [meter] = configured({"requests_per_minute": 3}, **LIMITS, **doubtful).limits
    assert (meter.kind, meter.requests, meter.tokens) == ("minute", 3, None)


def test_another_server_has_other_limits() -> None:
    [meter] = configured({"base_url": NEAR}, **LIMITS, max_inputs=7).limits
    assert meter.kind == "flight"
    stated = configured({"base_url": NEAR, "tokens_per_minute": 9}, **LIMITS, max_inputs=7)
    assert [meter.tokens for meter in stated.limits if meter.kind == "minute"] == [9]
    assert stated.max_inputs == 7, "the shape of requests goes with the kind of server"


# Roles and prices


def test_both_roles_are_served_unless_said() -> None:
    assert configured({}).serve == ("query", "document")
    assert configured({"serve": ["query"]}).serve == ("query",)
    assert configured({"serve": ["query"]}, sub={"serve": "document"}).serve == ("document",)


def test_what_is_near_costs_something_if_only_a_part_is_free() -> None:
    near = {"base_url": NEAR}
    assert configured(near).price == 0
    assert configured({**near, "free_tokens": 0}).price == 0
    assert configured({**near, "free_tokens": 5}).price == Decimal("0.10")
    assert configured(near, sub={"free_usd": 5}).price == Decimal("0.10")
    assert configured({**near, "free_tokens": 5, "price_per_million": "0.3"}).price == Decimal(
        "0.3"
    )


def left_out(table: dict[str, Any], *, budget: dict[str, Any], **terms: Any) -> str:
    settings = Settings.load(environ={}, use=["far"], providers={"far": table}, budget=budget)
    return build_catalogue(settings, registry_with(**terms)).left_out["far"]


UNLIMITED = {"usd_per_day": "unlimited"}


def test_tokens_that_are_given_away_serve_without_a_price() -> None:
    offer = configured({"free_tokens": 5}, price_per_million=None)
    assert (offer.price, offer.has_grants) == (None, True)
    assert configured({"base_url": NEAR, "free_tokens": 5}, price_per_million=None).price is None


def test_an_offer_without_a_price_is_left_out_under_any_budget() -> None:
    said = left_out({}, budget={}, price_per_million=None)
    assert said.endswith('or set usd_per_day = "unlimited" under [budget]')
    said = left_out({"usd_total": 1}, budget=UNLIMITED, price_per_million=None)
    assert said.endswith("or lift that of [providers.far]")
    assert configured({}, budget=UNLIMITED, price_per_million=None).price is None


@pytest.mark.parametrize("table", [{"free_usd": 5}, {"free": True}], ids=["stated", "claimed"])
@pytest.mark.parametrize("budget", [{}, UNLIMITED], ids=["budget", "unlimited"])
def test_money_that_is_given_away_needs_a_price(
    table: dict[str, Any], budget: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationError, match=r"providers\.far: a grant in money is counted by"):
        configured(table, budget=budget, price_per_million=None, grant=MIXED)


# How settings are written


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("2027-01-31", "2027-01-31T00:00+00:00"),
        (date(2027, 1, 31), "2027-01-31T00:00+00:00"),
        ("2027-01-31T12:00:00", "2027-01-31T12:00+00:00"),
        ("2027-01-31T12:00:00Z", "2027-01-31T12:00+00:00"),
        ("2027-01-31 12:00:00+03:00", "2027-01-31T09:00+00:00"),
        (datetime(2027, 1, 31, 12), "2027-01-31T12:00+00:00"),  # noqa: DTZ001  as TOML gives it
        (
            datetime(2027, 1, 31, 12, tzinfo=timezone(timedelta(hours=3))),
            "2027-01-31T09:00+00:00",
        ),
    ],
)
def test_when_a_grant_ends(said: Any, meant: str) -> None:
    table = {"free_tokens": 5, "free_until": said}
    until = Settings.load(environ={}, providers={"far": table}).providers["far"].free_until
    assert until == datetime.fromisoformat(meant)
    assert until.utcoffset() == timedelta(0)
    [grant] = configured(table).grants
    assert grant.until == datetime.fromisoformat(meant).timestamp()


def test_a_file_with_all_of_them() -> None:
    Path("qwen-embed.toml").write_text(
        f"""
        [providers.far]
        free = true
        free_tokens = 36_000_000
        free_usd = 1.80
        free_until = 2027-01-31
        free_tokens_per_day = 0
        free_reset = "00:00 America/Los_Angeles"
        requests_per_minute = 200
        serve = ["document"]
        usd_per_day = 0
        usd_total = 5
        [providers.far.models."{MODEL}"]
        free_tokens = 7
        free_until = 2027-02-28T12:00:00
        requests_per_day = 9
        """,
        "utf-8",
    )
    settings = Settings.load(environ={}, use=["far"])
    offer = build_catalogue(settings, registry_with()).offers[0]
    assert [(grant.meter.setting, grant.meter.offer) for grant in offer.grants] == [
        ("free_tokens", MODEL),
        ("free_usd", ""),
    ]
    rows = {name: (value, origin) for name, value, origin in settings.explain()}
    origin = "file qwen-embed.toml"
    where = "providers.far"
    assert rows[f"{where}.free"] == ("true", origin)
    assert rows[f"{where}.free_usd"] == ("1.80", origin)
    assert rows[f"{where}.free_until"] == ("2027-01-31 00:00:00+00:00", origin)
    assert rows[f"{where}.free_tokens_per_day"] == ("0", origin)
    assert rows[f"{where}.free_reset"] == ("00:00 America/Los_Angeles", origin)
    assert rows[f"{where}.serve"] == ("document", origin)
    assert rows[f"{where}.usd_per_day"] == ("0", origin)
    assert rows[f'{where}.models."{MODEL}".free_until'] == ("2027-02-28 12:00:00+00:00", origin)
    assert f"{where}.trust" not in rows


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"free": "yes"}, "far: free = 'yes': expected true or false"),
        ({"free_tokens": -1}, "far: free_tokens = -1: expected a whole number of at least 0"),
        ({"free_tokens": Decimal("1E+6")}, "free_tokens = 1E+6: expected a whole number"),
        ({"free_tokens": True}, "free_tokens = True: expected a whole number"),
        ({"free_tokens": "²"}, "free_tokens = '²': expected a whole number"),
        ({"free_tokens": 10**19}, "expected a whole number of at most 1000000000000000000"),
        ({"free_tokens_per_day": "many"}, "free_tokens_per_day = 'many': expected a whole number"),
        ({"free_usd": "$1.80"}, "free_usd = '$1.80': expected an amount of 0 or more"),
        ({"free_usd": "nan"}, "expected an amount of 0 or more"),
        ({"free_usd": "1e999999"}, "expected an amount of at most 1000000"),
        ({"free_until": "31.01.2027"}, "free_until = '31.01.2027': expected a day or a time"),
        ({"free_until": 2027}, "free_until = 2027: expected a day or a time"),
        ({"free_until": "0001-01-01T00:00:00+14:00"}, "expected a day or a time"),
        ({"free_until": "2027-01-31"}, "free_until ends no grant: claim the built-in one with"),
        (
            {"free_until": "2027-01-31", "free_tokens": 0, "free": False},
            "free_until ends no grant",
        ),
        ({"free_reset": "midnight"}, "free_reset = 'midnight': expected an hour and a zone"),
        ({"free_reset": "24:00 UTC"}, "expected an hour and a zone"),
        ({"free_reset": "00:00 +03:75"}, "expected an hour and a zone"),
        ({"free_reset": "00:00 America"}, "expected an hour and a zone"),
        ({"free_reset": "00:00 ../../etc/passwd"}, "expected an hour and a zone"),
        ({"free_reset": "00:00 Europe/Nowhere"}, "expected an hour and a zone"),
        ({"free_reset": 0}, "free_reset = 0: expected a non-empty string"),
        ({"free": False, "free_tokens": 5}, "far: free = false, and free_tokens = 5: remove one"),
        ({"requests_per_minute": 0}, "requests_per_minute = 0: expected a whole number of at leas"),
        ({"requests_per_day": 1.5}, "requests_per_day = 1.5: expected a whole number"),
        ({"tokens_per_minute": "1M"}, "tokens_per_minute = '1M': expected a whole number"),
        ({"serve": []}, 'serve = []: expected a list of "query", "document" or both'),
        ({"serve": ["queries"]}, "serve = ['queries']: expected a list"),
        ({"serve": [["query"]]}, "expected a list"),
        ({"serve": 1}, "expected a list"),
        ({"usd_per_day": "none"}, "usd_per_day = 'none': expected an amount"),
        ({"usd_total": -1}, "usd_total = -1: expected an amount"),
    ],
    ids=str,
)
def test_a_wrong_value_is_told_in_a_line(table: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(environ={}, providers={"far": table})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sub", "said"),
    [
        ({"free_tokens": -1}, "free_tokens = -1: expected a whole number of at least 0"),
        ({"free": False, "free_usd": 5}, f"providers.far.models.{MODEL}: free = false, and free_"),
        ({"free_until": "2027-01-31"}, f"providers.far.models.{MODEL}: free_until ends no grant"),
        ({"usd_per_day": 1}, "unknown setting 'usd_per_day'"),
        ({"rpm": 5}, "unknown setting 'rpm'; did you mean 'requests_per_minute'?"),
    ],
    ids=str,
)
def test_a_wrong_sub_table_is_told_in_a_line(sub: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(environ={}, providers={"far": {"models": {MODEL: sub}}})
    assert said in str(caught.value)


def test_the_end_of_a_grant_may_stand_above_the_grants_of_single_models() -> None:
    table = {"free_until": "2027-01-31"}
    [grant] = configured(table, sub={"free_tokens": 5}).grants
    assert grant.until == datetime(2027, 1, 31, tzinfo=timezone.utc).timestamp()


@pytest.mark.parametrize(
    ("written", "right"),
    [
        ("rpm", "requests_per_minute"),
        ("tpm", "tokens_per_minute"),
        ("rpd", "requests_per_day"),
        ("free_token", "free_tokens"),
        ("free_credit", "free_usd"),
        ("roles", "serve"),
        ("concurrency", "max_concurrency"),
    ],
)
def test_what_people_write_elsewhere_leads_to_our_name(written: str, right: str) -> None:
    with pytest.raises(ConfigurationError, match=f"unknown setting '{written}'.*'{right}'"):
        configured({written: 5})


def test_a_table_that_is_made_in_code_is_held_to_the_same() -> None:
    with pytest.raises(ConfigurationError, match="free = false, and free_usd = "):
        ProviderSettings("far", free=False, free_usd=Decimal(1))
    with pytest.raises(ConfigurationError, match="free_until ends no grant"):
        ProviderSettings("far", free_until=datetime(2027, 1, 31, tzinfo=timezone.utc))


EXAMPLE = """
[budget]
usd_per_day = 1.00
usd_total = 20.00
[providers.deepinfra]
kind = "openai-compatible"
base_url = "http://127.0.0.1:8000/v1"
api_key_env = "DEEPINFRA_TOKEN"
account = "team-a"
wire_name = "Qwen/Qwen3-Embedding-8B"
proxy = "socks5://127.0.0.1:1080"
price_per_million = "0.05"
currency = "EUR"
free = true
free_tokens = 36000000
free_usd = "1.80"
free_until = 2027-01-31
free_tokens_per_day = 0
free_reset = "00:00 UTC"
requests_per_minute = 200
requests_per_day = 5000
tokens_per_minute = 1000000
max_concurrency = 8
max_inputs = 1024
max_input_tokens = 32768
serve = ["query", "document"]
trust = false
[providers.deepinfra.models."qwen3-embedding-4b"]
price_per_million = "0.02"
"""


@pytest.mark.parametrize(("model", "price"), [(MODEL, "0.060"), ("qwen3-embedding-4b", "0.024")])
def test_a_table_that_states_everything(model: str, price: str) -> None:
    Path("qwen-embed.toml").write_text(EXAMPLE, "utf-8")
    settings = Settings.load(environ={"DEEPINFRA_TOKEN": "k"}, use=["deepinfra"], model=model)
    [offer] = build_catalogue(settings, load_plugins(found=())).offers
    assert offer.price == Decimal(price)
    assert [grant.meter.kind for grant in offer.grants] == ["grant", "credit"]
    assert [meter.kind for meter in offer.limits] == ["daily", "minute", "flight"]
    assert {meter.account for meter in offer.limits} == {"team-a"}
    stated = [line.split(" = ")[0] for line in EXAMPLE.splitlines() if " = " in line]
    shown = {name.rpartition(".")[2] for name, *_ in settings.explain()}
    assert shown.issuperset(set(stated) - {"trust"}), "what is stated is shown; trust is as it is"
