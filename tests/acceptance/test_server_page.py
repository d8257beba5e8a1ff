"""`docs/server.md` does what it says: its commands and programs are run, its tables are whole."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from qwen_embed_plugins.cli.serve import serve
from qwen_embed_plugins.server import asked
from qwen_embed_plugins.testing import SimulatedServer
from tests.documents import blocks_of

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "server.md").read_text("utf-8")
BLOCKS = blocks_of(PAGE)
PLACE = "http://127.0.0.1:8484"

if sys.platform == "win32":
    pytest.skip("Windows sends no SIGTERM to one process", allow_module_level=True)


def under(heading: str, language: str) -> list[str]:
    found = [
        block.text for block in BLOCKS if (block.heading, block.language) == (heading, language)
    ]
    assert found, f"the page has no {language} block under {heading!r}"
    return found


def test_every_block_is_known_here() -> None:
    known = {("", "console"), ("", "python"), ("Who may ask", "console")}
    assert {(block.heading, block.language) for block in BLOCKS} == known


def begun(run: Any, arguments: list[str], **variables: str) -> tuple[Any, str, str]:
    """A server as the page starts it, on a free port; gives its first line and its place."""
    command = run.start(*arguments, "--port", "0", stderr=subprocess.PIPE, env=variables)
    line = command.stderr.readline().decode().strip()
    found = re.search(r"http://[^/]*:(\d+)", line)
    assert found, line + command.stderr.read().decode()
    return command, line, f"http://127.0.0.1:{found[1]}"


def end(command: Any) -> None:
    command.terminate()
    command.communicate(timeout=30)
    assert command.returncode == 0


def test_the_first_minutes(run: Any, server: SimulatedServer) -> None:
    first, curl = under("", "console")
    _, start, shown = first.splitlines()
    command, line, place = begun(run, shlex.split(start)[2:], OLLAMA_HOST=server.url)
    try:
        assert line.replace(place, PLACE) == shown
        address, *options = shlex.split(curl.replace(PLACE, place))[2:]
        assert options[::2] == ["-H", "-d"]
        header, body = options[1::2]
        answer = httpx.post(
            address, content=body, headers=dict([header.split(": ")]), trust_env=False
        )
        assert len(answer.json()["data"][0]["embedding"]) == 1024
        [code] = under("", "python")
        done = subprocess.run(
            [sys.executable, "-c", code.replace(PLACE, place)],
            capture_output=True,
            text=True,
            env=run.environment(),
            timeout=60,
            check=False,
        )
        assert done.stdout.startswith("1024 "), done.stderr
    finally:
        end(command)
    assert server.texts_seen[-1].endswith("\nQuery:When does the train leave?")


def test_a_server_for_other_machines(run: Any, server: SimulatedServer) -> None:
    [text] = under("Who may ask", "console")
    export, start = text.splitlines()
    name, _, _ = export.removeprefix("$ export ").partition("=")
    variables = {name: "made-up", "OLLAMA_HOST": server.url}
    command, _, place = begun(run, shlex.split(start)[2:], **variables)
    try:
        for token, status in (("made-up", 200), ("another", 401)):
            headers = {"authorization": f"Bearer {token}"}
            answer = httpx.get(f"{place}/v1/models", headers=headers, trust_env=False)
            assert answer.status_code == status
    finally:
        end(command)


def cells() -> set[str]:
    """What stands in code marks in the first two columns of the page's tables."""
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|", PAGE, re.M)
    return {name for row in rows for cell in row for name in re.findall(r"`(\w+)`", cell)}


def test_every_field_and_every_code_is_explained() -> None:
    package = ROOT / "qwen_embed_plugins" / "server"
    source = "\n".join(path.read_text("utf-8") for path in package.glob("*.py"))
    codes = set(re.findall(r'Refusal\(\s*(?:\d+|status), "(\w+)"', source))
    codes |= set(re.findall(r'wrong\([^()]*, "(\w+)"\)', source))
    codes |= {"invalid_value", *(f"text_{kind}" for kind in ("empty", "bad_input", "too_large"))}
    assert len(codes) > 15
    assert cells() >= {*asked.FIELDS, *codes}


def test_the_options_of_the_page_are_the_commands() -> None:
    ours = {option for item in serve.params for option in item.opts}
    assert set(re.findall(r"`(--[a-z-]+)", PAGE)) <= ours
    assert f"1 to {asked.MOST_TEXTS:,}" in PAGE
