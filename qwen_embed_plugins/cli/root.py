"""The top command."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from qwen_embed_plugins._version import __version__
from qwen_embed_plugins.cli import completion
from qwen_embed_plugins.cli.failures import PROGRAM
from qwen_embed_plugins.cli.lazy import Lazy, LazyGroup
from qwen_embed_plugins.cli.session import common_options, show_log

COMMANDS = {
    "embed": Lazy("embed:embed", "Turn texts into vectors."),
    "providers": Lazy("providers:providers", "List providers, their offers and terms."),
    "models": Lazy("models:models", "List models, or show what is known of one."),
    "route": Lazy("route:route", "Tell where a job would go, and what it would cost."),
    "verify": Lazy("verify:verify", "Examine every offer and compare its vectors."),
    "usage": Lazy("usage:usage", "Show what was used, and what is left."),
    "plugins": Lazy("plugins:plugins", "List plugins and what each provides."),
    "settings": Lazy("settings:settings", "Show each setting and where it came from."),
    "doctor": Lazy("doctor:doctor", "Look for what does not work, and say what to do."),
    "serve": Lazy("serve:serve", "Serve embeddings to OpenAI's clients."),
    "demo": Lazy("demo:demo", "Watch a Postgres table embed itself, and search it."),
    "completion": Lazy("completion:completion", "Print what a shell reads to complete all this."),
    "pg": Lazy("pg:pg", "Postgres tables that embed themselves."),
}


@click.group(
    cls=LazyGroup,
    lazy=COMMANDS,
    takes_plugins=True,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    epilog='Example: qwen-embed embed "What is the capital of China?" --dimensions 1024',
)
@common_options
@click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
@click.pass_context
def root(context: click.Context) -> None:
    """Qwen3-Embedding vectors from any provider, for programs and for Postgres tables.

    Exit codes: 0 done; 1 refused, or work remains; 2 settings or arguments are wrong.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def run(arguments: Sequence[str] | None = None) -> int:
    """Parse and run; errors are left to the caller."""
    if completion.VARIABLE in os.environ:
        completion.answer(root)
    for stream in (sys.stdout, sys.stderr):
        # A terminal without Unicode gets question marks, not a traceback.
        getattr(stream, "reconfigure", lambda **_: None)(errors="replace")
    show_log()
    given = list(sys.argv[1:] if arguments is None else arguments)
    with root.make_context(PROGRAM, given) as context:
        code = root.invoke(context)
    return code if isinstance(code, int) else 0
