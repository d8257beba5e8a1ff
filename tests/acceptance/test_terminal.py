"""What a person sees on a terminal, and that none of it goes into a pipe."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qwen_embed_plugins.testing import SimulatedServer

if TYPE_CHECKING:
    from tests.acceptance.conftest import Database, Run

if sys.platform == "win32":
    pytest.skip("pseudo-terminals are a Unix matter", allow_module_level=True)

from tests.acceptance.terminals import (
    CTRL_C,
    Terminal,
    each_on_terminal,
    on_terminal,
    plain,
    terminal,
)

BAR = "━"
BASH = shutil.which("bash")
ESCAPE = "\x1b"
STYLE = re.compile(r"\x1b\[[0-9;]*m")
RATE_AND_TIME_LEFT = re.compile(r"\d/(s|min) +\d+:\d\d")
LISTS = ("providers", "models", "plugins", "settings", "usage", "route", "doctor --offline")


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


def test_styles_are_for_terminals_that_know_them(run: Run, ollama: SimulatedServer) -> None:
    for environment in ({}, {"NO_COLOR": "1"}, {"TERM": "dumb"}):
        drawn = each_on_terminal(run, ("providers", "plugins", "usage"), columns=80, **environment)
        assert "ollama" in drawn["providers"]
        for command in ("providers", "plugins"):
            assert bool(STYLE.search(drawn[command])) == (not environment), drawn[command]
        if environment:
            assert not STYLE.search("".join(drawn.values()))


def test_tables_fit_narrow_and_wide_terminals(run: Run, ollama: SimulatedServer) -> None:
    commands = (*LISTS, "providers ollama", "models bge-m3")
    drawn = {
        columns: {
            command: plain(said)
            for command, said in each_on_terminal(run, commands, columns=columns).items()
        }
        for columns in (60, 80, 160)
    }
    for columns, said in drawn.items():
        for command in commands:
            assert run.fits(said[command], columns), (command, columns)
            assert broken(said[command], drawn[160][command], columns // 5) == set(), (
                command,
                columns,
            )


def broken(narrow: str, wide: str, longest: int) -> set[str]:
    """Words that a narrow terminal did not leave whole, although they are short. In blocks, which
    stand for a table that does not fit, headings of the first column and of empty ones are missing.
    """
    left, whole = ({*re.findall(r"[^\s;,─━█░]+", said)} for said in (narrow, wide))
    unsaid = {"Model", "Name", "Lag", "Rows/s", "Left"}
    return {word for word in whole - left - unsaid if len(word) <= longest}


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
    with terminal(run, "embed", "x", "--format", "npy") as shown:
        assert shown.end() == 2
        assert "npy is binary" in plain(shown.drawn)


@pytest.fixture
def docs(run: Run, database: Database) -> Database:
    """A database with a vectorizer of 50 rows, in the space of a server that may be slow."""
    run("pg", "install")
    database.execute(
        "CREATE TABLE docs (id int PRIMARY KEY, body text)",
        "INSERT INTO docs SELECT n, 'text ' || n FROM generate_series(1, 50) n",
    )
    database.execute("ANALYZE docs")  # in the session that inserted, rows would be counted twice
    space = ("--model", "qwen3-embedding-0.6b", "--dimensions", 64)
    run("pg", "create", "docs", "--column", "body", *space)
    return database


def test_what_is_said_of_a_database_fits(run: Run, docs: Database) -> None:
    docs.execute(
        "CREATE TABLE customer_support_articles (id int PRIMARY KEY, body text)",
        "SELECT qwen_embed.create_vectorizer('customer_support_articles', columns => '{body}')",
    )
    commands = ("pg list", "pg status", "pg backfill docs --estimate", "pg dead")
    wide = each_on_terminal(run, commands, columns=160)
    for columns in (60, 80):
        for command, said in each_on_terminal(run, commands, columns=columns).items():
            assert run.fits(plain(said), columns), said
            assert broken(plain(said), plain(wide[command]), columns // 5) == set(), said
    assert "no worker is running for" in wide["pg status"]


def test_progress_has_a_rate_and_the_time_left(
    run: Run, docs: Database, ollama: SimulatedServer
) -> None:
    ollama.behave(latency_seconds=0.05)
    table = {"base_url": ollama.url, "max_inputs": 4, "max_concurrency": 1}
    run.settings({"ollama": table})
    Path("texts.txt").write_text("\n".join(f"text {number}" for number in range(20)), "utf-8")
    embedded = on_terminal(run, "embed", "--file", "texts.txt", "--output", "out.json")
    worked = on_terminal(run, "pg", "worker", "--once", "--batch-size", 5, "--in-flight", 1)
    for drawn, total in ((embedded, 20), (worked, 50)):
        frames = [line for line in re.split(r"[\r\n]+", plain(drawn)) if BAR in line]
        assert all(len(frame) <= 80 for frame in frames)
        assert f"{total}/{total}" in frames[-1]
        assert f"/{total} " in frames[0], "a backfill's rows are known beforehand"
        assert RATE_AND_TIME_LEFT.search(frames[-1])


def test_a_terminal_that_cannot_be_drawn_over_gets_lines(run: Run, texts: Path) -> None:
    drawn = on_terminal(run, "embed", "--file", texts, "--output", "out.json", TERM="dumb")
    assert drawn == "texts may be sent to: ollama/qwen3-embedding-8b\r\n"


@pytest.mark.skipif(BASH is None, reason="job control is shown by bash, which is not here")
def test_in_the_background_nothing_is_drawn_over_the_prompt(
    run: Run, docs: Database, ollama: SimulatedServer
) -> None:
    """A shell with job control gives the command a process group that is not the terminal's."""
    ollama.behave(latency_seconds=0.05)
    run.settings({"ollama": {"base_url": ollama.url, "max_inputs": 4, "max_concurrency": 1}})
    assert BASH is not None
    job = shlex.join([*run.command, "pg", "worker", "--once", "--batch-size", "5"])
    shown = Terminal(run, [BASH, "-c", f"set -m; {job} & wait"], 80, {})
    try:
        assert shown.end() == 0
    finally:
        shown.close()
    assert "50 embedded" in shown.drawn
    assert BAR not in shown.drawn
    docs.execute("UPDATE docs SET body = body || '!'")
    assert BAR in on_terminal(run, "pg", "worker", "--once", "--batch-size", 5), "in front it is"


def test_ctrl_c_says_what_is_done_and_resume_goes_on(run: Run, ollama: SimulatedServer) -> None:
    output = Path("out.jsonl")
    begin = ["embed", "--file", "texts.txt", "--format", "jsonl", "--output", output]
    Path("texts.txt").write_text("\n".join(f"text {number}" for number in range(20)), "utf-8")
    assert run(*begin).code == 0
    first = output.read_bytes()
    with Path("texts.txt").open("a", encoding="utf-8") as file:
        file.write("\n" + "\n".join(f"text {number}" for number in range(20, 30)))
    asked = ollama.request_count
    ollama.behave(latency_seconds=30)
    with terminal(run, *begin, "--resume") as embed:
        embed.wait_for("20/30")
        wait_for_more(ollama, asked)
        embed.press(CTRL_C)
        assert embed.end() == 130
        last = plain(embed.drawn).splitlines()[-1]
        assert (
            last
            == "qwen-embed: interrupted: 20 lines in out.jsonl; the same command goes on from there"
        )
        embed.assert_as_before()
    assert output.read_bytes() == first
    ollama.behave(latency_seconds=0)
    done = run(*begin, "--resume")
    assert (done.code, done.err.count("interrupted")) == (0, 0)
    assert output.read_bytes().startswith(first)
    assert len(output.read_bytes().splitlines()) == 30


def test_ctrl_c_leaves_no_half_of_an_output(run: Run, ollama: SimulatedServer) -> None:
    run.settings({"ollama": {"base_url": ollama.url, "max_inputs": 10, "max_concurrency": 1}})
    Path("texts.txt").write_text("\n".join(f"text {number}" for number in range(30)), "utf-8")
    Path("out.json").write_text("as it was", "utf-8")
    with terminal(run, "embed", "--file", "texts.txt", "--output", "out.json") as embed:
        ollama.script(None)
        ollama.behave(latency_seconds=0.3)
        embed.wait_for("10/30")
        embed.press(CTRL_C)
        assert embed.end() == 130
        last = plain(embed.drawn).splitlines()[-1]
        assert re.fullmatch(
            r"qwen-embed: interrupted: [12]0 texts embedded, nothing written; "
            r"--format jsonl with --resume would keep them",
            last,
        )
        embed.assert_as_before()
    assert Path("out.json").read_text("utf-8") == "as it was"
    assert sorted(path.name for path in Path().glob("*out*")) == ["out.json"]


def test_ctrl_c_ends_a_worker(run: Run, docs: Database, ollama: SimulatedServer) -> None:
    once = ("pg", "worker", "--once")
    for arguments, slowness, code, said in (
        (("pg", "worker"), 1, 0, r"50 embedded \(\d+\.\d s\)"),
        (once, 1, 130, "qwen-embed: interrupted: what is left goes to the next worker"),
        (once, 30, 130, "qwen-embed: interrupted: rows under way are free again within a minute"),
    ):
        docs.execute("UPDATE docs SET body = body || '!'")
        asked = ollama.request_count
        ollama.behave(latency_seconds=slowness)
        with terminal(run, *arguments) as worker:
            wait_for_more(ollama, asked)
            worker.press(CTRL_C)
            if slowness > 1:
                worker.wait_for("a second signal aborts")
                worker.press(CTRL_C)
            assert worker.end() == code
            assert re.fullmatch(said, plain(worker.drawn).splitlines()[-1])
            worker.assert_as_before()


def test_ctrl_c_answers_a_question(run: Run, docs: Database) -> None:
    with terminal(run, "pg", "uninstall", "--all", "--drop-target") as question:
        question.wait_for_question("[y/N]")
        question.press(CTRL_C)
        assert question.end() == 130
        assert plain(question.drawn).splitlines()[-1] == "qwen-embed: interrupted"
        question.assert_as_before()
    assert docs.execute("SELECT name FROM qwen_embed.status") == [("docs",)]


def wait_for_more(server: SimulatedServer, asked: int) -> None:
    """Until it was asked again, a minute at most."""
    deadline = time.monotonic() + 60
    while server.request_count == asked:
        assert time.monotonic() < deadline
        time.sleep(0.01)


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


def test_quiet_leaves_the_result_alone_and_verbose_adds(
    run: Run, docs: Database, ollama: SimulatedServer
) -> None:
    """On a terminal, where logs and bars would show: nothing of them, and the same result."""
    quiet = each_on_terminal(
        run, ("pg worker --once -q", "pg index docs --queries 0 -v -q", "-q usage", "settings -q")
    )
    shown = each_on_terminal(run, ("usage", "settings", "embed x", "embed x -v", "-q embed x -v"))
    assert re.fullmatch(r"50 embedded \(\d+\.\d s\)\n", quiet["pg worker --once -q"])
    assert re.fullmatch(r"docs: nothing to build.*\n", quiet["pg index docs --queries 0 -v -q"])
    assert quiet["-q usage"] == shown["usage"]
    assert quiet["settings -q"] == shown["settings"]
    attempt = "an attempt ended, fault: none, offer: ollama/qwen3-embedding-8b, texts: 1, tokens:"
    assert attempt in shown["embed x -v"]
    assert attempt in shown["-q embed x -v"], "the last one counts"
    assert attempt not in shown["embed x"]
