"""What must hold when all is over: in the database, in the writers' errors, in what was paid."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from qwen_embed_plugins.spaces import shorten
from qwen_embed_plugins.testing import reference_vector
from tests.chaos import journal
from tests.chaos.provider import NATIVE, Provider
from tests.chaos.workers import LEASE_SECONDS
from tests.chaos.writers import REFUSED

DIMENSIONS = 32
CONFLICTS = {"40001", "40P01"}
"""What writers may do to each other. Unique violations stay in their savepoints."""


@dataclass(frozen=True)
class Target:
    """Where vectors go, and what a worker may do there to a writer that it did not do alone:
    with `column` a conflict at REPEATABLE READ and above."""

    name: str
    vectors: str
    """A query of (id, text, embedding, content_hash)."""
    conflicts_at: frozenset[str] = frozenset()


TABLE = Target("table", "SELECT id, text, embedding::float4[], content_hash FROM docs_embedding")
COLUMN = Target(
    "column",
    # A run's vectorizer is the only one of its database. A row carries no text of its vector: if it
    # is another's, the hash or, in the end, the vector tells.
    "SELECT id, body AS text, stored.embedding::float4[], content_hash "
    "FROM qwen_embed.vectors_1 stored JOIN docs ON docs.id = stored.k1",
    frozenset({"REPEATABLE_READ", "SERIALIZABLE"}),
)
TARGETS = {target.name: target for target in (TABLE, COLUMN)}

WAITING = """
SELECT (SELECT count(*) FROM qwen_embed.log_{id}) AS log,
    (SELECT count(*) FROM qwen_embed.work_{id}) AS work,
    (SELECT count(*) FROM qwen_embed.lease) AS lease,
    (SELECT count(*) FROM qwen_embed.task) AS task
"""

FAULTS = """
WITH vectors AS ({vectors}), wanted AS (
    SELECT id, body FROM docs WHERE body <> '' AND body NOT LIKE '%{refused}%'
)
SELECT 'missing' AS fault, wanted.id, wanted.body, NULL AS stored
FROM wanted LEFT JOIN vectors USING (id) WHERE vectors.id IS NULL
UNION ALL
SELECT 'stale', wanted.id, wanted.body, vectors.text FROM wanted JOIN vectors USING (id)
WHERE vectors.text <> wanted.body OR vectors.content_hash <> sha256(convert_to(wanted.body, 'UTF8'))
UNION ALL
SELECT 'orphan', vectors.id, docs.body, vectors.text
FROM vectors LEFT JOIN docs USING (id)
WHERE NOT EXISTS (SELECT FROM wanted WHERE wanted.id = vectors.id)
"""


# A change is in the log or held as work until its vector is written, in every snapshot. So a key
# that is in neither is in step at any time, but for what a walk has yet to find.
LAPSES = """
WITH faults AS ({faults}), busy AS (
    SELECT k1 AS id FROM qwen_embed.log_{id} UNION ALL SELECT k1 FROM qwen_embed.work_{id}
), walks AS (
    SELECT kind FROM qwen_embed.task
    UNION ALL SELECT 'orphans' FROM qwen_embed.log_{id} WHERE op = 't'
)
SELECT faults.* FROM faults
WHERE NOT EXISTS (SELECT FROM busy WHERE busy.id = faults.id) AND NOT EXISTS (
    SELECT FROM walks WHERE walks.kind =
        CASE faults.fault WHEN 'missing' THEN 'backfill' WHEN 'orphan' THEN 'orphans' END
)
"""


def waiting(connection: psycopg.Connection[Any], vectorizer: int) -> dict[str, int]:
    """What is left to do; empty when nothing is."""
    cursor = connection.execute(WAITING.format(id=vectorizer))
    names = [column.name for column in cursor.description or ()]
    return {
        name: count for name, count in zip(names, cursor.fetchone() or (), strict=True) if count
    }


def faults(connection: psycopg.Connection[Any], target: Target) -> list[tuple[Any, ...]]:
    """Rows without the vector of their text, and vectors without their row. In SQL."""
    return connection.execute(FAULTS.format(vectors=target.vectors, refused=REFUSED)).fetchall()


def lapses(
    connection: psycopg.Connection[Any], target: Target, vectorizer: int
) -> list[tuple[Any, ...]]:
    """Faults that nothing is going to mend, at any moment."""
    faults_ = FAULTS.format(vectors=target.vectors, refused=REFUSED)
    return connection.execute(LAPSES.format(faults=faults_, id=vectorizer)).fetchall()


def spoiled(connection: psycopg.Connection[Any], target: Target) -> list[int]:
    """Vectors that are not what the provider gives for their text."""
    wrong = []
    for key, text, embedding, _ in connection.execute(target.vectors).fetchall():
        truth = shorten(reference_vector(text, NATIVE)[None], DIMENSIONS)[0]
        if not np.allclose(embedding, truth, atol=2e-3):
            wrong.append(key)
    return wrong


def wrongly_dead(connection: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    """Dead letters that no refused text explains, and refused texts that are no dead letters."""
    return connection.execute(
        "SELECT d.key, d.kind, d.message, docs.body "
        "FROM (SELECT *, (key ->> 'id')::int AS id FROM qwen_embed.dead_letters) d "
        "FULL JOIN (SELECT * FROM docs WHERE body LIKE %s) docs USING (id) "
        "WHERE d.id IS NULL OR docs.id IS NULL",
        [f"%{REFUSED}%"],
    ).fetchall()


# Writers


@dataclass
class WriterBooks:
    """What four writers did and what the server answered them."""

    errors: list[dict[str, Any]] = field(default_factory=list)
    pids: set[int] = field(default_factory=set)
    turns: list[int] = field(default_factory=list)
    commits: int = 0
    violations: int = 0

    @classmethod
    def read(cls, paths: Iterable[Path]) -> WriterBooks:
        books = cls()
        for path in paths:
            for event in journal.read(path):
                if event["event"] == "error":
                    books.errors.append(event)
                elif event["event"] == "connected":
                    books.pids.add(event["pid"])
                elif event["event"] == "end":
                    books.turns.append(event["turns"])
                    books.commits += event["commits"]
                    books.violations += event["violations"]
        return books

    def refused(self, sqlstate: str) -> Counter[str]:
        """Errors of one kind by isolation level."""
        return Counter(error["level"] for error in self.errors if error["sqlstate"] == sqlstate)

    @property
    def losses(self) -> int:
        return sum(error["loss"] for error in self.errors)

    @property
    def by_kind(self) -> Counter[str]:
        """Errors by sqlstate; those of a server that went away under one name, since which of its
        words a session still hears is chance."""
        return Counter("loss" if e["loss"] else str(e["sqlstate"]) for e in self.errors)

    def strange(self, oids: Sequence[int]) -> list[dict[str, Any]]:
        """Errors that name anything of ours, or another process than a writer's."""
        return [error for error in self.errors if self._is_ours(error, oids)]

    def _is_ours(self, error: dict[str, Any], oids: Sequence[int]) -> bool:
        if error["loss"]:
            return False
        said = f"{error['message']} {error['detail']} {error['context']}"
        if "read/write dependencies" in error["message"]:
            # Among serializable transactions, and no worker's is one. Who lost learns it with its
            # next write, which may be the one of our trigger: the context says where, not why.
            said = f"{error['message']} {error['detail']}"
        named = {int(number) for number in re.findall(r"relation (\d+)", error["detail"])}
        processes = {int(number) for number in re.findall(r"[Pp]rocess (\d+)", error["detail"])}
        return (
            "qwen_embed" in said
            or "docs_embed" in said
            or error["relation"] not in {"None.None", "public.docs"}
            or not named.isdisjoint(oids)
            or not processes <= self.pids
        )


def our_relations(connection: psycopg.Connection[Any]) -> list[int]:
    """Everything with an oid that is the helper's: its schema's tables, the side table, indexes."""
    return [
        oid
        for (oid,) in connection.execute(
            "SELECT c.oid::bigint FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE n.nspname = 'qwen_embed' OR c.relname LIKE 'docs_embed%'"
        ).fetchall()
    ]


# Payments


@dataclass
class Payments:
    """What was paid for each text, against what may have been.

    Each committed change of a row to a text may be paid for once. These may each be paid once more:
    what a worker had asked for and not finished when it ended (`in_flight`), what it dropped since
    its lease had been lost (`dropped`), what it gave up asking for since it stood still past its
    patience (`given_up`), what it set aside for a row that someone had locked in the user's table
    (`set_aside`: it knows the vector, another worker that comes first does not), and what the
    provider made and did not deliver (`undelivered`).
    """

    paid: Counter[str]
    changes: Counter[str]
    in_flight: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    given_up: Counter[str] = field(default_factory=Counter)
    set_aside: Counter[str] = field(default_factory=Counter)
    undelivered: Counter[str] = field(default_factory=Counter)
    leases_lost: int = 0
    unexplained: list[str] = field(default_factory=list)

    @property
    def allowed(self) -> Counter[str]:
        of_workers = self.in_flight + self.dropped + self.given_up + self.set_aside
        return self.changes + of_workers + self.undelivered

    def excess(self) -> dict[str, tuple[int, int]]:
        """Texts that were paid more often than allowed: how often, and how often allowed."""
        allowed = self.allowed
        return {
            text: (count, allowed[text])
            for text, count in self.paid.items()
            if count > allowed[text]
        }


def payments(
    connection: psycopg.Connection[Any],
    provider: Provider,
    workers: Iterable[Path],
    away: Sequence[tuple[float, float]],
) -> Payments:
    """The books of a run, from the database, the provider and the workers' journals."""
    changes: Counter[str] = Counter()
    for (texts,) in connection.execute("SELECT texts FROM books.change").fetchall():
        changes.update(text for text in texts.values() if text)
    paid = Counter({t: n for t, n in provider.paid.items() if t.startswith("change ")})
    found = Payments(paid, changes, undelivered=provider.undelivered)
    for path in workers:
        _read_worker(found, path, away)
    return found


def _read_worker(found: Payments, path: Path, away: Sequence[tuple[float, float]]) -> None:
    asked: dict[int, dict[str, Any]] = {}
    still: list[tuple[float, float]] = []
    lost: list[tuple[dict[str, Any], float]] = []
    for event in journal.read(path):
        if event["event"] == "asked":
            asked[event["call"]] = event
        elif event["event"] == "stood_still":
            still.append((event["at"] - event["seconds"], event["at"]))
        elif event["event"] == "answered" and any(event["failed"]):
            began = asked[event["call"]]["at"]
            if any(began < woke for _, woke in still):
                found.given_up.update(asked[event["call"]]["texts"])
        elif event["event"] == "set_aside":
            found.set_aside.update(event["texts"])
        elif event["event"] == "finished":
            call = asked.pop(event["call"])
            if event["lost"]:
                lost.append((call, event["at"]))
    for call in asked.values():
        found.in_flight.update(call["texts"])
    for call, at in lost:
        found.leases_lost += 1
        found.dropped.update(call["texts"])
        taken = call["at"] - LEASE_SECONDS  # at the earliest, else it would not have been asked for
        if not any(began < at and taken < ended for began, ended in [*still, *away]):
            found.unexplained.append(f"{path.name}: the lease of call {call['call']} was lost")
