"""Comparing rows with their vectors: `qwen-embed pg audit`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING

import click

from qwen_embed_plugins.cli import names
from qwen_embed_plugins.cli.database import (
    counted,
    database_options,
    key_text,
    vectorizer_argument,
)
from qwen_embed_plugins.cli.failures import Unfinished
from qwen_embed_plugins.cli.output import json_option, print_json
from qwen_embed_plugins.cli.progress import metered
from qwen_embed_plugins.cli.session import current

if TYPE_CHECKING:
    from qwen_embed_plugins.postgres import AuditReport

MEANINGS = {
    "missing": "without a vector",
    "stale": "with the vector of another text, or not all of its chunks",
    "orphan": "whose row is gone or has no text",
    "wrong_space": "with a vector of another model or length",
    "wrong_vector": "with a vector that is too long, too short or not of unit length",
    "doubted": "with a vector of that offer",
}


@click.command(
    epilog="""
    \b
    Examples:
      qwen-embed pg audit docs
      qwen-embed pg audit docs --repair
      qwen-embed pg audit docs --offer deepinfra --since 2026-11-20 --repair
    """
)
@vectorizer_argument
@click.option("--repair", is_flag=True, help="Have workers mend what is found.")
@click.option(
    "--offer",
    metavar="OFFER",
    shell_complete=names.providers,
    help="Look for what this offer, or all of a provider's, wrote; instead.",
)
@click.option(
    "--since",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S"]),
    metavar="DATE",
    help="With --offer: since when, in this machine's time.",
)
@json_option
@database_options
def audit(
    dsn: str | None,
    name: str,
    repair: bool,
    offer: str | None,
    since: datetime | None,
    as_json: bool,
) -> None:
    """Compare every row of NAME with its vector.

    Reads everything in portions, while writers and workers go on. Without --repair nothing is
    written. With it the keys go into the line, and a worker embeds or removes; with --offer the
    texts are embedded again although they did not change. The exit code is 1 if something was
    found and not repaired.
    """
    if since is not None and offer is None:
        raise click.UsageError("--since goes with --offer")
    from qwen_embed_plugins import postgres

    with metered("Auditing", None, quiet=current().quiet) as meter:
        report = postgres.audit(
            dsn,
            name,
            repair=repair,
            offer=offer,
            since=since.astimezone() if since else None,
            on_progress=meter.show,
        )
    if as_json:
        print_json({**asdict(report), "clean": report.clean})
    else:
        _say(report)
    if not report.clean and not repair:
        of_offer = f" --offer {offer}" if offer else ""
        from_then = f" --since {since:%Y-%m-%dT%H:%M:%S}" if since else ""
        how = f"qwen-embed pg audit {name}{of_offer}{from_then} --repair"
        raise Unfinished(f"{counted(sum(report.counts.values()), 'finding')}. Mend with: {how}")


def _say(report: AuditReport) -> None:
    for kind, count in report.counts.items():
        shown = ", ".join(key_text(f.key) for f in report.examples if f.kind == kind)
        more = ", …" if count > sum(f.kind == kind for f in report.examples) else ""
        keys = "key" if count == 1 else "keys"
        click.echo(f"{kind.replace('_', ' ')}: {count} {MEANINGS[kind]} ({keys} {shown}{more})")
    said = ["clean" if report.clean else f"{report.repaired} given to the workers"]
    if not report.clean and not report.repaired:
        said = []
    said.append(f"{counted(report.rows, 'row')} compared")
    if report.waiting:
        said.append(f"{report.waiting} on their way")
    if report.dead:
        said.append(f"{report.dead} refused for good (qwen-embed pg dead {report.name})")
    if report.walks:
        said.append(f"{counted(report.walks, 'walk')} not yet ended")
    click.echo("; ".join(said))
