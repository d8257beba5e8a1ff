"""The terms that hold for a user: those of built-in offers, and what settings say of them.

Pure. A grant counts once it is claimed, and a limit if the provider itself states it or the user
does. What the main table states holds for all that the account has, what a sub-table states for its
model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any, NamedTuple

from qwen_embed_plugins.errors import ConfigurationError, shown
from qwen_embed_plugins.grants import ConfiguredGrant
from qwen_embed_plugins.meters import Kind, Meter, in_dollars
from qwen_embed_plugins.offers import USD_PER_UNIT, Grant, Offer
from qwen_embed_plugins.provider_settings import GRANTS, OFFER_TERMS, ProviderSettings
from qwen_embed_plugins.setting_checks import ROLES
from qwen_embed_plugins.types import Role
from qwen_embed_plugins.windows import DAY, MINUTE, UTC_DAY, Daily, Ever, UnderWay, Window, daily

BUILT_IN: Mapping[str, str] = {
    "free_tokens_per_day": "tokens_per_day",
    "free_tokens": "tokens",
    "free_usd": "usd",
}
"""The settings that state a grant, and the fields of a built-in one."""

BUDGETS: Mapping[str, Window] = {"usd_per_day": UTC_DAY, "usd_total": Ever()}

PER_TIME = ("requests_per_minute", "tokens_per_minute", "requests_per_day")
"""Limits that a service sets for an account. Another server that speaks alike has others."""

OF_ACCOUNT = (*PER_TIME, "max_concurrency")
"""The limits that are counted; the others give a request its shape."""


class _Said(NamedTuple):
    """A value that holds, for which model ("" for all of the account), and where it is stated."""

    value: Any
    offer: str
    setting: str
    table: str

    def meter(
        self,
        kind: Kind,
        account: str,
        window: Window,
        *,
        requests: int | None = None,
        tokens: int | None = None,
        money: int | None = None,
    ) -> Meter:
        return Meter(
            kind, account, self.offer, window, requests, tokens, money, self.setting, self.table
        )


def _said(table: ProviderSettings, model: str, name: str) -> _Said | None:
    """What the sub-table of the model states, else what the table does."""
    here = f"[providers.{table.name}"
    if name in table.models.get(model, {}):
        return _Said(table.models[model][name], model, name, f'{here}.models."{model}"]')
    value = getattr(table, name)
    return None if value is None else _Said(value, "", name, f"{here}]")


def in_usd(offer: Offer) -> Decimal | None:
    """The stated price in US dollars, None when unknown."""
    if offer.price_per_million is None:
        return None
    return offer.price_per_million * USD_PER_UNIT[offer.currency]


def price_of(table: ProviderSettings, offer: Offer, *, private: bool) -> Decimal | None:
    """US dollars per million tokens, None when unknown. `offer` is as the table overrides it."""
    # What is near costs nothing, unless the user says so, or says that only a part is free.
    if private and "price_per_million" not in stated_terms(table, offer.model):
        return in_usd(offer) if _states_grant(table, offer.model) else Decimal(0)
    return in_usd(offer)


def overridden(offer: Offer, table: ProviderSettings) -> Offer:
    """The offer with what a table states of it. That is in dollars unless said otherwise, and was
    read nowhere."""
    stated = stated_terms(table, offer.model)
    if "price_per_million" in stated:
        stated.setdefault("currency", "USD")
    if stated.get("currency", offer.currency) != offer.currency:
        # The offer's other price is in its own currency, and shown only.
        stated["batch_price_per_million"] = None
    sources = {name: source for name, source in offer.sources.items() if name not in stated}
    return replace(offer, **stated, sources=sources)


def stated_terms(table: ProviderSettings, model: str) -> dict[str, Any]:
    """The fields of `Offer` that a table states for a model, as the user wrote them."""
    found = {name: _said(table, model, name) for name in OFFER_TERMS}
    return {name: said.value for name, said in found.items() if said is not None}


def served_roles(table: ProviderSettings, model: str) -> tuple[Role, ...]:
    """The roles of texts that an offer may receive: both, unless the table says otherwise."""
    said = _said(table, model, "serve")
    return said.value if said else ROLES


def is_enforced(offer: Offer, limit: str) -> bool:
    """Whether a limit of an account holds though settings do not state it: a rumour must not slow
    down anybody."""
    source = offer.sources.get(limit)
    return source is None or source.verified


def has_amounts(grant: Grant) -> bool:
    """Whether it is known how much is given, so that `free = true` can claim it."""
    return any(getattr(grant, part) for part in BUILT_IN.values())


def grants_of(
    table: ProviderSettings, offer: Offer, account: str, *, private: bool
) -> tuple[ConfiguredGrant, ...]:
    """The grants that the user claimed, in the order in which they are spent: those that the table
    states, else with `free = true` the built-in one.

    Raises `ConfigurationError` if none is known that could be claimed, or not when it ends.
    """
    model, window = offer.model, UTC_DAY
    free, until = _said(table, model, "free"), _said(table, model, "free_until")
    reset = _said(table, model, "free_reset")
    if free and free.offer and not free.value:
        return ()  # what the table states is not for this model
    amounts = _stated_amounts(table, model)
    if free and free.value and not any(said.value for said in amounts.values()):
        known = None if private else offer.grant
        amounts = _built_in(known, free, model, without=amounts)
        if known is None or not amounts:
            raise ConfigurationError(
                f"providers.{table.name}: free = true: no grant of it is known for {model}; state "
                "it: free_tokens = …, free_usd = … or free_tokens_per_day = …"
            )
        if known.days and not until:
            raise ConfigurationError(
                f"providers.{table.name}: free = true: its grant lasts {known.days} days, and "
                "after them it bills: name the first day after them, for example free_until = "
                "2027-01-31"
            )
        if known.reset and not reset:
            window = _built_in_reset(known.reset, table)
    return tuple(
        ConfiguredGrant(
            _grant_meter(name, amounts[name], account, reset.value if reset else window),
            until.value.timestamp() if until else None,
        )
        for name in GRANTS
        if name in amounts and amounts[name].value
    )


def unclaimed_grant(table: ProviderSettings, offer: Offer, *, private: bool) -> Grant | None:
    """The built-in grant that `free = true` would claim: neither claimed nor declined, and no
    other is stated."""
    grant = offer.grant
    if private or grant is None or not has_amounts(grant):
        return None
    spoken_of = _said(table, offer.model, "free") or _states_grant(table, offer.model)
    return None if spoken_of else grant


def _stated_amounts(table: ProviderSettings, model: str) -> dict[str, _Said]:
    return {name: said for name in GRANTS if (said := _said(table, model, name))}


def _states_grant(table: ProviderSettings, model: str) -> bool:
    return any(said.value for said in _stated_amounts(table, model).values())


def _built_in(
    grant: Grant | None, free: _Said, model: str, *, without: Mapping[str, _Said]
) -> dict[str, _Said]:
    """What a built-in grant gives, but for the parts that are stated to be none."""
    offer = "" if grant and grant.shared else model
    return {
        name: free._replace(value=getattr(grant, part), offer=offer)
        for name, part in BUILT_IN.items()
        if getattr(grant, part, None) and name not in without
    }


def _built_in_reset(said: str, table: ProviderSettings) -> Daily:
    try:
        return daily(said)
    except ValueError as error:  # a plugin's mistake, or no time zones on this machine
        raise ConfigurationError(
            f"providers.{table.name}: free = true: it begins anew at {shown(said)}: {error}; "
            "or state free_reset"
        ) from None


def _grant_meter(name: str, said: _Said, account: str, daily_window: Daily) -> Meter:
    if name == "free_usd":
        return said.meter("credit", account, Ever(), money=in_dollars(said.value))
    window = daily_window if name == "free_tokens_per_day" else Ever()
    return said.meter("grant", account, window, tokens=said.value)


def limits_of(
    table: ProviderSettings, offer: Offer, account: str, *, private: bool
) -> tuple[Meter, ...]:
    """The provider's budgets and limits: by the day, by the minute, under way. `offer` is as the
    table overrides it."""
    return (
        *_budgets(table, account),
        *_limits_per_day(table, offer, account, private),
        *_limits_per_minute(table, offer, account, private),
        *_limit_under_way(table, offer, account, private),
    )


def _limit(table: ProviderSettings, offer: Offer, name: str, private: bool) -> _Said | None:
    """A limit that is stated, or that is built in and holds."""
    said = _said(table, offer.model, name)
    if said or (private and name in PER_TIME) or not is_enforced(offer, name):
        return said
    value = getattr(offer, name)
    return None if value is None else _Said(value, "", name, f"[providers.{table.name}]")


def _budgets(table: ProviderSettings, account: str) -> Iterator[Meter]:
    for name, window in BUDGETS.items():
        said = _said(table, "", name)
        if said:
            yield said.meter("budget", account, window, money=in_dollars(said.value))


def _limits_per_day(
    table: ProviderSettings, offer: Offer, account: str, private: bool
) -> Iterator[Meter]:
    limit = _limit(table, offer, "requests_per_day", private)
    reset = _said(table, offer.model, "free_reset")
    if limit and reset:
        yield limit.meter("daily", account, reset.value, requests=limit.value)
    elif limit:
        yield limit.meter("day", account, DAY, requests=limit.value)


def _limits_per_minute(
    table: ProviderSettings, offer: Offer, account: str, private: bool
) -> Iterator[Meter]:
    """One meter for requests and tokens; two where one of them is stated for the model alone."""
    requests = _limit(table, offer, "requests_per_minute", private)
    tokens = _limit(table, offer, "tokens_per_minute", private)
    if requests and tokens and requests.offer == tokens.offer:
        both = requests._replace(setting=f"{requests.setting} and {tokens.setting}")
        yield both.meter("minute", account, MINUTE, requests=requests.value, tokens=tokens.value)
        return
    if requests:
        yield requests.meter("minute", account, MINUTE, requests=requests.value)
    if tokens:
        yield tokens.meter("minute", account, MINUTE, tokens=tokens.value)


def _limit_under_way(
    table: ProviderSettings, offer: Offer, account: str, private: bool
) -> Iterator[Meter]:
    limit = _limit(table, offer, "max_concurrency", private)
    if limit:
        yield limit.meter("flight", account, UnderWay(), requests=limit.value)
