"""Who may ask: a bearer token, or, without one, programs of this machine alone.

Without a token a page in a browser of this machine could ask too, and spend its owner's money: from
another origin, or by a name that it has made to lead to 127.0.0.1. Browsers say both in headers
that a page cannot change, `Origin` and `Host`.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import string
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from qwen_embed_plugins.errors import ConfigurationError, shown
from qwen_embed_plugins.server.refusals import Refusal

DEFAULT_VARIABLE = "QWEN_EMBED_SERVER_TOKEN"

_SENDABLE = frozenset(string.ascii_letters + string.digits + string.punctuation)


def token_from(environ: Mapping[str, str], variable: str | None) -> str | None:
    """The token that a variable holds; None if the default one is not set.

    Raises `ConfigurationError` where a variable was named and is not set, and where what it holds
    cannot be sent in a header: nobody should run an open server by mistake.
    """
    name = variable or DEFAULT_VARIABLE
    token = environ.get(name)
    if token is None:
        if variable is None:
            return None
        message = f"--token-env = {shown(variable)}: expected the name of a variable that is set"
        raise ConfigurationError(message)
    if not token or not _SENDABLE.issuperset(token):
        raise ConfigurationError(
            f"the variable {name} is to hold the server's token: expected letters, digits and "
            "signs of ASCII without spaces, at least one"
        )
    return token


class Guard:
    """Looks at the headers of a request before anything else is done for it."""

    def __init__(self, token: str | None) -> None:
        self._wanted = None if token is None else _digest(token.encode())

    def check(self, headers: Headers) -> None:
        """Raise `Refusal` for whoever may not ask."""
        if self._wanted is None:
            _check_local(headers)
        else:
            _check_token(headers, self._wanted)


def _check_token(headers: Headers, wanted: bytes) -> None:
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        message = "this server wants its token in the header Authorization, after the word Bearer"
        raise Refusal(401, "missing_token", message)
    if not hmac.compare_digest(_digest(given.strip().encode("latin-1")), wanted):
        raise Refusal(401, "invalid_api_key", "the token is not this server's")


def _digest(token: bytes) -> bytes:
    """Of one length, so that the time of a comparison does not tell the token's."""
    return hashlib.sha256(token).digest()


def _check_local(headers: Headers) -> None:
    host = headers.get("host", "")
    if not is_loopback(_name(host)):
        message = (
            f"Host: {shown(host)} is not a name of this machine; a server without a token answers "
            f"to 127.0.0.1, [::1] and localhost. Set {DEFAULT_VARIABLE} to use another name"
        )
        raise Refusal(403, "host_not_allowed", message)
    origin = headers.get("origin")
    if origin is not None and not is_loopback(_name(origin.partition("://")[2])):
        message = (
            f"Origin: {shown(origin)}: a server without a token answers no page of another origin"
        )
        raise Refusal(403, "origin_not_allowed", message)


def _name(place: str) -> str:
    """The host of `host:port`; "" where that is none."""
    try:
        return urlsplit(f"//{place}").hostname or ""
    except ValueError:
        return ""


def is_loopback(name: str) -> bool:
    """Whether a host's name or address leads to this machine alone, whatever a resolver says."""
    name = name.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        return False
