"""`qwen-embed pg suspend`, `repair`, `redefine`: when a table or the text of its rows changes."""

from __future__ import annotations

import click

from qwen_embed_plugins.cli.database import (
    columns_named,
    database_options,
    do_or_show,
    sql_option,
    text_options,
    vectorizer_argument,
)


@click.command(
    epilog="""
    \b
    Example, in one transaction, so that nobody notices:
      qwen-embed pg suspend docs --sql
    """
)
@vectorizer_argument
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
@vectorizer_argument
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
@vectorizer_argument
@text_options
@sql_option
@database_options
def redefine(
    dsn: str | None,
    name: str,
    column: tuple[str, ...],
    columns: str | None,
    template: str | None,
    condition: str | None,
    as_sql: bool,
) -> None:
    """Change what the text of a row is for the vectorizer NAME.

    Rows whose text is another now are embedded anew, the others are not paid again. A condition
    that is not named is gone.
    """
    named = columns_named(column, columns, template)
    do_or_show(
        "redefine",
        dsn,
        name,
        as_sql=as_sql,
        said=f"redefined {name}: workers look at every row",
        columns=named,
        template=template,
        condition=condition,
    )
