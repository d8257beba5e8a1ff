"""Typed settings and where each came from: argument > environment > file > default.

Nothing here reaches the network. Keys never come from the file, only their variables' names do; a
key is read from the environment, from the `env_file`, or from an argument.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, get_args

from qwen_embed_plugins.errors import ConfigurationError, shown, without_secrets
from qwen_embed_plugins.models import DEFAULT_INSTRUCTION, DEFAULT_MODEL
from qwen_embed_plugins.provider_settings import ProviderSettings, providers
from qwen_embed_plugins.setting_checks import (
    ENVIRONMENT_PREFIX,
    Check,
    as_table,
    checked_table,
    cosine,
    money_or_unlimited,
    names,
    one_of,
    seconds,
    text,
    truth,
    variable_name,
    whole_number,
)
from qwen_embed_plugins.setting_meanings import VARIABLE_MEANINGS
from qwen_embed_plugins.state_place import StatePlace, named_state_place, state_place

Parity = Literal["declared", "verified"]
"""Which offers of a space serve: those of the same open weights, or only those that `verify` has
measured."""

NOT_SETTINGS = frozenset(VARIABLE_MEANINGS)
"""Variables with our prefix that are no settings of the router; nor are those with TEST_."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How much money may be spent, in US dollars. None means without limit."""

    usd_per_day: Decimal | None = Decimal("1.00")
    usd_total: Decimal | None = None

    @property
    def limited(self) -> bool:
        """Whether any limit is set."""
        return self.usd_per_day is not None or self.usd_total is not None


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of the router, checked. Make one with `Settings.load`.

    `origins` tells for each name where its value came from; `api_keys` holds keys that were passed
    as an argument, by provider name, and stays out of `repr`.
    """

    model: str = DEFAULT_MODEL
    dimensions: int | None = None
    policy: str = "free-first"
    query_policy: str | None = None
    use: tuple[str, ...] | None = None
    instruction: str = DEFAULT_INSTRUCTION
    parity: Parity = "declared"
    min_parity: float = 0.98
    canary_every: int = 500
    spill_after_seconds: float = 2.0
    spill_to_paid: bool = False
    concurrency: int = 8
    timeout_seconds: float = 60.0
    state: str | None = field(default=None, repr=False)
    state_env: str | None = None
    cache: str | None = None
    cache_megabytes: int = 1000
    env_file: str | None = None
    tokenizer: str | None = None
    budget: Budget = Budget()
    providers: Mapping[str, ProviderSettings] = field(default_factory=dict)
    api_keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    origins: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        **arguments: Any,
    ) -> Settings:
        """Settings from arguments, environment, one file and defaults, in that order.

        `path` names the file; without it `$QWEN_EMBED_SETTINGS`, `./qwen-embed.toml` and the
        user's configuration folder are tried. Arguments that are None count as not given. Raises
        `ConfigurationError` on any unknown or ill-typed setting. Reads files, nothing else.
        """
        environ = dict(os.environ) if environ is None else dict(environ)
        given = {name: value for name, value in arguments.items() if value is not None}
        api_keys = given.pop("api_keys", {})
        file = find_file(path, environ)
        values: dict[str, Any] = {}
        origins: dict[str, str] = {}
        for table, origin in (
            (read_file(file) if file else {}, f"file {file}"),
            (from_environment(environ), "environment"),
            (given, "argument"),
        ):
            for name, value in checked_table(table, TOP_LEVEL, origin).items():
                if name == "budget":
                    value = merged_budget(values.get(name), table[name], value)
                values[name] = value
                origins[name] = origin
        settings = cls(**values, api_keys=dict(api_keys), environ=environ, origins=origins)
        return settings._with_env_file(file)

    def _with_env_file(self, file: Path | None) -> Settings:
        """The same settings with the variables of `env_file` behind those of the environment."""
        if self.env_file is None:
            return self
        from dotenv import dotenv_values

        path = Path(self.env_file).expanduser()
        if not path.is_absolute() and file and self.origins.get("env_file", "").startswith("file"):
            path = file.parent / path
        if not path.is_file():
            raise ConfigurationError(
                f"env_file = {shown(str(path))}: no such file; create it or remove the setting"
            )
        try:
            found = dotenv_values(path, encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"env_file = {shown(str(path))}: cannot be read: {type(error).__name__}"
            ) from None
        read = {name: value for name, value in found.items() if value is not None}
        return replace(self, environ={**read, **self.environ})

    def in_environment(self, environ: Mapping[str, str]) -> Settings:
        """The same settings where keys and other named variables stand in another environment; the
        `env_file` is read anew. Raises `ConfigurationError` if that is gone."""
        origin = self.origins.get("env_file", "")
        file = Path(origin.removeprefix("file ")) if origin.startswith("file ") else None
        return replace(self, environ=dict(environ))._with_env_file(file)

    def explain(self) -> list[tuple[str, str, str]]:
        """Each setting as (name, value, origin), fit to be printed: no key is ever in it."""
        rows = []
        for item in fields(self):
            if item.name in ("api_keys", "environ", "origins", "providers", "budget"):
                continue
            value = getattr(self, item.name)
            if item.name == "state" and value is not None:
                value = state_place(value).name
            origin = self.origins.get(item.name, "default")
            rows.append((item.name, without_secrets(printed(value)), origin))
        origin = self.origins.get("budget", "default")
        for item in fields(self.budget):
            amount = getattr(self.budget, item.name)
            rows.append((f"budget.{item.name}", printed(amount, none="unlimited"), origin))
        for provider in self.providers.values():
            rows.extend(self._explain_provider(provider))
        return rows

    def _explain_provider(self, provider: ProviderSettings) -> list[tuple[str, str, str]]:
        origin = self.origins.get("providers", "default")
        where = f"providers.{provider.name}"
        stated = {
            f"{where}.{item.name}": getattr(provider, item.name)
            for item in fields(provider)
            if item.name not in ("name", "models")
            and getattr(provider, item.name) != _default(item)
        }
        for model, terms in provider.models.items():
            stated |= {f'{where}.models."{model}".{name}': value for name, value in terms.items()}
        return [(name, without_secrets(printed(value)), origin) for name, value in stated.items()]

    def state_place(self) -> StatePlace:
        """The state's place: as set, else a file in the user's state folder. Raises
        `ConfigurationError` where `state_env` leads to none."""
        if self.state and self.state_env:
            first, second = (self.origins.get(name, "argument") for name in ("state", "state_env"))
            raise ConfigurationError(
                f"state (from {first}) and state_env (from {second}) are both set; keep one"
            )
        if self.state_env:
            return named_state_place(self.state_env, self.environ)
        if self.state:
            return state_place(self.state)
        from platformdirs import user_state_path

        return state_place(str(user_state_path("qwen-embed", appauthor=False) / "state.db"))

    def cache_path(self) -> str | None:
        """The file of the cache, None if there is to be none."""
        if not self.cache:
            return None
        if "://" in self.cache:
            raise ConfigurationError("cache: expected the path of a file, not an address")
        path = Path(self.cache).expanduser()
        state = self.state_place().path
        if state is not None and path.absolute() == state.absolute():
            raise ConfigurationError(
                f"cache = {shown(self.cache)}: this is the state file; give the cache another"
            )
        return str(path)


def _default(item: Field[Any]) -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()


def printed(value: object, none: str = "not set") -> str:
    """A setting's value, in a line, as a file would have it."""
    if value is None:
        return none
    if isinstance(value, tuple):
        return ", ".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def state(value: Any) -> str:
    state_place(text(value))
    return str(value)


BUDGET: Mapping[str, Check] = {"usd_per_day": money_or_unlimited, "usd_total": money_or_unlimited}


def budget(value: Any) -> Budget:
    if isinstance(value, Budget):
        return value
    return Budget(**checked_table(as_table(value), BUDGET, "budget"))


def merged_budget(before: Budget | None, table: Any, checked: Budget) -> Budget:
    """The limits that a table names, over those set before: naming one must not lift another."""
    if before is None or not isinstance(table, Mapping):
        return checked
    return replace(before, **{name: getattr(checked, name) for name in table})


TOP_LEVEL: Mapping[str, Check] = {
    "model": text,
    "dimensions": whole_number,
    "policy": text,
    "query_policy": text,
    "use": names,
    "instruction": text,
    "parity": one_of(*get_args(Parity)),
    "min_parity": cosine,
    "canary_every": whole_number,
    "spill_after_seconds": seconds,
    "spill_to_paid": truth,
    "concurrency": whole_number,
    "timeout_seconds": seconds,
    "state": state,
    "state_env": variable_name,
    "cache": text,
    "cache_megabytes": whole_number,
    "env_file": text,
    "tokenizer": text,
    "budget": budget,
    "providers": providers,
}


def find_file(path: str | os.PathLike[str] | None, environ: Mapping[str, str]) -> Path | None:
    """The settings file: the one named (which must exist), else the first that is there."""
    named = path or environ.get(f"{ENVIRONMENT_PREFIX}SETTINGS")
    if named:
        file = Path(named).expanduser()
        if not file.is_file():
            raise ConfigurationError(f"settings file {shown(str(file))}: no such file")
        return file
    from platformdirs import user_config_path

    candidates = (
        Path("qwen-embed.toml"),
        user_config_path("qwen-embed", appauthor=False) / "qwen-embed.toml",
    )
    return next((file for file in candidates if file.is_file()), None)


def read_file(file: Path) -> dict[str, Any]:
    """The file's tables. Floats are read as decimals, since some of them are money."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        return tomllib.loads(file.read_text("utf-8-sig"), parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{file}: not valid TOML: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file}: cannot be read: {error}") from None


def from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """The settings among the environment's variables; `QWEN_EMBED_BUDGET_USD_PER_DAY` and the
    like reach into the budget."""
    found: dict[str, Any] = {}
    budget_found: dict[str, str] = {}
    for variable, value in environ.items():
        name = variable.removeprefix(ENVIRONMENT_PREFIX)
        if name == variable or name in NOT_SETTINGS or name.startswith("TEST_") or not value:
            continue
        if name.startswith("BUDGET_"):
            budget_found[name.removeprefix("BUDGET_").lower()] = value
        else:
            found[name.lower()] = value
    if budget_found:
        found["budget"] = budget_found
    for structured in ("providers",):
        if structured in found:
            raise ConfigurationError(
                f"environment: {ENVIRONMENT_PREFIX}{structured.upper()} cannot hold tables; "
                "use the settings file"
            )
    return found
