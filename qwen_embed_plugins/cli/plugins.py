"""`qwen-embed plugins`: what is loaded, and what was left out and why."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from qwen_embed_plugins.cli.output import Column, json_option, print_json, print_table
from qwen_embed_plugins.cli.session import common_options

if TYPE_CHECKING:
    from qwen_embed_plugins.plugins import PluginInfo


@click.command(epilog="Example: qwen-embed plugins --json")
@json_option
@common_options
def plugins(as_json: bool) -> None:
    """List plugins and what each provides.

    Those without a package's name are built in. A plugin that fails to load is named with its
    error and left out; the others work.
    """
    from qwen_embed_plugins.plugins import load_plugins

    found = load_plugins().plugins
    if as_json:
        print_json([asdict(plugin) for plugin in found])
        return
    rows = [
        (plugin.name.removeprefix("qwen_embed_plugins."), _provides(plugin)) for plugin in found
    ]
    # Two columns, so that no name has to be broken in 60.
    print_table([Column("Plugin", long="fits"), "Provides"], rows)


def _provides(plugin: PluginInfo) -> str:
    """What it brings, or why it is left out, after the package that it comes from."""
    package = "" if plugin.source == "built-in" else f"{plugin.source} {plugin.version or ''}"
    said = f"left out: {plugin.error}" if plugin.error else ", ".join(plugin.provides)
    return ": ".join(filter(None, (package.strip(), said or "registers nothing")))
