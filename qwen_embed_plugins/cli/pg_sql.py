"""`qwen-embed pg sql`: statements of the user's own, for who has no psql, or an embedded server."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from qwen_embed_plugins.cli.database import database_options
from qwen_embed_plugins.cli.output import Column, json_option, print_json, print_table

if TYPE_CHECKING:
    import psycopg

LONGEST_CELL = 200
"""A vector would fill the screen; --json has all of it."""

AS_JSON_HAS_THEM = frozenset(
    {"bool", "int2", "int4", "int8", "float4", "float8", "json", "jsonb", "text", "varchar"}
)
"""Types whose values JSON can hold; those of all others are given as Postgres writes them."""


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
    transaction, unless they open others. The rows of each are printed, long values cut; with --json
    those of the last, whole.
    """
    text = _statements(statements, file)
    from qwen_embed_plugins.postgres import connect

    with connect.explained(dsn), connect.opened(dsn) as connection:
        connection.add_notice_handler(_say_notice)
        _read_as_text(connection, but=AS_JSON_HAS_THEM if as_json else frozenset())
        cursor = _run(connection, text)
        if as_json:
            print_json(_last(cursor))
        else:
            _print_all(cursor)
        _require_ended(connection)


def _statements(given: str | None, file: str | None) -> bytes:
    if (given is None) == (file is None):
        raise click.UsageError('give statements ("SELECT …"), or --file')
    where = "the argument" if file is None else f"--file: {file}"
    try:
        if file is not None:
            with click.open_file(file, encoding="utf-8-sig") as opened:
                given = str(opened.read())
        text = (given or "").encode()
    except UnicodeError:
        raise click.UsageError(f"{where} is no text in UTF-8") from None
    if b"\0" in text:
        # Postgres would take it for the end, and run what stands before it.
        raise click.UsageError(f"{where} holds a zero byte, which no SQL has")
    return text


def _read_as_text(connection: psycopg.Connection[Any], but: frozenset[str]) -> None:
    """Values as Postgres writes them: not all have a twin in Python, `infinity` for example."""
    from psycopg.types.string import TextLoader

    for known in [*connection.adapters.types]:
        if known.name not in but:
            connection.adapters.register_loader(known.oid, TextLoader)
            if known.array_oid:
                connection.adapters.register_loader(known.array_oid, TextLoader)


def _say_notice(said: psycopg.errors.Diagnostic) -> None:
    click.echo(f"{(said.severity or 'notice').lower()}: {said.message_primary}", err=True)


def _run(connection: psycopg.Connection[Any], text: bytes) -> psycopg.Cursor[Any]:
    import psycopg

    from qwen_embed_plugins.errors import without_secrets

    try:
        return connection.execute(text)
    except psycopg.Error as error:
        said = error.diag.message_primary
        if said is None and isinstance(error, psycopg.OperationalError):
            raise  # the connection broke: said as for every other command
        if said is None and "COPY" in str(error):
            connection.close()  # it waits for data
            raise click.ClickException(
                "COPY … FROM STDIN and TO STDOUT are psql's matter; INSERT and SELECT do without. "
                "Look whether what stood before it was done"
            ) from error
        raise click.ClickException(without_secrets(_told(error, text))) from error


def _told(error: psycopg.Error, text: bytes) -> str:
    """All that the server says, in its own words: unlike statements of ours, these are the user's
    to mend."""
    said = error.diag
    lines = [said.message_primary or str(error), *(said.message_detail or "").splitlines()]
    needed = any("qwen_embed." in line or "_embedded " in line for line in lines)
    if needed and error.sqlstate in ("2BP01", "0A000"):
        lines.append(
            "A vectorizer needs it: `qwen-embed pg suspend NAME` while columns are changed, or "
            "`qwen-embed pg drop NAME`"
        )
    elif said.message_hint:
        lines.append(said.message_hint)
    if said.statement_position and b"\n" in text.strip():
        before = text.decode()[: int(said.statement_position) - 1]
        lines[0] += f" in line {before.count(chr(10)) + 1}"
    return ". ".join(line.rstrip(".") for line in lines)


def _require_ended(connection: psycopg.Connection[Any]) -> None:
    from psycopg.pq import TransactionStatus

    if connection.info.transaction_status != TransactionStatus.IDLE:
        connection.rollback()
        raise click.ClickException("the transaction that was begun has no COMMIT: rolled back")


def _last(cursor: psycopg.Cursor[Any]) -> list[dict[str, Any]]:
    while cursor.nextset():
        pass
    names: list[str] = []
    for name in _names(cursor):
        names.append(name if name not in names else f"{name}_{len(names) + 1}")
    rows = cursor.fetchall() if names else []
    return [dict(zip(names, map(_plain, row), strict=True)) for row in rows]


def _plain(value: object) -> object:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _print_all(cursor: psycopg.Cursor[Any]) -> None:
    _print(cursor)
    while cursor.nextset():
        _print(cursor)


def _print(cursor: psycopg.Cursor[Any]) -> None:
    names = _names(cursor)
    if names:
        rows = [[_cell(value) for value in row] for row in cursor.fetchall()]
        print_table([Column(name) for name in names], rows, empty="no rows")
    elif cursor.statusmessage:
        click.echo(cursor.statusmessage)


def _names(cursor: psycopg.Cursor[Any]) -> list[str]:
    return [column.name for column in cursor.description or ()]


def _cell(value: str | None) -> str:
    said = value or ""
    return said if len(said) <= LONGEST_CELL else f"{said[: LONGEST_CELL - 1]}…"
