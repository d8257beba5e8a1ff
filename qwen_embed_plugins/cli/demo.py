"""`qwen-embed demo`: the whole path in one go, without an account."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import click

from qwen_embed_plugins.cli import names, signals
from qwen_embed_plugins.cli.failures import Unfinished
from qwen_embed_plugins.cli.session import common_options, current

if TYPE_CHECKING:
    import psycopg

    from qwen_embed_plugins.cli.demo_space import Choice

TABLE = "CREATE TABLE notes (id text PRIMARY KEY, language text, body text)"
INSERT = "INSERT INTO notes (id, language, body) VALUES (%s, %s, %s)"
UPDATE = "UPDATE notes SET body = body || ' (again)' WHERE id = %s"
DELETE = "DELETE FROM notes WHERE id = %s"
ROWS_SHOWN = 3


@click.command(
    epilog="""
    \b
    Examples:
      qwen-embed demo
      qwen-embed demo --provider lexical
    """
)
@click.option(
    "--provider",
    metavar="NAME",
    shell_complete=names.providers,
    help="Embed with this provider, which may cost its price.",
)
@common_options
def demo(provider: str | None) -> None:
    """Watch a Postgres table embed itself, and search it.

    Starts an embedded Postgres in a temporary folder, writes short texts in three languages with
    plain SQL, runs a worker and searches. Uses Ollama if it has a Qwen3-Embedding model, else a
    stand-in that knows words but not meaning; a service of the network only with --provider.
    Leaves nothing behind.
    """
    from qwen_embed_plugins.cli.demo_server import temporary_postgres
    from qwen_embed_plugins.cli.demo_space import choose

    choice = choose(current().load_settings(), provider)
    click.echo(f"Embedding with {choice.reason}")
    with temporary_postgres() as address:
        _show(address, choice)
    click.echo("Postgres is stopped, its folder removed.")


def _show(address: str, choice: Choice) -> None:
    import psycopg

    texts: dict[str, list[dict[str, str]]] = json.loads(
        (files("qwen_embed_plugins") / "data" / "demo_texts.json").read_text("utf-8")
    )
    with psycopg.connect(address, autocommit=True) as connection:
        _say_versions(connection)
        _create(connection, choice)
        changes = _write(connection, texts["texts"])
    _work(address, choice, changes)
    _search(address, choice, [query["text"] for query in texts["queries"]])


def _say_versions(connection: psycopg.Connection[Any]) -> None:
    found = connection.execute("SHOW server_version").fetchone()
    click.echo(f"Postgres {found[0] if found else ''}, embedded, in a temporary folder")


def _create(connection: psycopg.Connection[Any], choice: Choice) -> None:
    from qwen_embed_plugins import postgres

    connection.execute(TABLE)
    click.echo(f"  {TABLE}")
    postgres.install(connection)
    space = choice.space
    postgres.create_vectorizer(
        connection,
        "notes",
        columns=["body"],
        model=space.model,
        dimensions=space.dimensions,
        backfill=False,  # the table is new: there is nothing to look for
    )
    click.echo("  SELECT qwen_embed.create_vectorizer('notes', columns => '{body}', ...)")
    click.echo(f"  -- vectors of {space}")


def _write(connection: psycopg.Connection[Any], rows: list[dict[str, str]]) -> int:
    """Write as an application that knows nothing of vectors; gives how many rows it touched."""
    with connection.cursor() as cursor:
        cursor.executemany(INSERT, [(row["id"], row["language"], row["text"]) for row in rows])
    connection.execute(UPDATE, (rows[1]["id"],))
    connection.execute(DELETE, (rows[-1]["id"],))
    click.echo(f"  INSERT {len(rows)}, UPDATE 1, DELETE 1")
    return len(rows)


def _work(address: str, choice: Choice, changes: int) -> None:
    from qwen_embed_plugins import postgres
    from qwen_embed_plugins.cli.pg_work import Tally, in_words
    from qwen_embed_plugins.cli.progress import metered

    with metered("Embedding", changes, quiet=current().quiet) as meter:
        tally = Tally(meter, changes)
        summary = signals.run(
            postgres.arun_worker(
                address,
                once=True,
                settings=choice.settings,
                batch_size=16,
                on_progress=tally,
            )
        )
        tally.finish()
    click.echo(f"Worker: {in_words(summary)}")
    for reason in summary.waiting.values():
        raise Unfinished(f"the rows have no vectors: {reason}")


def _search(address: str, choice: Choice, queries: list[str]) -> None:
    from qwen_embed_plugins import postgres
    from qwen_embed_plugins.cli.pg_search import print_hits
    from qwen_embed_plugins.embedder import Embedder

    with Embedder(choice.settings) as embedder:
        for query in queries:
            click.echo(f"\nSearch: {query}")
            hits = postgres.search(address, "notes", query, k=ROWS_SHOWN, embedder=embedder)
            print_hits(hits)
    click.echo()
