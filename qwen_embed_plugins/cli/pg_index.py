"""`qwen-embed pg index`: build the index, and say what it is worth."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from qwen_embed_plugins.cli.database import (
    database_options,
    size_text,
    sql_option,
    vectorizer_argument,
)
from qwen_embed_plugins.cli.failures import Unfinished
from qwen_embed_plugins.cli.output import json_option, print_json
from qwen_embed_plugins.cli.progress import Meter, metered
from qwen_embed_plugins.cli.session import current

if TYPE_CHECKING:
    from qwen_embed_plugins.postgres import IndexFigures, IndexProgress


@click.command(
    epilog="""
    \b
    Examples:
      qwen-embed pg index docs
      qwen-embed pg index docs --queries 200 --json
    """
)
@vectorizer_argument
@click.option(
    "--queries",
    type=click.IntRange(min=0),
    default=50,
    show_default=True,
    metavar="N",
    help="How many of its vectors to search for when it stands, to measure it; 0: none.",
)
@sql_option
@json_option
@database_options
def index(dsn: str | None, name: str, queries: int, as_sql: bool, as_json: bool) -> None:
    """Build the index of the vectorizer NAME without stopping writers, then measure it.

    Workers build it by themselves after the backfill where they own the table. Recall is the share
    of the 10 nearest rows that a search by the index finds, for some of the table's own vectors;
    that takes about 20 seconds at most.
    """
    from qwen_embed_plugins import postgres

    if as_sql:
        statement = postgres.index_statement(dsn, name)
        nothing = f"-- nothing to build: {name} wants no index, or has it"
        click.echo(f"{statement};" if statement else nothing)
        return
    began = time.monotonic()
    quiet = current().quiet  # progress comes from another thread, where no command is current
    with metered(f"Indexing {name}", quiet=quiet) as meter:
        built = postgres.build_index(dsn, name, on_progress=_Report(meter, quiet=quiet))
    seconds = time.monotonic() - began
    figures = postgres.measure_index(dsn, name, queries=queries)
    if as_json:
        print_json({"built": built, "seconds": seconds, **asdict(figures)})
    else:
        click.echo(_done(figures, built, seconds))
        if figures.recall is not None:
            click.echo(_worth(figures))
    if figures.index is None and figures.index_kind != "none":
        raise Unfinished(
            f"{name} has no index yet: another session builds it (pg_stat_progress_create_index "
            "shows how far it is), or its table was dropped"
        )


class _Report:
    """Shows progress; says once whom the build waits for, if that lasts."""

    def __init__(self, meter: Meter, *, quiet: bool) -> None:
        self._meter = meter
        self._quiet = quiet
        self._waited_for: int | None = None
        self._said: set[int] = set()

    def __call__(self, progress: IndexProgress) -> None:
        session, before = progress.waits_for, self._waited_for
        self._waited_for = session
        if session is None:
            self._meter.show(progress.rows_done, progress.rows_total)
        elif session == before and session not in self._said and not self._quiet:
            self._said.add(session)
            click.echo(
                f"waiting for the transaction of process {session} to end "
                "(see pg_stat_activity); writers go on",
                err=True,
            )


def _done(figures: IndexFigures, built: bool, seconds: float) -> str:
    if figures.index is None:
        return f"{figures.name}: nothing to build"
    size = size_text(figures.size_bytes or 0)
    if built:
        return f"built {figures.index} ({size}) in {seconds:.1f} s"
    return f"{figures.name}: nothing to build, {figures.index} stands ({size})"


def _worth(figures: IndexFigures) -> str:
    by_index, exactly = 1000 * (figures.index_seconds or 0), 1000 * (figures.exact_seconds or 0)
    return (
        f"recall@{figures.k} {figures.recall:.3f}, {by_index:.1f} ms by the index, "
        f"{exactly:.1f} ms exact (medians of {figures.queries})"
    )
