"""Where the SQL files are: packaged inside a wheel, at the top level of a checkout."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from qwen_embed_plugins.errors import ConfigurationError

_PACKAGE = Path(__file__).resolve().parent


@cache
def folder() -> Path:
    """The packaged copy of `sql/` if there is one, else the checkout's top-level folder."""
    for place in (_PACKAGE / "sql", _PACKAGE.parent / "sql"):
        if (place / "queries.sql").is_file():
            return place
    raise ConfigurationError(
        f"the SQL files of qwen-embed-plugins are missing beside {_PACKAGE.name}: reinstall it"
    )


def state_tables() -> Path:
    """The file that makes the tables of a state in Postgres."""
    return folder() / "state.sql"
