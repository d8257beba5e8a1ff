"""What a batch costs, in what can be counted on any machine: statements, transactions, bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import psycopg
import pytest

from qwen_embed_plugins.postgres._flow import Flow, Statement, arun
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
