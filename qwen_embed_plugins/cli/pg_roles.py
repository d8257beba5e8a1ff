"""`qwen-embed pg grant`: what other roles may do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from qwen_embed_plugins.cli.database import (
    database_options,
    only_option,
    sql_option,
)
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
      qwen-embed pg grant team --worker --owner
      qwen-embed pg grant web --revoke
    """
)
@click.argument("role")
@click.option("--app", is_flag=True, help="It searches and reads (the default).")
@click.option("--worker", is_flag=True, help="It runs workers.")
@click.option("--owner", is_flag=True, help="It makes vectorizers of tables that it owns.")
@only_option
@click.option(
    "--revoke", is_flag=True, help="Take back what was granted: of the kinds named, else all of it."
)
@sql_option
@database_options
def grant(
    dsn: str | None,
    role: str,
    app: bool,
    worker: bool,
    owner: bool,
    only: tuple[str, ...],
    revoke: bool,
    as_sql: bool,
) -> None:
    """Give the role ROLE the least that it needs, on all vectorizers and on later ones.

    What this role may not give is listed with the statement and the role to run it as; the exit
    code is 1 then. A worker also needs BYPASSRLS, or to be a member of the tables' owners.
    """
    from qwen_embed_plugins import postgres

    named: dict[RoleKind, bool] = {"app": app, "worker": worker, "owner": owner}
    kinds = [kind for kind, wanted in named.items() if wanted]
    if not kinds:
        kinds = list(named) if revoke else ["app"]
    names = list(only) or None
    if as_sql:
        from qwen_embed_plugins.postgres import scripts

        write = scripts.revoke if revoke else scripts.grant
        click.echo("".join(write(role, kind, names=names) for kind in kinds), nl=False)
        return
    if revoke:
        for kind in kinds:
            postgres.revoke(dsn, role, kind, names=names)
        click.echo(f"revoked from {role}: {', '.join(kinds)}")
        return
    given = [postgres.grant(dsn, role, kind, names=names) for kind in kinds]
    click.echo(f"granted to {role}: {', '.join(kinds)}")
    # One right may be missing for several vectorizers, or for two kinds of role.
    missing = list(dict.fromkeys(line for lines in given for line in lines))
    for line in missing:
        click.echo(line)
    if missing:
        count = "1 right is" if len(missing) == 1 else f"{len(missing)} rights are"
        raise Unfinished(f"{count} missing: run the above, or this command, as the roles it names")
