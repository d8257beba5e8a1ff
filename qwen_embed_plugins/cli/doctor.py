"""`qwen-embed doctor`: what works here, what does not, and what to do about it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import groupby

import click

from qwen_embed_plugins.cli.database import counted, database_options
from qwen_embed_plugins.cli.diagnosis import (
    NOBODY,
    Diagnosis,
    of_cache,
    of_plugins,
    of_python,
    of_settings,
    of_state,
)
from qwen_embed_plugins.cli.failures import REFUSED
from qwen_embed_plugins.cli.output import (
    Block,
    Column,
    json_option,
    print_blocks,
    print_json,
)
from qwen_embed_plugins.cli.session import current

MARKS = {"ok": "ok", "note": "note", "wrong": "WRONG"}


@click.command(epilog="Example: qwen-embed doctor --dsn postgresql://localhost/shop")
@click.option("--offline", is_flag=True, help="Send no text to any provider.")
@json_option
@database_options
@click.pass_context
def doctor(context: click.Context, dsn: str | None, offline: bool, as_json: bool) -> int:
    """Look at everything that has to work, and say what to do about what does not.

    Python and packages, settings, each provider (by one short text, which may cost a millionth of a
    cent), this machine's memory, the state file, and the database, if one is named. Keys are never
    shown. Exit code 1 if something that was configured does not work.
    """
    found = list(_diagnoses(dsn, ask=not offline))
    wrong = [one for one in found if one.grade == "wrong"]
    if as_json:
        print_json({"works": not wrong, "findings": [one.as_dict() for one in found]})
    else:
        _print(found)
        click.echo(_verdict(len(wrong), nobody_serves=any(one.said == NOBODY for one in found)))
    return REFUSED if wrong else 0


def _diagnoses(dsn: str | None, *, ask: bool) -> Iterator[Diagnosis]:
    from qwen_embed_plugins.catalogue import build_catalogue
    from qwen_embed_plugins.cli.diagnosis_database import of_database
    from qwen_embed_plugins.cli.diagnosis_services import of_services
    from qwen_embed_plugins.errors import ConfigurationError
    from qwen_embed_plugins.plugins import load_plugins
    from qwen_embed_plugins.settings import find_file
    from qwen_embed_plugins.setup import space_of

    yield from of_python()
    registry = load_plugins()
    yield from of_plugins(registry)
    session = current()
    try:
        settings = session.load_settings()
        yield from of_settings(settings, find_file(session.settings_file, os.environ))
        catalogue = build_catalogue(settings, registry)
        space_of(settings, catalogue)
        yield from of_state(settings)
        yield from of_cache(settings)
    except ConfigurationError as error:
        yield Diagnosis("settings", "wrong", str(error))
    else:
        yield from of_services(settings, registry, catalogue, ask=ask)
    yield from of_database(dsn)


def _print(found: Sequence[Diagnosis]) -> None:
    columns = [Column("", long="fits"), Column("")]
    blocks = [
        Block(area.capitalize(), [(MARKS[one.grade], _line(one)) for one in group])
        for area, group in groupby(found, key=lambda one: one.area)
    ]
    print_blocks(columns, blocks)


def _line(one: Diagnosis) -> str:
    return f"{one.said}: {one.remedy}" if one.remedy else one.said


def _verdict(wrong: int, *, nobody_serves: bool) -> str:
    if wrong:
        verb = "is configured does" if wrong == 1 else "are configured do"
        return f"{counted(wrong, 'thing')} that {verb} not work."
    rest = ", but nobody gives vectors yet." if nobody_serves else "."
    return f"What is configured works{rest}"
