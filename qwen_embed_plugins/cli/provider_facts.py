"""`qwen-embed providers NAME`: all facts of one provider, each with its source."""

from __future__ import annotations

from typing import NamedTuple

import click

from qwen_embed_plugins.cli.listing import ListedOffer
from qwen_embed_plugins.cli.output import Block, Column, print_blocks, print_pairs
from qwen_embed_plugins.cli.sources import SourceNotes
from qwen_embed_plugins.cli.terms import LABELS, fact_texts
from qwen_embed_plugins.offers import Source
from qwen_embed_plugins.plugins import RegisteredProvider

COLUMNS = (
    Column("Fact", long="fits"),
    Column("Value"),
    Column("Read", long="fits"),
    Column("Source", long="fits"),
)


class _Fact(NamedTuple):
    name: str
    said: str
    source: Source | None


def print_provider(listed: list[ListedOffer]) -> None:
    """The facts of one provider: first what all its offers share, then each offer's own."""
    first = listed[0]
    print_pairs([("Provider", first.provider), *_about(first.declared)])
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


def _about(declared: RegisteredProvider | None) -> list[tuple[str, object]]:
    if declared is None:
        return []
    provider = declared.provider
    keys = filter(None, (provider.api_key_env, *provider.other_key_envs))
    return [
        ("Plugin", declared.plugin),
        ("Address", provider.base_url),
        ("Key in", " or ".join(keys)),
        ("Options", ", ".join(provider.options)),
    ]


def _facts(offer: ListedOffer) -> list[_Fact]:
    if offer.terms is None:
        return []
    sources = offer.terms.sources
    return [_Fact(name, said, sources.get(name)) for name, said in fact_texts(offer.terms).items()]


def _is_shared(fact: _Fact, facts: dict[str, list[_Fact]]) -> bool:
    return len(facts) > 1 and all(fact in own for own in facts.values())


def _block(title: str, facts: list[_Fact], notes: SourceNotes) -> Block:
    rows = []
    for name, said, source in facts:
        note = notes.note(source) if source else "as set here"
        rows.append((LABELS[name], said, source.read if source else "", note))
    return Block(title, rows)
