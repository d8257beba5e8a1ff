"""Every setting there is: what it may be, by its check, its default, and what it means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, NamedTuple

from qwen_embed_plugins.provider_settings import PROVIDER, ProviderSettings
from qwen_embed_plugins.setting_checks import ENVIRONMENT_PREFIX, Check, expected, unknown_setting
from qwen_embed_plugins.setting_meanings import (
    BUDGET_MEANINGS,
    OPTION_MEANINGS,
    PROVIDER_MEANINGS,
    TOP_LEVEL_MEANINGS,
)
from qwen_embed_plugins.settings import BUDGET, TOP_LEVEL, Budget, Settings, printed

TABLES = ("budget", "providers")
"""Settings that hold others."""

PROVIDER_TABLE = "providers.NAME"
"""NAME stands for a provider's name, or for one that the user chooses."""


class Setting(NamedTuple):
    """What there is to know of a setting, whatever its value is."""

    name: str
    """As `Settings.explain` has it, for example `budget.usd_per_day`."""

    expected: str
    default: str
    variable: str | None
    meaning: str

    @property
    def table(self) -> str:
        """The table that it stands in, "" for the top of the file."""
        return self.name.rpartition(".")[0]

    @property
    def key(self) -> str:
        """Its name within its table."""
        return self.name.rpartition(".")[2]

    def is_meant_by(self, name: str) -> bool:
        """Whether a value's name, `providers.mine.free`, is one of this setting."""
        table, _, key = name.rpartition(".")
        stands_in = PROVIDER_TABLE if table.startswith("providers.") else table
        return name == self.name or (stands_in, key) == (self.table, self.key)

    def is_called(self, name: str) -> bool:
        """Whether somebody who asks for that name wants this one too: by its whole name, that
        within its table, or that of the table."""
        return self.is_meant_by(name) or name in (self.key, self.table.partition(".")[0])


def known_settings() -> tuple[Setting, ...]:
    """All settings, in the order in which the checks name them."""
    top = {name: check for name, check in TOP_LEVEL.items() if name not in TABLES}
    return (
        *_described("", top, TOP_LEVEL_MEANINGS, Settings, ENVIRONMENT_PREFIX),
        *_described("budget.", BUDGET, BUDGET_MEANINGS, Budget, f"{ENVIRONMENT_PREFIX}BUDGET_"),
        *_described(f"{PROVIDER_TABLE}.", PROVIDER, PROVIDER_MEANINGS, ProviderSettings, None),
    )


def _described(
    table: str,
    checks: Mapping[str, Check],
    meanings: Mapping[str, str],
    home: Any,
    prefix: str | None,
) -> Iterator[Setting]:
    defaults = {item.name: item.default for item in fields(home)}
    unset = "unlimited" if home is Budget else "not set"
    for name, check in checks.items():
        yield Setting(
            table + name,
            expected(check),
            printed(defaults[name], none=unset),
            prefix and prefix + name.upper(),
            meanings[name],
        )


def _options() -> Iterator[Setting]:
    """Those of single providers, which check them themselves."""
    for provider, meanings in OPTION_MEANINGS.items():
        for option, meaning in meanings.items():
            yield Setting(f"providers.{provider}.{option}", "", "", None, meaning)


def settings_called(name: str) -> tuple[Setting, ...]:
    """The settings of that name: `usd_per_day` is one of a budget and one of a provider. Raises
    `ConfigurationError` with the nearest name if there is none."""
    known = (*known_settings(), *_options())
    found = tuple(one for one in known if one.is_called(name))
    if not found:
        names = {one.name if "." in name else one.key: None for one in known}
        raise unknown_setting(name, names, "settings")
    return found
