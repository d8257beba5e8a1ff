"""What the commands of `qwen-embed pg` share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, TypeVar

import click

from qwen_embed_plugins.cli import names
from qwen_embed_plugins.cli.session import common_options

Command = TypeVar("Command", bound=Callable[..., Any])


def database_options(command: Command) -> Command:
    """`--dsn`, and the options of every command."""
    option = click.option(
        "--dsn",
        metavar="ADDRESS",
        help="Database: a libpq address, or embedded:DIR. Default: QWEN_EMBED_DSN and so on.",
    )
    return option(common_options(command))


vectorizer_argument = click.argument("name", shell_complete=names.vectorizers)
any_vectorizer_argument = click.argument("name", required=False, shell_complete=names.vectorizers)
only_option = click.option(
    "--only",
    multiple=True,
    metavar="NAME",
    shell_complete=names.vectorizers,
    help="Only this vectorizer; repeat it.",
)

sql_option = click.option(
    "--sql", "as_sql", is_flag=True, help="Print the SQL instead of running it."
)


def text_options(command: Command) -> Command:
    """What the text of a row is, and which rows have one."""
    options = (
        click.option(
            "--column",
            multiple=True,
            metavar="NAME",
            help="A column, written without quotes; repeat it.",
        ),
        click.option("--columns", metavar="A,B", help="The same, with commas between."),
        click.option("--template", metavar="TEXT", help="The text of a row, columns in braces."),
        click.option("--condition", metavar="SQL", help="Only rows for which this is true."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def columns_named(
    column: tuple[str, ...], columns: str | None, template: str | None
) -> list[str] | None:
    """The columns of `--column` and `--columns`, or None beside a template."""
    named = [*column, *(part.strip() for part in (columns or "").split(",") if part.strip())]
    if bool(named) == bool(template):
        raise click.UsageError("give --column (or --columns), or --template")
    return named or None


def do_or_show(
    operation: str, dsn: str | None, name: str, *, as_sql: bool, said: str, **arguments: Any
) -> None:
    """Run an operation of `postgres` on a vectorizer and say that it was done; or print its SQL."""
    if as_sql:
        from qwen_embed_plugins.postgres import scripts

        click.echo(getattr(scripts, operation)(name, **arguments), nl=False)
        return
    from qwen_embed_plugins import postgres

    getattr(postgres, operation)(dsn, name, **arguments)
    click.echo(said)


def key_text(key: Mapping[str, Any]) -> str:
    """A row's key in a table: its value, or the names and values of a composite one."""
    if len(key) == 1:
        return str(next(iter(key.values())))
    return ", ".join(f"{column}={value}" for column, value in key.items())


def age_text(age: timedelta | None) -> str:
    """How long something waits, in its largest unit.

    >>> age_text(timedelta(minutes=3, seconds=20)), age_text(None)
    ('3 min', '')
    """
    if age is None:
        return ""
    seconds = max(0.0, age.total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def counted(count: int, singular: str) -> str:
    """A count with its noun.

    >>> counted(1, "row"), counted(2, "row")
    ('1 row', '2 rows')
    """
    return f"{count} {singular}" if count == 1 else f"{count} {singular}s"


def size_text(size: int) -> str:
    """Bytes in their largest binary unit, as Postgres' own pg_size_pretty has them.

    >>> size_text(16_900_000), size_text(8192)
    ('16.1 MB', '8 kB')
    """
    for power, unit in ((30, "GB"), (20, "MB"), (10, "kB")):
        if size >= 1 << power:
            return f"{size / (1 << power):.3g} {unit}"
    return f"{size} bytes"
