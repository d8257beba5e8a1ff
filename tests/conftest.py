"""What holds for every test: nothing of the developer's machine leaks in, nothing leaves it.

Settings, keys and proxies of the environment are gone, the home and working folders are empty
ones, and only loopback addresses and Unix sockets may be reached.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import random
import re
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.postgres_servers import Server
    from tests.stores import Store

hypothesis.settings.register_profile(
    "project",
    # The first example of a test pays for imports, and two cores are shared: no deadline.
    deadline=None,
    print_blob=True,
)
hypothesis.settings.load_profile("project")

SEED_VARIABLE = "QWEN_EMBED_TEST_SEED"
SEED = int(os.environ.get(SEED_VARIABLE) or random.SystemRandom().randrange(2**32))
os.environ[SEED_VARIABLE] = str(SEED)  # the processes of a parallel run inherit the one printed

_LEAKS = re.compile(
    r"""(?x)
    QWEN_EMBED_(?!TEST_) .*        # how to run the tests is said by QWEN_EMBED_TEST_...
  | DATABASE_URL | PG[A-Z]+        # libpq's own variables
  | OLLAMA_.*
  | .*_(API_)?(KEY|TOKEN) | .*_SECRET(_KEY)?
  | LANGSMITH_.* | LANGCHAIN_.*    # tracing would send what the tests embed
  | (HTTP|HTTPS|ALL|NO|FTP)_PROXY
    """,
    re.IGNORECASE,
)


def pytest_configure() -> None:
    """Let Ctrl-C reach the commands that tests start, also where a shell that runs the tests in the
    background had it ignored, which children inherit."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """For `--numprocesses=auto`: tests wait half of their time, for servers that stall and offers
    that rest."""
    return 2 * (os.cpu_count() or 1)


def pytest_report_header() -> str:
    return f"random seed: {SEED} (again: {SEED_VARIABLE}={SEED})"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """A Postgres with pgvector, shared by the run; started by the first test that asks for it."""
    from tests.postgres_servers import chosen_server

    with chosen_server() as server:
        yield server


@pytest.fixture
def database(postgres_server: Server) -> Iterator[Store]:
    """A place for a state: a Postgres in which nothing is yet."""
    from tests.stores import Store

    with postgres_server.database("template1") as name:
        yield Store(postgres_server.uri(name))


@pytest.fixture(params=["file", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty place for a state, of each kind."""
    from tests.stores import file_store

    if request.param == "file":
        return file_store(tmp_path)
    store: Store = request.getfixturevalue("database")
    return store


@pytest.fixture
def seeded(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers of this test alone: the same for one seed, in whatever order tests run."""
    return random.Random(f"{SEED}:{request.node.nodeid}")


@pytest.fixture(autouse=True)
def isolated_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An environment without settings; returns the folder that stands in for the home."""
    for name in list(os.environ):
        if _LEAKS.fullmatch(name):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    work = tmp_path / "work"
    home.mkdir()
    work.mkdir()
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(home))
    for kind in ("CONFIG", "CACHE", "DATA", "STATE"):
        monkeypatch.setenv(f"XDG_{kind}_HOME", str(home / f".{kind.lower()}"))
    # `./qwen-embed.toml` is read from the working folder.
    monkeypatch.chdir(work)
    return home


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offers rest a tenth of their time, and calls wait a tenth as long for them: as many attempts
    as ever, sooner. For tests of what follows a failure, not of how long a rest is."""
    from qwen_embed_plugins import choosing, health

    pauses = {kind: seconds / 10 for kind, seconds in health.FIRST_PAUSE_SECONDS.items()}
    monkeypatch.setattr(health, "FIRST_PAUSE_SECONDS", pauses)
    monkeypatch.setattr(health, "LONGEST_PAUSE_SECONDS", health.LONGEST_PAUSE_SECONDS / 10)
    patience = choosing.OUTAGE_PATIENCE_SECONDS / 10
    monkeypatch.setattr(choosing, "OUTAGE_PATIENCE_SECONDS", patience)


class NetworkForbidden(OSError):
    """A test tried to leave this machine."""


def _may_be_reached(host: object) -> bool:
    if host in (None, "", b"", "localhost", b"localhost"):
        return True
    text = host.decode() if isinstance(host, bytes) else str(host)
    try:
        return ipaddress.ip_address(text.partition("%")[0]).is_loopback
    except ValueError:
        return False


_attempts: list[str] = []


def _guard() -> None:
    """Refuse addresses beyond loopback; once, for the whole run, threads and drivers included.

    Code under test may well swallow the error that is raised here, so attempts are also noted,
    and `no_network` fails the test.
    """
    real_connect, real_connect_ex = socket.socket.connect, socket.socket.connect_ex
    real_getaddrinfo = socket.getaddrinfo

    def refuse(what: str) -> None:
        _attempts.append(what)
        raise NetworkForbidden(f"{what}: tests reach loopback addresses and Unix sockets only")

    def check(sock: socket.socket, address: Any) -> None:
        if sock.family in (socket.AF_INET, socket.AF_INET6) and not _may_be_reached(address[0]):
            refuse(f"connect to {address[0]}")

    def connect(self: socket.socket, address: Any) -> None:
        check(self, address)
        real_connect(self, address)

    def connect_ex(self: socket.socket, address: Any) -> int:
        check(self, address)
        return real_connect_ex(self, address)

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if isinstance(name, str) and name.endswith(".invalid"):
            # RFC 2606 keeps this ending for names that never resolve: no need to ask anyone.
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        try:
            ipaddress.ip_address(name or "127.0.0.1")
        except ValueError:
            if not _may_be_reached(name):
                refuse(f"look-up of {name}")
        return real_getaddrinfo(host, *args, **kwargs)

    socket.socket.connect = connect  # type: ignore[method-assign,assignment]
    socket.socket.connect_ex = connect_ex  # type: ignore[method-assign,assignment]
    socket.getaddrinfo = getaddrinfo


_guard()


@pytest.fixture(autouse=True)
def log_as_it_was() -> Iterator[None]:
    """`--quiet` of a command that a test parses would hold for all tests after it."""
    logger = logging.getLogger("qwen_embed_plugins")
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.fixture(autouse=True)
def no_network() -> Iterator[None]:
    _attempts.clear()
    yield
    if _attempts:
        pytest.fail(f"the test tried to leave this machine: {', '.join(_attempts)}")
