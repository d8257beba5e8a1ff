"""Writers: processes that change docs(id, body, other) at random, the same for one seed.

Each turn is one transaction, drawn from the seed and its number alone, whatever became of those
before. Every text is new, so that a payment for it can be traced to its change. What a transaction
really changed it records in `books.change`, in the same transaction.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import errors as pg

from tests.chaos.journal import Journal
from tests.chaos.process import Process

KEYS = 120
REFUSED = "unspeakable"
"""A text with this word in it is refused by the provider, and no other is."""

TABLES = """
CREATE TABLE docs (id int PRIMARY KEY, body text, other int NOT NULL DEFAULT 0);
CREATE SCHEMA books;
CREATE TABLE books.change (writer int, turn int, texts jsonb);
INSERT INTO docs (id, body) SELECT key, 'change 0.0.0 of ' || key FROM generate_series(1, 120) key;
INSERT INTO books.change SELECT 0, 0, jsonb_object_agg(id, body) FROM docs;
"""

BOTH_MET = """
SELECT count(DISTINCT objid) FROM pg_locks JOIN pg_database d ON d.oid = pg_locks.database
WHERE locktype = 'advisory' AND classid = 7 AND datname = current_database()
"""

LEVELS = (
    psycopg.IsolationLevel.READ_COMMITTED,
    psycopg.IsolationLevel.REPEATABLE_READ,
    psycopg.IsolationLevel.SERIALIZABLE,
)


def is_loss(error: psycopg.Error) -> bool:
    """Whether the server went away, or only reads for now."""
    return (error.sqlstate or "08000")[:2] in {"08", "57"} or isinstance(
        error, pg.ReadOnlySqlTransaction
    )


@dataclass
class Turn:
    """One transaction: what it does, and what came of it in the end, by key."""

    connection: psycopg.Connection[Any]
    chance: random.Random
    label: str
    texts: dict[int, str | None] = field(default_factory=dict)
    violations: int = 0
    step: int = 0

    def play(self) -> None:
        for step in range(self.chance.randint(1, 5)):
            self.step = step
            kind = self.chance.choices(KINDS, WEIGHTS)[0]
            kind(self)

    def new(self, key: object = "%s") -> str:
        return f"change {self.label}.{self.step} of {key}"

    def run(self, query: str, *values: Any) -> None:
        """A statement that returns the rows it changed, as they are now."""
        rows = self.connection.execute(query, values).fetchall()
        self.texts.update({key: text or None for key, text in rows})

    def keys(self, most: int) -> list[int]:
        return self.chance.sample(range(1, KEYS + 1), self.chance.randint(1, most))

    @contextlib.contextmanager
    def savepoint(self) -> Iterator[None]:
        before = dict(self.texts)
        try:
            with self.connection.transaction():
                yield
                if self.chance.random() < 0.4:
                    raise psycopg.Rollback
                return
        except pg.UniqueViolation:
            self.violations += 1
        except psycopg.Rollback:  # comes through only where the connection broke meanwhile
            self.connection.execute("SELECT")
        self.texts = before

    def meet(self, writer: int) -> None:
        """The first turn: writers lock two rows crosswise, so that every run has a deadlock of
        their own. Each goes on to its second row when one of the others has its own first."""
        first, second = (1, 2) if writer % 2 else (2, 1)
        query = "UPDATE docs SET body = %s WHERE id = %s RETURNING id, body"
        self.run(query, self.new(first), first)
        self.connection.execute("SELECT pg_advisory_xact_lock_shared(7, %s)", [first])
        end = time.monotonic() + 20
        while self.connection.execute(BOTH_MET).fetchone() != (2,) and time.monotonic() < end:
            time.sleep(0.02)
        self.run(query, self.new(second), second)

    # The kinds of steps

    def update_one_by_one(self) -> None:
        for key in self.keys(6):
            query = "UPDATE docs SET body = %s WHERE id = %s RETURNING id, body"
            self.run(query, self.new(key), key)

    def update_many(self) -> None:
        query = "UPDATE docs SET body = %s || id WHERE id = ANY (%s) RETURNING id, body"
        self.run(query, self.new(""), self.keys(8))

    def update_other_columns(self) -> None:
        query = "UPDATE docs SET other = other + 1 WHERE id = ANY (%s)"
        self.connection.execute(query, [self.keys(8)])

    def upsert(self) -> None:
        query = (
            "INSERT INTO docs (id, body) SELECT key, %s || key FROM unnest(%s::int[]) key "
            "ON CONFLICT (id) DO UPDATE SET body = excluded.body RETURNING id, body"
        )
        self.run(query, self.new(""), self.keys(10))

    def insert(self) -> None:
        with self.savepoint():
            query = "INSERT INTO docs (id, body) VALUES (%s, %s) RETURNING id, body"
            for key in self.keys(2):
                self.run(query, key, self.new(key))

    def delete(self) -> None:
        self.run("DELETE FROM docs WHERE id = ANY (%s) RETURNING id, NULL", self.keys(2))

    def delete_and_insert_again(self) -> None:
        key = self.keys(1)
        gone = self.connection.execute("DELETE FROM docs WHERE id = ANY (%s) RETURNING *", [key])
        for row in gone.fetchall():
            places = ", ".join(["%s"] * len(row))
            self.run(f"INSERT INTO docs VALUES ({places}) RETURNING id, body", *row)

    def change_key(self) -> None:
        old, new = self.chance.sample(range(1, KEYS + 1), 2)
        with self.savepoint():
            query = "UPDATE docs SET id = %s WHERE id = %s RETURNING id, body"
            moved = self.connection.execute(query, [new, old]).fetchall()
            if moved:
                self.texts |= {old: None, new: moved[0][1] or None}

    def take_over(self) -> None:
        """A row becomes another that is gone: its key and its text."""
        old, new = self.chance.sample(range(1, KEYS + 1), 2)
        gone = self.connection.execute(
            "DELETE FROM docs WHERE id = %s AND body <> '' RETURNING body", [new]
        ).fetchone()
        if gone:
            self.texts[new] = None
            query = "UPDATE docs SET id = %s, body = %s WHERE id = %s RETURNING id, body"
            moved = self.connection.execute(query, [new, *gone, old]).fetchall()
            if moved:
                self.texts |= {old: None, new: moved[0][1]}

    def update_in_savepoint(self) -> None:
        with self.savepoint():
            self.update_many()

    def empty(self) -> None:
        self.run("UPDATE docs SET body = '' WHERE id = ANY (%s) RETURNING id, body", self.keys(2))

    def unspeakable(self) -> None:
        query = "UPDATE docs SET body = %s WHERE id = ANY (%s) RETURNING id, body"
        self.run(query, f"{self.new('')}{REFUSED}", self.keys(1))

    def truncate(self) -> None:
        self.connection.execute("TRUNCATE docs")
        self.texts = dict.fromkeys(self.texts)


KINDS: tuple[Callable[[Turn], None], ...] = (
    Turn.update_one_by_one,
    Turn.update_many,
    Turn.update_other_columns,
    Turn.upsert,
    Turn.insert,
    Turn.delete,
    Turn.delete_and_insert_again,
    Turn.change_key,
    Turn.take_over,
    Turn.update_in_savepoint,
    Turn.empty,
    Turn.unspeakable,
    Turn.truncate,
)
# TRUNCATE is rare: while a transaction that holds its lock lasts, nobody gets anywhere.
WEIGHTS = (25, 15, 8, 20, 10, 6, 6, 10, 4, 8, 2, 0.5, 0.5)


class Writer:
    """The process: turn after turn until told to stop, or as many as another run had."""

    def __init__(self, dsn: str, seed: str, number: int, journal: Journal) -> None:
        self.dsn, self.seed, self.number, self.journal = dsn, seed, number, journal
        self.stop = threading.Event()
        self.commits = self.violations = 0

    def run(self, turns: int | None) -> None:
        turn = 0
        app = self._connected()
        while app is not None and not self.stop.is_set() and turn != turns:
            turn += 1
            error = self._play(app, turn)
            if error is not None and is_loss(error):
                app.close()
                app = self._connected()
        self.journal.note("end", turns=turn, commits=self.commits, violations=self.violations)

    def _connected(self) -> psycopg.Connection[Any] | None:
        while not self.stop.is_set():
            with contextlib.suppress(psycopg.OperationalError):
                app = psycopg.connect(
                    self.dsn,
                    application_name=f"chaos-writer-{self.number}",
                    target_session_attrs="read-write",
                )
                self.journal.note("connected", pid=app.info.backend_pid)
                return app
            self.stop.wait(0.1)
        return None

    def _play(self, app: psycopg.Connection[Any], number: int) -> psycopg.Error | None:
        chance = random.Random(f"{self.seed}:{self.number}:{number}")
        level, pause = chance.choice(LEVELS), chance.random() * 0.06
        if number == 1:
            level = psycopg.IsolationLevel.READ_COMMITTED
        turn = Turn(app, chance, f"{self.number}.{number}")
        failure: psycopg.Error | None = None
        try:
            app.isolation_level = level
            with app.transaction():
                if number == 1:
                    turn.meet(self.number)
                else:
                    turn.play()
                app.execute(
                    "INSERT INTO books.change VALUES (%s, %s, %s)",
                    [self.number, number, json.dumps(turn.texts)],
                )
            self.commits += 1
        except psycopg.Error as error:
            failure = error
            self._note(error, level)
        self.violations += turn.violations
        self.stop.wait(pause)
        return failure

    def _note(self, error: psycopg.Error, level: psycopg.IsolationLevel) -> None:
        told = error.diag
        self.journal.note(
            "error",
            sqlstate=error.sqlstate,
            level=level.name,
            loss=is_loss(error),
            message=told.message_primary or str(error),
            detail=told.message_detail or "",
            context=told.context or "",
            relation=f"{told.schema_name}.{told.table_name}",
        )


class Writers:
    """Four of them, as processes."""

    def __init__(self, dsn: str, seed: str, folder: Path, turns: Sequence[int] = ()) -> None:
        self.paths = [folder / f"writer-{number}" for number in range(4)]
        self.processes = [
            Process(
                main,
                [dsn, seed, str(number), str(path), str(turns[number] if turns else 0)],
                errors=folder / f"writer-{number}.err",
            )
            for number, path in enumerate(self.paths)
        ]

    def stop(self) -> None:
        for process in self.processes:
            process.send(signal.SIGTERM)
        self.wait()

    def wait(self) -> None:
        for process in self.processes:
            code = process.wait(60)
            assert code == 0, f"a writer ended with {code}: {process.complaint()}"

    def is_over(self) -> bool:
        return all(process.code() is not None for process in self.processes)

    def kill(self) -> None:
        for process in self.processes:
            process.kill()


def main(arguments: Sequence[str]) -> int:
    """The process of one writer."""
    parser = argparse.ArgumentParser()
    for name, kind in (
        ("dsn", str),
        ("seed", str),
        ("number", int),
        ("path", Path),
        ("turns", int),
    ):
        parser.add_argument(name, type=kind)
    given = parser.parse_args(arguments)
    writer = Writer(given.dsn, given.seed, given.number, Journal(given.path))
    signal.signal(signal.SIGTERM, lambda *_: writer.stop.set())
    writer.run(given.turns or None)
    return 0
