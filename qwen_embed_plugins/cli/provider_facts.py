"""`qwen-embed providers NAME`: all facts of one provider, each with its source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import click

from qwen_embed_plugins.cli.listing import ListedOffer
from qwen_embed_plugins.cli.output import Block, Column, print_blocks, print_pairs
from qwen_embed_plugins.cli.sources import SourceNotes
from qwen_embed_plugins.cli.terms import LABELS, claim_text, fact_texts
from qwen_embed_plugins.errors import without_secrets
from qwen_embed_plugins.offers import Offer, Source
from qwen_embed_plugins.terms import has_amounts, stated_terms

COLUMNS = (
    Column("Fact", long="fits"),
    Column("Value"),
    Column("Read", long="fits"),
    Column("Source", long="fits"),
)


class _Fact(NamedTuple):
    """A fact by its label, and where it was read, or in words who states it."""

    name: str
    said: str
    source: Source | str


def print_provider(listed: list[ListedOffer]) -> None:
    """The facts of one provider: first what all its offers share, then each offer's own."""
    first = listed[0]
    print_pairs([("Provider", first.provider), *_about(first)])
    facts = {offer.model: _facts(offer) for offer in listed}
    shared = [fact for fact in facts[first.model] if _is_shared(fact, facts)]
    notes = SourceNotes()
    blocks = [_block("\nAll its models", shared, notes)] if shared else []
    for offer in listed:
        own = [fact for fact in facts[offer.model] if fact not in shared]
        blocks.append(_block(f"\n{offer.model}: {offer.here}", own, notes))
    print_blocks(COLUMNS, blocks)
    click.echo()
    notes.print()


def _about(offer: ListedOffer) -> list[tuple[str, object]]:
    if offer.declared is None:
        return []
    provider = offer.declared.provider
    keys = filter(None, (provider.api_key_env, *provider.other_key_envs))
    return [
        ("Plugin", offer.declared.plugin),
        ("Address", without_secrets(offer.address or "")),
        ("Key in", offer.table.api_key_env or " or ".join(keys)),
        ("Options", ", ".join(provider.options)),
    ]


def _facts(offer: ListedOffer) -> list[_Fact]:
    if offer.terms is None:
        return []
    stated = stated_terms(offer.table, offer.model)
    facts = [
        _Fact(LABELS[name], said, "as set here" if name in stated else _source(offer.terms, name))
        for name, said in fact_texts(offer.terms).items()
    ]
    return [*facts, *_claim(offer)]


def _claim(offer: ListedOffer) -> Iterator[_Fact]:
    """Which grants are claimed, or how the built-in one is."""
    here, grant = offer.configured, offer.terms.grant if offer.terms else None
    if here and here.has_grants:
        meters = [claimed.meter for claimed in here.grants]
        places = dict.fromkeys(f"{meter.setting} in {meter.table}" for meter in meters)
        yield _Fact("grant claimed by", ", ".join(places), "as set here")
    elif (
        grant
        and not offer.table.free
        and (here is None or here.unclaimed or not has_amounts(grant))
    ):
        yield _Fact("to claim the grant", claim_text(grant, offer.provider), "")


def _source(terms: Offer, name: str) -> Source | str:
    if name in terms.sources:
        return terms.sources[name]
    return Source(terms.source, terms.checked) if terms.source else "as its plugin says"


def _is_shared(fact: _Fact, facts: dict[str, list[_Fact]]) -> bool:
    return len(facts) > 1 and all(fact in own for own in facts.values())


def _block(title: str, facts: list[_Fact], notes: SourceNotes) -> Block:
    rows = []
    for name, said, source in facts:
        read, note = (
            (source.read, notes.note(source)) if isinstance(source, Source) else ("", source)
        )
        rows.append((name, said, read, note))
    return Block(title, rows)
