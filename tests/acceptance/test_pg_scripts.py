"""`--sql`: what a command would run, run by psql instead; and an end without a trace."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from qwen_embed_plugins import postgres
from tests.acceptance.conftest import Database
from tests.postgres_tools import tool

if TYPE_CHECKING:
    from qwen_embed_plugins.testing import SimulatedServer
    from tests.acceptance.conftest import Done, Run
    from tests.postgres_servers import Server

SPACE = ("--model", "qwen3-embedding-0.6b", "--dimensions", "64")
TABLES = (
    'CREATE TABLE docs (id int PRIMARY KEY, body text, "It\'s %s" text)',
    "INSERT INTO docs VALUES (1, 'one', 'x'), (2, 'two', 'y')",
)


class Pair:
    """Two databases alike: one for commands, one for their scripts."""

    def __init__(self, run: Run, server: Server, names: tuple[str, str]) -> None:
        self._run = run
        self._version = server.version() // 10000
        self.by_command, self.by_script = (Database(server.dsn(name)) for name in names)

    def psql(self, script: str, *, stop: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [tool("psql", self._version), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d",
             self.by_script.address],
            input=script, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        if stop:
            assert done.returncode == 0, done.stderr
            assert done.stderr == ""
        return done

    def both(self, *arguments: str) -> Done:
        """Run a command on the one, and its script, which is written without a connection, on the
        other; both are alike afterwards."""
        done = self._run("pg", *arguments, "--dsn", self.by_command.address)
        nowhere = "postgresql://127.0.0.1:1/none?connect_timeout=1"
        script = self._run("pg", *arguments, "--sql", "--dsn", nowhere)
        assert script.code == 0, script.err
        self.psql(script.out)
        assert self.dump(self.by_command) == self.dump(self.by_script)
        return done

    def dump(self, database: Database) -> list[str]:
        """What is in a database, as pg_dump writes it, without what differs from run to run."""
        done = subprocess.run(
            [tool("pg_dump", self._version), "--inserts", "-d", database.address,
             "--exclude-table-data=qwen_embed.log_*"],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        lines = []
        for line in done.stdout.splitlines():
            if line.startswith(("\\restrict", "\\unrestrict")):
                continue
            kept = line
            if line.startswith("INSERT INTO qwen_embed."):  # times, and marks of triggers
                kept = line.split(" VALUES ")[0]
            lines.append(kept)
        return lines


@pytest.fixture
def pair(run: Run, postgres_server: Server) -> Iterator[Pair]:
    with postgres_server.database("template1") as one, postgres_server.database("template1") as two:
        pair = Pair(run, postgres_server, (one, two))
        for database in (pair.by_command, pair.by_script):
            database.execute(*TABLES)
        yield pair


def test_each_command_and_its_script_do_the_same(pair: Pair) -> None:
    assert pair.both("install").code == 0
    assert pair.both("install", "--model", "qwen3-embedding-0.6b", "--dimensions", "64").code == 0
    assert pair.both("create", "docs", "--column", "body", "--column", "It's %s").code == 0
    assert pair.both("create", "docs", "--template", "{body}%s'", "--name", "o'other%",
                     "--target-name", "o%", "--index-kind", "none", *SPACE).code == 0  # fmt: skip
    assert pair.both("pause", "docs").code == 0
    assert pair.both("resume", "docs").code == 0
    assert pair.both("retry", "docs").code == 0
    assert pair.both("suspend", "docs").code == 0
    assert pair.both("resume", "docs").code == 0
    assert pair.both("redefine", "docs", "--template", "{body}: {It's %s}").code == 0
    assert pair.both("repair", "docs").code == 0
    role = pair.by_command.execute("SELECT current_user")[0][0]
    assert pair.both("grant", role, "--worker", "--only", "docs").code == 0
    assert pair.both("grant", role, "--worker", "--owner").code == 0
    assert pair.both("grant", role, "--worker", "--revoke").code == 0
    assert pair.both("grant", role, "--revoke").code == 0
    assert pair.both("drop", "o'other%", "--drop-target").code == 0
    assert pair.both("uninstall", "--all").code == 0
    left = pair.by_script.execute("SELECT to_regclass('docs_embedding') IS NULL")
    assert left == [(True,)], "no vector was in it"


def test_a_script_that_is_refused_changes_nothing(pair: Pair, run: Run) -> None:
    install = run("pg", "install", "--sql").out
    pair.psql(install)
    pair.psql(run("pg", "create", "docs", "--column", "body", *SPACE, "--sql").out)
    before = pair.dump(pair.by_script)
    for arguments, said in (
        (["create", "docs", "--column", "body", *SPACE], "already a vectorizer"),
        (["drop", "dcs"], "there is no vectorizer"),
        (["uninstall"], "vectorizers are left: docs"),
        (["grant", "nobody_here"], "there is no role"),
    ):
        done = pair.psql(run("pg", *arguments, "--sql").out, stop=False)
        assert done.returncode == 3
        assert said in done.stderr
        assert pair.dump(pair.by_script) == before
    # The newer schema is refused by the script as by the command.
    pair.by_script.execute("INSERT INTO qwen_embed.migration VALUES (9999, 'later', 'x')")
    assert "pip install --upgrade" in pair.psql(install, stop=False).stderr


def test_an_installation_by_script_goes_on_by_command(
    pair: Pair, run: Run, ollama: SimulatedServer
) -> None:
    pair.psql(run("pg", "install", "--sql").out)
    address = pair.by_script.address
    assert run("pg", "install", "--dsn", address).out.startswith("up to date")
    assert run("pg", "create", "docs", "--column", "body", *SPACE, "--dsn", address).code == 0
    assert run("pg", "worker", "--once", "--dsn", address).out.startswith("2 embedded")
    pair.psql(run("pg", "install", "--sql").out)


def test_pgvector_in_a_schema_that_the_script_does_not_know(pair: Pair, run: Run) -> None:
    pair.by_script.execute('CREATE SCHEMA "Odd one"', 'CREATE EXTENSION vector SCHEMA "Odd one"')
    pair.psql(run("pg", "install", "--sql").out)
    found = pair.by_script.execute(
        "SELECT pg_get_function_arguments(oid) FROM pg_proc "
        "WHERE pronamespace = 'qwen_embed'::regnamespace AND proname = 'search'"
    )
    assert '"Odd one".vector' in found[0][0]


TRACES = """
SELECT 'class ' || relname FROM pg_class WHERE relname ~ 'qwen_embed'
    OR relnamespace = to_regnamespace('qwen_embed')::oid
UNION ALL SELECT 'function ' || proname FROM pg_proc
    WHERE proname ~ 'qwen_embed' OR prosrc ~ 'qwen_embed'
UNION ALL SELECT 'trigger ' || tgname FROM pg_trigger WHERE tgname ~ 'qwen_embed'
UNION ALL SELECT 'type ' || typname FROM pg_type WHERE typname ~ 'qwen_embed'
UNION ALL SELECT 'policy ' || polname FROM pg_policy
    WHERE polname ~ 'qwen_embed' OR pg_get_expr(polqual, polrelid) ~ 'qwen_embed'
UNION ALL SELECT 'event trigger ' || evtname FROM pg_event_trigger
UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname ~ 'qwen_embed'
UNION ALL SELECT 'comment ' || description FROM pg_description
    WHERE description ~ 'qwen_embed|kept by'
UNION ALL SELECT 'constraint ' || conname FROM pg_constraint WHERE conname ~ 'qwen_embed'
UNION ALL SELECT 'default rights' FROM pg_default_acl
UNION ALL SELECT 'view ' || viewname FROM pg_views WHERE definition ~ 'qwen_embed'
UNION ALL SELECT 'lock' FROM pg_locks WHERE locktype = 'advisory' AND database =
    (SELECT oid FROM pg_database WHERE datname = current_database())
UNION ALL SELECT 'dependency' FROM pg_depend d LEFT JOIN pg_namespace n ON n.oid = d.refobjid
    WHERE d.refclassid = 'pg_namespace'::regclass AND n.oid IS NULL AND d.deptype = 'n'
"""


@pytest.mark.parametrize("drop_data", [False, True])
def test_an_end_without_a_trace(
    run: Run, database: Database, ollama: SimulatedServer, drop_data: bool
) -> None:
    """Plain, partitioned and suspended sources, a column, a move under way and one done."""
    database.execute(
        *TABLES,
        "CREATE TABLE parts (id int PRIMARY KEY, body text) PARTITION BY RANGE (id)",
        "CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (100)",
        "CREATE TABLE gone (id int PRIMARY KEY, body text)",
        "CREATE TABLE wide (id int PRIMARY KEY, body text)",
        "INSERT INTO parts VALUES (2, 'x')",
        "INSERT INTO wide VALUES (1, 'x')",
    )
    before = database.execute(TRACES)
    assert before == []
    postgres.install(database.address)
    for source in ("docs", "parts", "gone"):
        assert run("pg", "create", source, "--column", "body", *SPACE).code == 0
    space: dict[str, Any] = {"model": "qwen3-embedding-0.6b", "dimensions": 64}
    postgres.create_vectorizer(
        database.address, "wide", columns=["body"], target="column", index_kind="none", **space
    )
    postgres.create_vectorizer(
        database.address, "wide", columns=["body"], name="moving", target_name="w", **space
    )
    assert run("pg", "worker", "--once").code == 0
    postgres.move(database.address, "docs", dimensions=32)
    assert run("pg", "worker", "--once").code == 0
    postgres.finish_move(database.address, "docs")
    postgres.move(database.address, "moving", dimensions=32)
    postgres.suspend(database.address, "parts")
    database.execute("DROP TABLE gone CASCADE")
    assert "Drop them first" in run("pg", "uninstall").complaint
    assert "--drop-data goes with --all" in run("pg", "uninstall", "--drop-data").complaint
    if drop_data:
        assert run("pg", "uninstall", "--all", "--drop-data").code == 130, "nobody said yes"
    options = ["--drop-data", "--yes"] if drop_data else []
    done = run("pg", "uninstall", "--all", *options)
    assert done.out == "removed the schema qwen_embed\n", done.err
    assert database.execute(TRACES) == []
    tables = {row[0] for row in database.execute(
        "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace "
        "AND relkind IN ('r', 'p', 'v')"
    )}  # fmt: skip
    sources = {"docs", "parts", "parts_1", "wide"}
    assert sources <= tables
    kept = database.execute(
        "SELECT count(*) FROM information_schema.columns "
        "WHERE table_name = 'wide' AND column_name = 'embedding'"
    )
    assert kept == [(0 if drop_data else 1,)]
    if drop_data:
        assert tables == sources
    else:
        # What it was is said by its comment, and who may see a row of it stays as it was.
        assert {"docs_embedding", "docs_embedding_32", "parts_embedding", "w"} <= tables
        assert "gone_embedding" not in tables, "no vector is in it"
        said = database.execute("SELECT obj_description('docs_embedding_32'::regclass)")[0][0]
        assert said.startswith(
            "Vectors of public.docs (qwen3-embedding-0.6b, 32 dimensions) as they were on "
        )
        policies = database.execute("SELECT polname FROM pg_policy WHERE polname ~ 'visible'")
        assert len(policies) >= 4
    # The user's writes go on.
    database.execute("INSERT INTO docs VALUES (3, 'three')", "INSERT INTO parts VALUES (1, 'x')")
    assert "is not installed" in run("pg", "uninstall").complaint


def test_uninstalling_what_others_own_is_refused(run: Run, database: Database) -> None:
    postgres.install(database.address)
    database.execute("DROP ROLE IF EXISTS qe_stranger", "CREATE ROLE qe_stranger LOGIN")
    try:
        done = run("pg", "uninstall", "--dsn", f"{database.address} user=qe_stranger")
        assert done.code == 1
        assert "permission denied" in done.complaint
        with psycopg.connect(database.address) as connection:
            assert connection.execute("SELECT count(*) FROM qwen_embed.vectorizer").fetchone()
    finally:
        database.execute("DROP ROLE qe_stranger")


def test_columns_are_named_alike_everywhere(run: Run) -> None:
    for command in ("create", "redefine"):
        one_by_one = run("pg", command, "docs", "--column", "a", "--column", "b", "--sql")
        together = run("pg", command, "docs", "--columns", "a, b", "--sql")
        assert one_by_one.code == 0
        assert together.out == one_by_one.out
        both = run("pg", command, "docs", "--columns", "a", "--template", "{a}", "--sql")
        assert (both.code, both.complaint[:18]) == (2, "give --column (or ")
