"""The fenced blocks of a document, for tests that run what the documents show."""

from __future__ import annotations

import re
from typing import NamedTuple

_PARTS = re.compile(
    r"^## (?P<heading>[^\n]+)$"
    r"|(?:`(?P<file>[\w.-]+)`:\n\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.M | re.S,
)


class Block(NamedTuple):
    """A fenced block, the heading that it stands under, and the file that the line before it
    names ("`setup.py`:"), if it does."""

    heading: str
    language: str
    text: str
    file: str | None = None


class Command(NamedTuple):
    """A command, and what the document shows of its output; "..." stands for lines left out."""

    line: str
    output: list[str]

    def printed(self, output: str) -> bool:
        """Whether such an output is what is shown; only how long something took may differ."""
        rest = iter([_timeless(line) for line in output.splitlines()])
        shown = [_timeless(line) for line in self.output if line != "..."]
        return all(line in rest for line in shown) and ("..." in self.output or not [*rest])


def commands_of(block: Block) -> list[Command]:
    """The commands of a block. `sh` is for pasting: commands and comments, nothing else. `console`
    has a prompt before each command, and shows output."""
    lines = block.text.splitlines()
    found: list[Command] = []
    if block.language == "sh":
        assert not [line for line in lines if line.startswith("$")], "what is pasted has no prompt"
        return [Command(line, []) for line in lines if line and not line.startswith("#")]
    assert block.language == "console"
    for line in lines:
        if line.startswith("$ "):
            found.append(Command(line.removeprefix("$ "), []))
        else:
            assert found, "output without a command"
            found[-1].output.append(line)
    assert any(command.output for command in found), "commands alone: make it `sh`"
    return found


def blocks_of(document: str) -> list[Block]:
    """Every fenced block, in order."""
    heading = ""
    found = []
    for match in _PARTS.finditer(document):
        if match["heading"]:
            heading = match["heading"]
        else:
            found.append(Block(heading, match["language"], match["text"], match["file"]))
    assert len(found) * 2 == len(re.findall(r"^ *```", document, re.M)), "a fence was overlooked"
    return found


def _timeless(line: str) -> str:
    return re.sub(r" in [\d.]+s$", "", line).rstrip()
