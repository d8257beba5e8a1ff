"""What functions in sql/ advise in SQL, the command line advises as commands that it has."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from qwen_embed_plugins.cli.failures import Unfinished, describe
from qwen_embed_plugins.cli.root import root
from qwen_embed_plugins.cli.session import _Format
from qwen_embed_plugins.cli.sql_hints import COMMANDS, as_commands
from qwen_embed_plugins.errors import DatabaseError
from tests.test_commands import contexts

SQL = Path(__file__).parent.parent / "sql"
PUBLIC = re.findall(
    r"`(\w+)`", (SQL / "README.md").read_text("utf-8").split("Public are")[1].split("views")[0]
)
PG = {context.command_path: context.command for context in contexts(root)}
OPTIONS = {
    option
    for path, command in PG.items()
    if path.startswith("qwen-embed pg ")
    for parameter in command.params
    for option in parameter.opts
}
ADVICE = re.compile(
    rf"SELECT (qwen_embed\.)?({'|'.join(PUBLIC)})\(| => |SELECT name FROM qwen_embed\."
    r"|\b(target_name|index_kind|chunk_tokens|chunk_overlap)\b.* .*"
)


def literals(code: str) -> Iterator[str]:
    """The strings of a script, those that stand side by side joined; not those of comments."""
    joined, end, comments = "", 0, False
    for token in re.finditer(r"--[^\n]*|'(?:[^']|'')*'", code):
        if token[0].startswith("--"):
            continue
        between = code[end : token.start()]
        if between.strip():
            if joined and not comments:
                yield joined
            joined, comments = "", bool(re.search(r"COMMENT ON [^;]* IS\s*$", between))
        joined += token[0][1:-1].replace("''", "'")
        end = token.end()


def filled(template: str) -> str:
    """As `format` fills it."""
    named = re.sub(
        r"%(\d\$)?L", "'my docs'", template.replace("dimensions => %s", "dimensions => 64")
    )
    return re.sub(r"%(\d\$)?[sI]", "docs", named).replace("%%", "%")


ALL = [text for path in sorted(SQL.rglob("*.sql")) for text in literals(path.read_text("utf-8"))]
FOUND = sorted({filled(text) for text in ALL if ADVICE.search(text)})


def test_there_is_advice_to_translate() -> None:
    calls = {name for text in FOUND for name in re.findall(r"SELECT qwen_embed\.(\w+)\(", text)}
    assert {"move", "finish_move", "drop_vectorizer", "repair", "grant_to"} <= calls
    assert len(FOUND) > 25


@pytest.mark.parametrize("advice", FOUND)
def test_all_advice_is_told_as_commands(advice: str) -> None:
    said = as_commands(advice)
    left = re.search(r"qwen_embed\.| => |SELECT|\w+_(name|kind|tokens|overlap)\b", said)
    assert left is None, said
    assert set(re.findall(r"(?<!\S)--[a-z-]+", said)) <= OPTIONS, said
    for command in re.findall(r"`(qwen-embed pg [^`]*)`", said):
        parse(command)


def parse(line: str) -> None:
    """Fails for a command or an option that does not exist, and for too many arguments."""
    program, group, name, *arguments = shlex.split(line)
    command = PG[f"{program} {group} {name}"]
    context = click.Context(command, info_name=name)
    _, left, _ = command.make_parser(context).parse_args(list(arguments))
    assert left == [], line


@pytest.mark.parametrize("function", COMMANDS)
def test_each_translation_is_of_a_public_function_and_a_command(function: str) -> None:
    assert function in PUBLIC
    parse(as_commands(f"SELECT qwen_embed.{function}('docs');").strip("`"))


@pytest.mark.parametrize(
    ("in_sql", "as_typed"),
    [
        ("SELECT qwen_embed.drop_vectorizer('it''s');", """`qwen-embed pg drop 'it'"'"'s'`"""),
        (r"SELECT qwen_embed.pause(E'a\\b c');", r"`qwen-embed pg pause 'a\b c'`"),
        ("SELECT qwen_embed.resume('a (b);');", "`qwen-embed pg resume 'a (b);'`"),
        (
            "SELECT qwen_embed.move('docs', model => 'bge-m3', dimensions => 1024); or wait",
            "`qwen-embed pg move docs --model bge-m3 --dimensions 1024` or wait",
        ),
        (
            "As anna: SELECT qwen_embed.grant_to('bob', 'owner');",
            "As anna: `qwen-embed pg grant bob --owner`",
        ),
        (
            "DROP TABLE x CASCADE; SELECT qwen_embed.repair('docs');",
            "DROP TABLE x CASCADE; then `qwen-embed pg repair docs`",
        ),
        ("For example columns => ARRAY['a', 'b c'].", "For example --column a --column 'b c'."),
        ("table docs has no column chunk_tokens. Did you mean chunk_token?", None),
        ("permission denied for function move. SELECT 1; x => 2", None),
    ],
)
def test_how_it_is_told(in_sql: str, as_typed: str | None) -> None:
    assert as_commands(in_sql) == (as_typed or in_sql)


def test_errors_of_the_database_alone_are_translated() -> None:
    hint = "SELECT qwen_embed.repair('docs');"
    assert describe(DatabaseError(hint)) == "`qwen-embed pg repair docs`"
    assert describe(Unfinished(f"work remains: {hint}")).endswith("`qwen-embed pg repair docs`")
    assert describe(click.UsageError(hint)) == hint


def test_lines_of_a_log_for_people_are_translated() -> None:
    said = {"msg": "work waits", "reason": "SELECT qwen_embed.pause('d');"}
    worker = {"name": "qwen_embed_plugins.postgres.worker", "levelno": logging.INFO}
    record = logging.makeLogRecord({**said, **worker})
    assert _Format().format(record) == "work waits, reason: `qwen-embed pg pause d`"
    # What a provider says is not the database's advice.
    others = logging.makeLogRecord(
        {**worker, "msg": "name => 5", "name": "qwen_embed_plugins.call"}
    )
    assert "name => 5" in _Format().format(others)
