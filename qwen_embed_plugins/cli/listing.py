"""Who could serve which model, on which terms, and whether it is set up here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from decimal import Decimal
from typing import Any

from qwen_embed_plugins.cards import cards
from qwen_embed_plugins.catalogue import (
    ConfiguredOffer,
    base_url_of,
    configure,
    is_private,
)
from qwen_embed_plugins.cli.sources import source_as_dict
from qwen_embed_plugins.cli.terms import price_text
from qwen_embed_plugins.errors import ConfigurationError
from qwen_embed_plugins.offers import Offer
from qwen_embed_plugins.plugins import RegisteredProvider, Registry, unknown_name
from qwen_embed_plugins.provider_settings import ProviderSettings
from qwen_embed_plugins.settings import Settings
from qwen_embed_plugins.terms import in_usd, overridden


@dataclass(frozen=True, slots=True)
class ListedOffer:
    """One provider for one model. `address` is where it would be reached, None where nothing says
    it; `reason` says why it cannot serve here."""

    table: ProviderSettings
    declared: RegisteredProvider | None
    address: str | None
    model: str
    terms: Offer | None
    configured: ConfiguredOffer | None
    reason: str | None
    serves: bool

    @property
    def provider(self) -> str:
        """The name by which settings know it."""
        return self.table.name

    @property
    def here(self) -> str:
        """Whether it is set up: "serves" for the model in force, "ready" for another one."""
        return "serves" if self.serves else self.reason or "ready"

    @property
    def usd_per_million(self) -> Decimal | None:
        """What a million tokens count as, in US dollars; None where no price is known."""
        if self.configured:
            return self.configured.price
        stated = in_usd(self.terms) if self.terms else None
        return Decimal(0) if stated is None and self._is_near else stated

    @property
    def _is_near(self) -> bool:
        if self.address is None:
            return self.declared is not None and not self.declared.provider.needs_address
        return is_private(self.address)

    @property
    def price(self) -> str:
        """The price in words. What is near costs nothing, though nobody states it."""
        if self.terms and self.terms.price_per_million is not None:
            return price_text(self.terms.price_per_million, self.terms.currency)
        return price_text(self.usd_per_million)

    def as_dict(self) -> dict[str, Any]:
        """All that is known, fit for JSON; amounts of money are strings, as they are exact."""
        terms = {item.name: getattr(self.terms, item.name, None) for item in fields(Offer)}
        card = cards().get(self.model)
        price = terms["price_per_million"]
        return {
            **terms,
            "model": self.model,
            "licence": card.licence if card else None,
            "price_per_million": self.usd_per_million if price is None else price,
            "usd_per_million": self.usd_per_million,
            "grant": asdict(terms["grant"]) if terms["grant"] else None,
            "sources": {
                name: source_as_dict(source) for name, source in (terms["sources"] or {}).items()
            },
            "configured": self.configured is not None,
            "serves": self.serves,
            "reason": self.reason,
        }


def list_offers(
    settings: Settings, registry: Registry, provider: str | None = None
) -> Iterator[ListedOffer]:
    """Every provider of plugins and settings, or the one named, once for each model it serves."""
    names = tuple(dict.fromkeys((*settings.providers, *registry.providers)))
    if provider is not None and provider not in names:
        raise unknown_name(registry, "providers", provider, settings.providers)
    for name in names if provider is None else (provider,):
        table = settings.providers.get(name) or ProviderSettings(name=name)
        declared = registry.providers.get(table.kind or table.name)
        models = [offer.model for offer in declared.offers] if declared else []
        if not models or table.wire_name:
            models = list(dict.fromkeys((settings.model, *models)))
        for model in models:
            yield _listed(table, model, settings, registry)


def _listed(
    table: ProviderSettings, model: str, settings: Settings, registry: Registry
) -> ListedOffer:
    declared = registry.providers.get(table.kind or table.name)
    offers = declared.offers if declared else ()
    terms = next((overridden(item, table) for item in offers if item.model == model), None)
    configured, reason = None, None
    try:
        if model not in registry.models:
            raise unknown_name(registry, "models", model)
        outcome = configure(table, registry.models[model], settings, registry)
    except ConfigurationError as error:
        # A list says what is wrong with one provider and goes on; `embed` would refuse.
        outcome = str(error)
    if isinstance(outcome, str):
        reason = outcome
    else:
        configured, terms = outcome, outcome.offer
    used = settings.use is None or table.name in settings.use
    if configured and not used:
        configured, reason = None, "not in `use`"
    return ListedOffer(
        table=table,
        declared=declared,
        address=_address(table, declared, settings),
        model=model,
        terms=terms,
        configured=configured,
        reason=reason,
        serves=configured is not None and model == settings.model,
    )


def _address(
    table: ProviderSettings, declared: RegisteredProvider | None, settings: Settings
) -> str | None:
    if declared is None:
        return table.base_url
    try:
        return base_url_of(table, declared.provider, settings.environ)
    except Exception:  # a stranger's plugin runs in it; `reason` says what is wrong
        return None


def by_provider(listed: list[ListedOffer]) -> dict[str, list[ListedOffer]]:
    """The offers under their providers' names."""
    found: dict[str, list[ListedOffer]] = {}
    for offer in listed:
        found.setdefault(offer.provider, []).append(offer)
    return found
