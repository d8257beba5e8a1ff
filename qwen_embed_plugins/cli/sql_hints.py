"""Advice of the database, in the words of this command.

Functions in `sql/` tell people what to do in SQL, since any client may have called them. Whoever
typed `qwen-embed pg` is told the command instead. tests/test_sql_hints.py reads those files and
holds that nothing in them is left untranslated.
"""

from __future__ import annotations

import re

COMMANDS = {
    "create_vectorizer": "create",
    "redefine": "redefine",
    "drop_vectorizer": "drop",
    "pause": "pause",
    "resume": "resume",
    "suspend": "suspend",
    "enqueue": "backfill",
    "retry": "retry",
    "repair": "repair",
    "move": "move",
    "finish_move": "move",
    "cancel_move": "cancel",
    "drop_old": "move --drop-old",
    "grant_to": "grant",
    "revoke_from": "grant --revoke",
}
"""A function, and the command that calls it."""

OPTIONS = {
    "name": "--name",
    "columns": "--column",
    "template": "--template",
    "condition": "--condition",
    "model": "--model",
    "dimensions": "--dimensions",
    "storage": "--storage",
    "index_kind": "--index-kind",
    "chunk_tokens": "--chunk-tokens",
    "chunk_overlap": "--chunk-overlap",
    "target": "--target",
    "target_name": "--target-name",
    "drop_target": "--drop-target",
}
"""An argument of these functions, and the option for it."""

PHRASES = {
    "SELECT name FROM qwen_embed.vectorizer; lists them.": "`qwen-embed pg list` lists them.",
    "CASCADE; SELECT qwen_embed.": "CASCADE; then SELECT qwen_embed.",
    "the transaction that creates it: BEGIN; SELECT create_vectorizer(…); SELECT set_chunker(…); "
    "COMMIT;": "the command that creates it: `qwen-embed pg create TABLE --chunker …`",
    "Create it with chunk_tokens.": "Create it with --chunk-tokens.",
    "and chunk_tokens makes several": "and --chunk-tokens makes several",
    "chunk_overlap is given without chunk_tokens": "--chunk-overlap is given without "
    "--chunk-tokens",
    "chunk_overlap is ": "--chunk-overlap is ",
    "chunk_tokens is ": "--chunk-tokens is ",
    ", chunk_tokens ": ", --chunk-tokens ",
    "Leave target out": "Leave --target out",
    "leave target out": "leave --target out",
    "Leave index_kind out": "Leave --index-kind out",
    "another target_name, ": "another --target-name, ",
    "target_name is longer": "--target-name is longer",
}
"""What names an argument or a table in the middle of a sentence. Whole phrases, since a word alone
may be a column of the user's."""

_LITERAL = r"E?'(?:[^']|'')*'"
_VALUE = rf"(?:…|{_LITERAL}|ARRAY\[[^\]]*\]|\w+)"
_CALL = re.compile(rf"SELECT qwen_embed\.({'|'.join(COMMANDS)})\(((?:{_LITERAL}|[^'()])+)\);?")
_ARGUMENT = re.compile(rf"(?:(\w+) => )?({_VALUE})")
_NAMED = re.compile(rf"(?<![\w-])({'|'.join(OPTIONS)}) => ({_VALUE})")


def as_commands(message: str) -> str:
    """A message in which advice in SQL is advice for the command line.

    >>> as_commands("Give another name => …, or SELECT qwen_embed.drop_vectorizer('my docs');")
    "Give another --name …, or `qwen-embed pg drop 'my docs'`"
    """
    for said, meant in PHRASES.items():
        message = message.replace(said, meant)
    message = _CALL.sub(_command, message)
    return _NAMED.sub(lambda named: _option(named[1], named[2]), message)


def _command(call: re.Match[str]) -> str:
    words = ["qwen-embed pg", *COMMANDS[call[1]].split()]
    first, *others = _ARGUMENT.findall(call[2])
    words.insert(2, _plain(first[1]))  # what it is about goes before all options
    for argument, value in others:
        # The one argument that goes without its name is the kind of a role.
        words.append(_option(argument, value) if argument else f"--{_plain(value)}")
    return f"`{' '.join(words)}`"


def _option(argument: str, value: str) -> str:
    option = OPTIONS.get(argument, f"--{argument.replace('_', '-')}")
    if value == "true":
        return option
    if argument == "columns" and value.startswith("'{"):
        return f"--columns {_plain(value.replace('{', '').replace('}', ''))}"
    if value.startswith("ARRAY["):
        return " ".join(f"{option} {_plain(item)}" for item in re.findall(_LITERAL, value))
    return f"{option} {_plain(value)}"


def _plain(value: str) -> str:
    """A value as a shell reads it."""
    if not value.endswith("'"):
        return value
    import shlex

    text = value.removeprefix("E")[1:-1].replace("''", "'")
    return shlex.quote(text.replace("\\\\", "\\") if value.startswith("E") else text)
