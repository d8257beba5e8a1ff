"""`qwen-embed providers`: who could serve, on which terms, and whether it is set up here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import click

from qwen_embed_plugins.cli.output import Column, json_option, print_json, print_table
from qwen_embed_plugins.cli.session import common_options, current

if TYPE_CHECKING:
    from qwen_embed_plugins.catalogue import ConfiguredOffer
    from qwen_embed_plugins.offers import Offer
    from qwen_embed_plugins.plugins import Registry
    from qwen_embed_plugins.settings import ProviderSettings, Settings

LIMITS = ("max_inputs", "max_input_tokens", "max_batch_tokens", "max_concurrency")


@dataclass(frozen=True, slots=True)
class ListedOffer:
    """One provider for one model. `reason` says why it cannot serve here."""

    provider: str
    plugin: str | None
    model: str
    terms: Offer | None
    configured: ConfiguredOffer | None
    reason: str | None
    serves: bool

    def as_dict(self) -> dict[str, Any]:
        """All that is known, fit for JSON; prices are strings, as they are exact."""
        from qwen_embed_plugins.offers import Offer

        terms = {item.name: getattr(self.terms, item.name, None) for item in fields(Offer)}
        price = self.configured.price if self.configured else terms["price_per_million"]
        return {
            **terms,
            "model": self.model,
            "price_per_million": None if price is None else str(price),
            "configured": self.configured is not None,
            "serves": self.serves,
            "reason": self.reason,
        }


@click.command(epilog="Example: qwen-embed providers --json")
@json_option
@common_options
def providers(as_json: bool) -> None:
    """List providers, their offers and prices.

    Reaches no network. "serves" marks the offers that may receive texts now, "ready" those that
    would for another model; else it says what is missing. Where and when each number was read is
    in --json.
    """
    from qwen_embed_plugins.plugins import load_plugins

    listed = list(list_offers(current().load_settings(), load_plugins()))
    if as_json:
        print_json(_by_provider(listed))
        return
    print_table(
        [
            "Provider",
            Column("Model (as named there)"),
            Column("USD per\nmillion", right=True, long="fits"),
            "Limits",
            "Here",
        ],
        [_row(offer) for offer in listed],
    )


def list_offers(settings: Settings, registry: Registry) -> Iterator[ListedOffer]:
    """Every provider of plugins and settings, once for each model that it serves."""
    from qwen_embed_plugins.settings import ProviderSettings

    for name in dict.fromkeys((*settings.providers, *registry.providers)):
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
    from qwen_embed_plugins.catalogue import configure
    from qwen_embed_plugins.errors import ConfigurationError
    from qwen_embed_plugins.plugins import unknown_name

    declared = registry.providers.get(table.kind or table.name)
    terms = next((o for o in declared.offers if o.model == model), None) if declared else None
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
        provider=table.name,
        plugin=declared.plugin if declared else None,
        model=model,
        terms=terms,
        configured=configured,
        reason=reason,
        serves=configured is not None and model == settings.model,
    )


def _by_provider(listed: list[ListedOffer]) -> list[dict[str, Any]]:
    providers: dict[str, dict[str, Any]] = {}
    for offer in listed:
        entry: dict[str, Any] = {"provider": offer.provider, "plugin": offer.plugin, "offers": []}
        providers.setdefault(offer.provider, entry)["offers"].append(offer.as_dict())
    return list(providers.values())


def _row(offer: ListedOffer) -> tuple[str, ...]:
    known = offer.as_dict()
    named = known["wire_name"]
    model = f"{offer.model}\n{named}" if named and named != offer.model else offer.model
    price = known["price_per_million"]
    limits = [f"{known[name]} {name[4:].replace('_', ' ')}" for name in LIMITS if known[name]]
    here = "serves" if offer.serves else offer.reason or "ready"
    return (offer.provider, model, "?" if price is None else price, "\n".join(limits), here)
