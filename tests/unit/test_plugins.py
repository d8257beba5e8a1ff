"""Plugins: declared through hooks, one broken one harming nobody."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any

import pytest

from qwen_embed_plugins import ConfigurationError, Model, Offer, Provider, hookimpl
from qwen_embed_plugins.catalogue import build_catalogue
from qwen_embed_plugins.events import AttemptFinished
from qwen_embed_plugins.plugins import load_plugins, unknown_name
from qwen_embed_plugins.providers.openai_compatible import OpenAICompatible
from qwen_embed_plugins.registration import wanted_arguments
from qwen_embed_plugins.settings import Settings


class Acme(OpenAICompatible):
    name = "acme"
    base_url = "https://api.acme.example/v1"
    api_key_env = "ACME_API_KEY"


TERMS = Offer("qwen3-embedding-8b", "acme/8b", Decimal("0.04"))


def plugin(**hooks: Callable[..., Any]) -> ModuleType:
    module = ModuleType("plugin")
    vars(module).update({name: hookimpl(function) for name, function in hooks.items()})
    return module


def acme_plugin() -> ModuleType:
    def register_providers(register: Callable[..., None]) -> None:
        register(Acme, offers=[TERMS])

    return plugin(register_providers=register_providers)


def test_built_ins_come_in_through_the_same_door() -> None:
    registry = load_plugins(found=())
    assert not registry.failed()
    assert {"ollama", "openai-compatible", "lexical"} <= set(registry.providers)
    assert "qwen3-embedding-8b" in registry.models
    assert {"free-first", "cheapest", "fastest", "ordered"} == set(registry.policies)
    assert {"semantic"} == set(registry.chunkers)


def test_a_chunker_may_name_what_it_needs_of_its_arguments() -> None:
    def register_chunkers(register: Callable[..., None]) -> None:
        register("one", lambda text: [(0, text)])
        register("two", lambda text, tokens, overlap: [(0, text)])
        register("all", lambda **offered: [(0, offered["text"])])
        register("own", lambda text, count, deep=3: [(0, text)])

    registry = load_plugins(extra={"ours": plugin(register_chunkers=register_chunkers)}, found=())
    assert not registry.failed()
    assert {"semantic", "one", "two", "all", "own"} == set(registry.chunkers)
    wanted = {name: wanted_arguments(chunker) for name, chunker in registry.chunkers.items()}
    assert wanted["one"] == ("text",)
    assert wanted["two"] == ("text", "tokens", "overlap")
    assert wanted["all"] == wanted["semantic"] == ("text", "tokens", "overlap", "count")
    assert wanted["own"] == ("text", "count")


@pytest.mark.parametrize(
    ("chunker", "said"),
    [
        ("lines", "chunker 'lines' takes a function, got 'lines'"),
        (lambda text, words: [], "wants an argument 'words': by keyword it gets text, tokens"),
        (lambda text, /: [], "wants an argument 'text'"),
    ],
)
def test_a_chunker_that_cannot_be_called_is_refused(chunker: Any, said: str) -> None:
    def register_chunkers(register: Callable[..., None]) -> None:
        register("lines", chunker)

    registry = load_plugins(extra={"ours": plugin(register_chunkers=register_chunkers)}, found=())
    [failed] = registry.failed()
    assert said in str(failed.error)
    assert {"semantic"} == set(registry.chunkers)


def test_an_unknown_chunker_is_told_the_nearest() -> None:
    error = unknown_name(load_plugins(found=()), "chunkers", "semantics")
    assert str(error) == "unknown chunker 'semantics': did you mean 'semantic'?"


def test_a_plugins_provider_serves_once_its_key_is_there() -> None:
    registry = load_plugins(extra={"acme": acme_plugin()}, found=())
    without = build_catalogue(Settings.load(environ={}), registry)
    assert without.left_out["acme"] == "no key: set ACME_API_KEY"
    key = {"ACME_API_KEY": "k"}
    found = build_catalogue(Settings.load(environ=key), registry)
    [offer] = [offer for offer in found.offers if offer.key == "acme/qwen3-embedding-8b"]
    assert offer.price == Decimal("0.04")
    assert not offer.private
    other = build_catalogue(Settings.load(environ=key, model="qwen3-embedding-4b"), registry)
    assert other.left_out["acme"].startswith("does not serve qwen3-embedding-4b")


def raising(error: BaseException) -> Callable[..., Any]:
    def hook(register: Any) -> None:
        register(Acme)
        raise error

    return hook


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (plugin(register_providers=raising(RuntimeError("boom"))), "RuntimeError: boom"),
        (plugin(register_providers=raising(SystemExit(3))), "SystemExit: 3"),
        (plugin(register_providers=lambda wrong: None), "PluginValidationError"),
        (plugin(register_providers=lambda register: register("no class")), "subclass of Provider"),
        (plugin(register_models=lambda register: register(Model("", 1, 1))), "non-empty string"),
        (
            plugin(register_models=lambda register: register(Model("qwen3-embedding-8b", 1, 1))),
            "already taken",
        ),
        (plugin(register_embeddings=lambda register: None), "unknown hook"),
    ],
)
def test_a_broken_plugin_is_named_and_what_it_registered_is_dropped(
    broken: ModuleType, said: str
) -> None:
    registry = load_plugins(extra={"broken": broken, "acme": acme_plugin()}, found=())
    [failure] = registry.failed()
    assert failure.name == "broken"
    assert said in str(failure.error)
    assert registry.providers["acme"].plugin == "acme"


def test_a_plugin_that_raises_at_import_is_named() -> None:
    point = EntryPoint("broken", "no_such_module_anywhere", "qwen_embed_plugins")
    registry = load_plugins(found=[point])
    [failure] = registry.failed()
    assert "no_such_module_anywhere" in str(failure.error)
    with pytest.raises(ConfigurationError, match=r"plugin 'broken' failed to load"):
        build_catalogue(Settings.load(environ={}, use=["acme"]), registry)


def test_a_disabled_plugin_is_not_loaded() -> None:
    point = EntryPoint("broken", "no_such_module_anywhere", "qwen_embed_plugins")
    assert not load_plugins(found=[point], disabled=["broken"]).failed()


def test_what_an_observer_raises_is_counted_and_harms_nobody() -> None:
    seen: list[Any] = []

    def fail(event: Any) -> None:
        raise RuntimeError("boom")

    def watch(event: Any) -> None:
        seen.append(event)

    registry = load_plugins(
        extra={
            "fails": plugin(observe=fail),
            "sees": plugin(observe=watch),
        },
        found=(),
    )
    event = AttemptFinished("a/b", 1, 1, Decimal(0), 0.1, None)
    registry.emit(event)
    assert seen == [event]
    assert registry.observer_failures == {"fails": 1}


def test_a_provider_must_define_its_methods() -> None:
    class Empty(Provider):
        name = "empty"

    with pytest.raises(NotImplementedError, match="Empty must define build_request"):
        Empty(None).build_request(None)  # type: ignore[arg-type]
