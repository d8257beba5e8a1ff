"""Finds plugins and collects what they declare. Built-ins come in through the same hooks.

One broken plugin never stops the others: each is loaded and asked on its own, what it registered
before it failed is dropped, and the failure is kept by name for `qwen-embed plugins` and for the
error of a user who names something of it.
"""

from __future__ import annotations

import importlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Literal

import pluggy

from qwen_embed_plugins import hookspecs
from qwen_embed_plugins.errors import ConfigurationError, shown, without_secrets
from qwen_embed_plugins.registration import (
    REGISTER_HOOKS,
    check_chunker,
    check_hooks,
    check_is_plugin,
    check_offers,
    check_provider,
    claim,
    why_not_loaded,
)

if TYPE_CHECKING:
    from qwen_embed_plugins.chunkers import Chunker
    from qwen_embed_plugins.events import Event
    from qwen_embed_plugins.models import Model
    from qwen_embed_plugins.offers import Offer
    from qwen_embed_plugins.provider import Provider
    from qwen_embed_plugins.routing import Policy

BUILT_INS = (
    "qwen_embed_plugins.defaults",
    "qwen_embed_plugins.providers.ollama",
    "qwen_embed_plugins.providers.openai_compatible",
    "qwen_embed_plugins.providers.dashscope",
    "qwen_embed_plugins.providers.deepinfra",
    "qwen_embed_plugins.providers.siliconflow",
    "qwen_embed_plugins.providers.scaleway",
    "qwen_embed_plugins.providers.fireworks",
    "qwen_embed_plugins.providers.openrouter",
    "qwen_embed_plugins.providers.nebius",
    "qwen_embed_plugins.providers.novita",
    "qwen_embed_plugins.providers.openai",
    "qwen_embed_plugins.providers.vllm",
    "qwen_embed_plugins.providers.llama_cpp",
    "qwen_embed_plugins.providers.infinity",
    "qwen_embed_plugins.providers.lm_studio",
    "qwen_embed_plugins.providers.tei",
    "qwen_embed_plugins.providers.cloudflare",
    "qwen_embed_plugins.providers.voyage",
    "qwen_embed_plugins.providers.jina",
    "qwen_embed_plugins.providers.gemini",
    "qwen_embed_plugins.providers.lexical",
)


@dataclass(frozen=True, slots=True)
class RegisteredProvider:
    """A provider class with the offers that its plugin declared."""

    provider: type[Provider]
    offers: tuple[Offer, ...]
    plugin: str


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """One plugin as `qwen-embed plugins` lists it. `error` is set when it was left out."""

    name: str
    source: str
    version: str | None = None
    error: str | None = None
    provides: tuple[str, ...] = ()


@dataclass(slots=True)
class Declarations:
    """What one plugin declares, kept apart until all its hooks have succeeded."""

    models: dict[str, Model] = field(default_factory=dict)
    providers: dict[str, RegisteredProvider] = field(default_factory=dict)
    policies: dict[str, Policy] = field(default_factory=dict)
    chunkers: dict[str, Chunker] = field(default_factory=dict)
    commands: dict[str, Any] = field(default_factory=dict)

    def names(self) -> tuple[str, ...]:
        kinds = ("models", "providers", "policies", "chunkers", "commands")
        singular = ("model", "provider", "policy", "chunker", "command")
        return tuple(
            f"{word} {name}"
            for kind, word in zip(kinds, singular, strict=True)
            for name in getattr(self, kind)
        )


class Registry:
    """All that plugins declared, and the observers among them. Build one with `load_plugins`."""

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager(hookspecs.PROJECT)
        self.manager.add_hookspecs(hookspecs)
        self.declared = Declarations()
        self.plugins: list[PluginInfo] = []
        self.observer_failures: Counter[str] = Counter()
        self._observers: list[tuple[str, Callable[..., object], tuple[str, ...]]] = []

    @property
    def models(self) -> Mapping[str, Model]:
        return self.declared.models

    @property
    def providers(self) -> Mapping[str, RegisteredProvider]:
        return self.declared.providers

    @property
    def policies(self) -> Mapping[str, Policy]:
        return self.declared.policies

    @property
    def chunkers(self) -> Mapping[str, Chunker]:
        return self.declared.chunkers

    @property
    def commands(self) -> Mapping[str, Any]:
        return self.declared.commands

    def failed(self) -> list[PluginInfo]:
        """The plugins that were left out, each with its error."""
        return [plugin for plugin in self.plugins if plugin.error]

    def add(self, plugin: object, name: str, *, source: str, version: str | None = None) -> None:
        """Register one plugin and take in what it declares; a failure is kept, not raised."""
        try:
            check_is_plugin(plugin, name)
            self.manager.register(plugin, name)
            check_hooks(plugin, self.manager)
            declared = self._ask(plugin, name)
            self._merge(declared)
        except (Exception, SystemExit) as error:
            if self.manager.is_registered(plugin):
                self.manager.unregister(plugin)
            self.fail(name, source, error, version)
            return
        observers = [
            (name, implementation.function, tuple(implementation.argnames))
            for implementation in self.manager.hook.observe.get_hookimpls()
            if implementation.plugin is plugin
        ]
        self._observers.extend(observers)
        provides = (*declared.names(), *(["observer"] if observers else []))
        self.plugins.append(PluginInfo(name, source, version, provides=provides))

    def fail(
        self, name: str, source: str, error: BaseException, version: str | None = None
    ) -> None:
        """Keep a plugin's failure, on one line and without secrets."""
        ours = isinstance(error, ConfigurationError)
        said = str(error) if ours else f"{type(error).__name__}: {error}"
        message = " ".join(said.split())
        self.plugins.append(PluginInfo(name, source, version, error=without_secrets(message)[:300]))

    def emit(self, event: Event) -> None:
        """Show an event to every observer; what one raises is counted and harms nobody."""
        for name, function, arguments in self._observers:
            try:
                function(event) if "event" in arguments else function()
            except (Exception, SystemExit):
                self.observer_failures[name] += 1

    def _ask(self, plugin: object, name: str) -> Declarations:
        declared = Declarations()
        others = [other for other in self.manager.get_plugins() if other is not plugin]
        registrars: dict[str, Callable[..., None]] = {
            "register_models": lambda model: claim(declared.models, model.name, model),
            "register_providers": _provider_registrar(declared.providers, name),
            "register_policies": lambda key, policy: claim(declared.policies, key, policy),
            "register_chunkers": lambda key, chunker: claim(
                declared.chunkers, key, check_chunker(key, chunker)
            ),
            "register_commands": lambda command: claim(declared.commands, command.name, command),
        }
        for hook in REGISTER_HOOKS:
            self.manager.subset_hook_caller(hook, remove_plugins=others)(register=registrars[hook])
        return declared

    def _merge(self, new: Declarations) -> None:
        kinds = ("models", "providers", "policies", "chunkers", "commands")
        for kind in kinds:
            for taken in getattr(new, kind).keys() & getattr(self.declared, kind).keys():
                raise ConfigurationError(
                    f"the name {taken!r} ({kind}) is already taken: give it a name of its own"
                )
        for kind in kinds:
            getattr(self.declared, kind).update(getattr(new, kind))


def _provider_registrar(
    providers: dict[str, RegisteredProvider], plugin: str
) -> Callable[..., None]:
    # Typed as what a stranger's plugin may pass, not as what it should.
    def register(provider: Any, offers: Any = ()) -> None:
        check_provider(provider)
        declared = RegisteredProvider(provider, check_offers(offers), plugin)
        claim(providers, provider.name, declared)

    return register


def load_plugins(
    *,
    extra: Mapping[str, object] | None = None,
    disabled: Sequence[str] | None = None,
    found: Sequence[EntryPoint] | None = None,
) -> Registry:
    """Load the built-ins, then each entry point of the group, then `extra` plugin objects.

    `disabled` names plugins to leave out; without it, `QWEN_EMBED_DISABLE_PLUGINS` does (names
    with commas between them). Blocks for as long as the plugins' imports take.
    """
    if disabled is None:
        disabled = os.environ.get("QWEN_EMBED_DISABLE_PLUGINS", "").replace(",", " ").split()
    registry = Registry()
    for module in BUILT_INS:
        registry.add(importlib.import_module(module), module, source="built-in")
    for point in entry_points(group=hookspecs.PROJECT) if found is None else found:
        if point.name not in disabled:
            _add_entry_point(registry, point)
    for name, plugin in (extra or {}).items():
        registry.add(plugin, name, source="argument")
    return registry


def _add_entry_point(registry: Registry, point: EntryPoint) -> None:
    distribution = point.dist
    source = distribution.name if distribution else point.value
    version = distribution.version if distribution else None
    try:
        plugin = point.load()
    except (Exception, SystemExit) as error:
        registry.fail(point.name, source, why_not_loaded(point, error), version)
        return
    registry.add(plugin, point.name, source=source, version=version)


Kind = Literal["models", "providers", "policies", "chunkers"]


def unknown_name(
    registry: Registry, kind: Kind, name: str, also_known: Iterable[str] = ()
) -> ConfigurationError:
    """The error for a name that neither a plugin registered nor settings add (`also_known`): the
    nearest names, and broken plugins."""
    from difflib import get_close_matches

    known = sorted({*getattr(registry, kind), *also_known})
    near = get_close_matches(name, known, n=1, cutoff=0.6)
    singular = "policy" if kind == "policies" else kind.removesuffix("s")
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    broken = "".join(
        f" (plugin {plugin.name!r} failed to load: {plugin.error})" for plugin in registry.failed()
    )
    return ConfigurationError(f"unknown {singular} {shown(name)}: {hint}{broken}")
