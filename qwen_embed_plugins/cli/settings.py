"""`qwen-embed settings`: what is in force, and where it came from."""

from __future__ import annotations

import os

import click

from qwen_embed_plugins.cli.output import Column, json_option, print_json, print_table
from qwen_embed_plugins.cli.session import common_options, current


@click.command(epilog="Example: qwen-embed settings --json")
@json_option
@common_options
def settings(as_json: bool) -> None:
    """Show each setting and where it came from.

    An argument wins over the environment (QWEN_EMBED_...), that over the file, that over the
    default. Keys are never shown.
    """
    from qwen_embed_plugins.settings import find_file

    session = current()
    rows = session.load_settings().explain()
    file = find_file(session.settings_file, os.environ)
    if as_json:
        listed = [{"name": name, "value": value, "origin": origin} for name, value, origin in rows]
        print_json({"file": str(file) if file else None, "settings": listed})
        return
    click.echo(f"Settings file: {file or 'none'}")
    short = [(name, value, origin.partition(" ")[0]) for name, value, origin in rows]
    print_table([Column("Setting", long="fits"), "Value", Column("From", long="fits")], short)
