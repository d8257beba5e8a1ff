"""`qwen-embed plugins`: what is loaded, and what was left out and why."""

from __future__ import annotations

from dataclasses import asdict

import click

from qwen_embed_plugins.cli.output import json_option, print_json, print_table
from qwen_embed_plugins.cli.session import common_options


@click.command(epilog="Example: qwen-embed plugins --json")
@json_option
@common_options
def plugins(as_json: bool) -> None:
    """List plugins and what each provides.

    A plugin that fails to load is named with its error and left out; the others work.
    """
    from qwen_embed_plugins.plugins import load_plugins

    found = load_plugins().plugins
    if as_json:
        print_json([asdict(plugin) for plugin in found])
        return
    rows = [
        (
            plugin.name.removeprefix("qwen_embed_plugins."),
            f"{plugin.source} {plugin.version or ''}".strip(),
            f"left out: {plugin.error}"
            if plugin.error
            else ", ".join(plugin.provides) or "registers nothing",
        )
        for plugin in found
    ]
    print_table(["Plugin", "From", "Provides"], rows)
