"""The `[providers.NAME]` tables of the settings: what they may say, and what contradicts itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from decimal import Decimal
from typing import Any, get_args

from qwen_embed_plugins.errors import ConfigurationError, shown
from qwen_embed_plugins.offers import Currency
from qwen_embed_plugins.proxies import proxy_address
from qwen_embed_plugins.setting_checks import (
    Check,
    as_table,
    checked_table,
    count,
    moment,
    money,
    money_or_unlimited,
    one_of,
    reset,
    roles,
    text,
    truth,
    variable_name,
    web_address,
    whole_number,
)
from qwen_embed_plugins.types import Role
from qwen_embed_plugins.windows import Daily

GRANTS = ("free_tokens_per_day", "free_tokens", "free_usd")
"""The settings that state what a provider gives away, in the order in which it is spent."""


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """One `[providers.NAME]` table: an account with a provider, or a server of one's own.

    `models` holds what its sub-tables say of single models. `free_until` is in UTC. Raises
    `ConfigurationError` if what is said of grants contradicts itself.
    """

    name: str
    kind: str | None = None
    base_url: str | None = field(default=None, repr=False)
    api_key_env: str | None = None
    account: str | None = None
    wire_name: str | None = None
    proxy: str | None = field(default=None, repr=False)
    proxy_env: str | None = None
    price_per_million: Decimal | None = None
    currency: Currency | None = None
    max_concurrency: int | None = None
    max_inputs: int | None = None
    max_input_tokens: int | None = None
    requests_per_minute: int | None = None
    requests_per_day: int | None = None
    tokens_per_minute: int | None = None
    free: bool | None = None
    free_tokens: int | None = None
    free_usd: Decimal | None = None
    free_until: datetime | None = None
    free_tokens_per_day: int | None = None
    free_reset: Daily | None = None
    serve: tuple[Role, ...] | None = None
    usd_per_day: Decimal | None = None
    usd_total: Decimal | None = None
    trust: bool = False
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        own = {item.name: getattr(self, item.name) for item in fields(self)}
        tables: dict[str, Mapping[str, Any]] = {f"providers.{self.name}": own}
        tables |= {f"providers.{self.name}.models.{name}": at for name, at in self.models.items()}
        for where, said in tables.items():
            given = next((name for name in GRANTS if said.get(name)), None)
            if given and said.get("free") is False:
                raise ConfigurationError(
                    f"{where}: free = false, and {given} = {shown(said[given])}: remove one of them"
                )
            near = (said, own) if said is not own else tables.values()
            if said.get("free_until") and not any(map(_claims, near)):
                raise ConfigurationError(
                    f"{where}: free_until ends no grant: claim the built-in one with free = true, "
                    "or state yours, for example free_tokens = 1000000"
                )

    @property
    def has_budget(self) -> bool:
        """Whether the account has a budget of its own."""
        return self.usd_per_day is not None or self.usd_total is not None


def _claims(said: Mapping[str, Any]) -> bool:
    return said.get("free") is True or any(said.get(name) for name in GRANTS)


OFFER_TERMS: Mapping[str, Check] = {
    "wire_name": text,
    "price_per_million": money,
    "currency": one_of(*get_args(Currency)),
    "max_concurrency": whole_number,
    "max_inputs": whole_number,
    "max_input_tokens": whole_number,
    "requests_per_minute": whole_number,
    "requests_per_day": whole_number,
    "tokens_per_minute": whole_number,
}
"""The fields of `Offer` that settings may state."""

MODEL_OVERRIDES: Mapping[str, Check] = {
    **OFFER_TERMS,
    "free": truth,
    "free_tokens": count,
    "free_usd": money,
    "free_until": moment,
    "free_tokens_per_day": count,
    "free_reset": reset,
    "serve": roles,
}
"""What a sub-table may state of one model."""

PROVIDER: Mapping[str, Check] = {
    **MODEL_OVERRIDES,
    "kind": text,
    "base_url": web_address,
    "api_key_env": variable_name,
    "account": text,
    "proxy": proxy_address,
    "proxy_env": variable_name,
    "usd_per_day": money_or_unlimited,
    "usd_total": money_or_unlimited,
    "trust": truth,
}


def providers(value: Any) -> dict[str, ProviderSettings]:
    return {
        name: item if isinstance(item, ProviderSettings) else provider_table(name, as_table(item))
        for name, item in as_table(value).items()
    }


def provider_table(name: str, said: Mapping[str, Any]) -> ProviderSettings:
    """One provider's table. Names that are not ours are kept as options: the provider checks them
    when it is configured, since only its plugin knows them."""
    where = f"providers.{name}"
    if "api_key" in said or "key" in said:
        raise ConfigurationError(
            f"{where}: a key does not belong in a file; put it into an environment variable and "
            'name that: api_key_env = "MY_KEY"'
        )
    ours = {key: item for key, item in said.items() if key in PROVIDER}
    options = {key: item for key, item in said.items() if key not in (*PROVIDER, "models")}
    models = {
        model: checked_table(as_table(item), MODEL_OVERRIDES, f"{where}.models.{model}")
        for model, item in as_table(said.get("models", {})).items()
    }
    values = checked_table(ours, PROVIDER, where)
    return ProviderSettings(name=name, **values, models=models, options=options)
