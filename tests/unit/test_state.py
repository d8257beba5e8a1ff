"""The state: what is learnt outlives the process, for a while. In a file and in Postgres."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from time import time

import psycopg
import pytest

from qwen_embed_plugins import ConfigurationError
from qwen_embed_plugins import state as module
from qwen_embed_plugins.state import CAPABILITY_SECONDS, SQLiteState
from qwen_embed_plugins.stores import state_at
from qwen_embed_plugins.verdicts import Verdict
from tests.stores import Store, file_store


def test_what_is_learnt_is_there_for_the_next(store: Store) -> None:
    assert state_at(store.place).capabilities() == {}
    assert state_at(store.place).probes() == {}
    state_at(store.place).learn("http://a w", "encoding", "float")
    state_at(store.place).learn("http://a w", "encoding", "base64")
    assert state_at(store.place).capabilities() == {("http://a w", "encoding"): "base64"}


def test_reading_makes_neither_file_nor_tables(tmp_path: Path, database: Store) -> None:
    path = tmp_path / "deep" / "state.db"
    for store in (Store(str(path)), database):
        state = state_at(store.place)
        assert (state.capabilities(), state.probes(), state.verdicts("toy")) == ({}, {}, {})
        assert store.counts() == []
    assert not path.parent.exists()
    with psycopg.connect(database.place.address or "") as connection:
        asked = connection.execute("select to_regnamespace('qwen_embed_state')")
        assert asked.fetchone() == (None,)


def test_a_capability_is_believed_for_a_while(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = state_at(store.place)
    state.learn("http://a w", "max_inputs", "3")
    later = time() + CAPABILITY_SECONDS + 1
    monkeypatch.setattr(module, "time", lambda: later)
    assert state.capabilities() == {}


def test_probes_come_back_oldest_first(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    state = state_at(store.place)
    for moment, endpoint in enumerate(("z", "a", "m", "z")):
        monkeypatch.setattr(module, "time", lambda moment=moment: float(moment))
        state.keep_probes(endpoint, endpoint.encode() + b"\0")
    kept = [(endpoint, met.vectors, met.at) for endpoint, met in state.probes().items()]
    assert kept == [("z", b"z\0", 3.0), ("a", b"a\0", 1.0), ("m", b"m\0", 2.0)]


def test_the_last_verdict_of_each_model_stands(store: Store) -> None:
    state = state_at(store.place)
    for model, reason in (("toy", "one"), ("other", "two"), ("toy", "three")):
        verdict = Verdict(model, serves=False, reason=reason, measure="verify", at=1.5)
        state.keep_verdict("a %s ? 中", verdict)
    assert state.verdicts("toy") == {
        "a %s ? 中": Verdict("toy", serves=False, reason="three", measure="verify", at=1.5)
    }


def test_both_kinds_of_state_have_the_same_tables(tmp_path: Path, database: Store) -> None:
    """One set of statements runs on both."""
    file = file_store(tmp_path)
    for store in (file, database):
        state_at(store.place).learn("e", "n", "v")
    assert columns(file) == columns(database)
    assert len(columns(file)) > 20


def columns(store: Store) -> set[tuple[str, str]]:
    place = store.place
    if place.path is None:
        with psycopg.connect(place.address or "") as connection:
            rows = connection.execute(
                "select table_name, column_name from information_schema.columns "
                "where table_schema = 'qwen_embed_state'"
            ).fetchall()
    else:
        with closing(sqlite3.connect(place.path)) as database:
            rows = database.execute(
                "select m.name, c.name from sqlite_schema m, pragma_table_info(m.name) c "
                "where m.type = 'table'"
            ).fetchall()
    # SQLite keeps its version, and the order of rows, without a table or column for it.
    ours = {(str(table), str(column)) for table, column in rows}
    return {item for item in ours if item[0] != "version" and item != ("probe", "rowid")}


def test_a_file_of_the_first_version_is_brought_up(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with sqlite3.connect(path) as database:
        database.executescript(
            "create table capability (endpoint text, name text, value text, learnt_at real, "
            "primary key (endpoint, name)) without rowid; pragma user_version = 1;"
        )
    database.close()
    state = SQLiteState(str(path))
    assert state.probes() == {}
    state.keep_probes("a", b"1")
    assert state.probes()["a"].vectors == b"1"


def test_a_newer_file_and_no_file_at_all_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    database = sqlite3.connect(path)
    database.execute("pragma user_version = 99")
    database.close()
    with pytest.raises(ConfigurationError, match="made by a newer version"):
        SQLiteState(str(path)).capabilities()
    path.write_bytes(b"this is no database, and long enough to be looked at as if it were one")
    with pytest.raises(ConfigurationError, match="name another with"):
        SQLiteState(str(path)).learn("a", "b", "c")


@pytest.mark.parametrize("content", ["", "{", "null", "[]", "{}", '{"findings": [], "new": 1}'])
def test_a_damaged_verdict_is_none(tmp_path: Path, content: str) -> None:
    path = tmp_path / "state.db"
    state = SQLiteState(str(path))
    state.keep_verdict("a", Verdict("toy", serves=True, reason="", measure="verify", at=0.0))
    with sqlite3.connect(path) as database:
        database.execute("insert into verdict values ('b', 'toy', ?)", (content,))
    database.close()
    assert list(state.verdicts("toy")) == ["a"]
