"""`qwen-embed pg index`: built, measured, interrupted."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from qwen_embed_plugins import postgres

if TYPE_CHECKING:
    from tests.acceptance.conftest import Database, Run

INDEXES = (
    "SELECT i.relname, x.indisvalid FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid "
    "JOIN pg_am a ON a.oid = i.relam WHERE a.amname = 'hnsw'"
)
FIGURES = r"recall@10 \d\.\d{3}, \d+\.\d ms by the index, \d+\.\d ms exact \(medians of \d+\)\n"


def filled(database: Database, dimensions: int, rows: int) -> None:
    """A vectorizer `docs` with random vectors and no index yet."""
    postgres.install(database.address)
    numbers = f"SELECT random() - 0.5 + 0 * i FROM generate_series(1, {dimensions})"
    database.execute(
        "CREATE TABLE docs (id int PRIMARY KEY, body text)",
        f"INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, {rows}) i",
        "SELECT qwen_embed.create_vectorizer('docs', ARRAY['body'], model => 'lexical', "
        f"dimensions => {dimensions}, index_kind => 'binary', backfill => false)",
        "INSERT INTO docs_embedding (id, text, embedding, content_hash, space) "
        f"SELECT i, 'text ' || i, ARRAY({numbers})::vector, '', 'any' "
        f"FROM generate_series(1, {rows}) i",
    )


def test_an_index_is_built_and_measured(run: Run, database: Database) -> None:
    filled(database, 64, 1000)
    statement = run("pg", "index", "docs", "--sql").out
    assert statement.startswith("CREATE INDEX CONCURRENTLY docs_embedding_binary ON public.docs_")
    assert statement.endswith(");\n")
    assert database.execute(INDEXES) == []
    done = run("pg", "index", "docs")
    assert re.fullmatch(
        r"built docs_embedding_binary \(\d+ kB\) in \d+\.\d s\n" + FIGURES, done.out
    )
    assert run.fits(done.out)
    assert database.execute(INDEXES) == [("docs_embedding_binary", True)]
    again = run("pg", "index", "docs").out
    assert re.fullmatch(
        r"docs: nothing to build, docs_embedding_binary stands \(\d+ kB\)\n" + FIGURES, again
    )
    told = run("pg", "index", "docs", "--queries", "5", "--json").json
    assert (told["built"], told["index"], told["queries"]) == (False, "docs_embedding_binary", 5)
    assert 0 <= told["recall"] <= 1
    unmeasured = run("pg", "index", "docs", "--queries", "0")
    assert len(unmeasured.out.splitlines()) == 1


def test_no_index_where_none_is_wanted(run: Run, database: Database) -> None:
    filled(database, 8, 1)
    database.execute("UPDATE qwen_embed.vectorizer SET index_kind = 'none'")
    assert run("pg", "index", "docs").out == "docs: nothing to build\n"
    assert run("pg", "index", "docs", "--sql").out.startswith("-- nothing to build: docs")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupted_build_leaves_nothing(run: Run, database: Database, name: str) -> None:
    filled(database, 512, 12000)
    command = run.start("pg", "index", "docs", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    loading = "building index: loading tuples"
    while loading not in str(database.execute("SELECT phase FROM pg_stat_progress_create_index")):
        assert time.monotonic() < deadline
        assert command.poll() is None
        time.sleep(0.02)
    command.send_signal(getattr(signal, name))
    _, err = command.communicate(timeout=60)
    assert command.returncode not in (0, 1)
    run.check_output(err.decode())
    assert database.execute(INDEXES) == []


def test_whoever_is_waited_for_is_named(run: Run, database: Database) -> None:
    import psycopg

    filled(database, 8, 10)
    with psycopg.connect(database.address) as writer:
        writer.execute("UPDATE docs_embedding SET offer = 'other' WHERE id = 1")
        pid = writer.info.backend_pid
        command = run.start("pg", "index", "docs", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert command.stderr is not None
        said = command.stderr.readline().decode()
        assert said.startswith(f"waiting for the transaction of process {pid} to end")
    out, err = command.communicate(timeout=60)
    assert command.returncode == 0
    assert err == b""
    assert out.startswith(b"built docs_embedding_binary")
    assert database.execute(INDEXES) == [("docs_embedding_binary", True)]
