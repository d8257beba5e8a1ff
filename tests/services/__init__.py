"""What services insist on and how they refuse, one TOML file each, named after its provider.

`[behaviour]` holds fields of `Behaviour`: what a simulated server that plays the service insists
on. Each `[[error]]` is an answer that the service documents or was seen to give, with its source
and with what has to follow (`tests/contract/test_documented_errors.py`).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from qwen_embed_plugins.plugins import load_plugins
from qwen_embed_plugins.provider import Provider
from qwen_embed_plugins.testing import Behaviour, Reply

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class Service(NamedTuple):
    """One file. `path` is where its API begins, `absent` says which of the usual errors it has not,
    and why; `like` names the file of a service that answers as it does."""

    name: str
    errors: list[dict[str, Any]]
    absent: Mapping[str, str] = {}
    path: str | None = None
    dialect: str | None = None
    options: Mapping[str, Any] = {}
    behaviour: Mapping[str, Any] = {}

    def simulated(self, **changes: Any) -> Behaviour:
        """The behaviour of a server that plays it."""
        stated = dict(self.behaviour)
        if "known_parameters" in stated:
            stated["known_parameters"] = frozenset(stated["known_parameters"])
        for name in ("key_refusal", "key_missing", "too_many_inputs"):
            if name in stated:
                stated[name] = Reply(**stated[name])
        return Behaviour(**{**stated, **changes})


@lru_cache(maxsize=1)
def services() -> dict[str, Service]:
    files = Path(__file__).parent.glob("*.toml")
    read = {path.stem: tomllib.loads(path.read_text("utf-8")) for path in files}
    return {name: _service(name, table, read) for name, table in sorted(read.items())}


def _service(name: str, table: Mapping[str, Any], read: Mapping[str, Any]) -> Service:
    own = {field: value for field, value in table.items() if field not in ("error", "like")}
    errors = [*table.get("error", ()), *read.get(table.get("like", ""), {}).get("error", ())]
    return Service(name, errors, **own)


@lru_cache(maxsize=1)
def http_providers() -> dict[str, type[Provider]]:
    """The built-in providers that are reached by HTTP, by name."""
    registered = load_plugins(found=(), disabled=()).providers
    return {
        name: item.provider
        for name, item in registered.items()
        if item.provider.build_request is not Provider.build_request
    }
