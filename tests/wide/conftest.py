"""Real servers, installed once and started offline, and embedders that reach them.

What this machine cannot have is skipped and listed at the end, with the reason; so is what no
package registry carries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from qwen_embed_plugins import Embedder, Settings, hookimpl
from qwen_embed_plugins.models import Model
from qwen_embed_plugins.plugins import load_plugins
from tests.wide.installs import Absent
from tests.wide.servers import MODEL_NAME, NOT_CARRIED, RECIPES, Recipe, Running, started

MINILM = Model(
    name=MODEL_NAME,
    dimensions=384,
    context_tokens=256,
    # Not trained for it: what counts here is only who cuts.
    min_dimensions=32,
    source="the card of sentence-transformers/all-MiniLM-L6-v2, inside the wheel",
)

Embed = Callable[..., Embedder]

_tried: dict[str, str] = {}


class MiniLM:
    """A plugin: the model that all servers here have loaded."""

    @hookimpl
    def register_models(self, register: Callable[[Model], None]) -> None:
        register(MINILM)


@pytest.fixture(scope="session", params=RECIPES, ids=lambda recipe: recipe.name)
def recipe(request: pytest.FixtureRequest) -> Recipe:
    """A server that is installed: every test with it runs once for each."""
    wanted: Recipe = request.param
    install_or_skip(wanted, request.config)
    return wanted


@pytest.fixture(scope="session")
def server(recipe: Recipe) -> Iterator[Running]:
    """The server, shared by the tests that do it no harm."""
    with started(recipe) as running:
        yield running


@pytest.fixture(scope="session")
def several(recipe: Recipe) -> Iterator[Running]:
    """The server once more, with a key before it and ready for several models."""
    with started(recipe, key="sk-wide-0123456789abcdef", several=True) as running:
        yield running


@pytest.fixture
def embedder() -> Iterator[Embed]:
    """Makes embedders that reach these servers, in this order, and nobody else.

    They know the servers as server-0, server-1 and so on, and use their keys unless `key` is given.
    """
    made: list[Embedder] = []

    def make(*servers: Running, plugins: Sequence[object] = (), **given: Any) -> Embedder:
        table = given.pop("table", {})
        names = [f"server-{number}" for number in range(len(servers))]
        keys = [given.get("key", server.key) for server in servers]
        given.pop("key", None)
        settings = Settings.load(
            **{"model": MODEL_NAME, **given},
            use=names,
            api_keys={name: key for name, key in zip(names, keys, strict=True) if key},
            providers={
                name: {
                    "kind": server.recipe.kind,
                    "base_url": server.url,
                    "wire_name": MODEL_NAME,
                    **table,
                }
                for name, server in zip(names, servers, strict=True)
            },
        )
        extra = {str(number): plugin for number, plugin in enumerate((MiniLM(), *plugins))}
        made.append(Embedder(settings, registry=load_plugins(extra=extra, found=())))
        return made[-1]

    yield make
    for embedder in made:
        embedder.close()


def install_or_skip(recipe: Recipe, config: pytest.Config) -> None:
    """Install a server once, and keep for the summary what became of it."""
    say_that_it_may_take_long(config, recipe)
    try:
        recipe.install()
    except Absent as absent:
        _tried[recipe.name] = f"absent: {absent}"
        pytest.skip(f"{recipe.name} is absent: {absent}")
    _tried[recipe.name] = f"tried: {recipe.requirements[0]}"


def say_that_it_may_take_long(config: pytest.Config, recipe: Recipe) -> None:
    """A first install downloads gigabytes or compiles for minutes: not in silence."""
    if recipe.is_installed():
        return
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    reporter.ensure_newline()
    reporter.write_line(f"installing {recipe.requirements[0]} (once, may take minutes) ...")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _tried:
        return
    terminalreporter.section("model servers")
    outcomes = {**_tried, **{name: f"absent: {why}" for name, why in NOT_CARRIED.items()}}
    for name, outcome in outcomes.items():
        terminalreporter.write_line(f"{name:<16} {outcome}")
