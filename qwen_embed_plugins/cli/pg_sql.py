"""`qwen-embed pg sql`: statements of the user's own, for who has no psql, or an embedded server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from qwen_embed_plugins.cli.database import database_options
from qwen_embed_plugins.cli.output import Column, json_option, print_json, print_table

if TYPE_CHECKING:
    from psycopg import Cursor


@click.command(
    epilog="""
    \b
    Examples:
      qwen-embed pg sql "SELECT count(*) FROM docs_embedding"
      qwen-embed pg sql --file shop.sql
    """
)
@click.argument("statements", required=False)
@click.option(
    "--file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Run what stands in FILE; - is standard input.",
)
@json_option
@database_options
def sql(dsn: str | None, statements: str | None, file: str | None, as_json: bool) -> None:
    """Run SQL of your own.

    For databases without psql at hand, and for the embedded server. All statements are one
    transaction, unless they open others; the rows of each are printed, with --json those of the
    last.
    """
    text = _statements(statements, file)
    from qwen_embed_plugins.postgres import connect

    with connect.explained(dsn), connect.opened(dsn) as connection:
        cursor = connection.execute(text.encode())
        if as_json:
            print_json(_last(cursor))
            return
        _print(cursor)
        while cursor.nextset():
            _print(cursor)


def _statements(given: str | None, file: str | None) -> str:
    if given is not None and file is None:
        return given
    if given is not None or file is None:
        raise click.UsageError('give statements ("SELECT …"), or --file')
    try:
        with click.open_file(file, encoding="utf-8-sig") as opened:
            text: str = opened.read()
    except UnicodeDecodeError:
        raise click.UsageError(f"--file: {file} is no text in UTF-8") from None
    return text


def _last(cursor: Cursor[Any]) -> list[dict[str, Any]]:
    while cursor.nextset():
        pass
    names = _names(cursor)
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()] if names else []


def _print(cursor: Cursor[Any]) -> None:
    names = _names(cursor)
    if names:
        rows = [[_cell(value) for value in row] for row in cursor.fetchall()]
        print_table([Column(name) for name in names], rows, empty="no rows")
    elif cursor.statusmessage:
        click.echo(cursor.statusmessage)


def _names(cursor: Cursor[Any]) -> list[str]:
    return [column.name for column in cursor.description or ()]


def _cell(value: object) -> str:
    return "" if value is None else str(value)
