"""`qwen-embed completion`, and the answers that a shell asks for when Tab is pressed."""

from __future__ import annotations

import os

import click

from qwen_embed_plugins.cli.failures import PROGRAM
from qwen_embed_plugins.cli.session import common_options

VARIABLE = "_QWEN_EMBED_COMPLETE"
"""What a shell's script sets: click's own name for this program."""


@click.command(
    epilog="""
    \b
    Examples:
      eval "$(qwen-embed completion bash)"    # in ~/.bashrc
      eval "$(qwen-embed completion zsh)"     # in ~/.zshrc, after compinit
      qwen-embed completion fish > ~/.config/fish/completions/qwen-embed.fish
    """
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@common_options
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what SHELL reads to complete commands, options and names.

    Names of vectorizers come from the database, if it answers within a second.
    """
    from click import shell_completion as shells

    kinds = {"bash": shells.BashComplete, "zsh": shells.ZshComplete, "fish": shells.FishComplete}
    click.echo(kinds[shell](context.find_root().command, {}, PROGRAM, VARIABLE).source())


def answer(root: click.Group) -> None:
    """What the shell asked for; exits. A command line that is being typed may be wrong in any way,
    and a word about it would land in that line."""
    if os.environ[VARIABLE].endswith("_complete"):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
    root.main(prog_name=PROGRAM)
