"""A way out: what every HTTP client behind the transport is held to, and what it may say.

Bytes out, bytes in, every failure mapped, every answer bounded. The clients: httpx for whatever has
a proxy or TLS in between (`ways_httpx.py`), and for plain servers, which are near, a lighter one
(`ways_plain.py`, and `ways_threaded.py` for tasks).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, Protocol
from urllib.request import getproxies

from qwen_embed_plugins._version import __version__
from qwen_embed_plugins.deadlines import Deadline
from qwen_embed_plugins.errors import without_secrets
from qwen_embed_plugins.proxies import place_of
from qwen_embed_plugins.types import TransportFailure, WireRequest, WireResponse

if TYPE_CHECKING:
    from qwen_embed_plugins.effects import Job

CONNECT_SECONDS = 10.0
KEEPALIVE_SECONDS = 4.0
"""Below the 5 seconds after which uvicorn (vLLM, Infinity) and Node close an idle connection: a
request that meets the closing fails, and nobody knows whether it was served."""

MAX_IDLE = 64
"""So many connections at most are kept for later requests."""

READ_BYTES = 262_144
"""What is read at once: the answer to 32 texts is some 700 kB. Less and more of it were slower."""

SLICE_BYTES = 65_536
"""What is written at once: a request that is read in small parts must be handed over in small parts
too, and its time looked at in between."""

HEADERS = {
    "accept": "*/*",
    "content-type": "application/json",
    "accept-encoding": "identity",
    "user-agent": f"qwen-embed-plugins/{__version__}",
}
"""No compression: unpacking a gzipped base64 answer costs several times what decoding it does."""

# No login, nothing that would have to be encoded: an address with more in it is httpx's to read.
_PLAIN = re.compile(
    r"http://((?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?(/[\w./~:@!$&'()*+,;=%?-]*)?",
    re.ASCII,
)


class Way(Protocol):
    """Connections of one kind. Safe from any thread; not carried across a fork."""

    def fetch(self, request: WireRequest, job: Job, deadline: Deadline) -> WireResponse:
        """Send a request and give the whole answer, or raise `TransportFailure`. Blocks."""

    def close(self) -> None: ...


class AsyncWay(Protocol):
    """The awaiting twin of `Way`, for one event loop."""

    async def fetch(self, request: WireRequest, job: Job, deadline: Deadline) -> WireResponse: ...

    async def aclose(self) -> None: ...


def is_direct(job: Job) -> bool:
    """Whether no proxy stands between us and an offer."""
    return job.offer.proxy is None and (job.offer.private or not getproxies())


class Address(NamedTuple):
    """Where a plain request goes: whom to connect to, what to call him, what to ask for."""

    host: str
    port: int
    netloc: str
    target: str


@lru_cache(maxsize=64)
def plain_address(url: str) -> Address | None:
    """The parts of an address of plain HTTP; None for any other, and for one that is not spelled
    in the simplest way."""
    found = _PLAIN.fullmatch(url)
    if found is None:
        return None
    host, port, target = found.groups()
    if int(port or 80) > 65_535:
        return None
    netloc = host if port is None else f"{host}:{port}"
    return Address(host.strip("[]"), int(port or 80), netloc, target or "/")


def headers_of(request: WireRequest) -> dict[str, str]:
    """All headers of a request, those of a plugin under the names that ours have, so that none is
    sent twice."""
    return {**HEADERS, **{name.lower(): value for name, value in request.headers.items()}}


class Talk:
    """One request as it is under way: the size of its answer, and how its failures are told."""

    __slots__ = ("_job", "_parts", "_size", "deadline", "request")

    def __init__(self, request: WireRequest, job: Job, deadline: Deadline) -> None:
        self.request = request
        self.deadline = deadline
        self._job = job
        self._parts: list[bytes] = []
        self._size = 0

    # The answer

    def expect(self, size: int) -> None:
        """Raise `TransportFailure` where so many bytes more are too many."""
        if self._size + size > self._job.max_answer_bytes:
            raise TransportFailure(
                "too_big",
                f"{self._place()} sent more than {self._job.max_answer_bytes} bytes, which no "
                "right answer to this request has",
            )

    def expect_as_told(self, length: str | None) -> None:
        """The same for what a server says of its answer beforehand."""
        if length is not None and length.isdecimal():
            self.expect(int(length))

    def add(self, part: bytes) -> None:
        self.expect(len(part))
        self._size += len(part)
        self._parts.append(part)

    def response(self, status: int, headers: Iterable[tuple[str, str]]) -> WireResponse:
        """The answer, now that all of it is there."""
        if status == 407:
            # Only a proxy says so; the provider's plugin would look for the fault elsewhere.
            raise TransportFailure(
                "connect",
                f"cannot connect to {self._place()}: the proxy wants a user and a password "
                "(HTTP 407); check them in the proxy's address",
            )
        content = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        return WireResponse(status, content, _joined(headers))

    # Failures

    def cannot_connect(self, error: Exception) -> TransportFailure:
        said = self._said(error)
        return TransportFailure("connect", f"cannot connect to {self._place()}: {said}")

    def no_connection_in_time(self) -> TransportFailure:
        seconds = min(CONNECT_SECONDS, self.deadline.seconds)
        said = f"cannot connect: {self._place()} did not answer in {seconds:g} s"
        return TransportFailure("connect", said)

    def no_answer_in_time(self) -> TransportFailure:
        said = f"{self._place()} did not answer in {self.deadline.seconds:g} s"
        return TransportFailure("timeout", said)

    def broke(self, error: Exception) -> TransportFailure:
        said = f"the connection to {self._place()} broke: {self._said(error)}"
        return TransportFailure("dropped", said)

    def cannot_be_sent(self) -> TransportFailure:
        """Without a word of the header that no client takes: it may be a key."""
        said = f"nothing was sent to {self._place()}: a header has a line end or letters in it that"
        return TransportFailure("connect", f"{said} no request may have; is the key copied whole?")

    def _said(self, error: Exception) -> str:
        """Its words, the whole address not among them, which may hold a key."""
        said = str(error).replace(self.request.url, self._place())
        return without_secrets(said or type(error).__name__)[:200]

    def _place(self) -> str:
        """Where the request goes and by which proxy of the settings."""
        there = place_of(self.request.url)
        proxy = self._job.offer.proxy
        return f"{there} through the proxy {place_of(proxy)}" if proxy else there


def _joined(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """By name in lower case; the values of one that came several times are one list."""
    found: dict[str, str] = {}
    for name, value in headers:
        key = name.lower()
        found[key] = f"{found[key]}, {value}" if key in found else value
    return found
