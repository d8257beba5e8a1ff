"""What changes a database's schema: install, create, drop, uninstall."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click

from qwen_embed_plugins.cli import names
from qwen_embed_plugins.cli.database import (
    columns_named,
    database_options,
    sql_option,
    text_options,
    vectorizer_argument,
)
from qwen_embed_plugins.cli.session import current

if TYPE_CHECKING:
    from qwen_embed_plugins.postgres import VectorizerStatus
    from qwen_embed_plugins.settings import Settings

USUAL_DIMENSIONS = 1024


@click.command(epilog="Example: qwen-embed pg install --dsn postgresql://app@localhost/app")
@click.option(
    "--model",
    metavar="NAME",
    shell_complete=names.models,
    help="Model for tables that name none; default: qwen3-embedding-8b.",
)
@click.option(
    "--dimensions",
    type=click.IntRange(min=1),
    metavar="N",
    help="Length of its vectors; default: 1024.",
)
@sql_option
@database_options
def install(dsn: str | None, model: str | None, dimensions: int | None, as_sql: bool) -> None:
    """Install into a database, or upgrade there.

    Needs pgvector 0.8 on the server and the right to create a schema. Running it again, or twice
    at once, is harmless. --model and --dimensions go together. --sql needs no connection: the
    script asks the server itself, and is the same for a first installation and an upgrade.
    """
    if (model is None) != (dimensions is None):
        raise click.UsageError("give --model and --dimensions together, or neither")
    from qwen_embed_plugins import postgres

    if as_sql:
        click.echo(_scripts().install(model=model, dimensions=dimensions), nl=False)
        return
    applied = postgres.install(dsn, model=model, dimensions=dimensions)
    done = f"installed: {', '.join(applied)}" if applied else "up to date"
    click.echo(f"{done}. Next: qwen-embed pg create TABLE --column COLUMN")


@click.command(
    epilog="""
    \b
    Examples:
      qwen-embed pg create docs --column title --column body
      qwen-embed pg create '"My schema"."My table"' --columns a,b --dimensions 512
      qwen-embed pg create docs --template '{title}: {body}' --name docs-titled
    """
)
@click.argument("source")
@text_options
@click.option("--name", metavar="NAME", help="Name of the vectorizer; default: the table's.")
@click.option(
    "--model",
    metavar="NAME",
    shell_complete=names.models,
    help="Model; default: your settings', else as installed.",
)
@click.option(
    "--dimensions",
    type=click.IntRange(min=1),
    metavar="N",
    help="Length of vectors; default: your settings', else as installed, else 1,024.",
)
@click.option(
    "--storage", type=click.Choice(["vector", "halfvec"]), help="Type of the vectors' column."
)
@click.option(
    "--index-kind",
    type=click.Choice(["hnsw", "binary", "prefix", "none"]),
    help="Index; default: hnsw to 4,000 dimensions, binary beyond.",
)
@click.option(
    "--chunk-tokens",
    type=click.IntRange(min=1),
    metavar="N",
    help="Split texts into chunks of at most N tokens.",
)
@click.option(
    "--chunk-overlap",
    type=click.IntRange(min=0),
    metavar="N",
    help="Tokens that neighbouring chunks share.",
)
@click.option("--chunker", metavar="NAME", help="How to split; a plugin's, or the built-in one.")
@click.option(
    "--target",
    type=click.Choice(["table", "column"]),
    default="table",
    show_default=True,
    help="Vectors in a table beside it, or in a column of SOURCE.",
)
@click.option("--target-name", metavar="NAME", help="Name of that table or column.")
@click.option("--no-backfill", is_flag=True, help="Leave rows that are there already alone.")
@sql_option
@database_options
def create(
    dsn: str | None,
    as_sql: bool,
    source: str,
    column: tuple[str, ...],
    columns: str | None,
    template: str | None,
    no_backfill: bool,
    **options: Any,
) -> None:
    """Make the rows of the table SOURCE embed themselves.

    SOURCE is written as SQL writes it, with double quotes where needed. From now on every change
    is recorded in the writer's own transaction, and a worker brings the vectors up to date.
    """
    named = columns_named(column, columns, template)
    _check_chunks(options["chunk_tokens"], options["chunk_overlap"], options["target"])
    from qwen_embed_plugins import postgres

    space = _space_of_settings(options)
    options = {**options, **space, "columns": named, "template": template}
    if as_sql:
        click.echo(_scripts().create(source, backfill=not no_backfill, **options), nl=False)
        return
    name = postgres.create_vectorizer(dsn, source, backfill=not no_backfill, **options)
    made = postgres.status(dsn, name)[0]
    _warn_of_space(made)
    said = "model" if "model" in space else "length"
    because = f", the {said} as your settings say" if space else ""
    click.echo(
        f"created the vectorizer {name} ({made.model}/{made.dimensions}{because}). "
        "Next: qwen-embed pg worker --once"
    )


def _space_of_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """What the user's settings say of the space, if no option names the model: a length belongs to
    its model. Their defaults say nothing: then what was installed counts."""
    if options["model"] is not None:
        return {}
    settings = current().load_settings()
    wanted = ("model", "dimensions") if options["dimensions"] is None else ("model",)
    said = {name: getattr(settings, name) for name in wanted if name in settings.origins}
    if "model" in said and "dimensions" not in said and options["dimensions"] is None:
        # Not the length that was installed, which is of another model.
        said["dimensions"] = _usual_length(settings)
    return said


def _usual_length(settings: Settings) -> int | None:
    """1,024 numbers, as for tables that say nothing; where the model has none, its own."""
    from qwen_embed_plugins.catalogue import build_catalogue
    from qwen_embed_plugins.errors import ConfigurationError
    from qwen_embed_plugins.plugins import load_plugins

    try:
        model = build_catalogue(settings, load_plugins()).model
    except ConfigurationError:  # known to workers elsewhere, perhaps
        return None
    return USUAL_DIMENSIONS if model.takes_dimensions(USUAL_DIMENSIONS) else model.dimensions


def _check_chunks(chunk_tokens: int | None, chunk_overlap: int | None, target: str | None) -> None:
    if chunk_overlap is not None and (chunk_tokens is None or chunk_overlap >= chunk_tokens):
        raise click.UsageError("--chunk-overlap goes with a --chunk-tokens that is larger")
    if chunk_tokens is not None and target == "column":
        raise click.UsageError("a column holds one vector a row: --chunk-tokens needs a table")


def _warn_of_space(made: VectorizerStatus) -> None:
    """The worker may run elsewhere, with other plugins; so what is unknown here is no error."""
    from qwen_embed_plugins.catalogue import build_catalogue
    from qwen_embed_plugins.errors import ConfigurationError
    from qwen_embed_plugins.plugins import load_plugins
    from qwen_embed_plugins.setup import space_of

    try:
        settings = current().load_settings(model=made.model, dimensions=made.dimensions)
        space_of(settings, build_catalogue(settings, load_plugins()))
    except ConfigurationError as error:
        click.echo(
            f"warning: a worker with these settings cannot embed it: {error}. If that is a "
            f"mistake: qwen-embed pg drop {made.name} --drop-target",
            err=True,
        )


@click.command(epilog="Example: qwen-embed pg drop docs --drop-target")
@vectorizer_argument
@click.option("--drop-target", is_flag=True, help="Drop the vectors too.")
@sql_option
@database_options
def drop(dsn: str | None, name: str, drop_target: bool, as_sql: bool) -> None:
    """End the vectorizer NAME: its triggers, recorded changes and view go.

    The table with its vectors stays, unless --drop-target; a small one without any goes too. What
    removes it later is printed.
    """
    from qwen_embed_plugins import postgres

    if as_sql:
        click.echo(_scripts().drop(name, drop_target=drop_target), nl=False)
        return
    left = postgres.drop_vectorizer(dsn, name, drop_target=drop_target)
    if left:
        click.echo(
            f"dropped {name}; what held its vectors stays. To remove that too, in SQL: "
            f"{' '.join(left)}"
        )
    else:
        click.echo(f"dropped {name}" + (" and its vectors" if drop_target else ""))


@click.command(
    epilog="""
    \b
    Examples:
      qwen-embed pg uninstall
      qwen-embed pg uninstall --all --drop-data --yes
    """
)
@click.option("--all", "everything", is_flag=True, help="End all vectorizers first.")
@click.option(
    "--drop-target",
    "--drop-data",
    "drop_data",
    is_flag=True,
    help="Drop their vectors too; with --all.",
)
@click.option("--yes", is_flag=True, help="Do not ask before vectors are dropped.")
@sql_option
@database_options
def uninstall(dsn: str | None, everything: bool, drop_data: bool, yes: bool, as_sql: bool) -> None:
    """Remove the schema qwen_embed.

    Refused while a vectorizer is left, unless --all. Tables and columns with vectors stay, with
    the rights and the policy that they have; --drop-data drops them.
    """
    if drop_data and not everything:
        raise click.UsageError("--drop-data goes with --all")
    from qwen_embed_plugins import postgres

    if as_sql:
        script = _scripts().uninstall(everything=everything, drop_data=drop_data)
        click.echo(script, nl=False)
        return
    if drop_data and not yes:
        click.confirm("All vectors will be dropped. Go on?", abort=True, err=True)
    postgres.uninstall(dsn, everything=everything, drop_data=drop_data)
    click.echo("removed the schema qwen_embed")


def _scripts() -> ModuleType:
    from qwen_embed_plugins.postgres import scripts

    return scripts
