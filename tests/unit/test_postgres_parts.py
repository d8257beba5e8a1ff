"""The pure parts of the Postgres path: bytes, sorting of rows and answers, the log's floor."""

from __future__ import annotations

import struct
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_embed_plugins import sql_files
from qwen_embed_plugins.postgres import _sql, connect
from qwen_embed_plugins.postgres.answers import BAD_VECTOR_ATTEMPTS, held, sort_answer
from qwen_embed_plugins.postgres.floor import LogFloor
from qwen_embed_plugins.postgres.kept import Ready
from qwen_embed_plugins.postgres.queue import Item, content_hash, sort_rows
from qwen_embed_plugins.postgres.vectors import Storage, vector_array, vector_text
from qwen_embed_plugins.spaces import EmbeddingSpace
from qwen_embed_plugins.types import EmbedResult, TextError, TextErrorKind, Usage


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("postgresql://me:hunter2@db.example/shop", "in database shop at db.example"),
        ("host=/run/pg dbname=shop password=hunter2", "in database shop at /run/pg"),
        ("postgresql:///shop", "in database shop at from.env"),
        ("postgresql://me:hunter2@db.example", "in database from_env at db.example"),
        ("service=shop password=hunter2", "here"),
        ("hunter2", "here"),
        ("embedded:pg", "in embedded:{here}/pg"),
    ],
)
def test_where_an_address_leads(monkeypatch: pytest.MonkeyPatch, address: str, said: str) -> None:
    monkeypatch.setenv("PGHOST", "from.env")
    monkeypatch.setenv("PGDATABASE", "from_env")
    said = said.format(here=Path.cwd().resolve())
    assert connect.place(address) == said
    monkeypatch.setenv("QWEN_EMBED_DSN", address)
    assert connect.place(None) == said


def test_where_an_address_without_a_database_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGDATABASE", raising=False)
    assert connect.place("host=h user=anna") == "in database anna at h"


@pytest.mark.parametrize(("storage", "kind"), [("vector", ">f4"), ("halfvec", ">f2")])
def test_the_bytes_of_an_array(storage: Storage, kind: str) -> None:
    vectors = np.array([[1.0, -0.5, 0.25], [0.0, 2.0, -3.0]], dtype=np.float32)
    data = vector_array(vectors, storage=storage, type_oid=4242)
    assert struct.unpack(">iiIii", data[:20]) == (1, 0, 4242, 2, 1)
    size = 4 + 3 * np.dtype(kind).itemsize
    rest = data[20:]
    for row in vectors:
        length, dimensions, unused = struct.unpack(">ihh", rest[:8])
        assert (length, dimensions, unused) == (size, 3, 0)
        assert np.frombuffer(rest[8 : 4 + size], dtype=kind).tolist() == row.tolist()
        rest = rest[4 + size :]
    assert rest == b""


def test_an_empty_array_has_no_dimension() -> None:
    data = vector_array(np.empty((0, 4), np.float32), storage="vector", type_oid=7)
    assert struct.unpack(">iiI", data) == (0, 0, 7)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_a_vector_as_text_keeps_every_bit(numbers: list[float]) -> None:
    vector = np.array(numbers, dtype=np.float32)
    text = vector_text(vector)
    again = np.array([float(part) for part in text.strip("[]").split(",")], dtype=np.float32)
    assert again.tobytes() == vector.tobytes()


def test_rows_are_sorted_by_what_they_need() -> None:
    rows: list[dict[str, object]] = [
        {"id": 1, "attempts": 0, "content": "new", "content_hash": None},
        {"id": 2, "attempts": 3, "content": "changed", "content_hash": content_hash("before")},
        {"id": 3, "attempts": 0, "content": "same", "content_hash": content_hash("same")},
        {"id": 6, "attempts": 0, "content": "other", "content_hash": content_hash("other")},
        {"id": 7, "attempts": 0, "content": "doubted", "content_hash": content_hash("doubted")},
        {"id": 4, "attempts": 0, "content": None, "content_hash": content_hash("x")},
        {"id": 5, "attempts": 0, "content": " \n", "content_hash": None},
    ]
    for row in rows:
        row["space"] = "n/2" if row["id"] == 6 else "m/2"
        row["again"] = row["id"] == 7
        row["octets"] = len(str(row["content"] or ""))
    batch = sort_rows(9, rows, space="m/2")
    wanted = ((1, "new", 0), (2, "changed", 3), (6, "other", 0), (7, "doubted", 0))
    assert batch.items == tuple(
        Item(place, text, attempts, content_hash(text)) for place, text, attempts in wanted
    )
    assert (batch.equal, batch.gone) == ((3,), (4, 5))
    assert sorted(batch.ids) == [1, 2, 3, 4, 5, 6, 7]


def result(count: int, *errors: tuple[int, TextErrorKind, str]) -> EmbedResult:
    vectors = np.arange(count * 2, dtype=np.float32).reshape(count, 2)
    return EmbedResult(
        vectors,
        tuple(TextError(*error) for error in errors),
        EmbeddingSpace("m", 2),
        Usage(),
        Decimal(0),
        (),
        tuple(f"offer {place}" for place in range(count)),
    )


def test_answers_are_sorted_by_what_follows() -> None:
    items = [Item(10 + place, f"text {place}", 0) for place in range(5)]
    answer = sort_answer(
        items, result(5, (1, "bad_input", "no"), (2, "no_offer", "all out"), (4, "bad_vector", "?"))
    )
    outcome = answer.outcome
    assert [item.id for item in outcome.written] == [10, 13]
    assert outcome.vectors.tolist() == [[0.0, 1.0], [6.0, 7.0]]
    assert outcome.offers == ("offer 0", "offer 3")
    assert [(burial.id, burial.kind) for burial in outcome.buried] == [(11, "bad_input")]
    assert {(delay.ids, delay.faults) for delay in outcome.delayed} == {((12,), 0), ((14,), 1)}
    assert answer.no_offer == "all out"


def test_a_row_in_chunks_fares_as_its_worst_chunk_does() -> None:
    items = [Item(row, f"{row} {chunk}", 0, chunk=chunk) for row in (1, 2, 3) for chunk in (0, 1)]
    ready = [Ready(Item(3, "3 2", 0, chunk=2, stands=0), None, None)]
    answer = sort_answer(
        items,
        result(
            6,
            (0, "no_offer", "all out"),
            (1, "bad_input", "no"),
            (2, "bad_vector", "short"),
            (3, "no_offer", "all out"),
        ),
        ready,
    )
    outcome = answer.outcome
    assert [(burial.id, burial.kind) for burial in outcome.buried] == [(1, "bad_input")]
    assert [(delay.ids, delay.faults) for delay in outcome.delayed] == [((2,), 1)]
    assert [(item.id, item.chunk, item.stands) for item in outcome.written] == [
        (3, 0, None),
        (3, 1, None),
        (3, 2, 0),
    ]
    assert outcome.vectors.tolist() == [[8.0, 9.0], [10.0, 11.0]]
    assert outcome.offers == ("offer 4", "offer 5")
    assert outcome.places() == [1, 2, None]
    assert outcome.only({1}).written == ()
    assert outcome.without({3}).vectors.shape == (0, 2)


def test_what_a_waiting_row_has_is_not_lost() -> None:
    items = [Item(1, "a", 0), Item(1, "b", 0, chunk=1), Item(2, "c", 0), Item(2, "d", 0, chunk=1)]
    answer = sort_answer(items, result(4, (1, "no_offer", "all out"), (3, "bad_input", "no")))
    assert [(one.item.text, one.offer) for one in answer.unused] == [("a", "offer 0")]
    assert answer.outcome.written == ()


def test_pauses_grow_until_a_bad_vector_kills() -> None:
    pauses = []
    for attempts in range(BAD_VECTOR_ATTEMPTS - 1):
        answer = sort_answer([Item(1, "x", attempts)], result(1, (0, "bad_vector", "short")))
        (delay,) = answer.outcome.delayed
        pauses.append(delay.pause_seconds)
    assert pauses == sorted(set(pauses))
    last = sort_answer(
        [Item(1, "x", BAD_VECTOR_ATTEMPTS - 1)], result(1, (0, "bad_vector", "short"))
    )
    assert [burial.kind for burial in last.outcome.buried] == ["bad_vector"]


def test_what_nobody_could_serve_blames_no_text() -> None:
    (delay,) = held([Item(1, "a", 2), Item(2, "b", 0)]).delayed
    assert (delay.ids, delay.faults, delay.pause_seconds) == ((1, 2), 0, 0.0)


def test_the_floor_moves_on_and_starts_over_in_time() -> None:
    floor = LogFloor()
    assert floor.start(0.0) == 0
    floor.scanned(0, furthest=7, short=False, now=0.0, seconds=0.01)
    assert floor.start(0.1) == 7
    floor.scanned(7, furthest=9, short=False, now=0.2, seconds=0.01)
    # Rows of a transaction that commits late lie before it: never later than some seconds.
    assert floor.start(5.1) == 0
    floor.scanned(9, furthest=None, short=True, now=0.3, seconds=0.01)
    assert floor.start(0.4) == 0


def test_starting_over_is_never_most_of_the_work() -> None:
    floor = LogFloor()
    floor.scanned(0, furthest=1_000_000, short=True, now=0.0, seconds=1.0)
    assert floor.start(19.0) == 1_000_000
    assert floor.start(20.0) == 0
    floor.rewind()
    assert floor.start(0.0) == 0


def test_every_query_says_what_it_is_for() -> None:
    text = (sql_files.folder() / "queries.sql").read_text(encoding="utf-8")
    names = [line.strip("- ") for line in text.splitlines() if _sql._QUERY_HEAD.match(line)]
    assert len(names) == len(set(names)) > 20
    lines = text.splitlines()
    for place, line in enumerate(lines):
        if _sql._QUERY_HEAD.match(line):
            assert lines[place + 1].startswith("-- "), line


def test_migrations_are_numbered_without_gaps() -> None:
    assert [m.number for m in _sql.migrations()] == list(range(1, len(_sql.migrations()) + 1))
