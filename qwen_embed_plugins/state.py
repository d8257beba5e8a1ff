"""What outlives a process: what offers were found able to do, and the vectors they are known by.

Learning is rare, so each write opens the state file and closes it: nothing is held across a fork,
and no thread owns a connection.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from time import time
from typing import Protocol

from qwen_embed_plugins.parity import Met
from qwen_embed_plugins.state_file import connect, naming
from qwen_embed_plugins.verdicts import Verdict, from_json, to_json

CAPABILITY_SECONDS = 7 * 86_400
"""How long a learnt capability is believed."""


class State(Protocol):
    """Where capabilities are kept: `endpoint` is an address and a wire name, never a key."""

    def capabilities(self) -> dict[tuple[str, str], str]:
        """All that is known and not too old: (endpoint, name) to value."""

    def learn(self, endpoint: str, name: str, value: str) -> None:
        """Remember one capability; blocks for one small transaction."""

    def probes(self) -> dict[str, Met]:
        """The probes' vectors of each endpoint, in the order in which they were first met."""

    def keep_probes(self, endpoint: str, vectors: bytes) -> None:
        """Remember the probes' vectors of an endpoint."""

    def verdicts(self, model: str) -> dict[str, Verdict]:
        """What was measured of each endpoint for a model."""

    def keep_verdict(self, endpoint: str, verdict: Verdict) -> None:
        """Remember a verdict, in place of an earlier one for that endpoint and model. If that one
        refused, the moment of the change is kept with it (`Verdict.since`)."""


class MemoryState:
    """A state that ends with the process."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], str] = {}
        self._probes: dict[str, Met] = {}
        self._verdicts: dict[tuple[str, str], Verdict] = {}

    def capabilities(self) -> dict[tuple[str, str], str]:
        return dict(self._known)

    def learn(self, endpoint: str, name: str, value: str) -> None:
        self._known[endpoint, name] = value

    def probes(self) -> dict[str, Met]:
        return dict(self._probes)

    def keep_probes(self, endpoint: str, vectors: bytes) -> None:
        self._probes[endpoint] = Met(vectors, time())

    def verdicts(self, model: str) -> dict[str, Verdict]:
        return {endpoint: item for (endpoint, of), item in self._verdicts.items() if of == model}

    def keep_verdict(self, endpoint: str, verdict: Verdict) -> None:
        before = self._verdicts.get((endpoint, verdict.model))
        self._verdicts[endpoint, verdict.model] = verdict.following(before)


class SQLiteState:
    """A state in a file, shared by all processes that name it. The file appears at the first
    `learn`; until then reading it gives nothing."""

    def __init__(self, path: str) -> None:
        self.path = Path(path).absolute()  # a daemon changes its folder

    def capabilities(self) -> dict[tuple[str, str], str]:
        if not self.path.exists():
            return {}
        with self._opened() as database:
            # Servers change, and a limit may have been read out of an odd message: ask again.
            rows = database.execute(
                "select endpoint, name, value from capability where learnt_at > ?",
                (time() - CAPABILITY_SECONDS,),
            ).fetchall()
        return {(endpoint, name): value for endpoint, name, value in rows}

    def learn(self, endpoint: str, name: str, value: str) -> None:
        self._write(
            "insert into capability values (?, ?, ?, ?) on conflict (endpoint, name) do update "
            "set value = excluded.value, learnt_at = excluded.learnt_at",
            (endpoint, name, value, time()),
        )

    def probes(self) -> dict[str, Met]:
        if not self.path.exists():
            return {}
        with self._opened() as database:
            # In the order of the first meetings: who is met again, by a process that knew nothing
            # of it or under a clock that was set back, keeps its place.
            rows = database.execute("select endpoint, vectors, met_at from probe order by rowid")
            return {endpoint: Met(bytes(vectors), at) for endpoint, vectors, at in rows}

    def keep_probes(self, endpoint: str, vectors: bytes) -> None:
        self._write(
            "insert into probe values (?, ?, ?) on conflict (endpoint) do update "
            "set vectors = excluded.vectors, met_at = excluded.met_at",
            (endpoint, vectors, time()),
        )

    def verdicts(self, model: str) -> dict[str, Verdict]:
        if not self.path.exists():
            return {}
        with self._opened() as database:
            statement = "select endpoint, content from verdict where model = ?"
            rows = database.execute(statement, (model,)).fetchall()
        verdicts = {endpoint: _readable(content) for endpoint, content in rows}
        return {endpoint: verdict for endpoint, verdict in verdicts.items() if verdict is not None}

    def keep_verdict(self, endpoint: str, verdict: Verdict) -> None:
        with self._opened() as database, database:
            # Another process may have refused what this one lets in: one transaction for both.
            database.execute("begin immediate")
            before = database.execute(
                "select content from verdict where endpoint = ? and model = ?",
                (endpoint, verdict.model),
            ).fetchone()
            verdict = verdict.following(_readable(before[0]) if before else None)
            database.execute(
                "insert into verdict values (?, ?, ?) on conflict (endpoint, model) do update "
                "set content = excluded.content",
                (endpoint, verdict.model, to_json(verdict).decode()),
            )

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        with self._opened() as database, database:
            database.execute(statement, values)

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        with naming(self.path), closing(connect(self.path)) as database:
            yield database


def _readable(content: str) -> Verdict | None:
    """A stored verdict; None if it is damaged, or has a form that this version does not know."""
    try:
        return from_json(content)
    except (ValueError, TypeError, KeyError):
        return None
