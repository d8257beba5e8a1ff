"""Servers on loopback that speak bytes, for what no well-behaved server does."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TypeVar

S = TypeVar("S", bound="RawServer")


class RawServer:
    """Listens on 127.0.0.1 and hands each connection to a function, in a thread of its own."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.place = f"127.0.0.1:{self.port}"
        self._lock = threading.Lock()
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self: S) -> S:
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Break every connection and wait until all threads have ended."""
        with self._lock:
            cut_off(self._listener)
            for connection in self._connections:
                cut_off(connection)
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._connections.append(connection)
                thread = threading.Thread(target=self._run, args=(connection,), daemon=True)
                self._threads.append(thread)
            thread.start()

    def _run(self, connection: socket.socket) -> None:
        with suppress(OSError):
            self._serve(connection)
        cut_off(connection)


def cut_off(connection: socket.socket) -> None:
    """Close a socket so that a thread which waits for it wakes up."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def silent(connection: socket.socket) -> None:
    """Take whatever comes and say nothing."""
    while connection.recv(65_536):
        pass
