"""`usage --html` and `pg status --html`: of a real state and a real database, read strictly."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import sys
import time
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qwen_embed_plugins import postgres
from qwen_embed_plugins.amounts import Amount
from qwen_embed_plugins.books import SQLiteBooks
from qwen_embed_plugins.cli.html_page import marker
from qwen_embed_plugins.meters import use_meter
from tests.html_pages import checked

if TYPE_CHECKING:
    from qwen_embed_plugins.testing import SimulatedServer
    from tests.acceptance.conftest import Database, Run

MODEL = "qwen3-embedding-0.6b"
PAGE = Path("page.html")
HOSTILE = "<script>alert(1)</script>"
LEXICAL = ("--model", "lexical", "--dimensions", 1024)


def samples(page: Path = PAGE) -> Any:
    return json.loads(checked(page.read_text("utf-8")).samples)["samples"]


# usage


@pytest.fixture
def paid(run: Run, server: SimulatedServer) -> SimulatedServer:
    """A server that costs money, has a grant and a budget, and wants a key."""
    table = {
        "kind": "openai-compatible",
        "base_url": f"{server.url}/v1",
        "api_key_env": "PLANTED_KEY",
        "price_per_million": "0.20",
        "free_tokens": 30,
        "free_until": "2999-12-31",
        "usd_per_day": "0.5",
        "requests_per_day": 5000,
    }
    run.settings({"paid": table}, f'model = "{MODEL}"\nstate = "state.db"')
    return server


def book(ago: int, offer: str, amount: Amount) -> None:
    """Write into the state what was used some days ago."""
    meter = use_meter(offer.partition("/")[0], offer)
    moment = (datetime.now(timezone.utc) - timedelta(ago)).timestamp()
    with (
        closing(SQLiteBooks(Path("state.db").absolute(), time.time)) as books,
        books.page() as page,
    ):
        page.book(meter.held_key(moment), amount)


def test_the_page_of_usage_tells_what_the_table_does(run: Run, paid: SimulatedServer) -> None:
    run("embed", "a text that is long enough to cost something " * 5)
    book(3, f"paid/{MODEL}", Amount(7, 1_234_567, 10**12))
    done = run("usage", "--html", PAGE)
    assert (done.code, done.out, done.err) == (0, "", f"wrote {PAGE}\n")
    found = checked(PAGE.read_text("utf-8"))
    told = run("usage", "--json").json
    [offer] = told["offers"]
    assert f"{offer['tokens']:,}" in found.text
    assert f"paid/{MODEL}" in found.text
    [grant] = told["grants"]
    left = f"{grant['left']:,} of 30 tokens left; lapses 2999-12-31; {grant['used']} tokens used"
    assert left in found.text
    assert "Budget usd_per_day in [providers.paid]" in found.text
    assert "Limits with room (1)" in found.text
    assert "Limit requests_per_day of paid" in found.text
    charts = found.of("svg", role="img")
    assert len(charts) == 2
    titles = re.findall(r"<title>([^<]+): ([^<]+)</title>", PAGE.read_text("utf-8"))
    spent = [(day, words) for day, words in titles if words.endswith("USD")]
    assert len(spent) == 2
    assert spent[0][1] == "1.00 USD"
    assert not re.search(r"https?:|url\(|src=", PAGE.read_text("utf-8"))


def test_usage_of_nothing_is_a_page_too(run: Run, ollama: SimulatedServer) -> None:
    assert run("usage", "--html", PAGE).code == 0
    assert "Nothing was used yet" in checked(PAGE.read_text("utf-8")).text
    assert not ollama.requests


def test_usage_as_json_and_page_since_a_day(run: Run, paid: SimulatedServer) -> None:
    book(0, f"paid/{MODEL}", Amount(1, 11))
    book(400, f"{HOSTILE.replace('/', '')}/{MODEL}", Amount(1, 500))
    done = run("usage", "--quiet", "--json", "--since", "7d", "--html", PAGE)
    assert [entry["tokens"] for entry in done.json["offers"]] == [11]
    assert done.err == ""
    found = checked(PAGE.read_text("utf-8"))
    assert f"used since {done.json['since']}" in found.text
    assert "500" not in found.text
    assert run("usage", "--html", PAGE).code == 0  # a page of its own is replaced
    assert HOSTILE.replace("/", "") in checked(PAGE.read_text("utf-8")).text


def test_telling_and_correcting_do_not_go_together(run: Run, paid: SimulatedServer) -> None:
    done = run("usage", "--set", "paid=5", "--html", PAGE)
    assert (done.code, PAGE.exists()) == (2, False)
    assert done.complaint.startswith("--html tells, --set corrects: give one of them")


# What stands there already


@pytest.mark.parametrize("command", [("usage",), ("pg", "status")], ids=" ".join)
def test_a_file_of_somebody_else_is_not_overwritten(
    run: Run, ollama: SimulatedServer, command: tuple[str, ...]
) -> None:
    kind = f"qwen-embed {' '.join(command)}"
    other = "pg status" if command == ("usage",) else "usage"
    for content in ("my notes", "<!doctype html>\n<html>", marker(f"qwen-embed {other}"), "\0" * 9):
        PAGE.write_text(content, "utf-8")
        done = run(*command, "--html", PAGE, QWEN_EMBED_DSN="host=/nowhere")
        assert done.code == 2
        expected = f"--html: {PAGE} is no page of `{kind}`; name another file, or remove it"
        assert done.complaint.startswith(expected)
        assert len(done.err.splitlines()) == 1
        assert PAGE.read_text("utf-8") == content
    for name in ("", "-"):
        assert run(*command, "--html", name).complaint.startswith(
            f"Invalid value for '--html': {name!r} names no file"
        )
    folder = run(*command, "--html", ".")
    assert folder.code == 2
    assert "is a directory" in folder.complaint


def test_an_empty_file_is_nobodys(run: Run, ollama: SimulatedServer) -> None:
    PAGE.touch()
    assert run("usage", "--html", PAGE).code == 0
    checked(PAGE.read_text("utf-8"))


def test_a_page_that_cannot_be_written_is_one_line(run: Run, ollama: SimulatedServer) -> None:
    done = run("usage", "--html", "nowhere/page.html")
    assert done.code == 1
    assert done.complaint.endswith("No such file or directory")


@pytest.mark.skipif(sys.platform == "win32", reason="no links there")
def test_a_page_is_replaced_where_a_link_leads(run: Run, ollama: SimulatedServer) -> None:
    Path("www").mkdir()
    PAGE.symlink_to("www/page.html")
    for _ in range(2):
        assert run("usage", "--html", PAGE).code == 0
    assert PAGE.is_symlink()
    assert [path.name for path in Path("www").iterdir()] == ["page.html"]
    assert stat.S_IMODE(PAGE.stat().st_mode) & 0o444 == 0o444 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# pg status


@pytest.fixture
def docs(database: Database) -> Database:
    """A database with an installation and a table of three rows."""
    postgres.install(database.address)
    database.execute(
        "CREATE TABLE docs (id int PRIMARY KEY, body text)",
        "INSERT INTO docs SELECT n, 'the secret text ' || n FROM generate_series(1, 3) AS n",
    )
    return database


def test_a_page_of_no_vectorizer(run: Run, docs: Database) -> None:
    assert run("pg", "status", "--html", PAGE).code == 0
    assert "none yet" in checked(PAGE.read_text("utf-8")).text


def test_the_page_of_status_goes_on_from_the_one_before(run: Run, docs: Database) -> None:
    run("pg", "create", "docs", "--column", "body", *LEXICAL)
    docs.execute("ANALYZE docs")
    done = run("pg", "status", "--html", PAGE)
    assert (done.code, done.out, done.err) == (0, "", f"wrote {PAGE}\n")
    before = checked(PAGE.read_text("utf-8"))
    for said in (
        "Charts begin here", "backfill", "0 of about 3 rows gone through", "not built yet",
        "No worker is running for docs", "docs into docs_embedding, lexical/1024",
    ):  # fmt: skip
        assert said in before.text, said
    assert run("pg", "worker", "--once").code == 0
    done = run("pg", "status", "--quiet", "--json", "--html", PAGE)
    assert (done.json[0]["state"], done.err) == ("active", "")
    written = PAGE.read_text("utf-8")
    after = checked(written)
    for said in ("active", "in step", "Charts of 2 samples", "docs_embedding_hnsw (hnsw, "):
        assert said in after.text, said
    assert [one["vectorizers"]["docs"][0] for one in samples()] == [3, 0]
    assert len(after.of("path", **{"class": "line"})) == 2
    assert "secret text" not in written
    assert not re.search(r"https?:|url\(|src=", written)
    assert [path.name for path in Path().iterdir() if "page" in path.name] == [PAGE.name]


def test_what_is_wrong_is_said_as_text(run: Run, docs: Database) -> None:
    docs.execute(
        f'CREATE TABLE "{HOSTILE}" (id int PRIMARY KEY, body text)',
        f"INSERT INTO \"{HOSTILE}\" VALUES (1, 'a text')",
    )
    run("pg", "create", f'"{HOSTILE}"', "--column", "body", "--name", HOSTILE, *LEXICAL)
    run("pg", "create", "docs", "--column", "body", *LEXICAL)
    docs.execute(f'DROP TABLE "{HOSTILE}" CASCADE')
    for _ in range(2):
        assert run("pg", "status", "--html", PAGE).code == 0
    found = checked(PAGE.read_text("utf-8"))
    assert HOSTILE in found.text
    assert "broken" in found.text
    assert "Changes are not captured." in found.text
    assert "Last error:" in found.text
    assert [set(one["vectorizers"]) for one in samples()] == [{HOSTILE, "docs"}] * 2


def test_a_row_that_was_refused_is_counted_and_not_shown(
    run: Run, docs: Database, ollama: SimulatedServer
) -> None:
    ollama.behave(refuse_texts_with="text 2")
    run("pg", "create", "docs", "--column", "body", "--model", MODEL)
    assert "1 dead" in run("pg", "worker", "--once").out
    assert run("pg", "status", "--html", PAGE).code == 0
    assert samples()[0]["vectorizers"]["docs"][:2] == [0, 1]
    assert "see qwen-embed pg dead" in checked(PAGE.read_text("utf-8")).text
    assert "secret text" not in PAGE.read_text("utf-8")


def test_one_vectorizer_of_several(run: Run, docs: Database) -> None:
    for name in ("one", "two"):
        run(
            "pg",
            "create",
            "docs",
            "--column",
            "body",
            "--name",
            name,
            "--target-name",
            name,
            *LEXICAL,
        )
    run("pg", "status", "--html", PAGE)
    assert run("pg", "status", "two", "--html", PAGE).code == 0
    found = checked(PAGE.read_text("utf-8"))
    assert len(found.of("section")) == 1
    assert "two" in found.text
    assert [set(one["vectorizers"]) for one in samples()] == [{"one", "two"}, {"two"}]


def test_samples_of_another_database_are_not_mixed_in(run: Run, docs: Database) -> None:
    run("pg", "status", "--html", PAGE)
    written = PAGE.read_text("utf-8")
    name = docs.execute("SELECT current_database()")[0][0]
    PAGE.write_text(written.replace(f'"database":"{name}', f'"database":"not_{name}'), "utf-8")
    edited = PAGE.read_text("utf-8")
    assert edited != written
    done = run("pg", "status", "--html", PAGE)
    assert done.code == 2
    assert f"tells of the database 'not_{name}" in done.complaint
    assert PAGE.read_text("utf-8") == edited


def test_samples_that_were_spoilt_are_one_line(run: Run, docs: Database) -> None:
    run("pg", "status", "--html", PAGE)
    PAGE.write_text(PAGE.read_text("utf-8").replace('"samples":[', '"samples":[7,'), "utf-8")
    done = run("pg", "status", "--html", PAGE)
    assert done.code == 2
    assert done.complaint.startswith(f"--html: the samples in {PAGE} cannot be read; remove it")


def test_a_role_that_may_only_look_gets_its_page(run: Run, docs: Database) -> None:
    run("pg", "create", "docs", "--column", "body", *LEXICAL)
    docs.execute("DROP ROLE IF EXISTS qe_looks", "CREATE ROLE qe_looks LOGIN")
    try:
        assert run("pg", "grant", "qe_looks").code == 0
        done = run("pg", "status", "--html", PAGE, "--dsn", f"{docs.address} user=qe_looks")
        assert done.code == 0, done.err
    finally:
        docs.execute("DROP OWNED BY qe_looks", "DROP ROLE qe_looks")
    found = checked(PAGE.read_text("utf-8"))
    assert "docs into docs_embedding" in found.text
    assert "seen by workers and owners alone" in found.text


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one process there")
def test_watching_writes_the_page_again_and_again(run: Run, docs: Database) -> None:
    run("pg", "create", "docs", "--column", "body", *LEXICAL)
    watching = run.start("pg", "status", "--watch", "--html", PAGE, stderr=-1, stdout=-1)
    try:
        while not (PAGE.exists() and len(samples()) > 1):
            assert watching.poll() is None
            time.sleep(0.1)
        watching.send_signal(signal.SIGINT)
        out, err = watching.communicate(timeout=30)
    finally:
        watching.kill()
    assert out == b""
    assert err.decode().splitlines() == [f"wrote {PAGE}", "qwen-embed: interrupted"]
