"""Names that a shell completes. Whatever fails gives none: nobody asked for an error."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import click

from qwen_embed_plugins.cli.installed import GROUP, may_bring_plugins

if TYPE_CHECKING:
    from qwen_embed_plugins.plugins import Registry

Complete = Callable[[click.Context, click.Parameter, str], "list[str]"]

MOST_SECONDS_OF_A_DATABASE = 1.0


def plugins_of_others() -> Registry | None:
    """What is registered; None where no package brings plugins, so that nothing is loaded."""
    if not may_bring_plugins():
        return None
    from importlib.metadata import entry_points

    found = entry_points(group=GROUP)
    if not found:
        return None
    from qwen_embed_plugins.plugins import load_plugins

    return load_plugins(found=tuple(found))


def _completing(names: Callable[[click.Context], Iterable[str]]) -> Complete:
    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
        before, comma, begun = incomplete.rpartition(",")  # as in `--use ollama,deepinfra`
        try:
            return [before + comma + name for name in names(context) if name.startswith(begun)]
        except Exception:
            return []

    return complete


def _models(_: click.Context) -> list[str]:
    registry = plugins_of_others()
    if registry is not None:
        return [*registry.models]
    from qwen_embed_plugins.cards import cards  # what it registers itself, without loading NumPy

    return [*cards()]


def _providers(context: click.Context) -> list[str]:
    from qwen_embed_plugins.cli.session import Session
    from qwen_embed_plugins.errors import QwenEmbedError
    from qwen_embed_plugins.facts import read_facts

    registry = plugins_of_others()
    known = read_facts("offers.toml").tables if registry is None else registry.providers
    try:
        chosen = [*context.ensure_object(Session).load_settings().providers]
    except QwenEmbedError:  # a file that is being written
        chosen = []
    return [*dict.fromkeys([*chosen, *known])]


def _vectorizers(context: click.Context) -> list[str]:
    """Those of the database, if it answers at once. No embedded server is started for it."""
    from qwen_embed_plugins import postgres
    from qwen_embed_plugins.postgres.connect import first_named

    dsn = context.params.get("dsn")
    if first_named(dsn).startswith("embedded:"):
        return []
    found: list[str] = []

    def ask() -> None:
        found.extend(item.name for item in postgres.list_vectorizers(dsn))

    # A thread, as no driver has a limit for all that it may wait for.
    asking = threading.Thread(target=_silent(ask), daemon=True)
    asking.start()
    asking.join(MOST_SECONDS_OF_A_DATABASE)
    return [*found]


def _silent(ask: Callable[[], None]) -> Callable[[], None]:
    def asked() -> None:
        try:
            ask()
        except Exception:
            return

    return asked


models = _completing(_models)
providers = _completing(_providers)
vectorizers = _completing(_vectorizers)
