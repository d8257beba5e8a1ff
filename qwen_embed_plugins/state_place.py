"""Where the state is: a file of this machine, or a Postgres that many machines share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from qwen_embed_plugins.errors import ConfigurationError

# An address is taken apart here only to show it without its password. What does not match would be
# read differently by libpq, so that a part of the password might be taken for something else.
_ADDRESS = re.compile(
    r"""(?x)
    postgres(?:ql)? ://
    (?: (?P<user> [^:@/?\#\s]* ) (?: : [^:@/?\#\s]* )? @ )?
    (?P<hosts> (?: (?: [\w.~%-]+ | \[ [\w:.%]+ \] )? (?: :\d+ )? ,? )* )
    (?P<database> / [^?\#@\s]* )?
    (?: \? [^?\#@\s]* )?
    """
)

EXPECTED = (
    "expected a file's path, or postgresql://user:password@host/database with special characters "
    "percent-encoded"
)


@dataclass(frozen=True, slots=True)
class StatePlace:
    """A file (`path`), or a database (`address`, never shown; `name` is how to call it)."""

    name: str
    path: Path | None = None
    address: str | None = field(default=None, repr=False)


def state_place(value: str) -> StatePlace:
    """The place that a setting's value stands for. Raises ValueError, without the value."""
    if "://" not in value and not value.startswith(("postgres:", "postgresql:")):
        path = Path(value).expanduser()
        return StatePlace(str(path), path=path)
    found = _ADDRESS.fullmatch(value)
    if found is None:
        raise ValueError(EXPECTED)
    user = f"{found['user']}@" if found["user"] else ""
    name = f"postgresql://{user}{found['hosts']}{found['database'] or ''}"
    return StatePlace(name, address=value)


def named_state_place(variable: str, environ: Mapping[str, str]) -> StatePlace:
    """The place that an environment variable holds. Raises `ConfigurationError`."""
    value = environ.get(variable, "").strip()
    if not value:
        raise ConfigurationError(
            f"state_env: the variable {variable} is not set; set it, or remove state_env"
        )
    try:
        return state_place(value)
    except ValueError as error:
        raise ConfigurationError(f"state_env: the variable {variable}: {error}") from None
