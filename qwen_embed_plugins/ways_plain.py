"""The way out to plain servers: the standard library's client, on sockets of ours.

No proxy, no TLS, no name that needs reading: a server on this machine or next to it, where httpx
would take longer than the server's answer.
"""

from __future__ import annotations

import http.client
import io
import select
import socket
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

from qwen_embed_plugins.addresses import addresses, share
from qwen_embed_plugins.deadlines import Deadline
from qwen_embed_plugins.types import WireRequest, WireResponse
from qwen_embed_plugins.ways import (
    CONNECT_SECONDS,
    KEEPALIVE_SECONDS,
    MAX_IDLE,
    READ_BYTES,
    SLICE_BYTES,
    Address,
    Talk,
    headers_of,
    plain_address,
)

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from qwen_embed_plugins.effects import Job

_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
"""Methods for which a server waits for a body unless it is told that there is none."""

BUFFER_BYTES = 65_536
"""Heads and short answers are read through a buffer; longer ones go past it."""


class Cut:
    """How another thread ends a request: its socket is shut down, which wakes whoever waits for
    it. A socket that has gone back to those that wait is another request's, and left alone.

    `is_heard` says whether the request may have reached its server. After a cut it stays as it is.
    """

    def __init__(self) -> None:
        self.is_heard = False
        self._lock = threading.Lock()
        self._is_cut = False
        self._socket: socket.socket | None = None

    def cut(self) -> None:
        with self._lock:
            self._is_cut = True
            if self._socket is not None:
                with suppress(OSError):  # it is broken already
                    self._socket.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def holding(self, sock: socket.socket, *, connected: bool) -> Iterator[None]:
        """While the request uses this socket. Raises `ConnectionAbortedError` after the cut."""
        with self._lock:
            if self._is_cut:
                raise ConnectionAbortedError("nobody waits for the answer any more")
            self._socket, self.is_heard = sock, connected
        try:
            yield
        finally:
            with self._lock:
                self._socket = None


class PlainWay:
    """Connections to plain servers, the one that was used last first."""

    def __init__(self) -> None:
        self._idle: dict[str, list[Connection]] = {}
        # Reentrant, since the garbage collector may call `close` in a thread that holds it.
        self._lock = threading.RLock()
        self._closed = False

    def fetch(
        self, request: WireRequest, job: Job, deadline: Deadline, cut: Cut | None = None
    ) -> WireResponse:
        """`Way.fetch`, which another thread may `cut` off."""
        talk = Talk(request, job, deadline)
        address = plain_address(request.url)
        if address is None:
            raise ValueError("no address of a plain server")
        connection = self._idle_one(address.netloc) or _connected(address, talk, cut or Cut())
        try:
            with cut.holding(connection.socket, connected=True) if cut else nullcontext():
                response = connection.talk(talk, address)
        except TimeoutError as error:
            connection.close()
            raise talk.no_answer_in_time() from error
        except (OSError, http.client.HTTPException, zlib.error) as error:
            connection.close()
            raise talk.broke(error) from error
        except ValueError as error:
            connection.close()
            raise talk.cannot_be_sent() from error
        except BaseException:
            connection.close()
            raise
        self._keep(address.netloc, connection)
        return response

    def _idle_one(self, netloc: str) -> Connection | None:
        """One of those that wait, unless its server has closed it or said something unasked."""
        while True:
            with self._lock:
                waiting = self._idle.get(netloc)
                if not waiting:
                    return None
                connection = waiting.pop()
            if connection.is_fresh():
                return connection
            connection.close()

    def _keep(self, netloc: str, connection: Connection) -> None:
        over: list[Connection] = []
        with self._lock:
            waiting = self._idle.setdefault(netloc, [])
            while waiting and not waiting[0].is_fresh():  # the one that waits longest
                over.append(waiting.pop(0))
            keep = connection.is_reusable() and len(waiting) < MAX_IDLE and not self._closed
            (waiting if keep else over).append(connection)
        for each in over:
            each.close()

    def close(self) -> None:
        """Close the connections, those in use once their answer is there."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, {}
        for connection in (one for waiting in idle.values() for one in waiting):
            connection.close()


class Connection:
    """One connection, whose every operation ends by the deadline of the request that it serves."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._idle_since = 0.0
        self._reusable = True
        self._deadline = Deadline(0.0, 0.0)
        self._http = _Http(self)

    # A request and its answer

    def talk(self, talk: Talk, address: Address) -> WireResponse:
        self._deadline = talk.deadline
        self._reusable = False
        answer = self._http.ask(talk.request, address)
        encoding = answer.getheader("content-encoding", "identity")
        for part in _unpacked(_parts(answer, talk), encoding, talk):
            talk.add(part)
        self._reusable = not answer.will_close and not self._http.socket.said_more
        self._idle_since = time.monotonic()
        return talk.response(answer.status, answer.getheaders())

    # What http.client needs of a socket

    def send(self, content: bytes) -> None:
        view = memoryview(content)
        while view:
            self.socket.settimeout(self._left_seconds())
            view = view[self.socket.send(view[:SLICE_BYTES]) :]

    def receive_into(self, buffer: WriteableBuffer) -> int:
        self.socket.settimeout(self._left_seconds())
        return self.socket.recv_into(buffer)

    def _left_seconds(self) -> float:
        left = self._deadline.left_seconds()
        if left <= 0:
            raise TimeoutError("no time left for this request")
        return left

    # Between requests

    def is_reusable(self) -> bool:
        return self._reusable

    def is_fresh(self) -> bool:
        """Whether it may serve another request: nobody closed it meanwhile."""
        if not 0 <= time.monotonic() - self._idle_since < KEEPALIVE_SECONDS:
            return False
        if not hasattr(select, "poll"):  # Windows
            return not select.select([self.socket], [], [], 0)[0]
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        self.socket.close()


class _Response(http.client.HTTPResponse):
    """An answer that is refused where its length is in doubt, as httpx refuses it."""

    def begin(self) -> None:
        super().begin()
        lengths = {length.strip() for length in self.headers.get_all("content-length", [])}
        if self.headers.defects or len(lengths) > 1 or not all(map(str.isdecimal, lengths)):
            raise http.client.HTTPException("its headers are no HTTP")

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if status == http.client.SWITCHING_PROTOCOLS:
                raise http.client.HTTPException("it switches to another protocol")
            if not http.client.CONTINUE < status < http.client.OK:
                return version, status, reason
            http.client.parse_headers(self.fp)  # of a word beforehand, such as 103

    def _read_next_chunk_size(self) -> int:
        size: int = super()._read_next_chunk_size()  # type: ignore[misc]
        if size < 0:
            raise http.client.HTTPException("a chunk of it has a negative length")
        return size


class _Http:
    """The protocol alone, by http.client: it opens no connection and closes none."""

    def __init__(self, connection: Connection) -> None:
        self.socket = _Socket(connection)
        self._connection = connection
        self._head = b""
        self._head_of: tuple[str, str, dict[str, str]] | None = None

    def ask(self, request: WireRequest, address: Address) -> http.client.HTTPResponse:
        """Send a request; gives the answer, whose body is yet to be read."""
        # Head and body in one packet.
        message = self._head_for(request, address) + request.content
        try:
            self._connection.send(message)
        except (BrokenPipeError, ConnectionResetError) as error:
            # Who refuses a request need not read it; what he says stands before the broken end.
            with suppress(OSError, http.client.HTTPException):
                return self._answer(request)
            raise error
        return self._answer(request)

    def _head_for(self, request: WireRequest, address: Address) -> bytes:
        """All before the body. It is the same for each request to a route but for the length."""
        headers = {"host": address.netloc, **headers_of(request)}
        length = b"\r\n"
        if request.content or request.method in _WITH_BODY:
            headers.pop("content-length", None)
            length = b"content-length: %d\r\n\r\n" % len(request.content)
        wanted = (request.method, address.target, headers)
        if wanted != self._head_of:
            self._head, self._head_of = _Head().written(*wanted), wanted
        return self._head + length

    def _answer(self, request: WireRequest) -> http.client.HTTPResponse:
        answer = _Response(self.socket, method=request.method)  # type: ignore[arg-type]
        answer.begin()
        return answer


class _Head(http.client.HTTPConnection):
    """Writes the head of a request, and refuses what may not stand in one."""

    def __init__(self) -> None:
        super().__init__("")
        self._written = b""

    def written(self, method: str, target: str, headers: Mapping[str, str]) -> bytes:
        """The head without the empty line at its end. Raises `ValueError`."""
        self.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            self.putheader(name, value.encode("ascii"))
        self.endheaders()
        return self._written.removesuffix(b"\r\n")

    def send(self, data: Any) -> None:
        self._written += data


class _Socket:
    """What http.client takes for a socket: it reads from it, and would close it too early."""

    def __init__(self, connection: Connection) -> None:
        self.said_more = False
        self._connection = connection

    def makefile(self, mode: str) -> io.BufferedReader:
        return _Answer(self, _Incoming(self._connection))

    def close(self) -> None:
        """Not here: the answer is yet to be read."""


class _Incoming(io.RawIOBase):
    """The bytes that come in for one answer."""

    def __init__(self, connection: Connection) -> None:
        self.ended = False
        self._connection = connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        return 0 if self.ended else self._connection.receive_into(buffer)


class _Answer(io.BufferedReader):
    """One answer. What came after its end would be taken for the next one's beginning."""

    def __init__(self, sock: _Socket, incoming: _Incoming) -> None:
        super().__init__(incoming, BUFFER_BYTES)
        self._incoming = incoming
        self._sock = sock

    def close(self) -> None:
        if not self.closed:
            self._incoming.ended = True
            self._sock.said_more = bool(self.peek(1))
        super().close()


def _connected(address: Address, talk: Talk, cut: Cut) -> Connection:
    """A new connection, to the first address of the name that answers."""
    host, port, *_ = address
    try:
        found = addresses(host, port)
        failed = OSError(f"{host} has no address")
    except OSError as error:
        raise talk.cannot_connect(error) from error
    for tried, place in enumerate(found):
        left = talk.deadline.left_seconds()
        if left <= 0:
            raise talk.no_connection_in_time()
        seconds = share(left, len(found) - tried, CONNECT_SECONDS)
        try:
            sock = _opened(place, port, seconds, cut)
        except OSError as error:
            failed = error
        else:
            with suppress(OSError):  # macOS: the other side has broken it already, as will show
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return Connection(sock)
    if isinstance(failed, TimeoutError):
        raise talk.no_connection_in_time() from failed
    raise talk.cannot_connect(failed) from failed


def _opened(place: str, port: int, seconds: float, cut: Cut) -> socket.socket:
    """A socket to an address, no name. Raises `OSError`."""
    family, kind, protocol, _, there = socket.getaddrinfo(place, port, type=socket.SOCK_STREAM)[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.settimeout(seconds)
        with cut.holding(sock, connected=False):
            sock.connect(there)
    except BaseException:
        sock.close()
        raise
    return sock


def _parts(answer: http.client.HTTPResponse, talk: Talk) -> Iterator[bytes]:
    """The body: all at once where its length is known, which spares a copy."""
    if answer.length is not None:
        talk.expect(answer.length)
        yield answer.read()
        return
    while part := answer.read(READ_BYTES):
        yield part


def _unpacked(parts: Iterable[bytes], encoding: str, talk: Talk) -> Iterator[bytes]:
    """The body as it was before its server packed it, which it was asked not to do."""
    encoding = encoding.lower().strip()
    if encoding in ("", "identity"):
        yield from parts
        return
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise http.client.HTTPException(f"it answered in {encoding}, and was asked not to")
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)
    for packed in parts:
        while packed:
            yield unpacker.decompress(packed, READ_BYTES)
            packed = unpacker.unconsumed_tail
    yield unpacker.flush()
