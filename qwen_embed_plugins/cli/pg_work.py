"""What workers do, and what is told to them: worker, retry, pause, resume."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from qwen_embed_plugins.cli import allocator, names
from qwen_embed_plugins.cli.database import (
    counted,
    database_options,
    do_or_show,
    only_option,
    sql_option,
    vectorizer_argument,
)
from qwen_embed_plugins.cli.failures import Interrupted, Unfinished
from qwen_embed_plugins.cli.output import json_option, print_json
from qwen_embed_plugins.cli.progress import Meter, metered
from qwen_embed_plugins.cli.session import current, joined, log_as, log_format_option

log = logging.getLogger("qwen_embed_plugins.postgres.worker")

NO_VECTORIZER = ": no vectorizer yet. Begin with: qwen-embed pg create TABLE --column COLUMN"

if TYPE_CHECKING:
    from qwen_embed_plugins.postgres import VectorizerStatus, WorkerProgress, WorkerSummary
    from qwen_embed_plugins.settings import Settings


@click.command(
    epilog="""
    \b
    Examples:
      qwen-embed pg worker
      qwen-embed pg worker --once --only docs
    """
)
@click.option("--once", is_flag=True, help="End when nothing is left that can be done now.")
@only_option
@click.option(
    "--use",
    multiple=True,
    metavar="PROVIDER",
    shell_complete=names.providers,
    help="Only these may receive texts.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    metavar="N",
    help="Rows a batch, fewer where they are long.",
)
@click.option(
    "--in-flight",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    metavar="N",
    help="Batches under way for each vectorizer.",
)
@click.option(
    "--backfill-rows-per-second",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    help="Slow backfills down; live changes are not.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    metavar="N",
    help="Serve metrics for Prometheus on this port.",
)
@click.option(
    "--metrics-host",
    metavar="HOST",
    default="127.0.0.1",
    show_default=True,
    help="Who may read them; 0.0.0.0 lets other machines.",
)
@log_format_option
@json_option
@database_options
def worker(
    dsn: str | None,
    once: bool,
    only: tuple[str, ...],
    use: tuple[str, ...],
    batch_size: int,
    in_flight: int,
    backfill_rows_per_second: float | None,
    metrics_port: int | None,
    metrics_host: str,
    log_format: str,
    as_json: bool,
) -> None:
    """Embed what changed, once or as a service.

    As a service it runs until SIGTERM or Ctrl-C, which lets batches end or hands them back (a
    second one aborts), and survives restarts of the database. With --once the exit code is 1 if
    work remains, and one line says which and why.
    """
    log_as(log_format)
    allocator.keep_buffers()
    settings = current().load_settings(use=joined(use))
    from qwen_embed_plugins import postgres

    quiet = current().quiet or log_format == "json"  # lines of a meter are no events
    chosen = set(only) or None
    found, to_walk = _looked_at(dsn)
    before = _chosen(found, chosen)
    _say_what_counts(settings, before)
    stopping = asyncio.Event()
    expected = _expected(before, to_walk) if once else None
    with metered("Embedding", expected, quiet=quiet) as meter, _second_interrupt():
        tally = Tally(meter)
        summary = postgres.run_worker(
            dsn,
            once=once,
            only=chosen,
            settings=settings,
            batch_size=batch_size,
            in_flight=in_flight,
            backfill_rows_per_second=backfill_rows_per_second,
            on_progress=tally,
            stopping=stopping,
            metrics_port=metrics_port,
            metrics_host=metrics_host,
        )
        tally.finish()
    ended = time.monotonic()
    if as_json:
        print_json(asdict(summary))
    else:
        begin = "" if found else NO_VECTORIZER
        click.echo(in_words(summary, stopped=stopping.is_set()) + begin)
    if once and stopping.is_set():
        raise Interrupted("what is left goes to the next worker")
    if once:
        after, to_walk = _looked_at(dsn)
        _require_done(summary, _chosen(after, chosen), to_walk, time.monotonic() - ended)


@contextmanager
def _second_interrupt() -> Iterator[None]:
    """The second Ctrl-C cancels a worker; what it had claimed is free again after its lease."""
    try:
        yield
    except asyncio.CancelledError:
        raise Interrupted("rows under way are free again within a minute") from None


def _looked_at(dsn: str | None) -> tuple[list[VectorizerStatus], dict[str, int]]:
    """All vectorizers, and about how many rows the backfill of each has yet to reach."""
    from qwen_embed_plugins import postgres
    from qwen_embed_plugins.postgres import connect

    with connect.explained(dsn), connect.opened(dsn) as connection:
        found = postgres.status(connection)
        return found, {item.name: item.to_walk for item in postgres.progress(connection)}


def _say_what_counts(settings: Settings, found: Sequence[VectorizerStatus]) -> None:
    """Tell whoever changed the space in the settings that vectorizers keep their own."""
    stated = {
        name: value
        for name, value in (("model", settings.model), ("dimensions", settings.dimensions))
        if name in settings.origins
    }
    others = [item for item in found if any(getattr(item, k) != v for k, v in stated.items())]
    if not others or len(others) < len(found):
        return
    wanted = ", ".join(f"{name} = {value}" for name, value in stated.items())
    move = " ".join(f"--{name} {value}" for name, value in stated.items())
    first = others[0]
    log.info(
        "a vectorizer keeps its space, whatever the settings say",
        extra={
            "settings": wanted,
            "vectorizer": first.name,
            "space": f"{first.model}/{first.dimensions}",
            "to_change_it": f"qwen-embed pg move {first.name} {move}",
        },
    )


def _chosen(found: Sequence[VectorizerStatus], names: set[str] | None) -> list[VectorizerStatus]:
    return [item for item in found if names is None or item.name in names]


def _expected(before: Sequence[VectorizerStatus], to_walk: Mapping[str, int]) -> int | None:
    """About how many rows a run will see; None if nothing is known of a backfill's."""
    counts = [item.pending + item.leased + to_walk.get(item.name, 0) for item in before]
    unknown = any(
        item.state == "backfill" and not count for item, count in zip(before, counts, strict=True)
    )
    return None if unknown else sum(counts)


class Tally:
    """Adds up what the vectorizers of one worker report, each for itself."""

    def __init__(self, meter: Meter, total: int | None = None) -> None:
        self._meter = meter
        self._total = total
        self._done: dict[str, int] = {}

    def __call__(self, progress: WorkerProgress) -> None:
        done = progress.embedded + progress.equal + progress.removed + progress.dead
        self._done[progress.name] = done
        self._meter.show(sum(self._done.values()), self._total)

    def finish(self) -> None:
        """All is done: a row that changed twice counted twice in the expectation, but is one."""
        done = sum(self._done.values())
        self._meter.show(done, done)


def in_words(summary: WorkerSummary, *, stopped: bool = False) -> str:
    """What a worker did, on one line. One that was stopped does not know whether all was done."""
    counts: list[tuple[int, str]] = [
        (summary.embedded, "embedded"),
        (summary.equal, "unchanged"),
        (summary.removed, "gone or empty"),
        (summary.dead, "dead"),
    ]
    said = [f"{count} {what}" for count, what in counts if count]
    if not said:
        said = ["nothing was done" if summary.waiting or stopped else "nothing to do"]
    return f"{', '.join(said)} ({summary.seconds:.1f} s)"


def _require_done(
    summary: WorkerSummary,
    after: Sequence[VectorizerStatus],
    to_walk: Mapping[str, int],
    seconds_since: float,
) -> None:
    """Fail, in one line, if rows are left without their vector."""
    left = [
        said
        for item in after
        if (said := _left(item, to_walk.get(item.name, 0), summary, seconds_since))
    ]
    if left:
        raise Unfinished("work remains: " + "; ".join(left))


def _left(
    item: VectorizerStatus, to_walk: int, summary: WorkerSummary, seconds_since: float
) -> str | None:
    said = []
    told = None if item.state == "broken" else summary.waiting.get(item.name)
    reason = told or item.last_error
    because = f" ({reason})" if reason and reason != item.state else ""
    waits = item.pending and not _came_after(item, seconds_since)
    if waits or to_walk or item.state == "broken":
        # Where nobody could even begin, the rows of a backfill were not walked over.
        about = f"about {counted(to_walk, 'row')} " if to_walk else ""
        rows = f"{counted(item.pending, 'row')} " if item.pending else about
        said.append(f"{rows}{item.state}{because}")
    if item.dead and summary.dead:
        said.append(f"{item.dead} dead (see: qwen-embed pg dead {item.name})")
    return f"{item.name}: {', '.join(said)}" if said else None


def _came_after(item: VectorizerStatus, seconds_since: float) -> bool:
    """Whether all that waits was written after the worker had ended: then it left nothing."""
    return item.lag is not None and item.lag.total_seconds() <= seconds_since


@click.command(epilog="Example: qwen-embed pg retry docs")
@vectorizer_argument
@sql_option
@database_options
def retry(dsn: str | None, name: str, as_sql: bool) -> None:
    """Have the dead rows of the vectorizer NAME tried again by the next worker."""
    from qwen_embed_plugins import postgres

    if as_sql:
        from qwen_embed_plugins.postgres import scripts

        click.echo(scripts.retry(name), nl=False)
        return
    click.echo(f"{counted(postgres.retry(dsn, name), 'row')} will be tried again")


@click.command(epilog="Example: qwen-embed pg pause docs")
@vectorizer_argument
@sql_option
@database_options
def pause(dsn: str | None, name: str, as_sql: bool) -> None:
    """Have no more rows of the vectorizer NAME embedded. Changes are still recorded."""
    do_or_show("pause", dsn, name, as_sql=as_sql, said=f"paused {name}")


@click.command(epilog="Example: qwen-embed pg resume docs")
@vectorizer_argument
@sql_option
@database_options
def resume(dsn: str | None, name: str, as_sql: bool) -> None:
    """Let the vectorizer NAME go on, whether paused, held or blocked."""
    do_or_show("resume", dsn, name, as_sql=as_sql, said=f"resumed {name}")
