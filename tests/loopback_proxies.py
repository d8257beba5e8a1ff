"""Proxies on loopback that note what passes: SOCKS5 (RFC 1928, 1929), and HTTP in both its ways.

They alone know the names in `names`; who wants to reach one of these has to leave the look-up to
them. All names lead to this machine.
"""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import urlsplit

from tests.loopback_servers import RawServer, cut_off


class Proxy(RawServer):
    """What both kinds share. `passed` holds `host:port` of each request for a way through."""

    def __init__(self, names: Mapping[str, int], login: tuple[str, str] | None = None) -> None:
        super().__init__(self.serve)
        self.names = names
        self.login = login
        self.passed: list[str] = []

    def serve(self, connection: socket.socket) -> None:
        raise NotImplementedError

    def reach(self, host: str, port: int) -> socket.socket:
        self.passed.append(f"{host}:{port}")
        return socket.create_connection(("127.0.0.1", self.names.get(host, port)))


def exactly(connection: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        part = connection.recv(count - len(found))
        if not part:
            raise OSError("the other side has gone")
        found += part
    return found


def copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while part := source.recv(65_536):
            target.sendall(part)
    cut_off(target)


def join(one: socket.socket, other: socket.socket) -> None:
    """Pass bytes in both directions until both sides have ended."""
    back = threading.Thread(target=copy, args=(other, one), daemon=True)
    back.start()
    copy(one, other)
    back.join(10)


class Socks5Proxy(Proxy):
    def serve(self, connection: socket.socket) -> None:
        _, count = exactly(connection, 2)
        methods = exactly(connection, count)
        wanted = 2 if self.login else 0
        if wanted not in methods:
            connection.sendall(b"\x05\xff")
            return
        connection.sendall(bytes([5, wanted]))
        if self.login and not self.admits(connection, self.login):
            connection.sendall(b"\x01\x01")
            return
        host, port = self.asked_for(connection)
        with self.reach(host, port) as upstream:
            connection.sendall(b"\x05\x00\x00\x01" + bytes(6))
            join(connection, upstream)

    def admits(self, connection: socket.socket, login: tuple[str, str]) -> bool:
        [_, size] = exactly(connection, 2)
        user = exactly(connection, size).decode()
        [size] = exactly(connection, 1)
        right = (user, exactly(connection, size).decode()) == login
        if right:
            connection.sendall(b"\x01\x00")
        return right

    def asked_for(self, connection: socket.socket) -> tuple[str, int]:
        kind = exactly(connection, 4)[3]
        if kind == 1:
            host = socket.inet_ntoa(exactly(connection, 4))
        else:
            [size] = exactly(connection, 1)
            host = exactly(connection, size).decode()
        return host, int.from_bytes(exactly(connection, 2), "big")


class HttpProxy(Proxy):
    """`tunnelled` holds the first bytes that went through each tunnel."""

    def __init__(self, names: Mapping[str, int], login: tuple[str, str] | None = None) -> None:
        super().__init__(names, login)
        self.tunnelled: list[bytes] = []

    def serve(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as reader:
            while line := reader.readline():
                method, target, _ = line.decode().split()
                headers = {}
                while field := reader.readline().strip():
                    name, _, value = field.decode().partition(":")
                    headers[name.lower()] = value.strip()
                if not self.admits(headers):
                    reader.read(int(headers.get("content-length", "0")))
                    refused = b"HTTP/1.1 407 Proxy Authentication Required\r\n"
                    connection.sendall(refused + b"content-length: 0\r\n\r\n")
                elif method == "CONNECT":
                    self.tunnel(connection, target)
                    return
                else:
                    body = reader.read(int(headers.get("content-length", "0")))
                    connection.sendall(self.forwarded(method, target, headers, body))

    def admits(self, headers: Mapping[str, str]) -> bool:
        if self.login is None:
            return True
        token = base64.b64encode(":".join(self.login).encode()).decode()
        return headers.get("proxy-authorization") == f"Basic {token}"

    def tunnel(self, connection: socket.socket, target: str) -> None:
        """Say that the way is free, and note what comes; nobody here speaks TLS."""
        self.passed.append(target)
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        self.tunnelled.append(connection.recv(5))

    def forwarded(self, method: str, target: str, headers: dict[str, str], body: bytes) -> bytes:
        """The answer to a request that was sent on, whole."""
        parts = urlsplit(target)
        fields = {**headers, "connection": "close"}
        head = [f"{method} {parts.path} HTTP/1.1", *(f"{n}: {v}" for n, v in fields.items())]
        with self.reach(parts.hostname or "", parts.port or 80) as upstream:
            upstream.sendall("\r\n".join([*head, "", ""]).encode() + body)
            with upstream.makefile("rb") as answer:
                return answer.read()
