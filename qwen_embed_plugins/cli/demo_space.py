"""Who embeds in the demo: Ollama where it has a model, else the stand-in, or whoever was named."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from qwen_embed_plugins.errors import ConfigurationError

if TYPE_CHECKING:
    from qwen_embed_plugins.catalogue import ConfiguredOffer
    from qwen_embed_plugins.plugins import Registry
    from qwen_embed_plugins.settings import Settings
    from qwen_embed_plugins.spaces import EmbeddingSpace

PROBE_SECONDS = 1.5
LONGEST_VECTOR = 1024
"""Any index takes so many numbers, and every model of the demo has them."""

STAND_IN = "`lexical` (words, not meaning)"

_SIZE = re.compile(r"qwen3-embedding[:-](0\.6b|4b|8b|latest)", re.IGNORECASE)
_SMALL_FIRST = ("0.6b", "4b", "8b")


@dataclass(frozen=True, slots=True)
class Choice:
    """The settings that embed, their space, and in a few words who it is and why."""

    settings: Settings
    space: EmbeddingSpace
    reason: str


def choose(settings: Settings, provider: str | None) -> Choice:
    """Who embeds. Asks Ollama which models it has, and waits a second or two at most."""
    from qwen_embed_plugins.plugins import load_plugins

    registry = load_plugins()
    if provider is not None and provider != "ollama":
        return _named(settings, provider, registry)
    found = _ask_ollama(settings, registry)
    if isinstance(found, str):
        if provider is not None:
            raise ConfigurationError(found)
        return _choice(settings, "lexical", "lexical", registry, f"{STAND_IN}: {found}")
    model, wire_name, place = found
    settings = _with_wire_name(settings, wire_name)
    return _choice(settings, "ollama", model, registry, f"Ollama at {place}: it has {wire_name}")


def _named(settings: Settings, provider: str, registry: Registry) -> Choice:
    declared = registry.providers.get(provider)
    served = [offer.model for offer in declared.offers] if declared else []
    model = settings.model
    if served and model not in served:
        model = served[0]
    what = STAND_IN if provider == "lexical" else f"{provider}, {model}"
    return _choice(settings, provider, model, registry, f"{what}: named by --provider")


def _choice(
    settings: Settings, provider: str, model: str, registry: Registry, reason: str
) -> Choice:
    from qwen_embed_plugins.catalogue import build_catalogue
    from qwen_embed_plugins.spaces import EmbeddingSpace

    settings = replace(settings, use=(provider,), model=model)
    catalogue = build_catalogue(settings, registry)
    for why in catalogue.left_out.values():
        raise ConfigurationError(f"{provider}: {why}")
    native = catalogue.model.dimensions
    dimensions = LONGEST_VECTOR if catalogue.model.takes_dimensions(LONGEST_VECTOR) else native
    chosen = replace(settings, dimensions=dimensions)
    return Choice(chosen, EmbeddingSpace(model, dimensions), reason)


def _ask_ollama(settings: Settings, registry: Registry) -> tuple[str, str, str] | str:
    """Model, Ollama's name for it and where; or why Ollama cannot serve."""
    import httpx

    offer = _ollama(settings, registry)
    if isinstance(offer, str):
        return offer
    url = offer.provider.url
    try:
        answer = httpx.get(f"{url}/api/tags", timeout=PROBE_SECONDS, trust_env=not offer.private)
        names = [str(item["name"]) for item in answer.raise_for_status().json()["models"]]
    except httpx.TransportError:
        return f"no Ollama at {_place(url)}"
    except (httpx.HTTPStatusError, ValueError, KeyError, TypeError):
        return f"what answers at {_place(url)} is not Ollama"
    chosen = _smallest(names, settings)
    if chosen is None:
        return (
            f"Ollama at {_place(url)} has no Qwen3-Embedding model "
            "(get one: ollama pull qwen3-embedding:0.6b)"
        )
    return (*chosen, _place(url))


def _ollama(settings: Settings, registry: Registry) -> ConfiguredOffer | str:
    from qwen_embed_plugins.catalogue import build_catalogue

    if settings.use is not None and "ollama" not in settings.use:
        return "the settings do not use Ollama"
    asked = replace(settings, use=("ollama",), model="qwen3-embedding-8b", dimensions=None)
    catalogue = build_catalogue(asked, registry)
    for reason in catalogue.left_out.values():
        return reason
    return catalogue.offers[0]


def _smallest(names: list[str], settings: Settings) -> tuple[str, str] | None:
    """The settings' model if they name one and it is there, else the smallest, which is fastest."""
    sizes: dict[str, str] = {}
    for name in names:
        match = _SIZE.search(name)
        if match:
            size = match[1].lower().replace("latest", "8b")
            sizes.setdefault(f"qwen3-embedding-{size}", name)
    order = [f"qwen3-embedding-{size}" for size in _SMALL_FIRST]
    if "model" in settings.origins:
        order.insert(0, settings.model)
    return next(((model, sizes[model]) for model in order if model in sizes), None)


def _with_wire_name(settings: Settings, wire_name: str) -> Settings:
    from qwen_embed_plugins.provider_settings import ProviderSettings

    table = settings.providers.get("ollama") or ProviderSettings("ollama")
    tables: Mapping[str, Any] = {
        **settings.providers,
        "ollama": replace(table, wire_name=wire_name, models={}),
    }
    return replace(settings, providers=tables)


def _place(url: str) -> str:
    """Host and port: an address may hold a password."""
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)
