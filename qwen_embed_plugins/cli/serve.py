"""`qwen-embed serve`: embeddings for whatever speaks to OpenAI's API."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from qwen_embed_plugins.cli.database import counted
from qwen_embed_plugins.cli.session import (
    common_options,
    current,
    embedding_options,
    joined,
    log_as,
    log_format_option,
)

if TYPE_CHECKING:
    from qwen_embed_plugins.server import Counts


@click.command(
    epilog="""
    \b
    Examples:
      qwen-embed serve --dimensions 1024
      qwen-embed serve --host 0.0.0.0 --token-env TEAM_TOKEN
    """
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="HOST",
    help="Where to listen; other than this machine only with a token.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8484,
    show_default=True,
    metavar="N",
    help="Port; 0 is a free one.",
)
@click.option(
    "--token-env",
    metavar="NAME",
    help="Variable that holds the token that clients send. Default: QWEN_EMBED_SERVER_TOKEN.",
)
@click.option(
    "--max-body-megabytes",
    type=click.IntRange(1, 1000),
    default=8,
    show_default=True,
    metavar="N",
    help="A larger request is refused.",
)
@click.option(
    "--max-requests",
    type=click.IntRange(min=1),
    default=512,
    show_default=True,
    metavar="N",
    help="Requests at a time, waiting ones included; more are told to try again.",
)
@log_format_option
@embedding_options
@common_options
def serve(
    host: str,
    port: int,
    token_env: str | None,
    max_body_megabytes: int,
    max_requests: int,
    log_format: str,
    model: str | None,
    dimensions: int | None,
    use: tuple[str, ...],
) -> None:
    """Serve embeddings over HTTP, as OpenAI's clients ask for them.

    It runs until SIGTERM or Ctrl-C, which lets requests end within seconds (a second one aborts).
    Without a token only programs of this machine are answered.
    """
    log_as(log_format)
    settings = current().load_settings(model=model, dimensions=dimensions, use=joined(use))
    from qwen_embed_plugins import server

    counts = server.run_server(
        settings,
        host=host,
        port=port,
        token=server.token_from(settings.environ, token_env),
        limits=server.Limits(max_body_megabytes * 1_000_000, max_requests),
    )
    click.echo(in_words(counts))


def in_words(counts: Counts) -> str:
    """What a server did, on one line."""
    ends = ((counts.answered, "answered"), (counts.refused, "refused"), (counts.gone, "gone"))
    said = ", ".join(f"{count} {what}" for count, what in ends if count) or "nothing was asked"
    embedded = f"{counted(counts.texts, 'text')}, {counted(counts.tokens, 'token')}"
    return f"{said}; {embedded}, {counts.cost:.4f} USD ({counts.seconds:.1f} s)"
