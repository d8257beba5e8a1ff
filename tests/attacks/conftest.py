"""Plugins of one provider, and calls that must end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from qwen_embed_plugins import Embedder, Settings, hookimpl
from qwen_embed_plugins.plugins import Registry, load_plugins
from qwen_embed_plugins.testing import FakeProvider, SimulatedServer

SMALL = "qwen3-embedding-0.6b"

Ends = Callable[[Callable[[], Any]], Any]


@pytest.fixture
def ends() -> Ends:
    """Runs a function in a thread and gives what it returned or raised; fails if it hangs."""

    def run(function: Callable[[], Any]) -> Any:
        outcome: list[Any] = []

        def call() -> None:
            try:
                outcome.append(function())
            except BaseException as error:
                outcome.append(error)

        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        thread.join(30)
        assert outcome, "the call never ended"
        return outcome[0]

    return run


def registry_of(
    *, offers: Any = (), register_models: Any = None, register_policies: Any = None, **body: Any
) -> Registry:
    """The built-ins and a plugin with one fake provider, `made`, that has this class body."""
    provider = type("Made", (FakeProvider,), {"name": "made", **body})
    plugin = ModuleType("plugin")

    def register_providers(register: Callable[..., None]) -> None:
        register(provider, offers=offers)

    hooks = {
        "register_providers": register_providers,
        "register_models": register_models,
        "register_policies": register_policies,
    }
    for name, hook in hooks.items():
        if hook is not None:
            setattr(plugin, name, hookimpl(hook))
    return load_plugins(extra={"plugin": plugin}, found=())


@pytest.fixture
def made() -> Callable[..., Embedder]:
    """An embedder over the provider `made`, with this class body and these settings."""

    def make(*, settings: dict[str, Any] | None = None, **plugin: Any) -> Embedder:
        given = {"model": SMALL, "use": ["made"], **(settings or {})}
        return Embedder(Settings.load(**given), registry=registry_of(**plugin))

    return make


@pytest.fixture
def reaching() -> Callable[..., Settings]:
    """Settings with one OpenAI-compatible server, named `mine`."""

    def settings(server: SimulatedServer, **given: Any) -> Settings:
        table = given.pop("table", {})
        mine = {"kind": "openai-compatible", "base_url": f"{server.url}/v1", **table}
        return Settings.load(providers={"mine": mine}, use=["mine"], **{"model": SMALL, **given})

    return settings
