"""What a pickle may hold of settings: nothing secret. Keys are found anew where it is read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace

from qwen_embed_plugins.errors import ConfigurationError, without_secrets
from qwen_embed_plugins.settings import Settings
from qwen_embed_plugins.setup import SettingsLike


def without_keys(settings: SettingsLike) -> SettingsLike:
    """The settings as a pickle holds them: without keys and without the environment.

    Raises `ConfigurationError` for an address with a password in it, which cannot be left out.
    """
    kept = settings
    if isinstance(settings, Settings):
        kept = replace(settings, api_keys={}, environ={})
    elif isinstance(settings, Mapping):
        kept = {name: value for name, value in settings.items() if name != "api_keys"}
    if _holds_a_secret(kept):
        raise ConfigurationError(
            "settings hold an address with a password, which a pickle would carry: name its "
            "variable instead (state_env, proxy_env, api_key_env)"
        )
    return kept


def with_this_environment(settings: SettingsLike) -> SettingsLike:
    """The settings out of a pickle, whose keys are looked for in this process's environment."""
    if isinstance(settings, Settings):
        return settings.in_environment(os.environ)
    return settings


def _holds_a_secret(value: object) -> bool:
    if isinstance(value, str):
        return "://" in value and without_secrets(value) != value
    if isinstance(value, Mapping):
        return any(map(_holds_a_secret, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(_holds_a_secret, value))
    if is_dataclass(value):
        return any(_holds_a_secret(getattr(value, item.name)) for item in fields(value))
    return False
