"""What goes wrong is one line that says what to do, and an exit code."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qwen_embed_plugins.testing import Reply, SimulatedServer

if TYPE_CHECKING:
    from tests.acceptance.conftest import Run

HEAVY = {"httpx", "numpy", "orjson", "pluggy", "psycopg", "rich"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["embd"], "no command 'embd'; did you mean 'embed'?"),
        (["embed", "--dimension", "3", "text"], "--dimensions"),
        (["embed"], "no text"),
        (["embed", "text", "--file", "-"], "not both"),
        (["embed", "--file", "nowhere.txt"], "'nowhere.txt' does not exist"),
        (["embed", "text", "--format", "csv"], "'csv'"),
        (["embed", "text", "--dimensions", "0"], "'--dimensions'"),
        (["embed", "text", "--dimensions", "9999"], "dimensions = 9999"),
        (["embed", "text", "--model", "qwen3-embeding-8b"], "did you mean 'qwen3-embedding-8b'"),
        (["embed", "text", "--use", "olama"], "did you mean 'ollama'"),
        (["embed", "text", "--settings", "nowhere.toml"], "no such file"),
        (["embed", "text", "--use", "openai-compatible"], "base_url is missing"),
        (["pg", "create", "docs"], "--column"),
        (["pg", "crate"], "did you mean 'create'?"),
        (["pg", "search", "docs", "text", "--filter", "[1]"], "'--filter'"),
        (["pg", "install", "--model", "lexical"], "together"),
        (["demo", "--provider", "nobody"], "unknown provider 'nobody'"),
    ],
    ids=" ".join,
)
def test_wrong_arguments(run: Run, arguments: list[str], said: str) -> None:
    done = run(*arguments)
    assert (done.code, done.content) == (2, b"")
    assert said in done.complaint
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dimension = 5", "did you mean 'dimensions'?"),
        ("task = 'x'", "did you mean 'instruction'?"),
        ("dimensions = 'many'", "expected a whole number"),
        ("dimensions =", "not valid TOML"),
        ("[providers.mine]\napi_key = 'pln7ed-k3y-0123456789'", "does not belong in a file"),
        ("[providers.mine]\napi_key_env = 'pln7ed-k3y-0123456789'", "expected the name of"),
        ("[providers.olama]", "did you mean 'ollama'"),
    ],
)
def test_wrong_settings(run: Run, text: str, said: str) -> None:
    Path("qwen-embed.toml").write_text(text, "utf-8")
    done = run("embed", "text")
    assert (done.code, done.content) == (2, b"")
    assert said in done.complaint


def test_a_wrong_variable(run: Run) -> None:
    done = run("embed", "text", QWEN_EMBED_DIMENSION="3")
    assert done.code == 2
    assert "did you mean 'QWEN_EMBED_DIMENSIONS'?" in done.complaint


def test_a_variable_for_the_key_that_is_not_set(run: Run, server: SimulatedServer) -> None:
    table = {"kind": "openai-compatible", "base_url": server.url, "api_key_env": "NOT_SET"}
    run.settings({"mine": table})
    done = run("embed", "text")
    assert done.code == 2
    assert "the variable NOT_SET is not set" in done.complaint


def test_a_wrong_key(run: Run, mine: SimulatedServer) -> None:
    mine.behave(key="another")
    done = run("embed", "text")
    assert done.code == 1
    assert "mine/qwen3-embedding-8b: HTTP 401" in done.complaint


def test_a_key_that_the_server_repeats_is_not_shown(run: Run, mine: SimulatedServer) -> None:
    mine.behave(always=Reply(403, f"the key {run.planted} is blocked"))
    done = run("embed", "text", "--verbose")
    assert "the key *** is blocked" in done.complaint


def test_a_model_that_ollama_does_not_have(run: Run) -> None:
    with SimulatedServer(models={"bge-m3": 1024}) as server:
        run.settings({"ollama": {"base_url": server.url}})
        done = run("embed", "text")
    assert done.code == 1
    assert "ollama pull qwen3-embedding:8b" in done.complaint


def test_an_unreachable_server(run: Run) -> None:
    run.settings({"ollama": {"base_url": "http://127.0.0.1:1"}})
    done = run("embed", "text")
    assert done.code == 1
    assert "is Ollama running at http://127.0.0.1:1?" in done.complaint


def test_every_offer_that_fails_is_named_with_its_reason_and_its_time(run: Run) -> None:
    with SimulatedServer(native=4096) as one, SimulatedServer(native=4096) as two:
        one.behave(always=Reply(503, "down for repair", headers={"retry-after": "600"}))
        two.behave(always=Reply.rate_limited(900))
        tables = {
            name: {"kind": "openai-compatible", "base_url": f"{server.url}/v1"}
            for name, server in (("one", one), ("two", two))
        }
        run.settings({**tables, "ollama": {"base_url": "http://127.0.0.1:1"}})
        done = run("embed", "text")
    assert done.code == 1
    said = done.complaint
    again = r"\(again at 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC\)"
    assert re.search(rf"one/qwen3-embedding-8b: [^;]*down for repair {again}", said)
    assert re.search(rf"two/qwen3-embedding-8b: [^;]*rate limit reached {again}", said)
    assert re.search(rf"ollama/qwen3-embedding-8b: .*Ollama running.* {again}", said)
    assert "Traceback" not in done.err


def test_an_output_that_cannot_be_written(run: Run, ollama: SimulatedServer) -> None:
    done = run("embed", "text", "--output", "no/such/folder.json")
    assert done.code == 1
    assert done.complaint.endswith("No such file or directory")


def test_a_pipe_whose_reader_goes_away(run: Run, ollama: SimulatedServer) -> None:
    Path("texts.txt").write_text("\n".join(map(str, range(3000))), "utf-8")
    embed = run.start(
        "embed", "--file", "texts.txt", "--format", "jsonl",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert embed.stdout is not None
    assert embed.stderr is not None
    embed.stdout.readline()
    embed.stdout.close()
    said = embed.stderr.read().decode()
    embed.stderr.close()
    assert embed.wait(timeout=60) == 141
    assert [line for line in said.splitlines() if not line.startswith("texts may be")] == []


LEXICAL = "embed --use lexical --model lexical"
FULL = "No space left on device"
CLOSED = "Bad file descriptor"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no sh and no /dev/full")
@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("providers | true", 141, None),  # `head` may read all before it ends
        ("providers --json | true", 141, None),
        (f"{LEXICAL} text | true", 141, None),
        ("providers > /dev/full", 1, f"standard output: {FULL}"),
        ("providers --json > /dev/full", 1, f"standard output: {FULL}"),
        (f"{LEXICAL} text > /dev/full", 1, f"standard output: {FULL}"),
        (f"{LEXICAL} text --format jsonl > /dev/full", 1, f"standard output: {FULL}"),
        (f"{LEXICAL} text --output /dev/full", 1, f"/dev/full: {FULL}"),
        ("embd 2> /dev/full", 2, None),
        ("settings >&-", 1, f"standard output: {CLOSED}"),
        ("--help >&-", 1, f"standard output: {CLOSED}"),
        ("settings 2>&- > there", 0, None),
        (f"{LEXICAL} text --output there >&- 2>&-", 0, None),
        (f"{LEXICAL} --file - <&-", 1, CLOSED),
    ],
)
def test_output_that_cannot_be_written(run: Run, line: str, code: int, said: str | None) -> None:
    """One line that says where, and never the interpreter's own words and code, 120."""
    command = f"{' '.join(run.command)} {line.partition(' | ')[0]}; echo code $? >&9"
    reader = line.partition(" | ")[2]
    script = f"{{ {command}; }} | {reader}" if reader else command
    answer = subprocess.run(
        ["sh", "-c", f"{{ {script}; }} 9> code"],
        capture_output=True,
        text=True,
        env=run.environment(),
        timeout=60,
        check=False,
    )
    complaints = [one for one in answer.stderr.splitlines() if not one.startswith("texts may be")]
    assert Path("code").read_text() == f"code {code}\n", answer.stderr
    assert complaints == ([f"qwen-embed: {said}"] if said else [])
    if "there" in line:
        assert Path("there").stat().st_size > 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to one process")
def test_ctrl_c(run: Run, ollama: SimulatedServer) -> None:
    ollama.behave(latency_seconds=30)
    embed = run.start("embed", "text", "--output", "out", stderr=subprocess.PIPE)
    assert embed.stderr is not None
    while not ollama.requests:
        assert embed.poll() is None
        time.sleep(0.01)
    embed.send_signal(signal.SIGINT)
    said = embed.stderr.read().decode()
    embed.stderr.close()
    assert embed.wait(timeout=20) == 130
    assert said.splitlines()[1:] == ["qwen-embed: interrupted"]
    assert list(Path().glob("*out*")) == []


def test_an_error_of_ours_is_one_line_and_verbose_shows_where(run: Run) -> None:
    folder = Path("broken")
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import sys, types\n"
        "module = types.ModuleType('qwen_embed_plugins.catalogue')\n"
        "sys.modules['qwen_embed_plugins.catalogue'] = module\n",
        "utf-8",
    )
    done = run("embed", "text", PYTHONPATH=str(folder.resolve()))
    assert done.code == 1
    assert done.complaint.startswith("internal error: ImportError: ")
    with pytest.raises(AssertionError, match="Traceback"):
        run("embed", "text", "--verbose", PYTHONPATH=str(folder.resolve()))


def test_quiet_says_nothing_but_the_result(run: Run, ollama: SimulatedServer) -> None:
    assert run("embed", "text", "--quiet").err == ""
    assert run("--quiet", "embed", "text").err == ""


def test_the_help_imports_nothing_heavy(run: Run) -> None:
    program = (
        "import sys\n"
        "from qwen_embed_plugins.cli import main\n"
        "code = main(['--help'])\n"
        f"found = sorted({HEAVY!r} & sys.modules.keys())\n"
        "sys.exit(f'imported: {found}' if found else code)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=run.environment(),
        cwd=os.curdir,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert "embed" in answer.stdout
