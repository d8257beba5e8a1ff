"""`qwen-embed pg grant`: what other roles may do."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import click

from qwen_embed_plugins.cli.database import database_options, sql_option
from qwen_embed_plugins.cli.failures import Unfinished

if TYPE_CHECKING:
    from qwen_embed_plugins.postgres import RoleKind


@click.command(
    epilog="""
    \b
    Examples:
      qwen-embed pg grant web
      qwen-embed pg grant embedder --worker
      qwen-embed pg grant reports --app --only docs
    """
)
@click.argument("role")
@click.option("--app", "kind", flag_value="app", help="It searches and reads (the default).")
@click.option("--worker", "kind", flag_value="worker", help="It runs workers.")
@click.option(
    "--owner", "kind", flag_value="owner", help="It makes vectorizers of tables that it owns."
)
@click.option("--only", multiple=True, metavar="NAME", help="Only this vectorizer; repeat it.")
@click.option("--revoke", is_flag=True, help="Take back what was granted.")
@sql_option
@database_options
def grant(
    dsn: str | None,
    role: str,
    kind: str | None,
    only: tuple[str, ...],
    revoke: bool,
    as_sql: bool,
) -> None:
    """Give the role ROLE the least that it needs, on all vectorizers and on later ones.

    What this role may not give is listed with the statement and the role to run it as; the exit
    code is 1 then. A worker also needs BYPASSRLS, or to be a member of the tables' owners.
    """
    from qwen_embed_plugins import postgres

    chosen = cast("RoleKind", kind or "app")
    names = list(only) or None
    if as_sql:
        from qwen_embed_plugins.postgres import scripts

        write = scripts.revoke if revoke else scripts.grant
        click.echo(write(role, chosen, names=names), nl=False)
        return
    if revoke:
        postgres.revoke(dsn, role, chosen, names=names)
        click.echo(f"revoked from {role}: {chosen}")
        return
    missing = postgres.grant(dsn, role, chosen, names=names)
    click.echo(f"granted to {role}: {chosen}")
    for line in missing:
        click.echo(line)
    if missing:
        count = "1 right is" if len(missing) == 1 else f"{len(missing)} rights are"
        raise Unfinished(f"{count} missing: run the above, or this command, as the roles it names")
