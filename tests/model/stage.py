"""A database on which schedules are played one after the other, and who acts there.

Two parts of a statement can come apart: `take_log` deletes rows of the log before it merges their
keys, and others may act in between. A trigger on the work table stops it there, by an advisory lock
(another one stops the sweep that a planted bug lets delete).

A take passes over rows of the log that another transaction has locked: so it is made to get no
others than those that the model says.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import psycopg
from psycopg import sql

from qwen_embed_plugins import postgres
from qwen_embed_plugins.postgres import _sql, queue
from qwen_embed_plugins.postgres._flow import Query, Statement, run
from qwen_embed_plugins.postgres.definition import Vectorizer, define_vectorizers, vector_types
from qwen_embed_plugins.postgres.vectors import vector_text
from tests.model.hands import Hand
from tests.model.states import ABSENT, EMPTY, Logged, State

MODEL, DIMENSIONS = "qwen3-embedding-0.6b", 32
TEXTS = {EMPTY: "", 1: "text A", 2: "text B", 3: "text C"}
NUMBERS = {text: number for number, text in TEXTS.items()}
PAUSE = 4711
"""First half of the advisory locks that stop a merge; the second is the backend's number."""

_UNNAMED = ("open_lease", "add_orphans_task", "hold_lease", "close_lease", "next_task",
            "move_task", "end_task")  # fmt: skip
"""Queries that are the same for every vectorizer."""

_REHEARSED = """
CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared({pause}, pg_backend_pid());
    RETURN CASE WHEN tg_op = 'DELETE' THEN old ELSE new END;
END $$;
CREATE TRIGGER stop BEFORE INSERT ON qwen_embed.work_{n} FOR EACH ROW EXECUTE FUNCTION stop();
CREATE TRIGGER stop BEFORE DELETE ON docs_embedding FOR EACH ROW EXECUTE FUNCTION stop();
CREATE TABLE seen (
    id bigint, attempts int, again boolean, content text, content_hash bytea, space text,
    token bigint);
"""

_EMPTIED = """
ALTER TABLE docs DISABLE TRIGGER USER;
TRUNCATE docs, docs_embedding, qwen_embed.log_{n}, qwen_embed.work_{n}, qwen_embed.dead_{n},
    qwen_embed.lease, qwen_embed.task, seen;
"""


def vector(text: str) -> Any:
    """A unit vector that only this text has."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    numbers = np.random.default_rng(seed).standard_normal(DIMENSIONS)
    return np.asarray(numbers / np.linalg.norm(numbers), np.float32)


class Named(Vectorizer):
    """A vectorizer that remembers which text is which query; a planted bug may replace some."""

    names_by_text: dict[str, str]
    planted: Mapping[str, str]

    @classmethod
    def of(cls, found: Vectorizer, planted: Mapping[str, str]) -> Named:
        fields = {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}
        named = cls(**fields)
        texts = {_sql.query(name).as_string(): name for name in _UNNAMED}
        object.__setattr__(named, "names_by_text", texts)
        object.__setattr__(named, "planted", planted)
        return named

    def query(self, name: str, **more: Query | sql.Identifier | sql.Literal) -> sql.Composed:
        text = self.planted.get(name)
        made = (
            super().query(name, **more)
            if text is None
            else sql.SQL(text).format(**self._fragments, **more)
        )
        # read_rows is run by a function that stops where a lease is full.
        self.names_by_text[made.as_string()] = "read_rows" if name == "read_within" else name
        return made

    def name_of(self, statement: Statement) -> str:
        """The query's name; "" for a savepoint, which stops nobody."""
        text = statement.query.as_string()
        return "" if "SAVEPOINT" in text.split("\n", 1)[0] else self.names_by_text[text]


class Stage:
    """A database prepared once, on which schedules are played one after the other."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.eye = psycopg.connect(dsn, autocommit=True)
        self.holder = psycopg.connect(dsn)
        self.hands: dict[str, Hand] = {}
        self.apps: dict[str, psycopg.Connection[Any]] = {}

    def prepare(self) -> None:
        dsn = self.dsn
        self.eye.execute("SET lock_timeout = '5s'")
        self.eye.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
        postgres.create_vectorizer(
            dsn, "docs", columns=["body"], model=MODEL, dimensions=DIMENSIONS, index_kind="none"
        )
        self.types = run(self.eye, vector_types())
        self.vectorizer = run(self.eye, define_vectorizers())[0]
        self.n = self.vectorizer.id
        self.do(_REHEARSED.format(n=self.n, pause=PAUSE))

    def do(self, text: str, *values: object) -> Any:
        return self.eye.execute(text, values or None)

    def hand(self, name: str) -> Hand:
        if name not in self.hands:
            self.hands[name] = Hand(self.dsn, self.wait_of)
        return self.hands[name]

    def app(self, name: str) -> psycopg.Connection[Any]:
        if name not in self.apps:
            # A writer never waits for a worker: one that does is told so by an error.
            self.apps[name] = psycopg.connect(self.dsn, options="-c lock_timeout=5s")
        return self.apps[name]

    def wait_of(self, pid: int) -> str | None:
        # The lock table, not pg_stat_activity: there a session waits until it has woken up.
        query = "SELECT locktype FROM pg_locks WHERE pid = %s AND NOT granted"
        row = self.do(query, pid).fetchone()
        return None if row is None else str(row[0])

    def cancel(self, pid: int) -> None:
        self.do("SELECT pg_cancel_backend(%s)", pid)

    def set_up(self, start: State) -> None:
        self.do(_EMPTIED.format(n=self.n))
        for key, (cell, stored) in enumerate(zip(start.source, start.target, strict=True), 1):
            if cell.text != ABSENT:
                self.do("INSERT INTO docs VALUES (%s, %s)", key, TEXTS[cell.text])
            if stored.text != ABSENT:
                self._store(key, TEXTS[stored.text])
        for task in start.tasks:
            self.do(
                "INSERT INTO qwen_embed.task (vectorizer, kind) VALUES (%s, %s)", self.n, task.kind
            )
        self.do("ALTER TABLE docs ENABLE TRIGGER USER")

    @contextlib.contextmanager
    def withheld(self, rows: Sequence[Logged]) -> Iterator[None]:
        """Keep rows of the log from a take: as many of each kind, whichever they are."""
        for row, count in Counter(rows).items():
            found = self.holder.execute(
                f"SELECT FROM qwen_embed.log_{self.n} "
                "WHERE coalesce(k1, 0) = %s AND (op = 'a') = %s LIMIT %s FOR UPDATE SKIP LOCKED",
                (row.what + 1, row.doubt, count),
            )
            assert found.rowcount == count, f"{found.rowcount} free rows like {row}, not {count}"
        try:
            yield
        finally:
            self.holder.rollback()

    def _store(self, key: int, text: str) -> None:
        self.do(
            "INSERT INTO docs_embedding (id, text, embedding, content_hash, space) "
            "VALUES (%s, %s, %s, %s, %s)",
            key, text, vector_text(vector(text)), queue.content_hash(text), self.vectorizer.space,
        )  # fmt: skip

    def clear(self) -> None:
        """End what a schedule left open."""
        for hand in self.hands.values():
            hand.break_off(self.cancel)
        for app in self.apps.values():
            app.rollback()
        self.do("SELECT pg_advisory_unlock_all()")

    def close(self) -> None:
        self.clear()
        for hand in self.hands.values():
            hand.close()
        for app in [*self.apps.values(), self.holder, self.eye]:
            app.close()


@contextlib.contextmanager
def staged(dsn: str) -> Iterator[Stage]:
    stage = Stage(dsn)
    try:
        stage.prepare()
        yield stage
    finally:
        stage.close()
