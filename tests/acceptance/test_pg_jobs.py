"""Long jobs from the command line: estimating, backfilling, moving, auditing."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qwen_embed_plugins import postgres

if TYPE_CHECKING:
    from qwen_embed_plugins.testing import SimulatedServer
    from tests.acceptance.conftest import Database, Run

PAID = {
    "mine": {
        "kind": "openai-compatible",
        "base_url": "http://127.0.0.1:9/v1",
        "price_per_million": "50000",
    }
}


@pytest.fixture
def docs(database: Database, run: Run, ollama: SimulatedServer) -> Database:
    """A vectorizer by a simulated Ollama, in step with its 30 rows."""
    postgres.install(database.address)
    database.execute(
        "CREATE TABLE docs (id int PRIMARY KEY, body text)",
        "INSERT INTO docs SELECT i, 'the text of row ' || i FROM generate_series(1, 30) i",
    )
    run("pg", "create", "docs", "--column", "body", "--dimensions", 1024)
    run("pg", "worker", "--once")
    return database


def test_a_backfill_is_estimated_and_recorded(run: Run, docs: Database) -> None:
    done = run("pg", "backfill", "docs", "--estimate", "--json").json
    assert (done["rows"], done["texts"], done["recorded"]) == (30, 0, False)
    docs.execute("DELETE FROM docs_embedding WHERE id <= 10")
    done = run("pg", "backfill", "docs", "--json").json
    assert (done["rows"], done["texts"], done["is_exact"], done["recorded"]) == (30, 10, True, True)
    assert 10 * 4 <= done["tokens"] <= 10 * 12
    assert "sample" not in done
    assert run("pg", "worker", "--once").out.startswith("10 embedded")
    said = run("pg", "backfill", "docs").out
    assert said.startswith("docs: 30 rows, 0 texts to embed")
    assert run.fits(said) or len(said.splitlines()[0]) < 110


def test_what_costs_much_is_asked_for(run: Run, docs: Database) -> None:
    run.settings(PAID)
    with Path("qwen-embed.toml").open("a", encoding="utf-8") as settings:
        settings.write("\n[budget]\nusd_per_day = 100\n")
    before = docs.execute("SELECT count(*) FROM qwen_embed.vectorizer")
    move = ["pg", "move", "docs", "--dimensions", 512]
    done = run(*move)
    assert done.code == 2
    assert re.search(r"cost about \d+\.\d{4} USD, more than 1.0 USD: .* --yes", done.complaint)
    assert docs.execute("SELECT count(*) FROM qwen_embed.vectorizer") == before
    assert run(*move, "--ask-above", 1000, "--no-wait").code == 0
    assert docs.execute("SELECT count(*) FROM qwen_embed.vectorizer") != before


def test_a_job_whose_cost_nobody_knows_is_begun_all_the_same(run: Run, docs: Database) -> None:
    """Whoever starts it may hold no key; the workers that do it have budgets of their own."""
    run.settings({"deepinfra": {}})  # whose key is nowhere
    done = run("pg", "move", "docs", "--dimensions", 512, "--no-wait")
    assert done.code == 0, done.err
    assert "not known here" in done.out
    assert run("pg", "cancel", "docs").out == "cancelled; docs goes on as before\n"


def test_a_move_waits_for_its_worker_and_swaps(run: Run, docs: Database) -> None:
    worker = run.start("pg", "worker", "--quiet")
    try:
        done = run("pg", "move", "docs", "--dimensions", 256)
        assert done.code == 0, done.err
        assert "docs is served by qwen3-embedding-8b/256 now." in done.out
        assert "--drop-old" in done.out
        assert len(run("pg", "search", "docs", "row 7", "--json").json) == 10
        # The old one waits for whoever drops it, and nobody trips over it meanwhile.
        assert run("pg", "worker", "--once").out.startswith("nothing to do")
        retired = run("pg", "status", "docs@qwen3-embedding-8b/1024", "--json").json
        assert [(one["state"], one["leased"], one["dead"]) for one in retired] == [
            ("retired", 0, 0)
        ]
        assert run("pg", "status", "--html", "status.html").code == 0
        assert run("pg", "move", "docs", "--drop-old").out == "dropped the old vectors\n"
        assert run("pg", "move", "docs", "--drop-old").out == "there are no old vectors\n"
    finally:
        worker.terminate()
        worker.wait(30)
    assert [item["name"] for item in run("pg", "list", "--json").json] == ["docs"]


def test_a_move_asks_for_a_worker_where_none_runs(run: Run, docs: Database) -> None:
    line = "waiting: rows are still being walked over"
    begin = ["pg", "move", "docs", "--dimensions", 256, "--yes"]
    assert first_wait(run, *begin) == f"{line} (a worker must run: qwen-embed pg worker)\n"
    docs.execute("INSERT INTO qwen_embed.worker VALUES ('run', 'elsewhere 7', '0')")
    again = first_wait(run, "pg", "move", "docs")
    assert again.endswith("qwen-embed pg worker)\n"), "it serves another vectorizer"
    docs.execute(
        "INSERT INTO qwen_embed.tally SELECT 'run', id, 0, 0, 0, 0, 0 FROM qwen_embed.vectorizer"
    )
    assert first_wait(run, "pg", "move", "docs") == f"{line}\n"


def first_wait(run: Run, *arguments: object) -> str:
    """What a command that waits says first that it waits for; it is ended then."""
    with run.start(*arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        try:
            return next(line.decode() for line in process.stderr if line.startswith(b"waiting"))
        finally:
            process.terminate()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to one process")
def test_a_move_goes_on_without_whoever_waits_for_it(run: Run, docs: Database) -> None:
    move = ("pg", "move", "docs", "--dimensions", 256, "--yes")
    with run.start(*move, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as waiting:
        assert waiting.stderr is not None
        while b"waiting: " not in waiting.stderr.readline():
            assert waiting.poll() is None
        waiting.send_signal(signal.SIGINT)
        said = waiting.stderr.read()
    assert waiting.returncode == 130
    assert b"interrupted: the move goes on" in said
    assert b"qwen-embed pg cancel docs" in said
    run("pg", "worker", "--once")
    assert run("pg", "move", "docs", "--json").json == {
        "name": "docs", "moved": True, "dropped_old": False, "waits_for": None,
    }  # fmt: skip


def test_where_to_must_be_said(run: Run, docs: Database) -> None:
    assert "not being moved" in run("pg", "move", "docs").complaint
    assert "already" in run("pg", "move", "docs", "--dimensions", 1024).complaint
    assert "not being moved" in run("pg", "cancel", "docs").complaint


def test_an_audit_says_what_it_found(run: Run, docs: Database) -> None:
    assert run("pg", "audit", "docs").out == "clean; 30 rows compared\n"
    docs.execute(
        "DELETE FROM docs_embedding WHERE id <= 6",
        "UPDATE docs_embedding SET content_hash = '' WHERE id = 9",
    )
    done = run("pg", "audit", "docs")
    assert done.code == 1
    assert done.out.splitlines() == [
        "missing: 6 without a vector (keys 1, 2, 3, 4, 5, …)",
        "stale: 1 with the vector of another text, or not all of its chunks (key 9)",
        "30 rows compared",
    ]
    assert done.complaint == "7 findings. Mend with: qwen-embed pg audit docs --repair"
    done = run("pg", "audit", "docs", "--repair", "--json")
    assert (done.code, done.json["repaired"], done.json["clean"]) == (0, 7, False)
    assert run("pg", "worker", "--once").out.startswith("7 embedded")
    assert run("pg", "audit", "docs", "--json").json["clean"]
    assert "--offer" in run("pg", "audit", "docs", "--since", "2026-01-01").complaint
    done = run(
        "pg", "audit", "docs", "--offer", "ollama/qwen3-embedding-8b", "--since", "2026-01-01"
    )
    assert "doubted: 30 with a vector of that offer" in done.out


def test_the_text_of_rows_changes_and_what_was_lost_comes_back(
    run: Run, database: Database, server: SimulatedServer
) -> None:
    database.execute(
        "CREATE TABLE docs (id int PRIMARY KEY, title text, body text)",
        "INSERT INTO docs VALUES (1, 'a', 'one'), (2, '', 'two')",
    )
    space = ("--model", "qwen3-embedding-0.6b", "--dimensions", "64")
    run("pg", "install")
    run("pg", "create", "docs", "--column", "body", *space)
    work = ("pg", "worker", "--once")
    assert run(*work, OLLAMA_HOST=server.url).code == 0
    asked = server.request_count
    done = run("pg", "redefine", "docs", "--column", "title", "--column", "body")
    assert (done.code, done.out) == (0, "redefined docs: workers look at every row\n")
    assert run(*work, OLLAMA_HOST=server.url).code == 0
    sent = [text for request in server.requests[asked:] for text in request.texts]
    assert "a\none" in sent
    assert "two" not in sent  # its text is what it was
    assert run("pg", "redefine", "docs").code == 2
    done = run("pg", "suspend", "docs")
    assert done.out == "suspended docs: change the table, then qwen-embed pg resume docs\n"
    database.execute("ALTER TABLE docs ALTER COLUMN body TYPE varchar(100)")
    assert run("pg", "resume", "docs").code == 0
    database.execute("ALTER TABLE docs DISABLE TRIGGER USER", "UPDATE docs SET body = 'uno'")
    assert run("pg", "status", "--json").json[0]["state"] == "broken"
    assert run("pg", "repair", "docs").out == "repaired docs: workers look at every row\n"
    assert run(*work, OLLAMA_HOST=server.url).code == 0
    assert run("pg", "audit", "docs").code == 0
