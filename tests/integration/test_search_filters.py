"""Filters: equality over a column of the source whatever the JSON is, or a refusal of one line."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from qwen_embed_plugins import postgres
from qwen_embed_plugins.errors import ConfigurationError, DatabaseError
from tests.integration.conftest import opened_database

if TYPE_CHECKING:
    from tests.integration.conftest import Database
    from tests.postgres_servers import Server

COLUMNS = {
    "id": "int",
    "name": "text",
    "odd \"' % $1 {x} ;--": "text",
    "code": "varchar(3)",
    "fixed": "char(4)",
    "letter": '"char"',
    "label": "name",
    "price": "numeric(6,2)",
    "weight": "real",
    "ready": "boolean",
    "day": "date",
    "at": "timestamptz(0)",
    "long": "interval",
    "token": "uuid",
    "tags": "text[]",
    "counts": "int[]",
    "about": "jsonb",
    "raw": "json",
    "place": "point",
    "span": "int4range",
    "mood": "mood",
    "short": "shortened",
    "bits": "bit(3)",
}
ROWS: list[dict[str, Any]] = [
    {
        "id": 1, "name": "text", "odd \"' % $1 {x} ;--": "a", "code": "abc", "fixed": "ab",
        "letter": "a", "label": "a" * 63, "price": "1.10", "weight": 0.5, "ready": True,
        "day": "2026-01-31", "at": "2026-01-31 12:00+00", "long": "1 day",
        "token": "11111111-1111-1111-1111-111111111111", "tags": ["a", "b"], "counts": [1, 2],
        "about": {"a": [1]}, "raw": {"a": 1}, "place": "(1,2)", "span": "[1,5)", "mood": "glad",
        "short": "abc", "bits": "101",
    },
    {"id": 2, "name": "true", "code": "", "tags": [], "about": "text", "ready": False},
    {"id": 3, "name": "{\"a\": 1}", "about": None},
]  # fmt: skip


@pytest.fixture(scope="module")
def db(server: Server, template: str) -> Iterator[Database]:
    """One for all: nothing here changes it, which is part of what is tested."""
    with opened_database(server, template) as made:
        made.rows("CREATE TYPE mood AS ENUM ('glad', 'sad')")
        made.rows("CREATE DOMAIN shortened AS varchar(3)")
        described = ", ".join(f"{quoted(name)} {kind}" for name, kind in COLUMNS.items())
        made.rows(f"CREATE TABLE docs ({described}, PRIMARY KEY (id))")
        for row in ROWS:
            made.rows(
                "INSERT INTO docs SELECT * FROM jsonb_populate_record(NULL::docs, %s)", Jsonb(row)
            )
        # A JSON null is not SQL's.
        made.rows("UPDATE docs SET about = 'null' WHERE id = 3")
        made.create(columns=["name"], index_kind="hnsw")
        made.work()
        yield made


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def found(db: Database, condition: Any) -> list[int]:
    hits = postgres.search(db.conn, "docs", "q", filter=condition, embedder=db.stub)
    return sorted(hit.key["id"] for hit in hits)


def refusal(db: Database, condition: Any) -> str:
    with pytest.raises(DatabaseError) as caught:
        found(db, condition)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize(
    ("condition", "keys"),
    [
        ({"odd \"' % $1 {x} ;--": "a"}, [1]),
        ({"odd \"' % $1 {x} ;--": ["a", "b' OR true --"]}, [1]),
        # 'abcd'::varchar(3) would be 'abc', and '1.104'::numeric(6,2) 1.10.
        ({"code": "abcd"}, []),
        ({"code": "abc"}, [1]),
        ({"code": ""}, [2]),
        ({"short": "abcd"}, []),
        ({"short": ["abcd", "abc"]}, [1]),
        ({"fixed": "ab"}, [1]),
        ({"letter": "ab"}, []),
        ({"letter": "a"}, [1]),
        ({"label": "a" * 64}, []),
        ({"label": "a" * 63}, [1]),
        ({"price": 1.1}, [1]),
        ({"price": "1.104"}, []),
        ({"price": Decimal("1.10")}, [1]),
        ({"weight": 0.5}, [1]),
        ({"ready": True}, [1]),
        ({"ready": [True, False]}, [1, 2]),
        ({"ready": [None, False]}, [2, 3]),
        ({"ready": [None]}, [3]),
        ({"day": dt.date(2026, 1, 31)}, [1]),
        ({"at": dt.datetime(2026, 1, 31, 12, tzinfo=dt.timezone.utc)}, [1]),
        ({"at": "2026-01-31 12:00:00.3+00"}, []),
        ({"token": uuid.UUID(int=0x11111111111111111111111111111111)}, [1]),
        ({"tags": "{a,b}"}, [1]),
        ({"tags": ["{a,b}", "{}"]}, [1, 2]),
        ({"tags": []}, []),
        ({"counts": "{1,2}"}, [1]),
        ({"about": {"a": [1]}}, [1]),
        ({"about": "text"}, [2]),
        ({"about": ["text", {"a": [1]}]}, [1, 2]),
        ({"about": None}, []),
        ({"name": True}, [2]),
        ({"name": ["text", "true"], "ready": False}, [2]),
        ({"long": "24 hours"}, [1]),
        ({"span": "[1,4]"}, [1]),
        ({"mood": ["glad", "sad"]}, [1]),
        ({"bits": "101"}, [1]),
        ({"bits": "1010"}, []),
        ({"id": [1, "2"]}, [1, 2]),
        ({}, [1, 2, 3]),
    ],
)
def test_equality(db: Database, condition: Any, keys: list[int]) -> None:
    assert found(db, condition) == keys


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ({"raw": {"a": 1}}, "cannot compare raw, which is json"),
        ({"place": "(1,2)"}, "cannot compare place, which is point"),
        ({"id": "one\ntwo"}, 'cannot compare id, which is integer, with "one\\ntwo"'),
        ({"id": 1.5}, "cannot compare id, which is integer, with 1.5"),
        ({"id": {"a": 1}}, "cannot compare id"),
        ({"name": {"a": 1}}, "a value, not JSON, is needed"),
        ({"name": [["text"]]}, "cannot compare name"),
        ({"tags": [["a", "b"]]}, "cannot compare tags"),
        ({"mood": "angry"}, "cannot compare mood"),
        ({"day": "soon"}, "cannot compare day, which is date"),
        ({"nam": 1}, "The nearest is name"),
        ({"ctid": "(0,1)"}, "which is no column of"),
        ({"": 1}, "which is no column of"),
        ({"a\nb": 1}, 'filter names "a b", which is no column'),
        ({"name": "\0"}, "unsupported Unicode escape sequence"),
        ({"name": "\ud800"}, "json"),
    ],
)
def test_refusals(db: Database, condition: Any, said: str) -> None:
    assert said in refusal(db, condition)


def test_nothing_is_paid_for_a_query_whose_filter_is_refused(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[str]()
    monkeypatch.setattr(db.stub, "embed_query", lambda text, **_: asked.append(text))
    assert "The nearest is name" in refusal(db, {"nam": 1})
    with pytest.raises(ConfigurationError):
        found(db, {"id": object()})
    assert asked == []


@pytest.mark.parametrize(
    "condition",
    [{"id": {1, 2}}, {"id": object()}, {"id": float("nan")}, {"id": b"x"}],
    ids=["set", "object", "nan", "bytes"],
)
def test_what_is_no_json(db: Database, condition: Any) -> None:
    with pytest.raises(ConfigurationError, match="filter cannot be written as JSON"):
        found(db, condition)


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
hostile = st.sampled_from(
    [
        "'", "''", "\\", "\\'", "$$", "$1", "%s", "%I", "%", "{}", "{a}", "--", ";", "/*",
        "') OR true --", "'; DROP TABLE docs; --", "a\nb", "now", "NaN", "infinity", "null", "1",
        "\\u0041", "E'x'", "]::text[])) OR (true",
        # Whole SQL wherever a quote ends early: what is broken is refused for that alone.
        "' OR ''='", "'::text OR 'a'='a", "1'::int OR '1'='1", "a' = 'a' OR 'a",
    ]
)  # fmt: skip
values = st.recursive(
    scalars | hostile,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(list(COLUMNS)) | hostile | st.text(max_size=5)


@settings(max_examples=300)
@given(st.dictionaries(names, values, max_size=3) | values)
@example({"name": "') OR true --"})
@example({"name": "' OR ''='"})
@example({"name": ["x", "'::text OR 'a'='a"]})
@example({"id": "1'::int OR '1'='1"})
@example({'id" IS NULL OR "id': 1})
@example([{"id": 1}])
@example("id")
def test_any_json_is_equality_or_one_line(db: Database, condition: Any) -> None:
    query = str([float(number) for number in db.stub.vector("q")])
    refused = rows = None
    try:
        rows = db.rows(
            "SELECT (key->>'id')::int FROM qwen_embed.search('docs', %s::vector, "
            "filter => %s::jsonb)",
            query,
            json.dumps(condition),
        )
    except psycopg.DataError as error:
        refused = error.diag.message_primary
    assert db.value("SELECT count(*) FROM docs") == len(ROWS)
    if rows is None:
        assert refused is not None
        assert len(refused.splitlines()) == 1
        return
    assert isinstance(condition, dict)
    assert condition.keys() <= COLUMNS.keys()
    for (key,) in rows:
        row = ROWS[key - 1]
        for column in ("id", "name", "code", "mood"):
            assert fits(row.get(column), condition.get(column, ANY)), (column, key)


ANY = object()


def fits(value: object, wanted: object) -> bool:
    """What equality means, in Python: of texts, and of integers however they are written."""
    if isinstance(wanted, list):
        return any(fits(value, each) for each in wanted)
    if isinstance(wanted, str) and isinstance(value, int):
        return wanted.strip() == str(value)
    return (
        wanted is ANY
        or value == (json.dumps(wanted) if isinstance(wanted, bool) else wanted)
        or (isinstance(wanted, (int, float)) and isinstance(value, str))
    )
