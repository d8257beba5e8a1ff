"""`qwen-embed providers`: who could serve, on which terms, and whether it is set up here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from qwen_embed_plugins.cli import names
from qwen_embed_plugins.cli.failures import Unfinished
from qwen_embed_plugins.cli.output import (
    Block,
    Column,
    json_option,
    print_blocks,
    print_json,
    print_text,
)
from qwen_embed_plugins.cli.session import common_options, current

if TYPE_CHECKING:
    from qwen_embed_plugins.cli.checking import Check
    from qwen_embed_plugins.cli.listing import ListedOffer
    from qwen_embed_plugins.settings import Settings


@click.command(
    epilog="""
    \b
    Examples:
      qwen-embed providers
      qwen-embed providers deepinfra
      qwen-embed providers --check --json
    """
)
@click.argument("name", required=False, shell_complete=names.providers)
@click.option(
    "--check", is_flag=True, help="Embed one short text with each that serves; costs a few tokens."
)
@json_option
@common_options
def providers(name: str | None, check: bool, as_json: bool) -> None:
    """List providers, their offers and terms; with NAME, all that is known of one.

    Reaches no network without --check. "serves" marks the offers that may receive texts now,
    "ready" those that would for another model; else it says what is missing. A star marks what
    nobody has verified: NAME and --json say where and when each fact was read.
    """
    from qwen_embed_plugins.cli.listing import list_offers
    from qwen_embed_plugins.plugins import load_plugins

    settings = current().load_settings()
    listed = list(list_offers(settings, load_plugins(), name))
    checks = _check(listed, settings, say=not as_json) if check else {}
    if as_json:
        found = _as_json(listed, checks)
        print_json(found[0] if name else found)
    elif name and not check:
        from qwen_embed_plugins.cli.provider_facts import print_provider

        print_provider(listed)
    elif not check:
        from qwen_embed_plugins.cli.provider_list import print_list

        print_list(listed)
    failed = [check.offer for check in checks.values() if check.problem]
    if failed:
        raise Unfinished(f"{len(failed)} of {len(checks)} offers failed: {', '.join(failed)}")


def _check(listed: list[ListedOffer], settings: Settings, *, say: bool) -> dict[str, Check]:
    from qwen_embed_plugins.cli.checking import check_offers

    offers = [offer.configured for offer in listed if offer.serves and offer.configured]
    if say:
        for offer in listed:
            if _is_expected(offer, settings):
                print_text(f"{offer.provider}/{offer.model}: not checked: {offer.reason}")
    if not offers:
        raise Unfinished(
            f"no offer for {settings.model} is set up here; `qwen-embed providers` says what is "
            "missing"
        )
    checks = {}
    for check in check_offers(offers, settings):
        checks[check.offer] = check
        if say:
            notes = [(note,) for note in check.notes]
            print_blocks([Column("")], [Block(check.title, notes)])
    return checks


def _is_expected(offer: ListedOffer, settings: Settings) -> bool:
    """Whether the user set it up for the model in force, and it cannot serve all the same."""
    chosen = settings.providers if settings.use is None else settings.use
    return offer.model == settings.model and offer.provider in chosen and not offer.serves


def _as_json(listed: list[ListedOffer], checks: dict[str, Check]) -> list[dict[str, Any]]:
    from qwen_embed_plugins.cli.listing import by_provider

    return [
        {
            "provider": provider,
            "plugin": offers[0].declared.plugin if offers[0].declared else None,
            "offers": [_offer_as_json(offer, checks) for offer in offers],
        }
        for provider, offers in by_provider(listed).items()
    ]


def _offer_as_json(offer: ListedOffer, checks: dict[str, Check]) -> dict[str, Any]:
    check = checks.get(offer.configured.key) if offer.configured else None
    return {**offer.as_dict(), **({"check": check.as_dict()} if check else {})}
