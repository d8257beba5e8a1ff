"""What was learnt of offers, in a Postgres that processes on many machines share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qwen_embed_plugins.postgres_place import NoTables, PostgresPlace, for_postgres
from qwen_embed_plugins.state import Change, StoredState
from qwen_embed_plugins.state_place import StatePlace

if TYPE_CHECKING:
    import psycopg


class PostgresState(StoredState):
    """The state in a database; each call has a connection of its own."""

    def __init__(self, place: StatePlace) -> None:
        self._place = PostgresPlace(place)

    def _read(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._place.naming(), self._place.connect() as connection:
            try:
                self._place.begin(connection, alone=False)
            except NoTables:
                return []
            rows = connection.execute(for_postgres(statement), values).fetchall()
            connection.execute("commit")
            return rows

    def _update(self, question: str | None, asked: Sequence[Any], change: Change) -> None:
        with self._place.naming(), self._place.connect() as connection:
            self._begin(connection, alone=question is not None)
            found = connection.execute(for_postgres(question), asked) if question else None
            statement, values = change(found.fetchall() if found is not None else [])
            connection.execute(for_postgres(statement), values)
            connection.execute("commit")

    def _begin(self, connection: psycopg.Connection[Any], *, alone: bool) -> None:
        try:
            self._place.begin(connection, alone=alone)
        except NoTables:
            self._place.make_tables(connection)
            self._place.begin(connection, alone=alone)
