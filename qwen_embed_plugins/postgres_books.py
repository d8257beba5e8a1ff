"""The ledger's tables in a Postgres that processes on many machines share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from qwen_embed_plugins.books import Books, Count, Page, Question
from qwen_embed_plugins.postgres_place import NoTables, PostgresPlace, for_postgres
from qwen_embed_plugins.state_place import StatePlace

if TYPE_CHECKING:
    import psycopg


class PostgresBooks(Books):
    """The books in a database: one connection, made when first needed and again when it is lost.

    A page's moment is the database's, so that machines whose clocks are wrong agree; or what `now`
    says, for tests.
    """

    def __init__(self, place: StatePlace, now: Callable[[], float] | None = None) -> None:
        self._place = PostgresPlace(place)
        self._now = now
        self._connection: psycopg.Connection[Any] | None = None

    @contextmanager
    def page(self) -> Iterator[Page]:
        with self._place.naming():
            try:
                connection, now = self._begun()
                with _pipeline(connection):
                    yield Page(_Session(connection), self._now() if self._now else now)
                    connection.execute("commit")
            except BaseException:
                self.close()  # which undoes what was not committed
                raise

    def _begun(self) -> tuple[psycopg.Connection[Any], float]:
        """A connection with a transaction begun."""
        import psycopg

        if self._connection is not None:
            try:
                return self._connection, self._begin(self._connection)
            except psycopg.OperationalError:
                if not self._connection.closed:
                    raise
                # Servers restart and firewalls forget while it is idle: nothing is lost by that.
                self.close()
        self._connection = self._place.connect()
        return self._connection, self._begin(self._connection)

    def _begin(self, connection: psycopg.Connection[Any]) -> float:
        try:
            return self._place.begin(connection, alone=True)
        except NoTables:
            self._place.make_tables(connection)
            return self._place.begin(connection, alone=True)

    def read(self) -> list[Count]:
        with self._place.naming(), self._place.connect() as connection:
            try:
                now = self._place.begin(connection, alone=False)
            except NoTables:
                return []
            counts = Page(_Session(connection), now).all()
            connection.execute("rollback")
            return counts

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class _Session:
    """A transaction's statements. In a pipeline only a question waits for the server."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def tell(self, statement: str, values: Sequence[Any]) -> None:
        self._connection.execute(for_postgres(statement), values)

    def ask(self, questions: Sequence[Question]) -> list[list[tuple[Any, ...]]]:
        cursors = [
            self._connection.execute(for_postgres(statement), values)
            for statement, values in questions
        ]
        return [cursor.fetchall() for cursor in cursors]


@contextmanager
def _pipeline(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Statements are sent together until one's rows are asked for."""
    import psycopg

    if not psycopg.Pipeline.is_supported():  # by a libpq older than 14
        yield
        return
    pipeline = connection.pipeline()
    pipeline.__enter__()
    try:
        yield
    except BaseException:
        # Told of the error, psycopg would log it a second time.
        with suppress(psycopg.Error):
            pipeline.__exit__(None, None, None)
        raise
    pipeline.__exit__(None, None, None)
