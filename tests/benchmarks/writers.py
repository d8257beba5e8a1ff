"""What capture costs writers: ratios to the same table without triggers, medians of five."""

from __future__ import annotations

import statistics
import time
from typing import Any

import psycopg

from qwen_embed_plugins import postgres
from tests.benchmarks.measuring import say
from tests.integration.conftest import DIMENSIONS, MODEL
from tests.postgres_servers import embedded_server

ROWS = 100_000
SINGLES = 2_000
ROUNDS = 5
STATEMENTS = {
    "bulk insert": "INSERT INTO {t} SELECT i, 'text ' || i, 0 FROM generate_series(1, {n}) i",
    "update of another column": "UPDATE {t} SET other = other + 1",
    "update of the text": "UPDATE {t} SET body = body || '!'",
    "bulk delete": "DELETE FROM {t}",
}


def seconds(connection: psycopg.Connection[object], statement: str) -> float:
    began = time.perf_counter()
    connection.execute(statement)
    return time.perf_counter() - began


def single_ms(connection: psycopg.Connection[object], table: str) -> float:
    began = time.perf_counter()
    for number in range(SINGLES):
        connection.execute(f"INSERT INTO {table} VALUES ({number}, 'one row', 0)")
    return (time.perf_counter() - began) / SINGLES * 1000


def measure(
    connection: psycopg.Connection[object], label: str, plain: str, watched: str
) -> dict[str, Any]:
    figures: dict[str, dict[str, list[float]]] = {plain: {}, watched: {}}
    for _ in range(ROUNDS):
        for table in (plain, watched):
            for what, statement in STATEMENTS.items():
                taken = seconds(connection, statement.format(t=table, n=ROWS))
                figures[table].setdefault(what, []).append(taken)
            figures[table].setdefault("single", []).append(single_ms(connection, table))
            connection.execute(f"TRUNCATE {table}")
    medians = {
        table: {what: statistics.median(taken) for what, taken in found.items()}
        for table, found in figures.items()
    }
    ratios = {what: medians[watched][what] / medians[plain][what] for what in STATEMENTS}
    more = medians[watched]["single"] - medians[plain]["single"]
    said = [f"{what} {ratio:.2f}" for what, ratio in ratios.items()]
    say(f"writers, {label}: {', '.join(said)}; one row {more:+.3f} ms")
    return {"title": f"writers, {label}", "ratios": ratios, "one row": more, "seconds": medians}


def run() -> list[dict[str, Any]]:
    with embedded_server(18) as server, server.database("template1") as name:
        dsn = server.dsn(name)
        postgres.install(dsn)
        with psycopg.connect(dsn, autocommit=True) as connection:
            columns = "(id int PRIMARY KEY, body text, other int)"
            for table in ("plain", "watched"):
                connection.execute(f"CREATE TABLE {table} {columns}")
                connection.execute(f"CREATE TABLE {table}_p {columns} PARTITION BY HASH (id)")
                for part in range(4):
                    connection.execute(
                        f"CREATE TABLE {table}_p{part} PARTITION OF {table}_p "
                        f"FOR VALUES WITH (MODULUS 4, REMAINDER {part})"
                    )
            for source in ("watched", "watched_p"):
                postgres.create_vectorizer(
                    dsn, source, columns=["body"], model=MODEL, dimensions=DIMENSIONS
                )
            return [
                measure(connection, "plain table", "plain", "watched"),
                measure(connection, "partitioned", "plain_p", "watched_p"),
            ]
