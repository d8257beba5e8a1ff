"""`qwen-embed settings`: what is in force, and where it came from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from qwen_embed_plugins.cli.output import Column, json_option, print_json, print_pairs, print_table
from qwen_embed_plugins.cli.session import common_options, current

if TYPE_CHECKING:
    from qwen_embed_plugins.setting_list import Setting


@click.command(
    epilog="""
    \b
    Examples:
      qwen-embed settings --json
      qwen-embed settings spill_to_paid
    """
)
@click.argument("name", required=False)
@json_option
@common_options
def settings(name: str | None, as_json: bool) -> None:
    """Show each setting and where it came from, or what the setting NAME means.

    An argument wins over the environment (QWEN_EMBED_...), that over the file, that over the
    default. Keys are never shown.
    """
    from qwen_embed_plugins.settings import find_file

    session = current()
    if name is not None:
        _explain(name, as_json)
        return
    rows = session.load_settings().explain()
    file = find_file(session.settings_file, os.environ)
    if as_json:
        print_json(
            {"file": str(file) if file else None, "settings": [_fields(row) for row in rows]}
        )
        return
    click.echo(f"Settings file: {file or 'none'}")
    short = [(name, value, origin.partition(" ")[0]) for name, value, origin in rows]
    print_table([Column("Setting", long="fits"), "Value", Column("From", long="fits")], short)


def _explain(name: str, as_json: bool) -> None:
    """What the settings of this name mean, and their values in force. Where no values can be told,
    since one in the file is wrong, the meaning goes before the error."""
    from qwen_embed_plugins.errors import ConfigurationError
    from qwen_embed_plugins.setting_list import settings_called

    known = settings_called(name)
    try:
        rows = current().load_settings().explain()
    except ConfigurationError:
        _tell([(setting, []) for setting in known], as_json)
        raise
    _tell(
        [(setting, [row for row in rows if setting.is_meant_by(row[0])]) for setting in known],
        as_json,
    )


def _tell(told: Sequence[tuple[Setting, Sequence[tuple[str, str, str]]]], as_json: bool) -> None:
    if as_json:
        listed = [
            {**setting._asdict(), "in_force": [_fields(row) for row in values]}
            for setting, values in told
        ]
        print_json({"settings": listed})
        return
    for place, (setting, values) in enumerate(told):
        if place:
            click.echo()
        print_pairs(_pairs(setting, values))


def _pairs(
    setting: Setting, values: Sequence[tuple[str, str, str]]
) -> list[tuple[str, str | None]]:
    return [
        ("Setting", setting.name),
        ("Meaning", setting.meaning),
        ("May be", setting.expected),
        ("Default", setting.default),
        ("Variable", setting.variable),
        # One of any provider is told by its own name, `providers.mine.free`.
        *(
            ("Now" if name == setting.name else name, f"{value} (from {origin})")
            for name, value, origin in values
        ),
    ]


def _fields(row: tuple[str, str, str]) -> dict[str, str]:
    return dict(zip(("name", "value", "origin"), row, strict=True))
