"""`qwen-embed providers`: each provider with its offers, in 80 columns."""

from __future__ import annotations

import click

from qwen_embed_plugins.cli.listing import ListedOffer, by_provider
from qwen_embed_plugins.cli.output import Block, Column, print_blocks, print_text
from qwen_embed_plugins.cli.terms import doubt, grant_text, limit_texts

COLUMNS = (
    Column("Model", long="fits"),
    Column("Price", long="fits"),
    Column("Terms"),
    Column("Here", long="fits"),
)

LEGEND = (
    "Prices are for a million tokens. *: nobody has verified it. unproven: serves only once "
    "measured, or trusted. A grant counts once claimed: `qwen-embed providers NAME` says how, "
    "and names the sources."
)


def print_list(listed: list[ListedOffer]) -> None:
    """All providers, whole model names, and what the signs mean."""
    print_blocks(COLUMNS, [_block(offers) for offers in by_provider(listed).values()])
    click.echo()
    print_text(LEGEND)


def _block(offers: list[ListedOffer]) -> Block:
    """A provider with its offers. What holds for all of them is said once."""
    first = offers[0]
    terms = [_terms(offer) for offer in offers]
    shared = [said for said in terms[0] if len(terms) > 1 and all(said in own for own in terms)]
    reason = first.reason if len({offer.reason for offer in offers}) == 1 else None
    place = first.terms.country if first.terms else None
    title = ", ".join(filter(None, (first.provider, place)))
    rows = [
        _row(offer, [said for said in own if said not in shared], reason_is_said=bool(reason))
        for offer, own in zip(offers, terms, strict=True)
        if offer.terms
    ]
    return Block(f"{title}: {reason}" if reason else title, rows, "; ".join(shared))


def _row(offer: ListedOffer, terms: list[str], *, reason_is_said: bool) -> tuple[str, ...]:
    star = doubt(offer.terms, "price_per_million") if offer.terms else ""
    if offer.reason and not reason_is_said:
        terms = [offer.reason, *terms]
    here = offer.here if offer.configured else ""
    return (offer.model, offer.price + star, "; ".join(terms), here)


def _terms(offer: ListedOffer) -> list[str]:
    """Membership, grant and limits, each in words."""
    terms = offer.terms
    if terms is None:
        return []
    said = ["unproven"] if terms.membership == "unproven" else []
    if terms.grant:
        said.append(f"grant: {grant_text(terms.grant, note=False)}{doubt(terms, 'grant')}")
    return [*said, *limit_texts(terms)]
