"""What a batch costs, in what can be counted on any machine: statements, transactions, bytes."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import psycopg
import pytest
from psycopg import sql

from qwen_embed_plugins.postgres._flow import Flow, Row, Statement, arun
from qwen_embed_plugins.postgres.session import Session
from qwen_embed_plugins.postgres.vectors import BinaryArray
from tests.integration.conftest import DIMENSIONS, Database

ROWS = 500


class Sent:
    """Notes what each of a worker's transactions sends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.transactions: Counter[str] = Counter()
        self.statements: Counter[str] = Counter()
        self.vector_bytes = 0

        async def counting(connection: psycopg.AsyncConnection[Any], flow: Flow[Any]) -> Any:
            name = str(getattr(flow, "__name__"))  # noqa: B009  the type checker knows no such name
            self.transactions[name] += 1
            return await arun(connection, self._watched(flow, name))

        monkeypatch.setattr("qwen_embed_plugins.postgres.session.arun", counting)

    def _watched(self, flow: Flow[Any], name: str) -> Flow[Any]:
        def step(statement: Statement) -> Statement:
            self.statements[name] += 1
            self._weigh(statement.values or {})
            return statement

        try:
            statement = next(flow)
            while True:
                try:
                    rows = yield step(statement)
                except psycopg.Error as error:
                    statement = flow.throw(error)
                else:
                    statement = flow.send(rows)
        except StopIteration as end:
            return end.value

    def _weigh(self, values: Mapping[str, Any]) -> None:
        vectors = values.get("vectors")
        if isinstance(vectors, BinaryArray):
            self.vector_bytes += len(vectors)


def test_a_batch_is_two_transactions_of_few_statements(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    db.create(backfill=False)
    db.rows(f"INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, {4 * ROWS}) i")
    sent = Sent(monkeypatch)
    assert db.work(batch_size=ROWS).embedded == 4 * ROWS
    assert sent.transactions["_finish_flow"] == 4
    # A full batch asks for nothing more; the one that finds nothing left looks for retries, too.
    assert sent.transactions["take"] <= 6
    assert sent.statements["take"] <= 6 * sent.transactions["take"]
    assert sent.statements["_finish_flow"] <= 9 * 4
    # Each number once, in the width in which it is stored, and eight bytes beside each vector.
    assert sent.vector_bytes == 4 * (20 + ROWS * (8 + 4 * DIMENSIONS))


def test_a_batch_that_changes_nothing_sends_no_vector(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    db.rows(f"INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, {ROWS}) i")
    db.create()
    db.work()
    db.rows("UPDATE docs SET body = body || '!'")
    db.rows("UPDATE docs SET body = rtrim(body, '!')")
    sent = Sent(monkeypatch)
    assert db.work(batch_size=ROWS).equal == 2 * ROWS  # each row was changed twice
    assert sent.vector_bytes == 0
    assert sent.statements["_finish_flow"] <= 6 * sent.transactions["_finish_flow"]


def test_an_idle_worker_does_not_read_a_bloated_log_at_each_look(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dead rows stay where another session's snapshot may still see them; a worker that has just
    started knows of no row from which to go on."""
    db.create(backfill=False)
    with db.connect() as reader:
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        reader.execute("SELECT 1")
        db.rows(
            "INSERT INTO qwen_embed.log_1 (op, k1) SELECT 'c', i FROM generate_series(1, 50000) i"
        )
        db.rows("DELETE FROM qwen_embed.log_1")
        starts = asyncio.run(_looks(db, monkeypatch))
    assert starts[0] == 0
    blocks = db.value("SELECT pg_relation_size('qwen_embed.log_1') / 8192")
    assert blocks > 100
    # For rows that stand further up it starts over now and then, as often as is cheap.
    assert starts.count(blocks - 1) > 0
    assert set(starts) == {0, blocks - 1}


async def _looks(db: Database, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From which block each of a worker's looks starts, until it has looked a while."""
    starts: list[int] = []
    stopping = asyncio.Event()
    original = Session.ask

    async def noting(self: Session, question: sql.Composed) -> list[Row]:
        starts.append(int(re.findall(r"\((\d+),0\)", question.as_string())[0]))
        if len(starts) >= 60:
            stopping.set()
        return await original(self, question)

    monkeypatch.setattr(Session, "ask", noting)
    await asyncio.wait_for(db.awork(once=False, stopping=stopping, poll_seconds=0.001), 60)
    return starts
