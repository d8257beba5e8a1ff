"""What a person sees on a terminal, and that none of it goes into a pipe."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qwen_embed_plugins.testing import SimulatedServer

if TYPE_CHECKING:
    from tests.acceptance.conftest import Database, Run

if sys.platform == "win32":
    pytest.skip("pseudo-terminals are a Unix matter", allow_module_level=True)

import fcntl
import pty
import termios

BAR = "━"
ESCAPE = "\x1b"


def on_terminal(run: Run, *arguments: object, columns: int = 80, **env: str) -> str:
    """What a command draws on a terminal of so many columns."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {"TERM": "xterm-256color", "COLUMNS": str(columns), **env}
    command = run.start(*arguments, stdin=follower, stdout=follower, stderr=follower, env=env)
    os.close(follower)
    drawn = b""
    try:
        while chunk := os.read(leader, 65536):
            drawn += chunk
    except OSError:  # Linux says so when the other side is closed
        pass
    os.close(leader)
    assert command.wait(timeout=60) == 0, drawn.decode()
    run.check_output(drawn.decode())
    return drawn.decode()


def plain(drawn: str) -> str:
    """What stays readable: without escape sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn)


@pytest.fixture
def texts(ollama: SimulatedServer) -> Path:
    path = Path("texts.txt")
    path.write_text("\n".join(f"text {number}" for number in range(100)), "utf-8")
    return path


def test_a_terminal_shows_a_bar_that_reaches_its_end(run: Run, texts: Path) -> None:
    drawn = on_terminal(run, "embed", "--file", texts, "--output", "out.json")
    assert BAR in drawn
    assert ESCAPE in drawn
    assert "100/100" in plain(drawn)
    assert "texts may be sent to: ollama/qwen3-embedding-8b" in plain(drawn)
    lines = re.split(r"[\r\n]+", plain(drawn))
    assert all(len(line) <= 80 for line in lines)


def test_a_pipe_gets_no_bar_and_no_colour(run: Run, texts: Path) -> None:
    done = run("embed", "--file", texts)
    assert done.err.splitlines() == ["texts may be sent to: ollama/qwen3-embedding-8b"]
    for command in ("providers", "plugins", "settings", "--help"):
        assert ESCAPE not in run(command).out


def test_quiet_shows_no_bar(run: Run, texts: Path) -> None:
    assert on_terminal(run, "embed", "--quiet", "--file", texts, "--output", "out.json") == ""


def test_no_color_is_heeded(run: Run, ollama: SimulatedServer) -> None:
    colours = re.compile(r"\x1b\[[0-9;]*3[0-9][0-9;]*m")
    drawn = on_terminal(run, "providers", NO_COLOR="1")
    assert "ollama" in drawn
    assert not colours.search(drawn)


def test_tables_fit_narrow_and_wide_terminals(run: Run, ollama: SimulatedServer) -> None:
    for columns in (60, 160):
        for command in (
            "providers",
            "providers ollama",
            "models",
            "models bge-m3",
            "plugins",
            "settings",
            "usage",
        ):
            drawn = plain(on_terminal(run, *command.split(), columns=columns))
            assert run.fits(drawn, columns), (command, columns)


def test_usage_fits_and_has_no_colour(run: Run, ollama: SimulatedServer) -> None:
    state = Path("state.db").absolute()
    run.settings(
        {
            "ollama": {"base_url": ollama.url},
            "deepinfra": {"free": True, "free_until": "2999-12-31", "usd_per_day": "0.50"},
        },
        f'state = "{state}"',
    )
    assert run("embed", "--use", "ollama", "text", "--output", "out.json").code == 0
    colours = re.compile(r"\x1b\[[0-9;]*[34][0-9][0-9;]*m")
    for columns in (60, 80):
        environment = {"DEEPINFRA_TOKEN": "k", "NO_COLOR": "1"}
        drawn = on_terminal(run, "usage", "-v", columns=columns, **environment)
        assert "1.80 of 1.80 USD left" in plain(drawn)
        assert "ollama/qwen3-embedding-8b" in plain(drawn)
        assert run.fits(plain(drawn), columns)
        assert not colours.search(drawn)
    assert ESCAPE not in run("usage", DEEPINFRA_TOKEN="k").out


def test_names_of_plugins_are_whole_on_a_narrow_terminal(run: Run) -> None:
    words = plain(on_terminal(run, "plugins", columns=60)).replace(",", " ").split()
    assert {"providers.openai_compatible", "dashscope-text-embedding-v4"} <= {*words}


def test_numbers_are_not_drawn_on_a_terminal_as_bytes(run: Run, ollama: SimulatedServer) -> None:
    leader, follower = pty.openpty()
    embed = run.start("embed", "x", "--format", "npy", stdout=follower, stderr=subprocess.PIPE)
    os.close(follower)
    _, said = embed.communicate(timeout=60)
    os.close(leader)
    assert embed.returncode == 2
    assert b"npy is binary" in said


def test_a_worker_shows_a_bar_on_a_terminal_only(run: Run, database: Database) -> None:
    run("pg", "install")
    database.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    run("pg", "create", "docs", "--column", "body", "--model", "lexical", "--dimensions", 1024)
    database.execute("INSERT INTO docs SELECT n, 'text ' || n FROM generate_series(1, 50) n")
    drawn = plain(on_terminal(run, "pg", "worker", "--once"))
    assert BAR in drawn
    assert re.search(r"(\d+)/\1\D", drawn)
    database.execute("UPDATE docs SET body = body || '!'")
    done = run("pg", "worker", "--once")
    assert done.code == 0
    assert re.fullmatch(r"50 embedded \(\d+\.\d s\)\n", done.out)
    assert BAR not in done.err


def test_a_build_of_an_index_shows_a_bar_on_a_terminal(run: Run, database: Database) -> None:
    run("pg", "install")
    database.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    run("pg", "create", "docs", "--column", "body", "--model", "lexical", "--dimensions", 1024)
    drawn = plain(on_terminal(run, "pg", "index", "docs"))
    assert "Indexing docs" in drawn
    assert "built docs_embedding_hnsw" in drawn
