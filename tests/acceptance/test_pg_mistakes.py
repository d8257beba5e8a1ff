"""Mistakes of a user. Each is answered by one line that says what to do, and by the right code.

What a mistake leaves behind is then mended as the line says, since advice that does not work is
worse than none.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qwen_embed_plugins import postgres
from tests.acceptance.conftest import Database
from tests.postgres_servers import embedded_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qwen_embed_plugins.testing import SimulatedServer
    from tests.acceptance.conftest import Done, Run

SPACE = ("--model", "lexical", "--dimensions", "1024")
OTHER = ("--model", "qwen3-embedding-0.6b", "--dimensions", "64", "--index-kind", "none")


@pytest.fixture
def docs(database: Database) -> Database:
    postgres.install(database.address)
    database.execute(
        "CREATE TABLE docs (id int PRIMARY KEY, title text, body text)",
        "INSERT INTO docs VALUES (1, 'Bread', 'how to bake'), (2, 'Trains', 'when they leave')",
    )
    return database


def refused(done: Done, code: int, *said: str) -> str:
    """The one line of a command that was refused."""
    assert done.code == code, done.err
    lines = [line for line in done.err.splitlines() if line.startswith("qwen-embed: ")]
    assert len(lines) == 1
    for part in said:
        assert part in lines[0]
    return done.complaint


def test_1_a_wrong_column(run: Run, docs: Database) -> None:
    refused(run("pg", "create", "docs", "--column", "bdy", *SPACE), 1, "Did you mean body?")
    refused(run("pg", "create", "docs", "--template", "{titel}", *SPACE), 1, "Did you mean title?")
    refused(run("pg", "create", "docs", *SPACE), 2, "give --column")
    assert run("pg", "list").out == "no vectorizers yet\n"


def test_2_a_dropped_column(run: Run, docs: Database) -> None:
    run("pg", "create", "docs", "--column", "body", *SPACE)
    assert run("pg", "worker", "--once").code == 0
    docs.execute("ALTER TABLE docs DROP COLUMN body CASCADE")
    docs.execute("INSERT INTO docs VALUES (3, 'Cheese')")
    said = refused(
        run("pg", "worker", "--once"), 1, "column body, which the text is made of, was dropped",
        "`qwen-embed pg redefine docs --column …`",
    )  # fmt: skip
    assert said.startswith("work remains: docs: ")
    assert "pg redefine docs" in run("pg", "status").out
    assert "pg redefine docs" in run("doctor", "--offline").out
    assert run("pg", "status", "--html", "status.html").code == 0
    assert "pg redefine docs" in Path("status.html").read_text("utf-8")
    [state] = run("pg", "status", "--json").json
    assert "SELECT qwen_embed.redefine(" in state["last_error"], "programs get what is stored"
    assert run("pg", "redefine", "docs", "--column", "title").code == 0
    assert run("pg", "worker", "--once").code == 0
    assert docs.execute("SELECT text FROM docs_embedding ORDER BY id") == [
        ("Bread",), ("Trains",), ("Cheese",),
    ]  # fmt: skip


def test_3_too_many_dimensions_for_the_index(run: Run, docs: Database) -> None:
    large = ("--model", "qwen3-embedding-8b", "--dimensions", "4096")
    refused(
        run("pg", "create", "docs", "--column", "body", *large, "--index-kind", "hnsw"), 1,
        "an HNSW index on halfvec holds at most 4000 dimensions, not 4096", "binary",
    )  # fmt: skip
    refused(
        run("pg", "create", "docs", "--column", "body", *large[:2], "--dimensions", "5000"), 1,
        "has no vectors of 5000 dimensions", "Ask for 32 to 4096",
    )  # fmt: skip
    assert (
        run("pg", "create", "docs", "--column", "body", *large, "--index-kind", "binary").code == 0
    )


def test_4_two_workers_with_different_settings(
    run: Run, docs: Database, ollama: SimulatedServer
) -> None:
    """One cannot make the space: it says why and keeps nothing, and the other goes on beside it."""
    run("pg", "create", "docs", "--column", "body", *OTHER)
    Path("unable.toml").write_text('use = ["lexical"]', "utf-8")
    unable = ("pg", "worker", "--settings", "unable.toml")
    refused(
        run(*unable, "--once"), 1, "work remains: docs: 2 rows held",
        "no offer left for qwen3-embedding-0.6b/64: lexical: does not serve qwen3-embedding-0.6b",
    )  # fmt: skip
    [state] = run("pg", "status", "--json").json
    assert (state["pending"], state["leased"], state["dead"]) == (2, 0, 0)
    assert "does not serve" in state["last_error"]
    with run.start(*unable, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as service:
        try:
            assert service.stderr is not None
            while b"work waits" not in service.stderr.readline():
                assert service.poll() is None
            assert run("pg", "worker", "--once").code == 0
        finally:
            service.kill()
    [state] = run("pg", "status", "--json").json
    assert (state["state"], state["last_error"], state["pending"]) == ("active", None, 0)
    assert docs.execute("SELECT count(*) FROM docs_embedding") == [(2,)]
    # One that knows of no such space at all.
    run("pg", "create", "docs", "--column", "title", "--name", "odd", "--target-name", "odd",
        "--model", "lexical", "--dimensions", "64")  # fmt: skip
    done = run("pg", "worker", "--once", "--only", "odd")
    refused(done, 1, "odd: about 2 rows blocked (dimensions = 64: lexical gives only 1024")


def test_5_the_dimensions_were_changed_in_the_file(
    run: Run, docs: Database, ollama: SimulatedServer
) -> None:
    """A vectorizer keeps its own: mixing lengths in a column is impossible, and it is said."""
    run("pg", "create", "docs", "--column", "body", *OTHER)
    kept = Path("qwen-embed.toml").read_text("utf-8")
    text = 'model = "qwen3-embedding-0.6b"\ndimensions = 128\n' + kept
    Path("qwen-embed.toml").write_text(text, "utf-8")
    done = run("pg", "worker", "--once")
    assert (done.code, done.out[:10]) == (0, "2 embedded")
    [line] = [line for line in done.err.splitlines() if "keeps its space" in line]
    assert "space: qwen3-embedding-0.6b/64" in line
    assert "qwen-embed pg move docs --model qwen3-embedding-0.6b --dimensions 128" in line
    assert docs.execute("SELECT DISTINCT vector_dims(embedding) FROM docs_embedding") == [(64,)]
    hits = run("pg", "search", "docs", "bread", "--json").json
    assert len(hits) == 2
    # The advice works, and then there is nothing to say.
    moved = run("pg", "move", "docs", "--model", "qwen3-embedding-0.6b", "--dimensions", "128",
                "--no-wait", "--yes")  # fmt: skip
    assert moved.code in (0, 1), moved.err
    assert run("pg", "worker", "--once").code == 0
    assert run("pg", "move", "docs", "--no-wait").code == 0
    assert "keeps its space" not in run("pg", "worker", "--once").err
    Path("qwen-embed.toml").write_text(kept, "utf-8")
    assert "keeps its space" not in run("pg", "worker", "--once").err, "nothing is stated"


def test_6_the_extension_is_missing(run: Run, docs: Database) -> None:
    run("pg", "create", "docs", "--column", "body", *SPACE)
    docs.execute("DROP EXTENSION vector CASCADE")
    for command in (["worker", "--once"], ["search", "docs", "bread"]):
        refused(run("pg", *command), 1, "CREATE EXTENSION vector;", "qwen-embed pg install")
    docs.execute("CREATE EXTENSION vector")
    assert run("pg", "install").code == 0
    said = refused(
        run("pg", "worker", "--once"), 1, "column embedding of public.docs_embedding was dropped"
    )
    assert said.endswith(
        "DROP TABLE public.docs_embedding CASCADE; then `qwen-embed pg repair docs`)"
    )
    docs.execute("DROP TABLE public.docs_embedding CASCADE")
    assert run("pg", "repair", "docs").code == 0
    assert run("pg", "worker", "--once").code == 0
    assert len(run("pg", "search", "docs", "bake", "--json").json) == 2


@pytest.fixture
def stranger(docs: Database) -> Iterator[str]:
    """The address of a role without any right."""
    docs.execute("DROP ROLE IF EXISTS qe_stranger", "CREATE ROLE qe_stranger LOGIN")
    yield f"{docs.address} user=qe_stranger"
    docs.execute("DROP OWNED BY qe_stranger", "DROP ROLE qe_stranger")


def test_7_no_rights(run: Run, docs: Database, stranger: str) -> None:
    run("pg", "create", "docs", "--column", "body", *SPACE)
    refused(run("pg", "install", "--dsn", stranger), 1, "installed qwen_embed here", "SET ROLE")
    for command in (
        ["create", "docs", "--column", "title", "--name", "mine", *SPACE],
        ["status"],
        ["worker", "--once"],
        ["pause", "docs"],
        ["drop", "docs"],
        ["dead"],
    ):
        refused(run("pg", *command, "--dsn", stranger), 1, "permission denied", "pg grant")
    refused(
        run("pg", "search", "docs", "x", "--dsn", stranger), 1, "permission denied for table docs"
    )
    docs.execute("ALTER ROLE qe_stranger BYPASSRLS")
    assert run("pg", "grant", "qe_stranger", "--worker").code == 0
    assert run("pg", "worker", "--once", "--dsn", stranger).out.startswith("2 embedded")


def test_8_a_server_that_only_reads(run: Run, docs: Database) -> None:
    """A database in which transactions read by default: what we would change is refused, and
    what only reads goes on; so do workers, who say for each transaction that it writes."""
    run("pg", "create", "docs", "--column", "body", *SPACE)
    name = docs.execute("SELECT current_database()")[0][0]
    docs.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    for command in (
        ["install"],
        ["create", "docs", "--column", "body", "--name", "b", "--target-name", "b", *SPACE],
        ["pause", "docs"],
        ["drop", "docs"],
        ["uninstall", "--all"],
    ):
        refused(run("pg", *command), 1, "read-only transaction", "default_transaction_read_only")
    assert run("pg", "status").code == 0
    assert run("pg", "worker", "--once").out.startswith("2 embedded")
    assert len(run("pg", "search", "docs", "bake", "--json").json) == 2


def test_8_a_standby(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with embedded_server(18) as server:
        monkeypatch.setenv("QWEN_EMBED_DSN", server.address)
        docs = Database(server.address)
        postgres.install(server.address)
        docs.execute(
            "CREATE TABLE docs (id int PRIMARY KEY, body text)",
            "INSERT INTO docs VALUES (1, 'how to bake')",
        )
        run("pg", "create", "docs", "--column", "body", *SPACE)
        assert run("pg", "worker", "--once").code == 0
        server.stop()
        server.start_standby()
        assert docs.execute("SELECT pg_is_in_recovery()") == [(True,)]
        for command in (["worker", "--once"], ["pause", "docs"], ["install"]):
            refused(run("pg", *command), 1, "It is a standby, or", "name the primary")
        assert run("pg", "status").code == 0
        assert len(run("pg", "search", "docs", "bake", "--json").json) == 1
        server.promote()
        assert run("pg", "worker", "--once").code == 0


def test_9_a_vectorizer_created_twice(run: Run, docs: Database) -> None:
    create = ("pg", "create", "docs", "--column", "body", *SPACE)
    assert run(*create).code == 0
    refused(
        run(*create), 1,
        "there is already a vectorizer 'docs', of public.docs in the space lexical/1024",
        "Give another --name", "`qwen-embed pg drop docs`",
    )  # fmt: skip
    refused(
        run("pg", "create", "docs", "--column", "body", *OTHER), 1,
        "`qwen-embed pg move docs --model qwen3-embedding-0.6b --dimensions 64`",
    )  # fmt: skip
    said = refused(
        run(*create, "--name", "b"), 1, "public.docs_embedding belongs to the vectorizer 'docs'",
        "Give another --target-name",
    )  # fmt: skip
    assert "drop" not in said
    assert run(*create, "--name", "b", "--target-name", "b").code == 0
    assert [item["name"] for item in run("pg", "list", "--json").json] == ["b", "docs"]


def test_10_the_source_was_dropped(run: Run, docs: Database) -> None:
    run("pg", "create", "docs", "--column", "body", *SPACE)
    run("pg", "worker", "--once")
    docs.execute("DROP TABLE docs CASCADE")
    line = "the source table was dropped. `qwen-embed pg drop docs`"
    refused(run("pg", "worker", "--once"), 1, "work remains: docs: broken", line)
    refused(run("pg", "search", "docs", "x"), 1, "was dropped", "`qwen-embed pg drop docs`")
    assert line in run("pg", "status").out
    refused(run("pg", "create", "docs", "--column", "body", *SPACE), 1, "there is no table docs")
    done = run("pg", "drop", "docs")
    assert "vectors stays. To remove that too, in SQL: DROP TABLE docs_embedding;" in done.out
    assert run("pg", "worker", "--once").code == 0
    assert docs.execute("SELECT count(*) FROM docs_embedding") == [(2,)], "the vectors stay"


def test_11_dropped_and_made_again(run: Run, docs: Database) -> None:
    """Before a worker ran nothing is in the way; after it, it is said what is and how it goes."""
    create = ("pg", "create", "docs", "--column", "body", *SPACE)
    run(*create)
    assert run("pg", "drop", "docs").out == "dropped docs\n"
    assert run(*create).code == 0
    assert run("pg", "worker", "--once").code == 0
    said = run("pg", "drop", "docs").out
    removal = "DROP TABLE docs_embedding;"
    assert (
        said
        == f"dropped docs; what held its vectors stays. To remove that too, in SQL: {removal}\n"
    )
    refused(
        run(*create), 1, "exists already", "earlier vectorizer left: DROP TABLE public.docs_emb"
    )
    docs.execute(removal)
    assert run(*create).code == 0


def test_12_a_worker_where_there_is_nothing_to_work_for(run: Run, docs: Database) -> None:
    done = run("pg", "worker", "--once")
    assert done.code == 0
    assert done.out.endswith(
        "s): no vectorizer yet. Begin with: qwen-embed pg create TABLE --column COLUMN\n"
    )
    run("pg", "create", "docs", "--column", "body", *SPACE)
    run("pg", "worker", "--once")
    assert run("pg", "worker", "--once").out.endswith("s)\n")


def test_13_an_empty_query(run: Run, docs: Database) -> None:
    run("pg", "create", "docs", "--column", "body", *SPACE)
    done = run("pg", "search", "docs", " ", "--verbose")
    assert done.code == 2
    assert done.err == "qwen-embed: the query is empty; pass some text\n", "no text goes anywhere"


def test_14_another_folder(run: Run) -> None:
    """A folder is looked for from where one stands: a wrong one is no new, empty database."""
    folder = Path(tempfile.mkdtemp(prefix="qe-"))
    address = f"embedded:{folder}/data"
    try:
        for command in (("status",), ("worker", "--once"), ("sql", "SELECT 1")):
            done = run("pg", *command, "--dsn", address)
            refused(
                done, 2, f"{address}: there is no Postgres in that folder. `qwen-embed pg install`"
            )
        assert list(folder.iterdir()) == []
        assert run("pg", "install", "--dsn", address).code == 0
        assert run("pg", "sql", "DROP SCHEMA qwen_embed CASCADE", "--dsn", address).code == 0
        done = run("pg", "status", "--dsn", address)
        refused(done, 1, f"not installed in {address}. Run `qwen-embed pg install`")
    finally:
        shutil.rmtree(folder)
