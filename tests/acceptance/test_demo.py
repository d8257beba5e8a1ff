"""`qwen-embed demo`, to its end and broken off: ranked rows, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qwen_embed_plugins.testing import Reply, SimulatedServer

if TYPE_CHECKING:
    from tests.acceptance.conftest import Run


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files; short, for the sake of the socket's path."""
    with tempfile.TemporaryDirectory(prefix="qt-") as name:
        monkeypatch.setenv("TMPDIR", name)
        yield Path(name)


def servers(folder: Path) -> list[str]:
    """The command lines of processes that mention the folder."""
    answer = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    return [line for line in answer.stdout.splitlines() if str(folder) in line]


def left_behind(temporary: Path) -> list[str]:
    return sorted(path.name for path in temporary.iterdir() if path.name.startswith("qe-"))


def test_three_searches_print_ranked_rows_and_nothing_stays(run: Run, temporary: Path) -> None:
    done = run("demo", OLLAMA_HOST="127.0.0.1:1")
    assert done.code == 0, done.err
    first, *_ = done.out.splitlines()
    assert "lexical" in first
    assert "no Ollama at 127.0.0.1:1" in first
    searches = done.out.split("Search: ")[1:]
    assert len(searches) == 3
    for search, subject in zip(searches, ("cooking-en", "bicycles-ru", "trains-zh"), strict=True):
        rows = [line for line in search.splitlines() if line.strip().startswith("0.")]
        distances = [float(row.split()[0]) for row in rows]
        assert distances == sorted(distances)
        assert rows[0].split()[1].startswith(subject)
    assert run.fits(done.out)
    assert (servers(temporary), left_behind(temporary)) == ([], [])


def test_ollama_is_used_if_it_has_a_model(run: Run, temporary: Path) -> None:
    models = {"bge-m3:latest": 1024, "qwen3-embedding:8b": 4096, "qwen3-embedding:0.6b": 1024}
    with SimulatedServer(models=models) as server:
        done = run("demo", OLLAMA_HOST=server.url)
        asked = {request.body["model"] for request in server.requests}
    assert done.code == 0, done.err
    assert "it has qwen3-embedding:0.6b" in done.out.splitlines()[0]
    assert asked == {"qwen3-embedding:0.6b"}
    assert "qwen3-embedding-0.6b/1024" in done.out


def test_ollama_without_a_model_is_said(run: Run, temporary: Path) -> None:
    with SimulatedServer(models={"bge-m3:latest": 1024}) as server:
        done = run("demo", OLLAMA_HOST=server.url)
        assert server.requests == []
    assert done.code == 0, done.err
    assert "has no Qwen3-Embedding model" in done.out.splitlines()[0]


def test_a_service_is_used_only_by_name(run: Run, temporary: Path, mine: SimulatedServer) -> None:
    assert run("demo", OLLAMA_HOST="127.0.0.1:1").code == 0
    assert mine.requests == []
    done = run("demo", "--provider", "mine")
    assert done.code == 0, done.err
    assert "mine, qwen3-embedding-8b: named by --provider" in done.out
    assert mine.requests


def test_a_provider_without_its_key_is_one_line(run: Run, temporary: Path) -> None:
    done = run("demo", "--provider", "ollama", OLLAMA_HOST="127.0.0.1:1")
    assert (done.code, done.content) == (2, b"")
    assert "no Ollama" in done.complaint
    assert left_behind(temporary) == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no signals to one process")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_broken_off_it_cleans_up(
    run: Run, temporary: Path, server: SimulatedServer, number: signal.Signals
) -> None:
    server.respond = lambda request: Reply(503, wait_seconds=60) if request.embeds else None
    demo = run.start(
        "demo", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={"OLLAMA_HOST": server.url}
    )
    try:
        while not server.requests:
            assert demo.poll() is None
            time.sleep(0.05)
        assert servers(temporary)
        os.kill(demo.pid, number)
        _, err = demo.communicate(timeout=60)
    finally:
        demo.kill()
    run.check_output(err.decode())
    assert demo.returncode == 130
    assert err.decode().splitlines()[-1] == "qwen-embed: interrupted"
    assert (servers(temporary), left_behind(temporary)) == ([], [])
