"""What goes into a batch: no more than memory is to hold, nothing that spoils it, each in turn."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

import pytest

from qwen_embed_plugins import postgres
from qwen_embed_plugins.postgres import _sql, queue
from qwen_embed_plugins.postgres._flow import Row, run
from qwen_embed_plugins.postgres.definition import define_vectorizers
from qwen_embed_plugins.tokens import estimate_tokens
from tests.integration.conftest import Database

LEASE_BYTES = 4 * queue.LEASE_TOKENS


class Reads:
    """Counts the rows whose text a worker has read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows = 0
        self.takes: list[int] = []
        original = queue.sort_rows

        def counting(token: int, rows: Sequence[Row], **options: Any) -> queue.Batch:
            self.rows += len(rows)
            self.takes.append(sum(row["octets"] for row in rows))
            return original(token, rows, **options)

        monkeypatch.setattr(queue, "sort_rows", counting)


def test_long_texts_are_never_all_in_memory(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = Reads(monkeypatch)
    length = 128 * 1024
    db.create(backfill=False)
    db.rows(f"INSERT INTO docs SELECT i, i || repeat('x', {length}) FROM generate_series(1, 120) i")
    held, most = 0, 0

    async def count(texts: Sequence[str]) -> None:
        nonlocal held, most
        held += sum(map(len, texts))
        most = max(most, held)
        await asyncio.sleep(0.05)
        held -= sum(map(len, texts))

    db.stub.during = count
    assert db.work().embedded == 120
    assert max(reads.takes) <= LEASE_BYTES + length + 3
    assert most <= 4 * (LEASE_BYTES + length + 3)
    # Nothing is read, hence detoasted, that does not go along.
    assert reads.rows == 120
    assert db.value("SELECT count(*) FROM docs_embedding") == 120
    db.drained()


def test_what_is_given_back_is_soon_not_taken_any_more(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    returned = []
    original = _sql.query

    def counting(name: str) -> Any:
        returned.append(name == "return_unread")
        return original(name)

    db.create(backfill=False)
    db.rows("INSERT INTO docs SELECT i, i || repeat('x', 131072) FROM generate_series(1, 120) i")
    monkeypatch.setattr(_sql, "query", counting)
    db.work()
    assert 1 <= sum(returned) <= 3


def test_digits_weigh_what_they_cost(db: Database) -> None:
    """A digit is a token: by bytes alone four of these would go into one lease."""
    db.create(backfill=False)
    db.rows("INSERT INTO docs SELECT i, repeat('7', 400000) || i FROM generate_series(1, 6) i")
    sizes = []

    async def weigh(texts: Sequence[str]) -> None:
        sizes.append(sum(map(estimate_tokens, texts)))

    db.stub.during = weigh
    assert db.work().embedded == 6
    assert max(sizes) <= queue.LEASE_TOKENS + 400_002


def test_one_row_always_goes_and_one_beyond_all_measure_dies(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "LONGEST_BYTES", 3 << 20)
    db.create(backfill=False)
    db.rows(
        "INSERT INTO docs VALUES (1, repeat('a', 3000000)), (2, repeat('b', 3200000)), (3, 'c')"
    )
    summary = db.work()
    assert (summary.embedded, summary.dead) == (2, 1)
    (letter,) = postgres.dead_letters(db.dsn)
    assert (letter.key, letter.kind) == ({"id": 2}, "too_large")
    assert "3200000 bytes" in letter.message
    db.rows("UPDATE docs SET body = 'short' WHERE id = 2")
    db.work()
    assert postgres.dead_letters(db.dsn) == []


def test_many_vectorizers_hold_no_more_than_few(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "LEASE_TOKENS", 5000)
    held, most = 0, 0

    async def count(texts: Sequence[str]) -> None:
        nonlocal held, most
        held += sum(map(estimate_tokens, texts))
        most = max(most, held)
        await asyncio.sleep(0.5)
        held -= sum(map(estimate_tokens, texts))

    for number in range(4):
        db.rows(f"CREATE TABLE t{number} (id int PRIMARY KEY, body text)")
        db.create(f"t{number}", backfill=False)
        db.rows(
            f"INSERT INTO t{number} SELECT i, i || repeat('x', 5000) FROM generate_series(1, 25) i"
        )
    db.stub.during = count
    assert db.work(in_flight=10).embedded == 100
    assert queue.LEASE_TOKENS * 4 < most <= queue.LEASE_TOKENS * (8 + 4 + 1)


def read_as_numbers(db: Database) -> None:
    """Texts of docs that are no numbers cannot be read any more."""
    number = db.value("SELECT id FROM qwen_embed.vectorizer WHERE name = 'docs'")
    db.rows(
        f"CREATE OR REPLACE FUNCTION qwen_embed.content_{number}(docs) RETURNS text "
        "LANGUAGE sql STABLE BEGIN ATOMIC SELECT (($1).body)::int::text; END"
    )


def test_a_text_that_cannot_be_read_harms_no_other(db: Database) -> None:
    db.rows("INSERT INTO docs SELECT i, i::text FROM generate_series(1, 120) i")
    db.rows("UPDATE docs SET body = 'secret words ' || id WHERE id IN (17, 18, 99)")
    db.create()
    read_as_numbers(db)
    summary = db.work()  # the backfill meets them, too
    assert (summary.embedded, summary.dead, summary.waiting) == (117, 3, {})
    letters = postgres.dead_letters(db.dsn)
    assert {letter.key["id"] for letter in letters} == {17, 18, 99}
    assert {letter.kind for letter in letters} == {"bad_content"}
    assert "invalid input syntax for type integer" in letters[0].message
    assert "secret" not in str(letters)
    db.asked_once()
    db.drained()
    # One that had a vector loses it, since it was another text's.
    db.rows("UPDATE docs SET body = 'no number' WHERE id = 3")
    db.rows("UPDATE docs SET body = '17' WHERE id = 17")
    db.work()
    assert {letter.key["id"] for letter in postgres.dead_letters(db.dsn)} == {3, 18, 99}
    assert not {3, 18, 99} & set(db.vectors())
    db.drained()


def test_a_batch_of_bad_texts_alone_ends_too(db: Database) -> None:
    db.create(backfill=False)
    read_as_numbers(db)
    db.rows("INSERT INTO docs VALUES (1, 'x'), (2, 'y')")
    summary = db.work()
    assert (summary.dead, summary.waiting) == (2, {})
    db.drained()


def test_a_vector_that_cannot_be_written_harms_no_other(db: Database) -> None:
    db.create(backfill=False)
    db.rows("ALTER TABLE docs_embedding ADD CONSTRAINT polite CHECK (text NOT LIKE 'rude%')")
    db.rows("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 200) i")
    db.rows("UPDATE docs SET body = 'rude ' || id WHERE id IN (1, 100, 101)")
    summary = db.work()
    assert (summary.embedded, summary.dead, summary.waiting) == (197, 3, {})
    letters = postgres.dead_letters(db.dsn)
    assert {letter.key["id"] for letter in letters} == {1, 100, 101}
    assert {letter.kind for letter in letters} == {"bad_content"}
    assert 'violates check constraint "polite"' in letters[0].message
    assert "rude" not in str(letters)
    db.asked_once()
    assert set(db.vectors()) == set(range(1, 201)) - {1, 100, 101}
    db.drained()


def test_a_key_too_long_for_the_side_table_is_a_dead_letter(db: Database) -> None:
    # The side table's key has one column more: the longest key of the source does not fit in.
    db.rows("CREATE TABLE long (id bytea PRIMARY KEY, body text)")
    db.rows("INSERT INTO long VALUES (%s, 'x'), ('short', 'y')", os.urandom(2692))
    db.create("long")
    summary = db.work()
    assert (summary.embedded, summary.dead, summary.waiting) == (1, 1, {})
    assert "index row size" in postgres.dead_letters(db.dsn)[0].message


def test_a_row_that_alone_cannot_be_written_stops_no_later_one(db: Database) -> None:
    """Alone in its batch it may be the table's fault. The next batch tells whose it is."""
    db.create(backfill=False)
    db.rows("ALTER TABLE docs_embedding ADD CONSTRAINT polite CHECK (text NOT LIKE 'rude%')")
    db.rows("INSERT INTO docs VALUES (1, 'rude')")

    async def serve() -> None:
        stopping = asyncio.Event()
        service = asyncio.create_task(db.awork(once=False, stopping=stopping))

        async def until(query: str) -> None:
            for _ in range(1200):
                if db.value(query):
                    return
                assert not service.done()
                await asyncio.sleep(0.05)
            raise AssertionError(query)

        await until("SELECT state = 'blocked' FROM qwen_embed.status")
        db.rows("INSERT INTO docs VALUES (2, 'kind')")
        await until("SELECT count(*) FROM docs_embedding")
        await until("SELECT count(*) FROM qwen_embed.dead_letters")
        await until("SELECT state = 'active' FROM qwen_embed.status")
        stopping.set()
        await service

    asyncio.run(serve())
    db.expect({2: "kind"})
    db.asked_once()
    db.drained()


def test_a_long_line_of_one_table_does_not_hold_up_another(db: Database) -> None:
    db.rows("CREATE TABLE other (id int PRIMARY KEY, body text)")
    db.create(backfill=False)
    db.create("other", backfill=False)
    db.rows("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 2000) i")
    done_at = 0

    async def watch(texts: Sequence[str]) -> None:
        nonlocal done_at
        if db.stub.calls == 20:
            await asyncio.to_thread(db.rows, "INSERT INTO other VALUES (1, 'alone')")
        if "alone" in texts:
            done_at = db.stub.calls

    db.stub.during = watch
    db.work(batch_size=10, poll_seconds=0.01)
    assert 20 < done_at <= 40  # of 200


@pytest.mark.parametrize("first", ["new", "again"])
def test_neither_new_rows_nor_retries_starve_the_other(db: Database, first: str) -> None:
    """One line never ends: with each batch a row is added to it. The other has one row."""
    db.create(backfill=False)
    number = db.value("SELECT id FROM qwen_embed.vectorizer")
    db.rows("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 100) i")
    endless, single = (
        (f"log_{number} (op, k1) VALUES ('c', %s)", f"work_{number} (k1) VALUES (%s)")
        if first == "new"
        else (f"work_{number} (k1) VALUES (%s)", f"log_{number} (op, k1) VALUES ('c', %s)")
    )
    db.rows(f"TRUNCATE qwen_embed.log_{number}")
    for key in range(1, 31):
        db.rows(f"INSERT INTO qwen_embed.{endless}", key)
    db.rows(f"INSERT INTO qwen_embed.{single}", 100)
    db.work(batch_size=1, in_flight=1)
    assert db.stub.asked.index("text 100") <= 2
    assert len(db.stub.asked) == 31


def test_live_changes_wait_for_a_bounded_part_of_a_backfill(db: Database) -> None:
    db.rows("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 2000) i")
    db.create()
    done_at = 0

    async def watch(texts: Sequence[str]) -> None:
        nonlocal done_at
        if db.stub.calls == 10:
            await asyncio.to_thread(db.rows, "INSERT INTO docs VALUES (0, 'live')")
        if "live" in texts:
            done_at = db.stub.calls

    db.stub.during = watch
    db.work(batch_size=10)
    assert 10 < done_at <= 40  # of 200


SIZES = (0, 1, 1, 3, 10, 10, 11, 40, 41, 1000)


@pytest.mark.parametrize("room", [1, 12, 40, 100, 2000])
@pytest.mark.parametrize("longest", [10, 40, 5000])
def test_short_texts_are_read_faster_and_no_otherwise(
    db: Database, room: int, longest: int
) -> None:
    """What is read goes up to the row that fills the room, and leaves out what is too long."""
    db.create(backfill=False)
    for key, size in enumerate(SIZES):
        db.rows(f"INSERT INTO docs VALUES ({key}, repeat('x', {size}))")
    db.rows("INSERT INTO docs VALUES (99, NULL)")
    db.rows("DELETE FROM docs WHERE id = 3")
    db.rows("TRUNCATE qwen_embed.log_1")
    keys = [*range(len(SIZES)), 99]
    db.rows(f"INSERT INTO qwen_embed.work_1 (k1, token) SELECT unnest(ARRAY{keys}), 7")
    with db.connect() as connection:
        query = run(connection, define_vectorizers())[0].query("read_rows").as_string()

    def read(short: bool) -> list[tuple[Any, ...]]:
        return db.rows(
            "SELECT id, content, octets FROM qwen_embed.read_within(%s, 7, ("
            "SELECT array_agg(id ORDER BY id) FROM qwen_embed.work_1), %s, %s, %s)",
            query, room, longest, short,
        )  # fmt: skip

    for rows in (read(False), read(True)):
        sizes = [size if size <= longest else 0 for _, _, size in rows]
        assert sum(sizes[:-1]) < room
        assert sum(sizes) >= room or len(rows) == len(keys)
        for _, content, size in rows:
            assert content == ("x" * size if 0 < size <= longest else None)
        assert len({row[0] for row in rows}) == len(rows) >= 1


def test_rows_that_are_long_all_at_once_are_held_one_lease_at_a_time(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After short ones, by which the worker reads many in one query."""
    reads = Reads(monkeypatch)
    db.create(backfill=False)
    db.rows("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 300) i")
    db.rows("INSERT INTO docs SELECT i, i || repeat('x', 131072) FROM generate_series(301, 400) i")
    asked: list[bool] = []
    original = queue.take

    def noting(*arguments: Any, **options: Any) -> Any:
        asked.append(options["short"])
        return original(*arguments, **options)

    monkeypatch.setattr(queue, "take", noting)
    assert db.work(batch_size=100).embedded == 400
    assert max(reads.takes) <= LEASE_BYTES + 131_075
    assert True in asked[:4]
    assert False in asked[4:]
    db.drained()
