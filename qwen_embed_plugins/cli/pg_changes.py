"""`qwen-embed pg suspend`, `repair`, `redefine`: when a table or the text of its rows changes."""

from __future__ import annotations

import click

from qwen_embed_plugins.cli.database import database_options, do_or_show, sql_option


@click.command(
    epilog="""
    \b
    Example, in one transaction, so that nobody notices:
      qwen-embed pg suspend docs --sql
    """
)
@click.argument("name")
@sql_option
@database_options
def suspend(dsn: str | None, name: str, as_sql: bool) -> None:
    """Let go of the columns of the vectorizer NAME, so that ALTER TABLE may change them.

    Until `pg resume` updates are not recorded and the view is gone; then every row is compared with
    its vector, and only what changed is paid for.
    """
    said = f"suspended {name}: change the table, then qwen-embed pg resume {name}"
    do_or_show("suspend", dsn, name, as_sql=as_sql, said=said)


@click.command(epilog="Example: qwen-embed pg repair docs")
@click.argument("name")
@sql_option
@database_options
def repair(dsn: str | None, name: str, as_sql: bool) -> None:
    """Put back what the vectorizer NAME has lost: triggers, functions, tables.

    Then every row is compared with its vector; what is equal is not paid again.
    """
    said = f"repaired {name}: workers look at every row"
    do_or_show("repair", dsn, name, as_sql=as_sql, said=said)


@click.command(
    epilog="""
    \b
    Examples:
      qwen-embed pg redefine docs --column title --column body
      qwen-embed pg redefine docs --template '{title}: {body}'
    """
)
@click.argument("name")
@click.option("--column", "columns", multiple=True, metavar="NAME", help="A column; repeat it.")
@click.option("--template", metavar="TEXT", help="The text of a row, columns in braces.")
@click.option("--condition", metavar="SQL", help="Only rows for which this is true.")
@sql_option
@database_options
def redefine(
    dsn: str | None,
    name: str,
    columns: tuple[str, ...],
    template: str | None,
    condition: str | None,
    as_sql: bool,
) -> None:
    """Change what the text of a row is for the vectorizer NAME.

    Rows whose text is another now are embedded anew, the others are not paid again. A condition
    that is not named is gone.
    """
    if bool(columns) == bool(template):
        raise click.UsageError("name the columns (--column), or give a --template")
    do_or_show(
        "redefine",
        dsn,
        name,
        as_sql=as_sql,
        said=f"redefined {name}: workers look at every row",
        columns=list(columns) or None,
        template=template,
        condition=condition,
    )
