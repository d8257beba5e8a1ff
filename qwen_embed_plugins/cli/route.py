"""`qwen-embed route`: which offers a call would go to, in which order, and why others would not."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import click

from qwen_embed_plugins.cli.output import (
    Column,
    json_option,
    print_json,
    print_table,
    print_text,
)
from qwen_embed_plugins.cli.session import common_options, current, embedding_options, joined


@click.command(epilog="Example: qwen-embed route --query --tokens 1000000")
@click.option("--query", "is_query", is_flag=True, help="For a query; default: for documents.")
@click.option("--tokens", type=click.IntRange(min=0), default=0, help="Say what so many cost.")
@embedding_options
@json_option
@common_options
def route(
    is_query: bool,
    tokens: int,
    model: str | None,
    dimensions: int | None,
    use: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show the order in which offers are asked, without asking any.

    An offer that is left out has its reason: settings, a missing key, or a verdict on its vectors.
    """
    from qwen_embed_plugins.setup import Setup

    settings = current().load_settings(model=model, dimensions=dimensions, use=joined(use))
    setup = Setup.make(settings, None)
    entries = explained(setup, "query" if is_query else "document", tokens)
    if as_json:
        print_json({"space": str(setup.space), "offers": entries})
        return
    asked = [entry for entry in entries if entry["serves"]]
    print_table(
        [Column("", right=True), "Offer", Column("USD", right=True), "Note"],
        [(place + 1, *_row(entry)) for place, entry in enumerate(asked)],
        empty=f"no offer serves {setup.space}",
    )
    for entry in entries:
        if not entry["serves"]:
            print_text(f"left out: {entry['offer']}: {entry['reason']}")


def explained(setup: Any, role: Any, tokens: int) -> list[dict[str, Any]]:
    """Every offer: those that serve in their order, then the others with the reason."""
    router = setup.router()
    entries = []
    for offer in router.ranked(role):
        verdict = router.parity.verdicts.get(offer.endpoint)
        reason = router.parity.refuses(offer)
        entries.append(
            {
                "offer": offer.key,
                "serves": reason is None,
                "reason": reason,
                "price_per_million": None if offer.price is None else str(offer.price),
                "cost_usd": None if offer.price is None else str(offer.cost(tokens)),
                "introduced": not router.parity.is_unmet(offer),
                "verdict": verdict.as_dict() if verdict is not None else None,
            }
        )
    left_out = [
        {"offer": name, "serves": False, "reason": reason}
        for name, reason in setup.catalogue.left_out.items()
    ]
    return sorted(entries, key=lambda entry: not entry["serves"]) + left_out


def _row(entry: dict[str, Any]) -> tuple[str, str, str]:
    cost = entry["cost_usd"]
    shown = "?" if cost is None else f"{Decimal(cost):f}"
    verdict = entry["verdict"]
    if verdict is not None:
        return entry["offer"], shown, f"measured: {verdict['reason']}"
    return entry["offer"], shown, "" if entry["introduced"] else "will be introduced first"
