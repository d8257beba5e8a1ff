"""Repairing and dropping: the user's transactions neither fail nor wait because of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from qwen_embed_plugins import postgres
from qwen_embed_plugins.errors import DatabaseError
from tests.integration.conftest import Database


@pytest.fixture
def db(db_everywhere: Database) -> Database:
    """On each server: Postgres 16 and 18, and the one that the run was given."""
    return db_everywhere


def test_repair_after_a_change_of_the_key_leaves_writers_alone(db: Database) -> None:
    db.create()
    db.rows("ALTER TABLE docs DROP CONSTRAINT docs_pkey, ADD PRIMARY KEY (id, other)")
    with pytest.raises(DatabaseError, match=r"key of .*docs is no longer"):
        postgres.repair(db.dsn, "docs")
    db.rows("INSERT INTO docs VALUES (1, 'a', 1)")
    db.rows("UPDATE docs SET body = 'b'")


def test_repair_refuses_a_key_that_moved_to_another_column(db: Database) -> None:
    db.create()
    db.rows("ALTER TABLE docs DROP CONSTRAINT docs_pkey, ADD PRIMARY KEY (other)")
    with pytest.raises(DatabaseError, match=r"key of .*docs is no longer"):
        postgres.repair(db.dsn, "docs")


def test_repair_does_not_stop_writers_while_it_waits_for_a_reader(db: Database) -> None:
    db.create()
    with db.connect() as reader:
        reader.execute("SELECT FROM docs")
        with aside(lambda: postgres.repair(db.dsn, "docs")):
            write(db)


def test_drop_does_not_stop_writers_while_it_waits_for_a_reader_of_status(db: Database) -> None:
    db.create()
    with db.connect() as reader:
        reader.execute("SELECT FROM qwen_embed.log_1")
        with aside(lambda: postgres.drop_vectorizer(db.dsn, "docs")):
            write(db)
            reader.rollback()
    assert postgres.list_vectorizers(db.dsn) == []


def test_drop_does_not_stop_writers_while_it_waits_for_a_search(db: Database) -> None:
    db.create()
    with db.connect() as reader:
        reader.execute("SELECT FROM docs_embedding")
        with aside(lambda: postgres.drop_vectorizer(db.dsn, "docs", drop_target=True)):
            write(db)
            reader.rollback()
    assert postgres.list_vectorizers(db.dsn) == []


def test_a_sweep_wanted_while_one_is_under_way_is_not_lost(db: Database) -> None:
    db.create()
    with db.connect() as walker:
        walker.execute("SELECT FROM qwen_embed.task FOR UPDATE")
        postgres.enqueue(db.dsn, "docs")
        walker.execute("DELETE FROM qwen_embed.task WHERE kind = 'backfill' AND id = 1")
    assert db.value("SELECT count(*) FROM qwen_embed.task WHERE kind = 'backfill'") == 1


def write(db: Database) -> None:
    with db.connect(autocommit=True) as writer:
        writer.execute("SET lock_timeout = '4s'")
        writer.execute("INSERT INTO docs VALUES (1, 'a')")


@contextmanager
def aside(call: Callable[[], object]) -> Iterator[None]:
    """The call in a thread, given time to come to its lock; ended and free of errors afterwards."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.7)
    yield
    thread.join()
    assert raised == []


def test_uninstall_waits_for_a_vectorizer_that_is_being_made(db: Database) -> None:
    with db.connect() as maker:
        maker.execute("SELECT")  # opens a transaction, which the call then joins
        postgres.create_vectorizer(maker, "docs", columns=["body"])
        refused: list[BaseException] = []

        def uninstall() -> None:
            try:
                postgres.uninstall(db.dsn)
            except DatabaseError as error:
                refused.append(error)

        with aside(uninstall):
            maker.commit()
    assert "vectorizers are left: docs" in str(refused[0])
    assert db.state().state == "backfill"
