"""What a batch costs does not depend on what the planner believes of tables that fill and empty
within seconds: each answer is looked up by an index, and read once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import pytest
from psycopg import sql

from qwen_embed_plugins.postgres._flow import Flow, Statement, _sendable, arun
from tests.integration.conftest import DIMENSIONS, Database

ROWS = 2000
BATCH = {"take", "write_part", "_finish_flow"}

Plan = dict[str, Any]


class Plans:
    """Has each statement of a worker's batches explained before it runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[tuple[str, Plan]] = []

        async def explaining(connection: psycopg.AsyncConnection[Any], flow: Flow[Any]) -> Any:
            name = str(getattr(flow, "__name__"))  # noqa: B009  the type checker knows no such name
            return await arun(connection, self._explained(flow) if name in BATCH else flow)

        monkeypatch.setattr("qwen_embed_plugins.postgres.session.arun", explaining)

    def _explained(self, flow: Flow[Any]) -> Flow[Any]:
        try:
            statement = next(flow)
            while True:
                text = statement.query.as_string().lstrip()
                if text.startswith(("WITH", "SELECT", "INSERT", "UPDATE", "DELETE")):
                    rows = yield _explain(statement)
                    self.seen.append((text, rows[0]["QUERY PLAN"][0]["Plan"]))
                rows = yield statement
                statement = flow.send(rows)
        except StopIteration as end:
            return end.value


def _explain(statement: Statement) -> Statement:
    query = sql.SQL("EXPLAIN (FORMAT JSON) {}").format(_sendable(statement))
    return Statement(query, statement.values)


def _nodes(plan: Plan) -> Iterator[Plan]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from _nodes(part)


def _lowest(plan: Plan) -> Plan:
    """What a chain of nodes with one input each reads from."""
    parts = plan.get("Plans", ())
    return _lowest(parts[0]) if len(parts) == 1 else plan


def faults(plan: Plan, tables: Sequence[str]) -> list[str]:
    """Tables that are read whole, and answers that are read again for each row."""
    found = []
    for node in _nodes(plan):
        if node["Node Type"] == "Seq Scan" and node["Relation Name"] in tables:
            found.append(f"reads all of {node['Relation Name']}")
        if node["Node Type"] == "Nested Loop":
            inner = _lowest(node["Plans"][1])
            if inner["Node Type"] == "Function Scan":
                found.append(f"reads {inner['Alias']} again for each row")
    return found


@pytest.mark.parametrize("shape", ["whole rows", "chunks", "column"])
@pytest.mark.parametrize("moment", ["empty", "full"])
def test_statistics_of_another_moment_mislead_no_batch(
    db: Database, monkeypatch: pytest.MonkeyPatch, shape: str, moment: str
) -> None:
    db.rows(f"INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, {ROWS}) i")
    if shape == "column":
        db.rows(f"ALTER TABLE docs ADD COLUMN embedding vector({DIMENSIONS})")
        db.create(target="column", target_name="embedding")
    else:
        db.create(chunk_tokens=50 if shape == "chunks" else None)
    tables = "docs, qwen_embed.work_1, qwen_embed.log_1, qwen_embed.lease, qwen_embed.dead_1"

    async def analyzed(texts: Sequence[str]) -> None:
        db.rows(f"ANALYZE {tables}")

    # Autovacuum comes by while two batches are out, or when all is done.
    db.stub.during = analyzed if moment == "full" else None
    db.work(batch_size=ROWS // 2)
    db.stub.during = None
    if moment == "empty":
        db.rows(f"ANALYZE {tables}")
    db.rows("UPDATE docs SET body = body || ' and more of it'")

    plans = Plans(monkeypatch)
    db.work()
    told = [
        f"{fault}: {text[:200]}"
        for text, plan in plans.seen
        for fault in faults(plan, ("docs", "docs_embedding", "work_1", "dead_1"))
    ]
    assert not told, "\n".join(told)
    assert any("unnest(" in text for text, _ in plans.seen)
