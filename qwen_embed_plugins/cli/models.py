"""`qwen-embed models`: which models there are, and which to choose."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from qwen_embed_plugins.cli import names
from qwen_embed_plugins.cli.output import (
    Column,
    json_option,
    print_json,
    print_pairs,
    print_table,
    print_text,
)
from qwen_embed_plugins.cli.session import common_options, current

if TYPE_CHECKING:
    from qwen_embed_plugins.cards import ModelCard, Size
    from qwen_embed_plugins.cli.listing import ListedOffer
    from qwen_embed_plugins.cli.sources import SourceNotes
    from qwen_embed_plugins.models import Model

PRECISIONS = {"q4": "Q4", "fp16": "FP16"}


@click.command(
    epilog="""
    \b
    Examples:
      qwen-embed models
      qwen-embed models qwen3-embedding-8b
    """
)
@click.argument("name", required=False, shell_complete=names.models)
@json_option
@common_options
def models(name: str | None, as_json: bool) -> None:
    """List models, or show what is known of the one named.

    Vectors of two models can never be compared. Reaches no network.
    """
    from qwen_embed_plugins.cli.listing import list_offers
    from qwen_embed_plugins.plugins import load_plugins, unknown_name

    registry = load_plugins()
    if name is not None and name not in registry.models:
        raise unknown_name(registry, "models", name)
    chosen = [registry.models[name]] if name else list(registry.models.values())
    listed = list(list_offers(current().load_settings(), registry))
    if as_json:
        found = [_as_dict(model, listed) for model in chosen]
        print_json(found[0] if name else found)
    elif name:
        _print_card(chosen[0], listed)
    else:
        _print_list(chosen, listed)


def _served_by(model: Model, listed: list[ListedOffer]) -> list[ListedOffer]:
    return [offer for offer in listed if offer.model == model.name and offer.terms is not None]


def _card(model: Model) -> ModelCard | None:
    from qwen_embed_plugins.cards import cards

    return cards().get(model.name)


def _as_dict(model: Model, listed: list[ListedOffer]) -> dict[str, Any]:
    card = _card(model)
    return {
        "model": model.name,
        "hub_name": model.hub_name,
        "dimensions": model.dimensions,
        "possible_dimensions": model.possible_dimensions(),
        "context_tokens": model.context_tokens,
        "closed": model.closed,
        "source": model.source,
        **(_card_as_dict(card) if card else {}),
        "providers": [
            {"provider": offer.provider, "configured": offer.configured is not None}
            for offer in _served_by(model, listed)
        ],
    }


def _card_as_dict(card: ModelCard) -> dict[str, Any]:
    from qwen_embed_plugins.cli.sources import source_as_dict

    sizes = {
        precision: {
            "gigabytes": size.gigabytes,
            "computed": size.computed,
            "source": source_as_dict(size.source) if size.source else None,
        }
        for precision, size in card.sizes.items()
    }
    return {
        "licence": card.licence,
        "licence_is_non_commercial": card.licence_is_non_commercial,
        "parameters": card.parameters,
        "disk": sizes,
        "memory": sizes,
        "quality": [
            {
                "benchmark": figure.benchmark,
                "score": figure.score,
                "source": source_as_dict(figure.source),
            }
            for figure in card.quality
        ],
        "choose": card.choose,
        "avoid": card.avoid,
        "instead": list(card.instead),
        "caution": card.caution,
        "sources": {name: source_as_dict(source) for name, source in card.sources.items()},
    }


def _print_list(chosen: list[Model], listed: list[ListedOffer]) -> None:
    print_table(
        [
            Column("Model", long="fits"),
            Column("Length", right=True),
            Column("Tokens", right=True),
            "Licence",
            Column("GB at\nQ4/FP16", right=True),
            Column("Offers", right=True),
        ],
        [_row(model, listed) for model in chosen],
    )
    click.echo()
    if any(card and card.licence_is_non_commercial for card in map(_card, chosen)):
        print_text("! for non-commercial use only")
    print_text("`qwen-embed models NAME` says when to choose a model, and who serves it.")


def _row(model: Model, listed: list[ListedOffer]) -> tuple[object, ...]:
    from qwen_embed_plugins.cli.terms import count_text

    card = _card(model)
    served = _served_by(model, listed)
    sizes = [card.sizes.get(name) for name in PRECISIONS] if card else []
    licence = card.licence.partition(":")[0] if card else "?"
    if card and card.licence_is_non_commercial:
        licence += "!"
    return (
        model.name,
        model.dimensions,
        count_text(model.context_tokens),
        licence,
        "/".join(_short(size.gigabytes) for size in sizes if size),
        len(served),
    )


def _short(gigabytes: float) -> str:
    return f"{gigabytes:.2g}" if gigabytes >= 1 else f"{gigabytes:.1f}"


def _print_card(model: Model, listed: list[ListedOffer]) -> None:
    from qwen_embed_plugins.cli.sources import SourceNotes

    notes = SourceNotes()
    card = _card(model)
    pairs: list[tuple[str, object]] = [
        ("Model", " = ".join(filter(None, (model.name, model.hub_name)))),
        ("Numbers", f"{model.dimensions:,} a vector; possible: {model.possible_dimensions()}"),
        ("Context", f"{model.context_tokens:,} tokens"),
    ]
    if card:
        pairs += _told(card, notes)
    served = [_seller(offer) for offer in _served_by(model, listed)]
    pairs.append(("Served by", "\n".join(served) or "nobody who is known here"))
    pairs.append(("As told by", model.source))
    print_pairs(pairs)
    click.echo()
    notes.print()


def _seller(offer: ListedOffer) -> str:
    here = "set up here" if offer.configured else "not set up here"
    return f"{offer.provider} (price: {offer.price}; {here})"


def _told(card: ModelCard, notes: SourceNotes) -> list[tuple[str, object]]:
    warning = ". NOT FOR COMMERCIAL USE" if card.licence_is_non_commercial else ""
    licence = f"{card.licence}{warning} {notes.note(card.sources['licence'])}"
    parameters = None
    if card.parameters is not None:
        parameters = f"{card.parameters:,} {notes.note(card.sources['parameters'])}"
    sizes = ", ".join(_size(name, size, notes) for name, size in card.sizes.items())
    quality = [
        f"{figure.score} {figure.benchmark} {notes.note(figure.source)}" for figure in card.quality
    ]
    return [
        ("Licence", licence),
        ("Parameters", parameters),
        ("Disk", sizes),
        ("Memory", "that much for the weights; long texts need more" if sizes else None),
        ("Quality", "\n".join(quality) or "no published figure was read"),
        ("Choose it", card.choose),
        ("Not", card.avoid),
        ("Instead", ", ".join(card.instead)),
        ("Caution", card.caution),
    ]


def _size(precision: str, size: Size, notes: SourceNotes) -> str:
    origin = notes.note(size.source) if size.source else "computed"
    return f"{size.gigabytes:g} GB at {PRECISIONS[precision]} ({origin})"
