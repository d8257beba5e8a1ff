"""The state file: what is learnt outlives the process, for a while."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from pathlib import Path
from time import time

import pytest

from qwen_embed_plugins import ConfigurationError
from qwen_embed_plugins import state as module
from qwen_embed_plugins.state import CAPABILITY_SECONDS, MemoryState, SQLiteState, State
from qwen_embed_plugins.verdicts import Verdict


def test_what_is_learnt_is_there_for_the_next(tmp_path: Path) -> None:
    path = str(tmp_path / "deep" / "state.db")
    assert SQLiteState(path).capabilities() == {}
    assert not Path(path).exists(), "reading makes no file"
    SQLiteState(path).learn("http://a w", "encoding", "float")
    SQLiteState(path).learn("http://a w", "encoding", "base64")
    assert SQLiteState(path).capabilities() == {("http://a w", "encoding"): "base64"}


def test_a_capability_is_believed_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = SQLiteState(str(tmp_path / "state.db"))
    state.learn("http://a w", "max_inputs", "3")
    later = time() + CAPABILITY_SECONDS + 1
    monkeypatch.setattr(module, "time", lambda: later)
    assert state.capabilities() == {}


def test_probes_come_back_oldest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = SQLiteState(str(tmp_path / "state.db"))
    for moment, endpoint in enumerate(("z", "a", "m")):
        monkeypatch.setattr(module, "time", lambda moment=moment: float(moment))
        state.keep_probes(endpoint, endpoint.encode())
    kept = [(endpoint, met.vectors) for endpoint, met in state.probes().items()]
    assert kept == [("z", b"z"), ("a", b"a"), ("m", b"m")]


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


def test_since_when_a_verdict_holds_is_kept_whoever_writes_it(tmp_path: Path) -> None:
    """Each writer knows only its own verdict; two endpoints and two models do not mix."""
    path = tmp_path / "state.db"
    kept: list[State] = [SQLiteState(str(path)), MemoryState()]

    def verdict(at: float, *, serves: bool, model: str = "toy") -> Verdict:
        return Verdict(model, serves=serves, reason="", measure="verify", at=at)

    for state in kept:
        state.keep_verdict("a", verdict(1.0, serves=True))
        assert state.verdicts("toy")["a"].since == 0.0
        state.keep_verdict("a", verdict(2.0, serves=False))
        state.keep_verdict("b", verdict(3.0, serves=True))
        state.keep_verdict("a", verdict(3.0, serves=True, model="other"))
        state.keep_verdict("a", verdict(4.0, serves=False))
        state.keep_verdict("a", verdict(5.0, serves=True))
        state.keep_verdict("a", verdict(6.0, serves=True))
        assert state.verdicts("toy")["a"].since == 5.0
        assert state.verdicts("toy")["a"].at == 6.0
        assert state.verdicts("toy")["b"].since == 0.0
        assert state.verdicts("other")["a"].since == 0.0
        state.keep_verdict("a", replace(verdict(7.0, serves=True), since=7.0))
        assert state.verdicts("toy")["a"].since == 7.0


def test_a_verdict_of_an_older_version_is_understood(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    state = SQLiteState(str(path))
    state.keep_verdict("a", Verdict("toy", serves=True, reason="r", measure="verify", at=1.0))
    with sqlite3.connect(path) as database:
        [(content,)] = database.execute("select content from verdict").fetchall()
        older = {name: value for name, value in json.loads(content).items() if name != "since"}
        database.execute("update verdict set content = ?", (json.dumps(older),))
    database.close()
    assert state.verdicts("toy")["a"].since == 0.0
