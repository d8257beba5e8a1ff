"""What capture costs writers: ratios to the same table without triggers, medians over the rounds.

Each round has both tables in turn, either of them first as often, and begins with an empty log, as
after a worker: Postgres would look after a longer one meanwhile.
"""

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
ROUNDS = 11
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
    taken: dict[str, dict[str, list[float]]] = {plain: {}, watched: {}}
    for number in range(ROUNDS):
        for table in (plain, watched) if number % 2 else (watched, plain):
            empty(connection, table)
            for what, statement in STATEMENTS.items():
                found = seconds(connection, statement.format(t=table, n=ROWS))
                taken[table].setdefault(what, []).append(found)
            taken[table].setdefault("one row", []).append(single_ms(connection, table))
    ratios = {
        what: [
            slow / fast for fast, slow in zip(taken[plain][what], taken[watched][what], strict=True)
        ]
        for what in STATEMENTS
    }
    medians = {what: statistics.median(found) for what, found in ratios.items()}
    one_row = {table: statistics.median(found["one row"]) for table, found in taken.items()}
    more = one_row[watched] - one_row[plain]
    said = [f"{what} {medians[what]:.2f} ({spread(found)})" for what, found in ratios.items()]
    say(f"writers, {label}: {', '.join(said)}; one row {more:+.3f} ms")
    return {"title": f"writers, {label}", "ratios": medians, "one row": more, "seconds": taken}


def empty(connection: psycopg.Connection[object], table: str) -> None:
    """The table, and what was recorded of any; and nothing is left to be written for others."""
    connection.execute(f"TRUNCATE {table}")
    connection.execute("TRUNCATE qwen_embed.log_1, qwen_embed.log_2")
    connection.execute("CHECKPOINT")


def spread(ratios: list[float]) -> str:
    """The middle half of them."""
    low, _, high = statistics.quantiles(ratios, n=4)
    return f"{low:.2f} to {high:.2f}"


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
