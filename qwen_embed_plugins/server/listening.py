"""Where a server listens, and that nobody listens to the world by mistake."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from typing import Any, NamedTuple

from qwen_embed_plugins.errors import ConfigurationError, shown
from qwen_embed_plugins.server.guard import DEFAULT_VARIABLE

BACKLOG = 2_048

_NOT_HERE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
"""`localhost` has an IPv6 address by name, also where the machine speaks no IPv6."""


class Place(NamedTuple):
    """One address to listen at."""

    family: socket.AddressFamily
    host: str

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return ipaddress.ip_address(self.host.partition("%")[0]).is_loopback


def listen(host: str, port: int, *, has_token: bool) -> list[socket.socket]:
    """Listening sockets for every address of a host; port 0 takes a free one.

    Raises `ConfigurationError`: for an address that others can reach if there is no token, for a
    host that is not of this machine, for a port that is taken.
    """
    places = _places(host)
    if not has_token and not all(place.is_loopback for place in places):
        raise ConfigurationError(
            f"--host {host} lets other machines ask, without a token; put one into the variable "
            f"{DEFAULT_VARIABLE}, or listen at 127.0.0.1"
        )
    sockets: list[socket.socket] = []
    absent: OSError | None = None
    try:
        for place in places:
            # One port for all of them, also where the first has picked it.
            wanted = port_of(sockets) if sockets else port
            try:
                sockets.append(_bound(place, wanted))
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                absent = error
        if absent is not None and not sockets:
            raise absent
    except OSError as error:
        for bound in sockets:
            bound.close()
        raise _refused(host, port, error) from error
    return sockets


def port_of(sockets: list[socket.socket]) -> int:
    """The port that they listen at."""
    port: int = sockets[0].getsockname()[1]
    return port


def _places(host: str) -> list[Place]:
    try:
        found: list[Any] = socket.getaddrinfo(
            host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError):
        message = f"--host {shown(host)}: no address is known for it; expected one of this machine"
        raise ConfigurationError(message) from None
    return list(dict.fromkeys(Place(item[0], item[4][0]) for item in found))


def _bound(place: Place, port: int) -> socket.socket:
    return socket.create_server((place.host, port), family=place.family, backlog=BACKLOG)


def _refused(host: str, port: int, error: OSError) -> ConfigurationError:
    if error.errno == errno.EADDRINUSE:
        message = f"port {port} of {host} is taken: choose another with --port"
    elif error.errno in _NOT_HERE:
        message = f"--host {host}: not an address of this machine"
    else:
        message = f"cannot listen at {host}, port {port}: {os.strerror(error.errno or 0)}"
    return ConfigurationError(message)
