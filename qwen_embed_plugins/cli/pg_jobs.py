"""Long jobs over whole tables: backfill, move, cancel."""

from __future__ import annotations

import time
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

import click

from qwen_embed_plugins.cli import names
from qwen_embed_plugins.cli.database import (
    database_options,
    sql_option,
    vectorizer_argument,
)
from qwen_embed_plugins.cli.failures import Interrupted
from qwen_embed_plugins.cli.output import json_option, print_json
from qwen_embed_plugins.cli.progress import metered
from qwen_embed_plugins.cli.session import current
from qwen_embed_plugins.cli.sql_hints import as_commands

if TYPE_CHECKING:
    from qwen_embed_plugins.cli.job_cost import JobCost
    from qwen_embed_plugins.postgres import VectorizerStatus

Command = TypeVar("Command", bound=Callable[..., Any])
SECONDS_BETWEEN_LOOKS = 1.0


def _consent_options(command: Command) -> Command:
    limit = click.option(
        "--ask-above",
        type=click.FloatRange(min=0),
        default=1.0,
        show_default=True,
        metavar="USD",
        help="Ask before a job that would cost more.",
    )
    yes = click.option("--yes", is_flag=True, help="Do not ask.")
    return limit(yes(command))


@click.command(
    epilog="""
    \b
    Examples:
      qwen-embed pg backfill docs --estimate
      qwen-embed pg backfill docs --yes
    """
)
@vectorizer_argument
@click.option("--estimate", "only_estimate", is_flag=True, help="Tell what it would cost, no more.")
@_consent_options
@json_option
@database_options
def backfill(
    dsn: str | None, name: str, only_estimate: bool, ask_above: float, yes: bool, as_json: bool
) -> None:
    """Have every row of NAME looked at, and embedded where its vector is missing or outdated.

    First it estimates rows, tokens, money and time from a sample of the rows and a rehearsal of the
    router. The work itself is the workers': they go by key, in portions, after live changes, and
    go on where they were when they were stopped.
    """
    from qwen_embed_plugins import postgres
    from qwen_embed_plugins.cli.job_cost import require_consent, say

    cost = _cost(dsn, name)
    if not as_json:
        say(cost)
    if not only_estimate:
        require_consent(cost, ask_above_usd=Decimal(str(ask_above)), yes=yes)
        postgres.enqueue(dsn, name)
    if as_json:
        print_json({**cost.as_dict(), "recorded": not only_estimate})
    elif not only_estimate:
        click.echo("recorded. A worker does it: qwen-embed pg worker")


def _cost(dsn: str | None, name: str, **space: Any) -> JobCost:
    """What of a vectorizer is to be embedded; in another space, all of it."""
    from qwen_embed_plugins import postgres
    from qwen_embed_plugins.cli.job_cost import job_cost

    (status,) = postgres.status(dsn, name)
    wanted = {"model": status.model, "dimensions": status.dimensions}
    wanted.update({key: value for key, value in space.items() if value is not None})
    estimate = postgres.estimate_backfill(dsn, name, everything=bool(space))
    return job_cost(estimate, current().load_settings(**wanted))


@click.command(
    epilog="""
    \b
    Examples:
      qwen-embed pg move docs --model qwen3-embedding-8b --dimensions 4096
      qwen-embed pg move docs
      qwen-embed pg move docs --drop-old
    """
)
@vectorizer_argument
@click.option(
    "--model",
    metavar="NAME",
    shell_complete=names.models,
    help="The model to move to; default: the present one.",
)
@click.option("--dimensions", type=click.IntRange(min=1), metavar="N", help="Length of vectors.")
@click.option("--storage", type=click.Choice(["vector", "halfvec"]), help="Type of the vectors.")
@click.option(
    "--index-kind",
    type=click.Choice(["hnsw", "binary", "prefix", "none"]),
    help="Index; default: what the dimensions allow.",
)
@click.option("--target-name", metavar="NAME", help="Name of the table for the new vectors.")
@click.option("--no-wait", is_flag=True, help="Begin the move, and swap by a later call.")
@click.option("--drop-old", is_flag=True, help="Drop the old vectors once the new ones serve.")
@_consent_options
@json_option
@database_options
def move(
    dsn: str | None,
    name: str,
    model: str | None,
    dimensions: int | None,
    storage: str | None,
    index_kind: str | None,
    target_name: str | None,
    no_wait: bool,
    drop_old: bool,
    ask_above: float,
    yes: bool,
    as_json: bool,
) -> None:
    """Move NAME to another model or length, while the old vectors serve.

    Workers fill a second table; once it is complete and indexed, one transaction swaps the two:
    searches and the view change over at once. This command waits for that. It may be stopped and
    called again (then without --model and --dimensions), and the old vectors stay until --drop-old.
    Another provider of the same space needs no move.
    """
    from qwen_embed_plugins import postgres

    before = _by_name(dsn)
    status = before.get(name) or postgres.status(dsn, name)[0]
    moving = _successor(before, name)
    if moving is None and (model or dimensions):
        _begin(
            dsn, name, ask_above=ask_above, yes=yes, as_json=as_json,
            model=model, dimensions=dimensions, storage=storage, index_kind=index_kind,
            target_name=target_name,
        )  # fmt: skip
        moving = _successor(_by_name(dsn), name)
    elif moving is None and not drop_old:
        raise click.UsageError(
            f"{name} is not being moved: say where to with --model or --dimensions"
        )
    if moving is not None and not no_wait:
        try:
            _wait(dsn, name, moving)
        except KeyboardInterrupt:
            raise Interrupted(
                "the move goes on wherever a worker runs. To swap then: "
                f"qwen-embed pg move {name}; to give it up: qwen-embed pg cancel {name}"
            ) from None
        postgres.finish_move(dsn, name)
    dropped = drop_old and not (moving is not None and no_wait) and postgres.drop_old(dsn, name)
    after = postgres.status(dsn, name)[0]
    if as_json:
        done = (after.model, after.dimensions) != (status.model, status.dimensions)
        waits_for = postgres.move_waits_for(dsn, name) if moving is not None and no_wait else None
        print_json({"name": name, "moved": done, "dropped_old": dropped, "waits_for": waits_for})
    else:
        _say_end(name, after, moving is not None, no_wait, dropped)


def _by_name(dsn: str | None) -> dict[str, VectorizerStatus]:
    from qwen_embed_plugins import postgres

    return {item.name: item for item in postgres.status(dsn)}


def _successor(found: dict[str, VectorizerStatus], name: str) -> VectorizerStatus | None:
    moving = (
        item
        for item in found.values()
        if item.name.startswith(f"{name}@") and item.state != "retired"
    )
    return next(moving, None)


def _begin(
    dsn: str | None, name: str, *, ask_above: float, yes: bool, as_json: bool, **space: Any
) -> None:
    from qwen_embed_plugins import postgres
    from qwen_embed_plugins.cli.job_cost import require_consent, say

    cost = _cost(dsn, name, model=space["model"], dimensions=space["dimensions"])
    if not as_json:
        say(cost)
    require_consent(cost, ask_above_usd=Decimal(str(ask_above)), yes=yes)
    postgres.move(dsn, name, **space)


def _wait(dsn: str | None, name: str, moving: VectorizerStatus) -> None:
    """Until the new vectors are complete. Ctrl-C ends the waiting, not the move."""
    from qwen_embed_plugins import postgres

    said = None
    with metered(f"Moving {name}", None, quiet=current().quiet) as meter:
        while True:
            waits_for = postgres.move_waits_for(dsn, name)
            if waits_for is None:
                return
            line = f"waiting: {as_commands(waits_for)}"
            if not _is_worked_at(dsn, {name, moving.name}):
                line += " (a worker must run: qwen-embed pg worker)"
            if line != said and not current().quiet:
                said = line
                click.echo(line, err=True)
            meter.show(postgres.vector_count(dsn, moving.name))
            time.sleep(SECONDS_BETWEEN_LOOKS)


def _is_worked_at(dsn: str | None, names: set[str]) -> bool:
    from qwen_embed_plugins import postgres

    return any(one.alive and names & {*one.vectorizers} for one in postgres.workers(dsn))


def _say_end(
    name: str, after: VectorizerStatus, was_moving: bool, no_wait: bool, dropped: bool
) -> None:
    if was_moving and no_wait:
        click.echo(f"begun. Run a worker; then swap with: qwen-embed pg move {name}")
    elif was_moving:
        kept = "" if dropped else f" The old ones stay until: qwen-embed pg move {name} --drop-old"
        click.echo(f"{name} is served by {after.model}/{after.dimensions} now.{kept}")
    else:
        click.echo("dropped the old vectors" if dropped else "there are no old vectors")


@click.command(epilog="Example: qwen-embed pg cancel docs")
@vectorizer_argument
@sql_option
@database_options
def cancel(dsn: str | None, name: str, as_sql: bool) -> None:
    """Give up the move of NAME.

    What was filled so far is dropped; the old vectors go on serving.
    """
    from qwen_embed_plugins import postgres

    if as_sql:
        from qwen_embed_plugins.postgres import scripts

        click.echo(scripts.cancel(name), nl=False)
        return
    postgres.cancel_move(dsn, name)
    click.echo(f"cancelled; {name} goes on as before")
