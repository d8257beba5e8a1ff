"""Where a host's name leads, and how long to try each of its addresses."""

from __future__ import annotations

import socket
from typing import Any


def addresses(host: str, port: int) -> list[str]:
    """The addresses of a host, in the order in which to try them. Raises `OSError`; blocks."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # a label that is empty or too long
        raise OSError(str(error)) from error
    return list(dict.fromkeys(_literal(place) for *_, place in found))


def _literal(place: tuple[Any, ...]) -> str:
    """The address alone, with the interface that a link-local one of IPv6 needs."""
    scope = place[3] if len(place) == 4 else 0
    return f"{place[0]}%{scope}" if scope else str(place[0])


def share(left_seconds: float, addresses: int, most_seconds: float | None) -> float:
    """How long to try one address while others wait for their turn: the socket module would give
    the whole time to each."""
    fair = left_seconds / addresses
    return fair if most_seconds is None else min(fair, most_seconds)
