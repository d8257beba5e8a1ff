"""Tab: commands, options and names, quickly and without a word that nobody asked for."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest
from psycopg.conninfo import conninfo_to_dict

from qwen_embed_plugins import postgres

if TYPE_CHECKING:
    from tests.acceptance.conftest import Database, Run

if sys.platform == "win32":
    pytest.skip("bash, zsh and fish are at home on Unix", allow_module_level=True)

from tests.acceptance.terminals import Terminal

VARIABLE = "_QWEN_EMBED_COMPLETE"
HEAVY = {"asyncio", "httpx", "importlib.metadata", "numpy", "orjson", "psycopg", "rich"}


def completed(run: Run, line: str, **env: str) -> list[str]:
    """What Tab offers at the end of a line, as bash's script asks for it."""
    words = line.split(" ")
    asking = {VARIABLE: "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    done = run(stdin=b"", **asking, **env)
    assert done.err == ""
    return [found.partition(",")[2] for found in done.out.splitlines() if found]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("qwen-embed pro", ["providers"]),
        ("qwen-embed pg re", ["retry", "resume", "redefine", "repair"]),
        ("qwen-embed pg create docs --chunk-t", ["--chunk-tokens"]),
        ("qwen-embed embed --format js", ["json", "jsonl"]),
        ("qwen-embed embed --use dash", ["dashscope-singapore", "dashscope-beijing"]),
        ("qwen-embed verify --use ollama,vo", ["ollama,voyage"]),
        ("qwen-embed demo --provider mi", ["mine"]),
        ("qwen-embed pg create docs --model bg", ["bge-m3"]),
        ("qwen-embed models lex", ["lexical"]),
        ("qwen-embed nonsense emb", ["embed"]),
        ("qwen-embed embed --settings broken.toml --use olla", ["ollama"]),
        ("qwen-embed pg pause ", []),
        ("qwen-embed pg pause --dsn embedded:data ", []),
        ("qwen-embed pg pause --dsn ::: ", []),
    ],
)
def test_what_is_offered(run: Run, line: str, offered: list[str]) -> None:
    run.settings({"mine": {"kind": "openai-compatible", "base_url": "http://127.0.0.1:1"}})
    Path("broken.toml").write_text("dimension = 5", "utf-8")
    assert completed(run, line, PGHOST="/nowhere") == offered
    assert completed(run, line, DATABASE_URL="embedded:data") == offered
    assert not Path("data").exists(), "no embedded server is started for it"


def completed_at_last(run: Run, line: str, **variables: str) -> list[str]:
    """As one presses Tab again: on a busy machine a database takes more than its second."""
    for _ in range(20):
        if found := completed(run, line, **variables):
            return found
    return []


def test_vectorizers_are_offered_where_a_database_answers(run: Run, database: Database) -> None:
    postgres.install(database.address)
    for name in ("docs", "drafts", "notes"):
        database.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, body text)")
        postgres.create_vectorizer(database.address, name, columns=["body"])
    assert completed_at_last(run, "qwen-embed pg search d") == ["docs", "drafts"]
    named = "postgresql:///?" + urlencode(conninfo_to_dict(database.address))
    line = f"qwen-embed pg worker --dsn {named} --only n"
    assert completed_at_last(run, line, QWEN_EMBED_DSN="") == ["notes"]


def test_a_database_that_does_not_answer_is_not_waited_for(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"postgresql://127.0.0.1:{silent.getsockname()[1]}/shop"
        assert completed(run, "qwen-embed pg status ", QWEN_EMBED_DSN=address) == []


@pytest.mark.parametrize(
    "line",
    ["qwen-embed ", "qwen-embed pg ", "qwen-embed embed --use ", "qwen-embed pg create --model "],
)
def test_nothing_heavy_is_imported_for_it(run: Run, line: str) -> None:
    program = (
        "import atexit, sys\n"
        "from qwen_embed_plugins.cli import main\n"
        f"atexit.register(lambda: print(*sorted({HEAVY!r} & sys.modules.keys()), sep='\\n'))\n"
        "main()\n"
    )
    asking = {VARIABLE: "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    answer = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=run.environment(**asking),
        check=True,
    )
    offered = [found for found in answer.stdout.splitlines() if found.startswith("plain,")]
    assert len(offered) > 5
    assert answer.stdout.splitlines()[len(offered) :] == [""], "what was imported"


def test_bash_completes_while_it_is_typed(run: Run, tmp_path: Path) -> None:
    ours = tmp_path / "bin" / "qwen-embed"
    ours.parent.mkdir()
    ours.write_text(f'#!/bin/sh\nexec {sys.executable} -m qwen_embed_plugins "$@"\n')
    ours.chmod(0o755)
    env = {"PATH": f"{ours.parent}:{os.environ['PATH']}", "PS1": "$ "}
    bash = shutil.which("bash")
    assert bash is not None
    shell = Terminal(run, [bash, "--norc", "--noprofile", "-i"], 80, env)
    try:
        shell.press(b'eval "$(qwen-embed completion bash)"; echo rea""dy\n')
        shell.wait_for("ready")
        shell.press(b"qwen-embed prov\t")
        shell.wait_for("qwen-embed providers ")
        shell.press(b"deepi\t")
        shell.wait_for("qwen-embed providers deepinfra ")
        shell.press(b"--js\t")
        shell.wait_for("qwen-embed providers deepinfra --json ")
        shell.press(b"\nexit\n")
        shell.wait_for('"provider": "deepinfra"')
        shell.end()
    finally:
        shell.close()


@pytest.mark.parametrize(("shell", "sign"), [("zsh", "compdef"), ("fish", "complete --no-files")])
def test_scripts_of_other_shells(run: Run, shell: str, sign: str) -> None:
    """The script, and what it gets: a value and its help, each as that shell reads it."""
    done = run("completion", shell)
    assert sign in done.out
    assert f"{VARIABLE}={shell}_complete" in done.out
    asking = {VARIABLE: f"{shell}_complete", "COMP_WORDS": "qwen-embed pg pa", "COMP_CWORD": "2"}
    if shell == "fish":
        asking["COMP_CWORD"] = "pa"
    offered = re.split("[\n\t,]", run(stdin=b"", **asking).out)
    assert {"pause", "Stop the spending of a vectorizer."} <= {*offered}
