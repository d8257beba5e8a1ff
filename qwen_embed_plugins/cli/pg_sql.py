"""`qwen-embed pg sql`: statements of the user's own, for who has no psql, or an embedded server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from qwen_embed_plugins.cli.database import database_options
from qwen_embed_plugins.cli.output import Column, json_option, print_json, print_table

if TYPE_CHECKING:
    import psycopg

LONGEST_CELL = 200
"""A vector would fill the screen; --json has all of it."""

HELD = ("2BP01", "0A000")
"""What Postgres says where a view, trigger or function needs what is to be dropped or altered."""


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
    transaction, unless they open others; the rows of each are printed, long values cut, with --json
    those of the last, whole.
    """
    text = _statements(statements, file)
    from qwen_embed_plugins.postgres import connect

    with connect.explained(dsn), connect.opened(dsn, may_be_new=True) as connection:
        cursor = _run(connection, text)
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


def _run(connection: psycopg.Connection[Any], text: str) -> psycopg.Cursor[Any]:
    import psycopg

    from qwen_embed_plugins.errors import DatabaseError, without_secrets

    try:
        return connection.execute(text.encode())
    except psycopg.Error as error:
        if error.diag.message_primary is None:
            raise  # the connection broke: said as for every other command
        raise DatabaseError(without_secrets(_told(error, text))) from error


def _told(error: psycopg.Error, text: str) -> str:
    """All that the server says, unlike of statements of ours: these are the user's to mend."""
    said = error.diag
    lines = [said.message_primary or "", *(said.message_detail or "").splitlines()]
    if error.sqlstate in HELD:
        lines.append(
            "Where a vectorizer needs it: `qwen-embed pg suspend NAME` while columns are changed, "
            "or `qwen-embed pg drop NAME`"
        )
    elif said.message_hint:
        lines.append(said.message_hint)
    if said.statement_position and "\n" in text.strip():
        before = text[: int(said.statement_position) - 1]
        lines[0] += f" in line {before.count(chr(10)) + 1}"
    return ". ".join(line.rstrip(".") for line in lines)


def _last(cursor: psycopg.Cursor[Any]) -> list[dict[str, Any]]:
    while cursor.nextset():
        pass
    names = _names(cursor)
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()] if names else []


def _print(cursor: psycopg.Cursor[Any]) -> None:
    names = _names(cursor)
    if names:
        rows = [[_cell(value) for value in row] for row in cursor.fetchall()]
        print_table([Column(name) for name in names], rows, empty="no rows")
    elif cursor.statusmessage:
        click.echo(cursor.statusmessage)


def _names(cursor: psycopg.Cursor[Any]) -> list[str]:
    return [column.name for column in cursor.description or ()]


def _cell(value: object) -> str:
    said = "" if value is None else str(value)
    return said if len(said) <= LONGEST_CELL else f"{said[: LONGEST_CELL - 1]}…"
