"""`qwen-embed pg search`, and the table of its rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from qwen_embed_plugins.cli import names
from qwen_embed_plugins.cli.database import (
    database_options,
    key_text,
    vectorizer_argument,
)
from qwen_embed_plugins.cli.output import Column, json_option, print_json, print_table
from qwen_embed_plugins.cli.session import current, joined

if TYPE_CHECKING:
    from qwen_embed_plugins.postgres import Hit


def _parsed_filter(
    _: click.Context, __: click.Parameter, value: str | None
) -> dict[str, Any] | None:
    if value is None:
        return None
    try:
        found = json.loads(value)
    except json.JSONDecodeError as error:
        raise click.BadParameter(f"not JSON: {error}") from None
    if not isinstance(found, dict):
        raise click.BadParameter('expected an object such as {"language": "en"}')
    return found


def _told(hit: Hit) -> dict[str, Any]:
    found = asdict(hit)
    del found["row"]  # no columns were asked for
    return found


@click.command(
    epilog="""
    \b
    Examples:
      qwen-embed pg search docs "how to bake bread" --k 3
      qwen-embed pg search docs bread --filter '{"language": ["en", "ru"]}' --json
    """
)
@vectorizer_argument
@click.argument("text")
@click.option(
    "-k",
    "--k",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    metavar="N",
    help="How many rows.",
)
@click.option(
    "--filter",
    "wanted",
    metavar="JSON",
    callback=_parsed_filter,
    help="Columns of the table, each with a value, a list of values or null.",
)
@click.option("--exact", is_flag=True, help="Read every vector instead of the index.")
@click.option(
    "--use",
    multiple=True,
    metavar="PROVIDER",
    shell_complete=names.providers,
    help="Only these may receive the text.",
)
@json_option
@database_options
def search(
    dsn: str | None,
    name: str,
    text: str,
    k: int,
    wanted: dict[str, Any] | None,
    exact: bool,
    use: tuple[str, ...],
    as_json: bool,
) -> None:
    """Find the rows of the vectorizer NAME nearest to TEXT, nearest first.

    The text is embedded as a query, in the vectorizer's own space.
    """
    settings = current().load_settings(use=joined(use))
    from qwen_embed_plugins import postgres

    hits = postgres.search(dsn, name, text, k=k, filter=wanted, exact=exact, settings=settings)
    if as_json:
        print_json([_told(hit) for hit in hits])
    else:
        print_hits(hits)


def print_hits(hits: Sequence[Hit]) -> None:
    """A line for each row: how far, which one, how its text begins."""
    print_table(
        [
            Column("Distance", right=True, long="fits"),
            Column("Key"),
            Column("Text", long="is cut"),
        ],
        [(f"{hit.distance:.4f}", key_text(hit.key), _line(hit.text)) for hit in hits],
        empty="no rows",
    )


def _line(text: str) -> str:
    return " ".join(text.split())
