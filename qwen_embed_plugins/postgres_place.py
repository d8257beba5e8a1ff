"""The database that outlives all machines: its tables, its version, and how to talk to it.

Behind a pooler in transaction mode, each transaction may meet another session. So nothing is left
in one: settings and the lock are local to the transaction, no statement is prepared by name, and
no transaction outlives the call that began it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from qwen_embed_plugins.errors import ConfigurationError, without_secrets
from qwen_embed_plugins.sql_files import state_tables
from qwen_embed_plugins.state_place import EXPECTED, StatePlace

if TYPE_CHECKING:
    import psycopg

VERSION = 1
"""Of the tables in `sql/state.sql`, which has the same number."""

LOCK = 7_310_589_123_467_218
"""The advisory lock that lets one process at a time keep the books, or make the tables."""

CONNECTION = {
    "application_name": "qwen-embed state",
    "connect_timeout": "5",
    # A network that falls silent must not hold a call for the quarter of an hour that TCP allows.
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
}
"""What holds unless the address says otherwise."""

# READ COMMITTED: under a stricter default the snapshot would be older than the lock waited for.
# Nothing is said of READ WRITE: who made a server read-only (often because its disk is full) is
# right. search_path: nobody's table or function stands in front of ours.
# idle_in_transaction_session_timeout: a process that stands still lets go of the lock before the
# others stop waiting for it (lock_timeout).
# row_security = off: a policy that hides rows is an error, not a smaller count.
_BEGIN = """
begin isolation level read committed;
set local search_path = pg_catalog, qwen_embed_state, pg_temp;
set local idle_in_transaction_session_timeout = '5s';
set local lock_timeout = '10s';
set local statement_timeout = '15s';
set local client_min_messages = warning;
set local row_security = off;
"""
_LOCKED = f"select pg_catalog.pg_advisory_xact_lock({LOCK});\n"
_STATUS = (
    "select number, extract(epoch from pg_catalog.clock_timestamp())::float8 "
    "from qwen_embed_state.version"
)
_NO_TABLES = ("42P01", "3F000")
_NO_RIGHT = "42501"
_REMEDIES = {
    "25006": "name the primary, or free its disk",  # read_only_sql_transaction
    "53100": "free its disk",  # disk_full
    # lock_not_available
    "55P03": "somebody keeps the books locked: see pg_locks where locktype = 'advisory'",
}


class NoTables(Exception):
    """The database has no tables of ours, or none that this role may look for."""


class PostgresPlace:
    """A database that holds a state. Its connections are the caller's to close."""

    def __init__(self, place: StatePlace) -> None:
        self.name = place.name
        self._address = place.address or ""

    def connect(self) -> psycopg.Connection[Any]:
        """A new connection in autocommit: transactions are begun by `begin`. Waits some seconds at
        most. Raises psycopg's errors, and `ConfigurationError` without psycopg."""
        driver = _psycopg()
        from psycopg.conninfo import conninfo_to_dict

        try:
            given = conninfo_to_dict(self._address)
        except driver.ProgrammingError:
            # libpq quotes what it could not read, which may be the password.
            raise ConfigurationError(
                f"state {self.name}: the address cannot be read: {EXPECTED}"
            ) from None
        options = {**CONNECTION, **given, "client_encoding": "utf8"}
        connection: psycopg.Connection[Any] = driver.connect(
            **options, autocommit=True, prepare_threshold=None
        )
        return connection

    def begin(self, connection: psycopg.Connection[Any], *, alone: bool) -> float:
        """Begin a transaction, as the only one that keeps the books if `alone`; the database's
        clock, in seconds since the epoch. One round trip. Raises `NoTables`."""
        cursor = connection.cursor()
        try:
            cursor.execute((_BEGIN + (_LOCKED if alone else "") + _STATUS).encode())
            while cursor.nextset():
                pass
            row = cursor.fetchone()
        except _psycopg().Error as error:
            if error.sqlstate in _NO_TABLES:
                connection.execute("rollback")
                raise NoTables from None
            raise
        if row is None:
            connection.execute("rollback")
            raise NoTables
        number, now = row
        if number > VERSION:
            connection.execute("rollback")
            raise ConfigurationError(
                f"state {self.name}: made by a newer version (schema {number}, this one knows "
                f"{VERSION}); upgrade qwen-embed-plugins, or name another database"
            )
        return float(now)

    def make_tables(self, connection: psycopg.Connection[Any]) -> None:
        """Make the tables, if no other process has made them meanwhile."""
        with _rolling_back(connection):
            connection.execute((_BEGIN + _LOCKED).encode())
            connection.execute(state_tables().read_bytes())
            connection.execute("commit")

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Turn what goes wrong with the database into one `ConfigurationError` with a way out."""
        driver = _psycopg()
        try:
            yield
        except driver.Error as error:
            raise ConfigurationError(f"state {self.name}: {self._line(error)}") from error

    def _line(self, error: psycopg.Error) -> str:
        said = error.diag.message_primary or str(error) or type(error).__name__
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        line = without_secrets(lines[0], known=[self._password()]).rstrip(".")
        return f"{line}; {_remedy(error)}"

    def _password(self) -> str:
        from psycopg.conninfo import conninfo_to_dict

        return str(conninfo_to_dict(self._address).get("password") or "")


@contextmanager
def _rolling_back(connection: psycopg.Connection[Any]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with suppress(_psycopg().Error):
            connection.execute("rollback")
        raise


def _remedy(error: psycopg.Error) -> str:
    if error.sqlstate == _NO_RIGHT:
        return (
            f"let an owner run {state_tables()} there (psql -f), then: grant usage on schema "
            "qwen_embed_state to ROLE; grant select, insert, update, delete on all tables in "
            "schema qwen_embed_state to ROLE"
        )
    remedy = "see that the server runs and lets this user in, or name another with state = …"
    return _REMEDIES.get(error.sqlstate or "", remedy)


def _psycopg() -> Any:
    try:
        import psycopg
    except ImportError as missing:
        raise ConfigurationError(
            "state: an address of Postgres needs the extra `postgres`: "
            "pip install 'qwen-embed-plugins[postgres]'"
        ) from missing
    return psycopg


@lru_cache(maxsize=64)
def for_postgres(statement: str) -> bytes:
    """A statement of SQLite's with Postgres's sign for a parameter."""
    return statement.replace("?", "%s").encode()
