"""What is in a database: vectorizers, their state, their dead rows."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from qwen_embed_plugins.cli.database import (
    age_text,
    any_vectorizer_argument,
    counted,
    database_options,
    key_text,
)
from qwen_embed_plugins.cli.html_file import html_option
from qwen_embed_plugins.cli.output import (
    Block,
    Column,
    json_option,
    moves_its_cursor,
    print_blocks,
    print_json,
    print_line,
    print_table,
)
from qwen_embed_plugins.cli.sql_hints import as_commands

if TYPE_CHECKING:
    from qwen_embed_plugins.cli.pg_status_page import StatusPage
    from qwen_embed_plugins.postgres import (
        VectorizerDefinition,
        VectorizerProgress,
        VectorizerStatus,
    )

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
    if not found:
        click.echo("no vectorizers yet")
    columns = [Column("", long="fits"), Column("")]
    print_blocks(columns, [Block(item.name, _described(item)) for item in found])


def _described(vectorizer: VectorizerDefinition) -> list[tuple[str, str]]:
    where = "a column of it" if vectorizer.target == vectorizer.source else vectorizer.target
    texts = ", ".join(vectorizer.columns or ()) or f"template {vectorizer.template}"
    described = [("source", vectorizer.source), ("text", texts)]
    if vectorizer.condition:
        described.append(("condition", vectorizer.condition))
    if vectorizer.chunk_tokens:
        overlap = vectorizer.chunk_overlap or 0
        described.append(
            (
                "chunks",
                f"{vectorizer.chunk_tokens} tokens, overlap {overlap}, "
                f"by {vectorizer.chunker or 'the built-in chunker'}",
            )
        )
    described.append(("space", f"{vectorizer.model}/{vectorizer.dimensions}"))
    described.append(
        ("vectors", f"{where}, as {vectorizer.storage}, index {vectorizer.index_kind}")
    )
    return described


@click.command(
    epilog="""
    \b
    Examples:
      qwen-embed pg status --watch
      qwen-embed pg status --quiet --html status.html
    """
)
@any_vectorizer_argument
@click.option("--watch", is_flag=True, help="Look again every two seconds, until Ctrl-C.")
@html_option(
    "Write it to FILE, a page for a browser, instead of a table; charts go on from the page that "
    "stands there."
)
@json_option
@database_options
def status(dsn: str | None, name: str | None, watch: bool, html: str | None, as_json: bool) -> None:
    """Show what waits, what failed and why, of all vectorizers or of NAME.

    Lag is the age of the oldest change whose row is not in step yet. Left is how long the rest
    takes at the speed of the last minute, rows included that a backfill has yet to reach.
    """
    from qwen_embed_plugins import postgres

    page = _page_at(html)
    while True:
        found = _looked_at(postgres.status(dsn, name), postgres.progress(dsn, name))
        if page is not None:
            page.write(dsn, found)
        if watch and moves_its_cursor(sys.stdout) and not as_json and page is None:
            click.echo(CLEAR_SCREEN, nl=False)
        if as_json or page is None:
            _show(found, as_json)
        if not watch:
            return
        sys.stdout.flush()
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _page_at(html: str | None) -> StatusPage | None:
    """Where the page goes, if one is asked for; refused before anything is asked of a database."""
    if html is None:
        return None
    from qwen_embed_plugins.cli.pg_status_page import StatusPage

    return StatusPage(html)


class Look(NamedTuple):
    """All that is known of a vectorizer at a moment."""

    status: VectorizerStatus
    progress: VectorizerProgress

    @property
    def waits(self) -> bool:
        """Whether there is something for a worker to do."""
        work = self.status.pending or self.progress.to_walk
        return bool(work) and self.status.state not in ("paused", "suspended", "retired")

    @property
    def is_idle(self) -> bool:
        """Whether there is, and no worker to do it."""
        return self.waits and not self.progress.workers


def _looked_at(
    states: Sequence[VectorizerStatus], progress: Sequence[VectorizerProgress]
) -> list[Look]:
    by_name = {item.name: item for item in progress}
    return [Look(item, by_name[item.name]) for item in states if item.name in by_name]


def _show(found: Sequence[Look], as_json: bool) -> None:
    if as_json:
        print_json([_as_dict(*look) for look in found])
        return
    print_table(
        [
            "Name",
            Column("State", long="fits"),
            Column("Pending", right=True, long="fits"),
            Column("Leased", right=True, long="fits"),
            Column("Dead", right=True, long="fits"),
            Column("Lag", right=True, long="fits"),
            Column("Rows/s", right=True, long="fits"),
            Column("Left", right=True, long="fits"),
        ],
        [
            (
                item.name,
                item.state,
                item.pending,
                item.leased,
                item.dead,
                age_text(item.lag),
                f"{progress.rows_per_second:.0f}" if progress.workers else "",
                age_text(progress.time_left) if progress.time_left else "",
            )
            for item, progress in found
        ],
        empty="no vectorizers yet",
    )
    for item, progress in found:
        if progress.to_walk:
            share = f"{progress.walked} of about {progress.walked + progress.to_walk}"
            print_line(f"{item.name}: {share} rows gone through")
        if item.dead:
            print_line(
                f"{item.name}: {counted(item.dead, 'row')} refused for good, see "
                f"qwen-embed pg dead {item.name}"
            )
        if item.last_error:
            print_line(f"{item.name}: {as_commands(item.last_error)}")
    idle = [look.status.name for look in found if look.is_idle]
    if idle:
        names = ", ".join(idle)
        print_line(f"no worker is running for {names}. Start one: qwen-embed pg worker")


def _as_dict(status: VectorizerStatus, progress: VectorizerProgress) -> dict[str, Any]:
    shown = {**asdict(status), **asdict(progress)}
    for span in ("lag", "time_left"):
        shown[span] = None if shown[span] is None else shown[span].total_seconds()
    return shown


@click.command(epilog="Example: qwen-embed pg dead docs --json")
@any_vectorizer_argument
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
