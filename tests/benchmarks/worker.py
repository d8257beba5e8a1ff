"""A worker as a whole process, from its start to its end, beside the least that writes vectors.

The floor is one `UPDATE … FROM unnest(…)` with binary arrays for every 500 rows, in a process that
runs already: no capture, no reading, no request, no check.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from psycopg import sql

from qwen_embed_plugins import postgres
from qwen_embed_plugins.postgres.vectors import BinaryArray, BinaryArrayDumper, vector_array
from tests.benchmarks.instant_server import Answers, instant_server
from tests.benchmarks.measuring import Case, compare, report
from tests.postgres_servers import embedded_server

BATCH = 500
WORKERS = 4
SIZES = (("qwen3-embedding-0.6b", 1024, 50_000), ("qwen3-embedding-8b", 4096, 20_000))
BODY = "'row ' || i || ' has a text of about a hundred characters, as many tables have'"


class Table:
    """A table with a vectorizer and one without, of as many rows."""

    def __init__(self, dsn: str, model: str, dimensions: int, rows: int) -> None:
        self.dsn, self.dimensions, self.rows = dsn, dimensions, rows
        self.connection = psycopg.connect(dsn, autocommit=True)
        self.connection.adapters.register_dumper(BinaryArray, BinaryArrayDumper)
        postgres.install(dsn)
        storage = "vector" if dimensions <= 2000 else "halfvec"
        self._create("docs", f"bare {storage}({dimensions})")
        postgres.create_vectorizer(
            dsn, "docs", columns=["body"], model=model, dimensions=dimensions, index_kind="none"
        )
        self._create("plain", f"embedding {storage}({dimensions})")
        definition = postgres.list_vectorizers(dsn)[0]
        self.storage = definition.storage
        self.vectors = Answers(dimensions, floats_only=False).vectors

    def _create(self, name: str, column: str) -> None:
        self.connection.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, body text, {column})")

    def fill(self, name: str) -> None:
        """All rows anew: for the vectorizer, all of them changed."""
        self.connection.execute(f"TRUNCATE {name}")
        if name == "docs":
            self.connection.execute("TRUNCATE docs_embedding, qwen_embed.log_1, qwen_embed.work_1")
        self.connection.execute(
            f"INSERT INTO {name} (id, body) SELECT i, {BODY} FROM generate_series(1, {self.rows}) i"
        )
        self.connection.execute("CHECKPOINT")

    def write_plainly(self) -> int:
        """The floor."""
        [(oid,)] = self.connection.execute(
            "SELECT oid FROM pg_type WHERE typname = %s", [self.storage]
        ).fetchall()
        query = sql.SQL(
            "UPDATE plain SET embedding = new.embedding "
            "FROM unnest(%s::int[], %s::{}[]) AS new(id, embedding) WHERE plain.id = new.id"
        ).format(sql.Identifier(self.storage))
        for start in range(1, self.rows + 1, BATCH):
            ids = list(range(start, min(start + BATCH, self.rows + 1)))
            part = self.vectors[np.arange(len(ids)) % len(self.vectors)]
            array = vector_array(part, storage=self.storage, type_oid=oid)  # type: ignore[arg-type]
            self.connection.execute(query, [ids, array])
        return self.rows

    def check(self) -> None:
        [(count,)] = self.connection.execute("SELECT count(*) FROM docs_embedding").fetchall()
        assert count == self.rows, f"{count} of {self.rows} rows have a vector"


@contextmanager
def settings_file(base_url: str, model: str, dimensions: int) -> Iterator[dict[str, str]]:
    """The environment of a worker that knows one server."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "qwen-embed.toml"
        path.write_text(
            f'model = "{model}"\ndimensions = {dimensions}\nuse = ["here"]\n'
            f'state = "{folder}/state.db"\n\n[providers.here]\nkind = "openai-compatible"\n'
            f'base_url = "{base_url}"\nmax_inputs = 500\n'
        )
        yield {**os.environ, "QWEN_EMBED_SETTINGS": str(path)}


def work(dsn: str, environ: dict[str, str], *more: str) -> None:
    """One worker, from start to end."""
    command = [sys.executable, "-m", "qwen_embed_plugins", "pg", "worker", "--once", "--quiet"]
    subprocess.run([*command, "--dsn", dsn, *more], env=environ, check=True)


def measure(model: str, dimensions: int, rows: int) -> dict[str, Any]:
    with (
        embedded_server(18) as server,
        server.database("template1") as name,
        instant_server(dimensions) as base_url,
        settings_file(base_url, model, dimensions) as environ,
    ):
        table = Table(server.dsn(name), model, dimensions, rows)

        def worker() -> int:
            work(table.dsn, environ)
            table.check()
            return rows

        def several() -> int:
            with ThreadPoolExecutor(WORKERS) as pool:
                list(pool.map(lambda _: work(table.dsn, environ), range(WORKERS)))
            table.check()
            return rows

        cases = [
            Case("UPDATE … FROM unnest", table.write_plainly, prepare=lambda: table.fill("plain")),
            Case(
                "worker, whole process",
                worker,
                "UPDATE … FROM unnest",
                0.5,
                prepare=lambda: table.fill("docs"),
            ),
            Case(
                f"{WORKERS} workers, whole processes",
                several,
                "UPDATE … FROM unnest",
                prepare=lambda: table.fill("docs"),
            ),
        ]
        figures = compare(cases, unit="rows")
        table.connection.close()
    return report(f"{rows:,} rows that changed, {dimensions:,} numbers each", figures)


def run() -> list[dict[str, Any]]:
    return [measure(*size) for size in SIZES]
