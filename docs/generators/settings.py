"""`docs/settings.md`, from the checks and defaults of the settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from docs.generators.markdown import table
from qwen_embed_plugins.plugins import load_plugins
from qwen_embed_plugins.provider_settings import MODEL_OVERRIDES
from qwen_embed_plugins.setting_checks import ENVIRONMENT_PREFIX
from qwen_embed_plugins.setting_list import PROVIDER_TABLE, Setting, known_settings
from qwen_embed_plugins.setting_meanings import OPTION_MEANINGS, VARIABLE_MEANINGS

HEAD = """\
# Settings

This page is made from the package's own data (`make docs`); do not edit it. `qwen-embed settings` \
shows what is in force and where it came from, and `qwen-embed settings NAME` says of one setting \
what stands here.

An argument wins over the environment, that over the file, that over the default. The file is \
the one that `--settings` or `QWEN_EMBED_SETTINGS` names, else `qwen-embed.toml` in the working \
folder, else the one in your configuration folder. A setting that is not known, or that may not \
have its value, is an error. In a variable a list is written with commas, `a,b`. Keys never \
stand in the file, only the names of their variables.
"""

BUDGET = """\
## [budget]

`qwen-embed usage` shows what was spent and what is left.
"""

PROVIDERS = """\
## [providers.NAME]

NAME is a provider that is known, or a name of your own beside `kind`. `qwen-embed providers NAME` \
shows the terms that hold. What has a star may also stand in `[providers.NAME.models."MODEL"]`, \
and then holds for that model alone. None has a variable: tables stand in the file.
"""

OPTIONS = """\
## What single providers want as well

These stand in `[providers.NAME]` too. A plugin's provider may have its own.
"""

VARIABLES = """\
## Variables that are no settings
"""


def page() -> str:
    """The whole page."""
    known = known_settings()
    return "\n".join(
        [
            HEAD,
            "## At the top of the file\n",
            *_with_variables(_of("", known)),
            BUDGET,
            *_with_variables(_of("budget", known)),
            PROVIDERS,
            *table(
                ("Setting", "May be", "Default", "Meaning"), map(_row, _of(PROVIDER_TABLE, known))
            ),
            OPTIONS,
            *table(("Provider", "Setting", "Type", "Variable", "Meaning"), _options()),
            VARIABLES,
            *table(
                ("Variable", "Meaning"),
                (
                    (f"`{ENVIRONMENT_PREFIX}{name}`", meaning)
                    for name, meaning in VARIABLE_MEANINGS.items()
                ),
            ),
        ]
    )


def _of(home: str, known: Sequence[Setting]) -> list[Setting]:
    return [setting for setting in known if setting.table == home]


def _with_variables(settings: Sequence[Setting]) -> Iterator[str]:
    return table(
        ("Setting", "May be", "Default", "Variable", "Meaning"),
        (
            (f"`{one.key}`", one.expected, _default(one), f"`{one.variable}`", one.meaning)
            for one in settings
        ),
    )


def _row(setting: Setting) -> tuple[str, ...]:
    star = " \\*" if setting.key in MODEL_OVERRIDES else ""
    return f"`{setting.key}`{star}", setting.expected, _default(setting), setting.meaning


def _default(setting: Setting) -> str:
    return f"`{setting.default}`" if setting.default != "not set" else ""


def _options() -> Iterator[tuple[str, ...]]:
    for name, registered in load_plugins(found=()).providers.items():
        provider = registered.provider
        for option, kind in provider.options.items():
            needed = "; needed" if option in provider.required_options else ""
            variable = provider.option_envs.get(option)
            yield (
                f"`{name}`",
                f"`{option}`",
                kind.__name__ + needed,
                f"`{variable}`" if variable else "",
                OPTION_MEANINGS[name][option],
            )
