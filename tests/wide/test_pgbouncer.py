"""Everything behind PgBouncer in transaction mode, where two transactions of one connection may run
on two servers' sessions: nothing may rely on what a session keeps, and nothing may be left in one.

PgBouncer is no Python package: it is found on the path (Debian: apt install pgbouncer), or absent.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from qwen_embed_plugins import postgres
from tests.integration.conftest import Database

if TYPE_CHECKING:
    from tests.postgres_servers import Server

pytestmark = pytest.mark.wide

SETTINGS = """
[databases]
* = {where}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
max_client_conn = 200
ignore_startup_parameters = extra_float_digits
logfile = {folder}/log
pidfile = {folder}/pid
"""


PLACES = (os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin")


def _program() -> str:
    found = shutil.which("pgbouncer", path=os.pathsep.join(PLACES))
    if found is None:
        pytest.skip("pgbouncer is absent: not on the path (Debian: apt install pgbouncer)")
    return found


def _user(host: str) -> int | None:
    """Whom PgBouncer runs as: it refuses to be root, and must reach the server's socket."""
    if os.geteuid():
        return None
    return Path(host).stat().st_uid if host.startswith("/") else pwd.getpwnam("nobody").pw_uid


@pytest.fixture
def pooled(postgres_server: Server) -> Iterator[tuple[Database, str]]:
    """A database reached directly, with its address behind the pooler."""
    program = _program()
    folder = Path(tempfile.mkdtemp(prefix="qeb"))
    folder.chmod(0o777)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with postgres_server.database("template1") as name:
        given = conninfo_to_dict(postgres_server.dsn(name))
        where = " ".join(
            f"{key}={given[key]}" for key in ("host", "port", "user", "password") if given.get(key)
        )
        settings = folder / "pgbouncer.ini"
        settings.write_text(SETTINGS.format(where=where, port=port, folder=folder), "utf-8")
        pooler = subprocess.Popen(
            [program, str(settings)], user=_user(str(given.get("host", ""))),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        address = make_conninfo("", host="127.0.0.1", port=port, dbname=name, user=given["user"])
        database = Database(postgres_server.dsn(name))
        try:
            _wait(address, pooler, folder / "log")
            yield database, address
        finally:
            database.conn.close()
            pooler.terminate()
            pooler.wait(30)
            shutil.rmtree(folder, ignore_errors=True)


def _wait(address: str, pooler: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(200):
        assert pooler.poll() is None, "PgBouncer did not start"
        try:
            psycopg.connect(address, connect_timeout=2).close()
        except psycopg.OperationalError:
            time.sleep(0.05)
        else:
            return
    pytest.fail(log.read_text("utf-8")[-2000:])


def test_from_the_installation_to_the_end(pooled: tuple[Database, str]) -> None:
    db, address = pooled
    direct, db.dsn = db.dsn, address
    postgres.install(db.dsn)
    db.rows("CREATE TABLE docs (id int PRIMARY KEY, body text, other int DEFAULT 0)")
    db.create()
    db.create(name="second", target_name="second")
    errors: list[str] = []

    def write(number: int) -> None:
        with psycopg.connect(address, autocommit=True, prepare_threshold=None) as app:
            for key in range(number, 400, 4):
                try:
                    app.execute("INSERT INTO docs VALUES (%s, 'first')", [key])
                    app.execute("UPDATE docs SET body = %s WHERE id = %s", [f"text {key}", key])
                except psycopg.Error as error:
                    errors.append(str(error))

    async def work() -> None:
        stopping = asyncio.Event()
        workers = [
            asyncio.create_task(
                db.awork(once=False, stopping=stopping, batch_size=20, lease_seconds=5.0)
            )
            for _ in range(2)
        ]
        writers = [threading.Thread(target=write, args=[number]) for number in range(4)]
        for writer in writers:
            writer.start()
        for writer in writers:
            await asyncio.to_thread(writer.join)
        stopping.set()
        await asyncio.gather(*workers)

    asyncio.run(asyncio.wait_for(work(), 120))
    assert errors == []
    db.work()
    db.in_step()
    db.expect({key: f"text {key}" for key in range(400)}, target="second")
    assert postgres.audit(db.dsn, "docs").clean
    hits = postgres.search(db.dsn, "docs", "text 7", k=3, embedder=db.stub)
    assert hits[0].key == {"id": 7}
    assert {item.state for item in postgres.status(db.dsn)} == {"active"}
    assert postgres.progress(db.dsn, "docs")[0].to_walk == 0
    postgres.pause(db.dsn, "docs")
    postgres.resume(db.dsn, "docs")
    postgres.suspend(db.dsn, "docs")
    postgres.resume(db.dsn, "docs")
    assert postgres.retry(db.dsn, "docs") == 0
    _nothing_is_left(address)
    postgres.uninstall(db.dsn, everything=True, drop_data=True)
    db.dsn = direct


def _nothing_is_left(address: str) -> None:
    """The sessions of the server, which others share, have the settings that they began with."""
    changed = "name || ' = ' || setting FROM pg_settings WHERE source = 'session'"
    connections = [psycopg.connect(address) for _ in range(3)]
    try:
        for connection in connections:
            connection.execute("BEGIN")  # each holds a session of its own
        for connection in connections:
            found = [row[0] for row in connection.execute(f"SELECT {changed}").fetchall()]
            # What PgBouncer itself keeps of its clients.
            kept = ("client_encoding", "application_name", "DateStyle", "TimeZone",
                    "standard_conforming_strings")  # fmt: skip
            assert [line for line in found if not line.startswith(kept)] == []
            locks = connection.execute(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' "
                "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            ).fetchone()
            assert locks == (0,)
            assert connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (
                0,
            )
    finally:
        for connection in connections:
            connection.close()
