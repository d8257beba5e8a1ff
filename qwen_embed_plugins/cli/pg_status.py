"""What is in a database: vectorizers, their state, their dead rows."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from qwen_embed_plugins.cli.database import age_text, database_options, key_text
from qwen_embed_plugins.cli.output import Column, json_option, print_json, print_table

if TYPE_CHECKING:
    from qwen_embed_plugins.postgres import VectorizerStatus

SECONDS_BETWEEN_LOOKS = 2.0
CLEAR_SCREEN = "\x1b[H\x1b[2J"


@click.command("list", epilog="Example: qwen-embed pg list --json")
@json_option
@database_options
def list_(dsn: str | None, as_json: bool) -> None:
    """List vectorizers and what they were created with."""
    from qwen_embed_plugins import postgres

    found = postgres.list_vectorizers(dsn)
    if as_json:
        print_json([asdict(vectorizer) for vectorizer in found])
        return
    rows = [
        (
            vectorizer.name,
            vectorizer.source,
            ", ".join(vectorizer.columns) if vectorizer.columns else vectorizer.template,
            f"{vectorizer.model}/{vectorizer.dimensions}",
            f"{vectorizer.target}\n{vectorizer.storage}, index {vectorizer.index_kind}",
        )
        for vectorizer in found
    ]
    print_table(
        ["Name", "Source", "Text from", "Space", "Vectors"], rows, empty="no vectorizers yet"
    )


@click.command(epilog="Example: qwen-embed pg status --watch")
@click.argument("name", required=False)
@click.option("--watch", is_flag=True, help="Look again every two seconds, until Ctrl-C.")
@json_option
@database_options
def status(dsn: str | None, name: str | None, watch: bool, as_json: bool) -> None:
    """Show what waits, what failed and why, of all vectorizers or of NAME."""
    from qwen_embed_plugins import postgres

    while True:
        found = postgres.status(dsn, name)
        if watch and sys.stdout.isatty() and not as_json:
            click.echo(CLEAR_SCREEN, nl=False)
        _show(found, as_json)
        if not watch:
            return
        sys.stdout.flush()
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _show(found: Sequence[VectorizerStatus], as_json: bool) -> None:
    if as_json:
        print_json([_as_dict(vectorizer) for vectorizer in found])
        return
    print_table(
        [
            "Name",
            Column("State", long="fits"),
            Column("Pending", right=True, long="fits"),
            Column("Leased", right=True, long="fits"),
            Column("Dead", right=True, long="fits"),
            Column("Lag", right=True, long="fits"),
            "Space",
        ],
        [
            (
                item.name,
                item.state,
                item.pending,
                item.leased,
                item.dead,
                age_text(item.lag),
                f"{item.model}/{item.dimensions}",
            )
            for item in found
        ],
        empty="no vectorizers yet",
    )
    for item in found:
        if item.last_error:
            click.echo(f"{item.name}: {item.last_error}")


def _as_dict(vectorizer: VectorizerStatus) -> dict[str, Any]:
    lag = vectorizer.lag
    return {**asdict(vectorizer), "lag": None if lag is None else lag.total_seconds()}


@click.command(epilog="Example: qwen-embed pg dead docs --json")
@click.argument("name", required=False)
@json_option
@database_options
def dead(dsn: str | None, name: str | None, as_json: bool) -> None:
    """List rows whose text was refused for good, of all vectorizers or of NAME.

    They are tried again when their text changes, or by `qwen-embed pg retry NAME`.
    """
    from qwen_embed_plugins import postgres

    found = postgres.dead_letters(dsn, name)
    if as_json:
        print_json([asdict(letter) for letter in found])
        return
    rows = [
        (
            letter.name,
            key_text(letter.key),
            letter.kind,
            letter.message,
            f"{letter.died_at:%Y-%m-%d %H:%M}",
        )
        for letter in found
    ]
    print_table(["Name", "Key", "Kind", "Message", "Died at"], rows, empty="no dead rows")
