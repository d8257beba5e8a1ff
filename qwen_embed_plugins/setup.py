"""What an embedder is made of: settings, plugins, offers, state and ledger, put together once."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import Any, TypeAlias

from qwen_embed_plugins.books import Books
from qwen_embed_plugins.canary import Canaries
from qwen_embed_plugins.catalogue import Catalogue, build_catalogue, ways_out
from qwen_embed_plugins.errors import ConfigurationError
from qwen_embed_plugins.health import Health
from qwen_embed_plugins.ledger import Ledger
from qwen_embed_plugins.parity import Parity, known_probes, strangers_probes
from qwen_embed_plugins.plugins import Registry, load_plugins, unknown_name
from qwen_embed_plugins.provider import Provider
from qwen_embed_plugins.router import Router
from qwen_embed_plugins.setting_checks import checked_table, unknown_setting
from qwen_embed_plugins.settings import TOP_LEVEL, Settings, merged_budget
from qwen_embed_plugins.shared_ledger import SharedLedger
from qwen_embed_plugins.spaces import EmbeddingSpace
from qwen_embed_plugins.state import State
from qwen_embed_plugins.stores import books_at, state_at
from qwen_embed_plugins.tariffs import Tariffs
from qwen_embed_plugins.tokenizer import FileTokenizer, load_tokenizer
from qwen_embed_plugins.tokens import estimate_tokens
from qwen_embed_plugins.vector_cache import VectorCache

log = logging.getLogger("qwen_embed_plugins")

SettingsLike: TypeAlias = Settings | str | os.PathLike[str] | Mapping[str, Any] | None
"""Settings as callers pass them: ready, by file, as a mapping, or None to be discovered."""


def settings_from(source: SettingsLike, overrides: Mapping[str, Any]) -> Settings:
    """Settings from a `Settings`, a file's path, a mapping or nothing, with arguments on top."""
    if isinstance(source, Settings):
        given = {name: value for name, value in overrides.items() if value is not None}
        if not given:
            return source
        api_keys = given.pop("api_keys", source.api_keys)
        changes = checked_table(given, TOP_LEVEL, "argument")
        if "budget" in changes:
            changes["budget"] = merged_budget(source.budget, given["budget"], changes["budget"])
        origins = {**source.origins, **dict.fromkeys(given, "argument")}
        return replace(source, **changes, api_keys=dict(api_keys), origins=origins)
    if isinstance(source, Mapping):
        for name in source.keys() - TOP_LEVEL.keys() - {"api_keys"}:
            raise unknown_setting(name, TOP_LEVEL, "settings")
        return Settings.load(None, **{**source, **_given(overrides)})
    return Settings.load(source, **_given(overrides))


def _given(overrides: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in overrides.items() if value is not None}


def space_of(settings: Settings, catalogue: Catalogue) -> EmbeddingSpace:
    """The space that the settings ask for; refused if the model has no vectors of that length."""
    model = catalogue.model
    dimensions = settings.dimensions or model.dimensions
    if not model.takes_dimensions(dimensions):
        raise ConfigurationError(
            f"dimensions = {dimensions}: {model.name} gives {model.possible_dimensions()}; choose "
            "a length that it gives, or another model"
        )
    return EmbeddingSpace(model.name, dimensions)


def books_of(settings: Settings) -> Books:
    """The books that the settings name, unopened; whoever asks for them closes them."""
    return books_at(settings.state_place(), time.time)


@dataclass(frozen=True, slots=True)
class Setup:
    """What an embedder is made of, put together once from settings and plugins."""

    settings: Settings
    registry: Registry
    catalogue: Catalogue
    space: EmbeddingSpace
    state: State
    ledger: Ledger
    cache: VectorCache | None = None
    tokenizer: FileTokenizer | None = None

    @classmethod
    def make(cls, settings: Settings, registry: Registry | None) -> Setup:
        place = settings.state_place()
        registry = registry or load_plugins()
        catalogue = build_catalogue(settings, registry)
        cache = settings.cache_path()
        for name in (settings.policy, settings.query_policy or settings.policy):
            if name not in registry.policies:
                raise unknown_name(registry, "policies", name)
        return cls(
            settings,
            registry,
            catalogue,
            space_of(settings, catalogue),
            state_at(place),
            SharedLedger(books_of(settings), settings.budget, time.time),
            None if cache is None else VectorCache(cache, settings.cache_megabytes),
            load_tokenizer(settings.tokenizer) if settings.tokenizer else None,
        )

    def books(self) -> Books:
        """The record of what all processes used, apart from this one's ledger; to be closed."""
        return books_of(self.settings)

    def router(self) -> Router:
        """A router with fresh health: what one process learns about offers while it runs. Reads the
        state, so it blocks; raises `ConfigurationError` if that cannot be read."""
        settings, policies, tokenizer = self.settings, self.registry.policies, self.tokenizer
        return Router(
            catalogue=self.catalogue,
            policy=policies[settings.policy],
            query_policy=policies[settings.query_policy or settings.policy],
            health=Health(Random()),
            capabilities=self.state.capabilities(),
            parity=self._parity(),
            canaries=Canaries(settings.canary_every),
            ways_out=partial(ways_out, settings, self.registry),
            count_tokens=tokenizer or estimate_tokens,
            count_ahead=tokenizer.count_ahead if tokenizer else None,
            min_parity=settings.min_parity,
            tariffs=Tariffs(budgeted=settings.budget.limited),
            now=time.time,
            emit=self.registry.emit,
            concurrency=settings.concurrency,
            timeout_seconds=settings.timeout_seconds,
            spill_after_seconds=settings.spill_after_seconds,
            spill_to_paid=settings.spill_to_paid,
        )

    def _parity(self) -> Parity:
        offers, stored = self.catalogue.offers, self.state.probes()
        parity = Parity(
            offers,
            known_probes(stored, offers),
            frozenset(offer.key for offer in offers if offer.trusted),
            self.state.verdicts(self.catalogue.model.name),
            self.settings.parity == "verified",
            strangers_probes(stored, offers),
        )
        parity.forget_old_refusals({place: met.at for place, met in stored.items()}, time.time())
        return parity


def _sends(provider: Provider) -> bool:
    """Whether it builds requests; one without may only compute in this process."""
    return bool(provider.url) or type(provider).build_request is not Provider.build_request


_announced: set[str] = set()


def announce(setup: Setup) -> None:
    """Say once in a process, in one line, which offers may receive texts.

    A warning if texts may leave for outside addresses, so that it is seen by default. Nothing of
    what computes in this process, and nothing where no offer is left: the error that follows says
    it.
    """
    offers = [offer for offer in setup.catalogue.offers if _sends(offer.provider)]
    line = "texts may be sent to: " + ", ".join(offer.key for offer in offers)
    if offers and line not in _announced:
        _announced.add(line)
        leaves = any(not offer.private for offer in offers)
        log.log(logging.WARNING if leaves else logging.INFO, line)
