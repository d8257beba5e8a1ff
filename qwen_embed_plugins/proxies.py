"""Proxies that the settings name for a provider: what an address must look like, what may be said.

A proxy's user and password stay out of every message and log.
"""

from __future__ import annotations

import logging
import re
from typing import Any
from urllib.parse import urlsplit

SCHEMES = ("http", "https", "socks5", "socks5h")
"""Both kinds of SOCKS leave the look-up of names to the proxy."""

EXPECTED = (
    "expected a proxy such as http://127.0.0.1:8080 or socks5://user:password@127.0.0.1:1080 "
    f"({', '.join(SCHEMES)}), with host and port; in a password, write @ as %40 and the like"
)


def proxy_address(value: Any) -> str:
    """The address, checked, its scheme in lower case; `ValueError` says what was expected and
    nothing of what was given."""
    address = value.strip() if isinstance(value, str) else ""
    try:
        parts = urlsplit(address)
        usable = parts.scheme in SCHEMES and bool(parts.hostname) and bool(parts.port)
    except ValueError:
        raise ValueError(EXPECTED) from None
    # A second @, or something after the port, shows a password that is not encoded.
    rest = parts.path.removeprefix("/") + parts.query + parts.fragment
    if not usable or rest or parts.netloc.count("@") > 1:
        raise ValueError(EXPECTED)
    return parts.geturl()


def place_of(address: str) -> str:
    """Host and port of an address, for messages: no path, no query, no user, no password."""
    parts = urlsplit(address)
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


def keep_passwords_out_of_logs() -> None:
    """httpcore logs user and password of a SOCKS proxy when its level is DEBUG; not from now on."""
    logging.getLogger("httpcore.socks").addFilter(_without_auth)


def _without_auth(record: logging.LogRecord) -> bool:
    record.msg = re.sub(r"auth=(?!None).*", "auth=***", str(record.msg), flags=re.DOTALL)
    return True
