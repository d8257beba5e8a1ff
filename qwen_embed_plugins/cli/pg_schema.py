"""What changes a database's schema: install, create, drop, uninstall."""

from __future__ import annotations

from typing import Any

import click

from qwen_embed_plugins.cli.database import database_options


@click.command(epilog="Example: qwen-embed pg install --dsn postgresql://app@localhost/app")
@click.option(
    "--model", metavar="NAME", help="Model for tables that name none; default: qwen3-embedding-8b."
)
@click.option(
    "--dimensions",
    type=click.IntRange(min=1),
    metavar="N",
    help="Length of its vectors; default: 1024.",
)
@database_options
def install(dsn: str | None, model: str | None, dimensions: int | None) -> None:
    """Install into a database, or upgrade there.

    Needs pgvector 0.8 on the server and the right to create a schema. Running it again, or twice
    at once, is harmless. --model and --dimensions go together.
    """
    if (model is None) != (dimensions is None):
        raise click.UsageError("give --model and --dimensions together, or neither")
    from qwen_embed_plugins import postgres

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
@click.option(
    "--column",
    "column",
    multiple=True,
    metavar="NAME",
    help="A column, written without quotes; repeat it.",
)
@click.option("--columns", metavar="A,B", help="The same, with commas between.")
@click.option("--template", metavar="TEXT", help="The text of a row, columns in braces.")
@click.option("--name", metavar="NAME", help="Name of the vectorizer; default: the table's.")
@click.option(
    "--model",
    metavar="NAME",
    help="Model; default: as installed. The settings file does not count here.",
)
@click.option(
    "--dimensions",
    type=click.IntRange(min=1),
    metavar="N",
    help="Length of vectors; default: as installed.",
)
@click.option(
    "--storage", type=click.Choice(["vector", "halfvec"]), help="Type of the vectors' column."
)
@click.option(
    "--index-kind",
    type=click.Choice(["hnsw", "binary", "prefix", "none"]),
    help="Index; default: hnsw to 4,000 dimensions, binary beyond.",
)
@click.option("--condition", metavar="SQL", help="Only rows for which this is true.")
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
@database_options
def create(
    dsn: str | None,
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
    named = [*column, *(part.strip() for part in (columns or "").split(",") if part.strip())]
    if bool(named) == (template is not None):
        raise click.UsageError("give --column (or --columns), or --template")
    from qwen_embed_plugins import postgres

    name = postgres.create_vectorizer(
        dsn, source, columns=named or None, template=template, backfill=not no_backfill, **options
    )
    click.echo(f"created the vectorizer {name}. Next: qwen-embed pg worker --once")


@click.command(epilog="Example: qwen-embed pg drop docs --drop-target")
@click.argument("name")
@click.option("--drop-target", is_flag=True, help="Drop the vectors too.")
@database_options
def drop(dsn: str | None, name: str, drop_target: bool) -> None:
    """End the vectorizer NAME: its triggers, recorded changes and view go.

    The table with its vectors stays, unless --drop-target, which is possible only now: to drop that
    table later takes SQL.
    """
    from qwen_embed_plugins import postgres

    target = next((item.target for item in postgres.status(dsn, name)), None)
    postgres.drop_vectorizer(dsn, name, drop_target=drop_target)
    kept = f"; its vectors stay in {target}" if target else "; its vectors stay"
    click.echo(f"dropped {name}" + (" and its vectors" if drop_target else kept))


@click.command(epilog="Example: qwen-embed pg uninstall")
@database_options
def uninstall(dsn: str | None) -> None:
    """Remove the schema qwen_embed.

    Refused while a vectorizer is left. Tables with vectors stay.
    """
    from qwen_embed_plugins import postgres

    postgres.uninstall(dsn)
    click.echo("removed the schema qwen_embed")
