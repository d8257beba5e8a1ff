"""Typed settings and where each came from: argument > environment > file > default.

Nothing here reaches the network. Keys never come from the file, only their variables' names do; a
key is read from the environment, from the `env_file`, or from an argument.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

from qwen_embed_plugins.errors import ConfigurationError, shown, without_secrets
from qwen_embed_plugins.models import DEFAULT_INSTRUCTION, DEFAULT_MODEL
from qwen_embed_plugins.offers import Currency
from qwen_embed_plugins.proxies import proxy_address

ENVIRONMENT_PREFIX = "QWEN_EMBED_"

Parity = Literal["declared", "verified"]
"""Which offers of a space serve: those of the same open weights, or only those that `verify` has
measured."""

NOT_SETTINGS = frozenset({"SETTINGS", "DSN", "DISABLE_PLUGINS"})
"""Variables with our prefix that are no settings of the router; nor are those with TEST_."""

SYNONYMS = {
    "dimension": "dimensions",
    "dim": "dimensions",
    "task": "instruction",
    "prompt": "instruction",
    "timeout": "timeout_seconds",
    "url": "base_url",
    "endpoint": "base_url",
    "key_env": "api_key_env",
    "providers_used": "use",
    "price": "price_per_million",
}
"""What people write for it elsewhere; spelling alone would not lead there."""


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
class ProviderSettings:
    """One `[providers.NAME]` table: an account with a provider, or a server of one's own."""

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
    trust: bool = False
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)


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
    state: str | None = None
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

    def explain(self) -> list[tuple[str, str, str]]:
        """Each setting as (name, value, origin), fit to be printed: no key is ever in it."""
        rows = []
        for item in fields(self):
            if item.name in ("api_keys", "environ", "origins", "providers", "budget"):
                continue
            value = getattr(self, item.name)
            origin = self.origins.get(item.name, "default")
            rows.append((item.name, without_secrets(_printed(value)), origin))
        origin = self.origins.get("budget", "default")
        for item in fields(self.budget):
            amount = getattr(self.budget, item.name)
            rows.append((f"budget.{item.name}", _printed(amount, none="unlimited"), origin))
        for provider in self.providers.values():
            rows.extend(self._explain_provider(provider))
        return rows

    def _explain_provider(self, provider: ProviderSettings) -> list[tuple[str, str, str]]:
        origin = self.origins.get("providers", "default")
        return [
            (
                f"providers.{provider.name}.{item.name}",
                without_secrets(_printed(getattr(provider, item.name))),
                origin,
            )
            for item in fields(provider)
            if item.name != "name" and getattr(provider, item.name) not in (None, {}, False)
        ]

    def state_path(self) -> str:
        """The state file: as set, else in the user's state folder."""
        if self.state and self.state.startswith(("postgresql://", "postgres://")):
            raise ConfigurationError(
                "state: an address of Postgres is not supported yet; name a file"
            )
        if self.state:
            return str(Path(self.state).expanduser())
        from platformdirs import user_state_path

        return str(user_state_path("qwen-embed", appauthor=False) / "state.db")

    def cache_path(self) -> str | None:
        """The file of the cache, None if there is to be none."""
        if not self.cache:
            return None
        if "://" in self.cache:
            raise ConfigurationError("cache: expected the path of a file, not an address")
        path = Path(self.cache).expanduser()
        if path.absolute() == Path(self.state_path()).absolute():
            raise ConfigurationError(
                f"cache = {shown(self.cache)}: this is the state file; give the cache another"
            )
        return str(path)


def _printed(value: object, none: str = "not set") -> str:
    if value is None:
        return none
    if isinstance(value, tuple):
        return ", ".join(value)
    return str(value)


Check = Callable[[Any], Any]
"""Gives the value in its final type, or raises ValueError that says what was expected."""


def text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("expected a non-empty string")
    return value


def whole_number(value: Any) -> int:
    number = int(value) if isinstance(value, str) and value.strip().isdigit() else value
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ValueError("expected a whole number of at least 1")
    return number


def seconds(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if isinstance(value, bool) or not 0 < number < 1e6:
        raise ValueError("expected seconds, a number above 0")
    return number


def cosine(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if isinstance(value, bool) or not 0 <= number <= 1:
        raise ValueError("expected a cosine, a number from 0 to 1")
    return number


def truth(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false", "1", "0"):
        return value.lower() in ("true", "1")
    raise ValueError("expected true or false")


def names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError('expected a list of provider names, for example ["ollama"]')
    return tuple(text(item) for item in value)


def money(value: Any) -> Decimal:
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        amount = Decimal(-1)
    if isinstance(value, bool) or not amount.is_finite() or amount < 0:
        raise ValueError('expected an amount of 0 or more, for example "0.05"')
    return amount


def money_or_unlimited(value: Any) -> Decimal | None:
    return None if value == "unlimited" else money(value)


def one_of(*known: str) -> Check:
    def check(value: Any) -> Any:
        if value not in known:
            raise ValueError(f"expected {' or '.join(map(repr, known))}")
        return value

    return check


currency = one_of(*get_args(Currency))
parity = one_of(*get_args(Parity))


def variable_name(value: Any) -> str:
    if not isinstance(value, str) or not value.isidentifier() or _looks_like_a_key(value):
        # The value is not repeated: people put the key itself here.
        raise ValueError("expected the name of an environment variable, not a key")
    return value


def _looks_like_a_key(value: str) -> bool:
    """Long, without the underscores of a name, and of letters in both cases or with digits."""
    plain = len(value) >= 20 and "_" not in value
    return plain and not value.isupper() and (not value.islower() or not value.isalpha())


def web_address(value: Any) -> str:
    from urllib.parse import urlsplit

    address = text(value)
    parts = urlsplit(address)
    try:
        port_is_one = parts.port is None or parts.port > 0
    except ValueError:
        port_is_one = False
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_one:
        raise ValueError("expected an address such as http://127.0.0.1:11434")
    return address


MODEL_OVERRIDES: Mapping[str, Check] = {
    "wire_name": text,
    "price_per_million": money,
    "currency": currency,
    "max_concurrency": whole_number,
    "max_inputs": whole_number,
    "max_input_tokens": whole_number,
}
PROVIDER: Mapping[str, Check] = {
    **MODEL_OVERRIDES,
    "kind": text,
    "base_url": web_address,
    "api_key_env": variable_name,
    "account": text,
    "proxy": proxy_address,
    "proxy_env": variable_name,
    "trust": truth,
}
BUDGET: Mapping[str, Check] = {"usd_per_day": money_or_unlimited, "usd_total": money_or_unlimited}


def budget(value: Any) -> Budget:
    if isinstance(value, Budget):
        return value
    return Budget(**checked_table(_table(value), BUDGET, "budget"))


def merged_budget(before: Budget | None, table: Any, checked: Budget) -> Budget:
    """The limits that a table names, over those set before: naming one must not lift another."""
    if before is None or not isinstance(table, Mapping):
        return checked
    return replace(before, **{name: getattr(checked, name) for name in table})


def providers(value: Any) -> dict[str, ProviderSettings]:
    return {
        name: item if isinstance(item, ProviderSettings) else provider_table(name, _table(item))
        for name, item in _table(value).items()
    }


def provider_table(name: str, table: Mapping[str, Any]) -> ProviderSettings:
    """One provider's table. Names that are not ours are kept as options: the provider checks them
    when it is configured, since only its plugin knows them."""
    where = f"providers.{name}"
    if "api_key" in table or "key" in table:
        raise ConfigurationError(
            f"{where}: a key does not belong in a file; put it into an environment variable and "
            'name that: api_key_env = "MY_KEY"'
        )
    ours = {key: item for key, item in table.items() if key in PROVIDER}
    options = {key: item for key, item in table.items() if key not in (*PROVIDER, "models")}
    models = {
        model: checked_table(_table(item), MODEL_OVERRIDES, f"{where}.models.{model}")
        for model, item in _table(table.get("models", {})).items()
    }
    values = checked_table(ours, PROVIDER, where)
    return ProviderSettings(name=name, **values, models=models, options=options)


def _table(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError("expected a table")
    return value


TOP_LEVEL: Mapping[str, Check] = {
    "model": text,
    "dimensions": whole_number,
    "policy": text,
    "query_policy": text,
    "use": names,
    "instruction": text,
    "parity": parity,
    "min_parity": cosine,
    "canary_every": whole_number,
    "spill_after_seconds": seconds,
    "spill_to_paid": truth,
    "concurrency": whole_number,
    "timeout_seconds": seconds,
    "state": text,
    "cache": text,
    "cache_megabytes": whole_number,
    "env_file": text,
    "tokenizer": text,
    "budget": budget,
    "providers": providers,
}

SECRET_WORDS = ("proxy", "key", "token", "secret", "password", "state")


def sounds_secret(name: str) -> bool:
    """Whether a setting's value may be or hold a secret, judged by its name."""
    return name != "tokenizer" and any(word in name for word in SECRET_WORDS)


def checked_table(table: Mapping[str, Any], known: Mapping[str, Check], where: str) -> Any:
    """The table with each value checked; `ConfigurationError` names the setting and its value."""
    checked = {}
    for name, value in table.items():
        if name not in known:
            raise unknown_setting(name, known, where)
        try:
            checked[name] = known[name](value)
        except ValueError as error:
            secret = sounds_secret(name)
            said = without_secrets(value) if isinstance(value, str) else value
            found = "" if secret or isinstance(value, Mapping) else f" = {shown(said)}"
            raise ConfigurationError(f"{where}: {name}{found}: {error}") from None
    return checked


def unknown_setting(name: str, known: Mapping[str, Any], where: str) -> ConfigurationError:
    """The error for a setting that does not exist, with the nearest one that does."""
    near = SYNONYMS.get(name) if SYNONYMS.get(name) in known else None
    near = near or next(iter(get_close_matches(name, known, n=1, cutoff=0.6)), None)
    spelt = _variable if where == "environment" else str
    hint = f"did you mean {spelt(near)!r}?" if near else f"known here: {', '.join(sorted(known))}"
    return ConfigurationError(f"{where}: unknown setting {shown(spelt(name))}; {hint}")


def _variable(name: str) -> str:
    return f"{ENVIRONMENT_PREFIX}{name.upper()}"


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
