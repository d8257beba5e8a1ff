"""What outlives a process: what offers were found able to do, and the vectors they are known by.

Learning is rare, so each write opens a connection of its own and closes it: nothing is held across
a fork, and no thread owns a connection.
"""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from time import time
from typing import Any, Protocol, TypeAlias

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


# The statements are those of SQLite and of Postgres alike, but for the sign of a parameter.

_CAPABILITIES = "select endpoint, name, value from capability where learnt_at > ?"

_LEARN = """
insert into capability (endpoint, name, value, learnt_at) values (?, ?, ?, ?)
on conflict (endpoint, name) do update set value = excluded.value, learnt_at = excluded.learnt_at
"""

# In the order of the first meetings: who is met again, by a process that knew nothing of it or
# under a clock that was set back, keeps its place.
_PROBES = "select endpoint, vectors, met_at from probe order by rowid"

_KEEP_PROBES = """
insert into probe (endpoint, vectors, met_at) values (?, ?, ?)
on conflict (endpoint) do update set vectors = excluded.vectors, met_at = excluded.met_at
"""

_VERDICTS = "select endpoint, content from verdict where model = ?"

_VERDICT = "select content from verdict where endpoint = ? and model = ?"

_KEEP_VERDICT = """
insert into verdict (endpoint, model, content) values (?, ?, ?)
on conflict (endpoint, model) do update set content = excluded.content
"""


Change: TypeAlias = Callable[[list[tuple[Any, ...]]], tuple[str, Sequence[Any]]]
"""From the rows that were found to the statement that is to be run, with its values."""


class StoredState(ABC):
    """A state in tables, shared by all processes that name their place. The tables appear with the
    first thing learnt; until then reading gives nothing. Raises `ConfigurationError` when they
    cannot be used."""

    @abstractmethod
    def _read(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a question; none where there are no tables. Blocks."""

    def _write(self, statement: str, values: Sequence[Any]) -> None:
        """Run one statement in a transaction of its own. Blocks."""
        self._update(None, (), lambda rows: (statement, values))

    @abstractmethod
    def _update(self, question: str | None, asked: Sequence[Any], change: Change) -> None:
        """Run the statement that follows from the rows of a question (none without one), in one
        transaction that keeps out all others that write. Blocks."""

    def capabilities(self) -> dict[tuple[str, str], str]:
        # Servers change, and a limit may have been read out of an odd message: ask again.
        rows = self._read(_CAPABILITIES, (time() - CAPABILITY_SECONDS,))
        return {(endpoint, name): value for endpoint, name, value in rows}

    def learn(self, endpoint: str, name: str, value: str) -> None:
        self._write(_LEARN, (endpoint, name, value, time()))

    def probes(self) -> dict[str, Met]:
        return {endpoint: Met(bytes(vectors), at) for endpoint, vectors, at in self._read(_PROBES)}

    def keep_probes(self, endpoint: str, vectors: bytes) -> None:
        self._write(_KEEP_PROBES, (endpoint, vectors, time()))

    def verdicts(self, model: str) -> dict[str, Verdict]:
        rows = self._read(_VERDICTS, (model,))
        verdicts = {endpoint: _readable(content) for endpoint, content in rows}
        return {endpoint: verdict for endpoint, verdict in verdicts.items() if verdict is not None}

    def keep_verdict(self, endpoint: str, verdict: Verdict) -> None:
        self._update(
            _VERDICT,
            (endpoint, verdict.model),
            # Another process may have refused what this one lets in: one transaction for both.
            lambda rows: (_KEEP_VERDICT, _following(endpoint, verdict, rows)),
        )


class SQLiteState(StoredState):
    """The state in a file."""

    def __init__(self, path: str) -> None:
        self.path = Path(path).absolute()  # a daemon changes its folder

    def _read(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        if not self.path.exists():
            return []
        with self._opened() as database:
            return database.execute(statement, values).fetchall()

    def _update(self, question: str | None, asked: Sequence[Any], change: Change) -> None:
        with self._opened() as database, database:
            database.execute("begin immediate")
            rows = database.execute(question, asked).fetchall() if question else []
            database.execute(*change(rows))

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        with naming(self.path), closing(connect(self.path)) as database:
            yield database


def _following(
    endpoint: str, verdict: Verdict, before: list[tuple[Any, ...]]
) -> tuple[str, str, str]:
    """What is written of a verdict that follows another one, if there is another."""
    verdict = verdict.following(_readable(before[0][0]) if before else None)
    return endpoint, verdict.model, to_json(verdict).decode()


def _readable(content: str) -> Verdict | None:
    """A stored verdict; None if it is damaged, or has a form that this version does not know."""
    try:
        return from_json(content)
    except (ValueError, TypeError, KeyError):
        return None
