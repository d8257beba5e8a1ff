"""`docs/sql.md`, from the comments in `sql/functions/`: what `\\df+` and `\\d+` show as well.

The files are read, not a server; a test compares what is read with what a server has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import NamedTuple

from docs.generators.markdown import table
from qwen_embed_plugins.postgres import _sql

HEAD = """\
# SQL reference

This page is made from the comments in the database itself (`make docs`); do not edit it. psql \
shows the same: `\\df+ qwen_embed.*`, `\\d+ qwen_embed.status`.

Everything is in the schema `qwen_embed`. Arguments may be given by name, \
`k => 5`, and those with a default may be left out. What is not on this page may change with any \
version. [Postgres, for owners of a table](postgres.md) says when to use what, and \
[which roles](postgres.md#roles) may.
"""

FUNCTIONS: Mapping[str, tuple[str, ...]] = {
    "Making and ending a vectorizer": (
        "create_vectorizer",
        "set_chunker",
        "redefine",
        "drop_vectorizer",
    ),
    "Searching": ("query_text", "search"),
    "Steering": (
        "pause",
        "resume",
        "suspend",
        "enqueue",
        "retry",
        "repair",
        "capture_by",
        "notify_workers",
    ),
    "Moving to another model or length": (
        "move",
        "move_waits_for",
        "finish_move",
        "cancel_move",
        "drop_old",
    ),
    "Roles": ("grant_to", "revoke_from"),
}
"""The public functions, by heading; all others are private."""

VIEWS = ("status", "progress", "workers", "dead_letters")

MADE = """\
## What a vectorizer makes

`create_vectorizer` of a table `articles` makes these beside it, unless `target => 'column'` puts \
the vectors into the table itself. Where the source has columns of these names, its key column \
`text` is `key_text` in the side table, and the embedded text is `embedded_text` in the view.

### articles_embedding

The side table: one row for each vector, or for each chunk of a long text.
"""

SIDE_TABLE: Mapping[str, str] = {
    "the key": "The columns of the source's key, by their names.",
    "chunk": "Which chunk of the row's text it is, from 0.",
    "text": "The text that was embedded.",
    "embedding": "Its vector, of the vectorizer's type and length.",
    "content_hash": "SHA-256 of the row's whole text.",
    "offer": "The offer that made the vector.",
    "embedded_at": "When it was stored.",
    "start_char": "Where the chunk begins in the row's text, in characters from 0.",
    "space": "Model and length of the vector.",
}

VIEW = """\
### articles_embedded

The view: all columns of the source, and `chunk`, `text`, `embedding`, `offer` and `embedded_at` \
of the side table. A row without a vector is not in it.
"""

_SIGNATURE = re.compile(
    r"^CREATE OR REPLACE FUNCTION qwen_embed\.(\w+)\((.*?)\)\s+RETURNS (.+?)\s+LANGUAGE ",
    re.M | re.S,
)
_COMMENT = re.compile(
    r"^COMMENT ON (?:FUNCTION|VIEW|COLUMN) qwen_embed\.([\w.]+)(?:\([^;]*?\))? IS\s+"
    r"('(?:[^']|'')*'(?:\s*\n\s*'(?:[^']|'')*')*);",
    re.M,
)


class Function(NamedTuple):
    """One function of the schema; its arguments one by one, with types and defaults."""

    name: str
    arguments: tuple[str, ...]
    returns: str


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for heading, names in FUNCTIONS.items():
        parts.append(f"## {heading}\n")
        for name in names:
            parts += _told(functions()[name])
    parts.append("## Views\n")
    for name in VIEWS:
        parts += [f"### {name}\n", comments()[name] + "\n"]
        parts += table(("Column", "What it says"), columns(name))
    parts += [MADE, *table(("Column", "What it holds"), _side_table()), VIEW]
    return "\n".join(parts)


def _told(function: Function) -> Iterator[str]:
    yield f"### {function.name}\n"
    yield "```text"
    yield f"{_call(function)} → {function.returns}"
    yield "```\n"
    yield comments()[function.name] + "\n"


def _call(function: Function) -> str:
    """On one line, or where that is long an argument a line."""
    line = f"{function.name}({', '.join(function.arguments)})"
    if len(line) <= 88:
        return line
    return f"{function.name}(\n    " + ",\n    ".join(function.arguments) + ")"


def columns(view: str) -> Iterator[tuple[str, str]]:
    """The columns of a view in the order of their comments, which is that of the view."""
    for name, said in comments().items():
        home, _, column = name.partition(".")
        if column and home == view:
            yield f"`{column}`", said


def _side_table() -> Iterator[tuple[str, str]]:
    for name, said in SIDE_TABLE.items():
        yield (name if " " in name else f"`{name}`"), said


@cache
def functions() -> Mapping[str, Function]:
    """Every function of the schema, by name."""
    found: dict[str, Function] = {}
    for name, arguments, returns in _SIGNATURE.findall(_text()):
        if name in found:
            raise ValueError(f"{name} has two signatures: the page knows functions by name")
        found[name] = Function(name, tuple(_apart(arguments)), _in_a_line(returns))
    return found


@cache
def comments() -> Mapping[str, str]:
    """What is said of each function, view and column, by name (`status.lag`)."""
    return {name: _said(literals) for name, literals in _COMMENT.findall(_text())}


def _text() -> str:
    return "\n".join(_sql.functions()).replace("@vector_schema@.", "")


def _apart(arguments: str) -> list[str]:
    return list(filter(None, map(_in_a_line, arguments.split(","))))


def _in_a_line(text: str) -> str:
    return " ".join(text.split())


def _said(literals: str) -> str:
    """A string of SQL, which goes on where only a line end lies between two literals."""
    return re.sub(r"'\s*\n\s*'", "", literals)[1:-1].replace("''", "'")
