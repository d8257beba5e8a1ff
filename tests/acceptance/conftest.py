"""The real command in a process of its own, against simulated servers and a real Postgres."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from rich.cells import cell_len

from qwen_embed_plugins.testing import SimulatedServer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.postgres_servers import Server

ROOT = Path(__file__).parent.parent.parent
COMMAND = [sys.executable, "-m", "qwen_embed_plugins"]
PLANTED = "pln7ed-k3y-0123456789"
"""A key in the environment of every command; it may appear in no output."""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    content: bytes
    err: str

    @property
    def out(self) -> str:
        return self.content.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def complaint(self) -> str:
        """What it complained about, which must be one line."""
        [line] = [line for line in self.err.splitlines() if line.startswith("qwen-embed: ")]
        assert self.err.splitlines()[-1] == line, self.err
        return line.removeprefix("qwen-embed: ")


class Run:
    """Runs the command to its end: `run("embed", "text", stdin=b"", VARIABLE="value")`."""

    command = COMMAND
    root = ROOT
    planted = PLANTED

    def __call__(self, *arguments: object, stdin: bytes = b"", **more: str) -> Done:
        answer = subprocess.run(
            [*COMMAND, *map(str, arguments)],
            input=stdin,
            capture_output=True,
            env=self.environment(**more),
            timeout=60,
            check=False,
        )
        err = answer.stderr.decode()
        self.check_output(answer.stdout.decode("utf-8", "replace"), err)
        return Done(answer.returncode, answer.stdout, err)

    def start(self, *arguments: object, **options: Any) -> subprocess.Popen[bytes]:
        """The command, started."""
        more = options.pop("env", {})
        return subprocess.Popen(
            [*COMMAND, *map(str, arguments)], env=self.environment(**more), **options
        )

    @staticmethod
    def environment(**more: str) -> dict[str, str]:
        path = os.pathsep.join(filter(None, (str(ROOT), more.pop("PYTHONPATH", ""))))
        ours = {"PYTHONPATH": path, "PLANTED_KEY": PLANTED, "PYTHONWARNINGS": "error"}
        return {**os.environ, **ours, **more}

    @staticmethod
    def check_output(*outputs: str) -> None:
        for output in outputs:
            assert PLANTED not in output
            assert "Traceback" not in output

    @staticmethod
    def settings(providers: Mapping[str, Mapping[str, Any]], text: str = "") -> None:
        """Write `qwen-embed.toml` in the working folder, which uses these providers alone."""
        lines = [text, f"use = {json.dumps(list(providers))}"]
        for name, table in providers.items():
            lines.append(f"[providers.{name}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in table.items()]
        Path("qwen-embed.toml").write_text("\n".join(lines), "utf-8")

    @staticmethod
    def fits(output: str, columns: int = 80) -> bool:
        """Whether no line is wider, Chinese characters taking two places."""
        return all(cell_len(line) <= columns for line in output.splitlines())


@pytest.fixture
def run() -> Run:
    return Run()


@pytest.fixture
def server() -> Iterator[SimulatedServer]:
    with SimulatedServer() as running:
        yield running


@pytest.fixture
def ollama(run: Run, server: SimulatedServer) -> SimulatedServer:
    """The server, named as Ollama in a settings file of the working folder."""
    run.settings({"ollama": {"base_url": server.url}})
    return server


@pytest.fixture
def mine(run: Run, server: SimulatedServer) -> SimulatedServer:
    """The server, named as an OpenAI-compatible one that wants a key."""
    table = {
        "kind": "openai-compatible",
        "base_url": f"{server.url}/v1",
        "api_key_env": "PLANTED_KEY",
    }
    run.settings({"mine": table})
    return server


class Database:
    """One test's empty database."""

    def __init__(self, address: str) -> None:
        self.address = address

    def execute(self, *statements: str) -> list[Any]:
        """Run statements; gives the rows of the last one."""
        rows: list[Any] = []
        with psycopg.connect(self.address, autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement)
                rows = cursor.fetchall() if cursor.description else []
        return rows


@pytest.fixture
def database(postgres_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """An empty database, which QWEN_EMBED_DSN names."""
    with postgres_server.database("template1") as name:
        address = postgres_server.dsn(name)
        monkeypatch.setenv("QWEN_EMBED_DSN", address)
        yield Database(address)
