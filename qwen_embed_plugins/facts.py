"""The package's data files: tables of facts in TOML, each fact with a source of `[sources]`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Any, NamedTuple

from qwen_embed_plugins.errors import ConfigurationError, shown
from qwen_embed_plugins.offers import Source

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class Facts(NamedTuple):
    """One data file: its tables by name, and the sources that they name."""

    file: str
    tables: Mapping[str, Mapping[str, Any]]
    sources: Mapping[str, Source]

    def source(self, name: Any, where: str) -> Source:
        """The source of that name. Raises `ConfigurationError` if there is none."""
        if name not in self.sources:
            raise ConfigurationError(f"{self.file}: {where}: no source {shown(name)} in [sources]")
        return self.sources[name]


@lru_cache(maxsize=2)
def read_facts(file: str) -> Facts:
    """The facts of a file in `qwen_embed_plugins/data`."""
    text = files("qwen_embed_plugins").joinpath("data", file).read_text(encoding="utf-8")
    tables = tomllib.loads(text)
    sources = {name: Source(**stated) for name, stated in tables.pop("sources").items()}
    return Facts(file, tables, sources)
