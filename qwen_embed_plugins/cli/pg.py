"""`qwen-embed pg`: everything that concerns a database."""

from __future__ import annotations

import click

from qwen_embed_plugins.cli.lazy import Lazy, LazyGroup
from qwen_embed_plugins.cli.session import common_options

COMMANDS = {
    "install": Lazy("pg_schema:install", "Install into a database, or upgrade there."),
    "create": Lazy("pg_schema:create", "Make the rows of a table embed themselves."),
    "list": Lazy("pg_status:list_", "List vectorizers and what they were created with."),
    "status": Lazy("pg_status:status", "Show what waits, what failed and why."),
    "worker": Lazy("pg_work:worker", "Embed what changed, once or as a service."),
    "search": Lazy("pg_search:search", "Find the rows nearest to a text."),
    "sql": Lazy("pg_sql:sql", "Run SQL of your own, where there is no psql."),
    "index": Lazy("pg_index:index", "Build the index of a vectorizer and measure it."),
    "backfill": Lazy("pg_jobs:backfill", "Have every row looked at; tells first what it costs."),
    "move": Lazy("pg_jobs:move", "Move to another model or length while the old one serves."),
    "cancel": Lazy("pg_jobs:cancel", "Give up a move."),
    "audit": Lazy("pg_audit:audit", "Compare every row with its vector."),
    "dead": Lazy("pg_status:dead", "List rows whose text was refused for good."),
    "retry": Lazy("pg_work:retry", "Have the dead rows tried again."),
    "pause": Lazy("pg_work:pause", "Stop the spending of a vectorizer."),
    "resume": Lazy("pg_work:resume", "Let a paused or blocked vectorizer go on."),
    "suspend": Lazy("pg_changes:suspend", "Let go of a table's columns, to change them."),
    "redefine": Lazy("pg_changes:redefine", "Change what the text of a row is."),
    "repair": Lazy("pg_changes:repair", "Put back triggers that were removed."),
    "grant": Lazy("pg_roles:grant", "Let another role search, work, or make vectorizers."),
    "drop": Lazy("pg_schema:drop", "End a vectorizer."),
    "uninstall": Lazy("pg_schema:uninstall", "Remove the schema qwen_embed."),
}


@click.group(
    cls=LazyGroup,
    lazy=COMMANDS,
    invoke_without_command=True,
    epilog="""
    \b
    Example:
      export QWEN_EMBED_DSN=postgresql://app@localhost/app
      qwen-embed pg install
      qwen-embed pg create docs --column title --column body
      qwen-embed pg worker --once
      qwen-embed pg search docs "how to bake bread"
    """,
)
@common_options
@click.pass_context
def pg(context: click.Context) -> None:
    """Postgres tables that embed themselves.

    The database is --dsn, else QWEN_EMBED_DSN, DATABASE_URL, or libpq's variables (PGHOST and so
    on). embedded:DIR starts the embedded server with its data in DIR.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
