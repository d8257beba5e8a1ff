"""A real HTTP server on 127.0.0.1 that answers as services and servers for embeddings do.

    with SimulatedServer(native=1024) as server:
        OpenAICompatible(ProviderConfig("mine", base_url=server.url + "/v1"))
        server.behave(order="shuffled")              # from now on
        server.script(Reply.rate_limited(1), None)   # the next two answers; None: as usual

Its vectors are `reference_vector(text, native)`, so a test can compare what arrives with the
truth. `python -m qwen_embed_plugins.testing.simulator --native 1024` serves until it is ended and
prints the URL on its first line.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import orjson

from qwen_embed_plugins.testing.behaviour import Behaviour, Reply
from qwen_embed_plugins.testing.dialects import (
    Models,
    RecordedRequest,
    answer,
    dialect_of,
    recorded,
    shaped,
)

__all__ = ["RecordedRequest", "SimulatedServer"]


class SimulatedServer:
    """A simulated embedding server; use it in `with`, or call `start` and `close`.

    `models` maps the names it knows to their native lengths; without it any name is served, at
    `native` numbers (default: the length of the Qwen3 size in the name). `script` holds the next
    replies, None standing for a usual one; `respond` is asked before each usual reply and may give
    another one. `behaviour` may be replaced at any time; each request sees one of them whole.
    `dialect` names the wire format; without it each request's path tells, as far as paths can.
    """

    def __init__(
        self,
        behaviour: Behaviour | None = None,
        *,
        models: Mapping[str, int] | None = None,
        native: int | None = None,
        script: Iterable[Reply | None] = (),
        respond: Callable[[RecordedRequest], Reply | None] | None = None,
        port: int = 0,
        dialect: str | None = None,
    ) -> None:
        dialect_of("", dialect)  # a wrong name is refused here, and not by the first request
        self.behaviour = behaviour or Behaviour()
        self.models = Models(models, native)
        self.respond = respond
        self._port = port
        self._script = deque(script)
        self._log = _Log(dialect)
        self._http: _HTTPServer | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> SimulatedServer:
        """Listen; gives itself."""
        self._http = _HTTPServer(self._port, self)
        self._port = self._http.server_address[1]
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(0.005,), name="simulated-server", daemon=True
        )
        self._thread.start()
        return self

    def close(self) -> None:
        """Drop every connection and wait until all threads have ended. May be called twice."""
        if self._http is None or self._thread is None:
            return
        self._http.shutdown()
        self._http.close_connections()
        self._thread.join()
        self._http = self._thread = None

    def __enter__(self) -> SimulatedServer:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """`http://127.0.0.1:<port>`, also while it is down, so that it can come up again there."""
        return f"http://127.0.0.1:{self._port}"

    def behave(self, **changes: Any) -> None:
        """Change some fields of the behaviour from the next request on."""
        self.behaviour = replace(self.behaviour, **changes)

    def script(self, *replies: Reply | None) -> None:
        """Append to the replies that come next; None is a usual one."""
        self._script.extend(replies)

    @property
    def requests(self) -> Sequence[RecordedRequest]:
        """Every request for vectors, in order of arrival."""
        return self._log.embedding()

    @property
    def other_requests(self) -> Sequence[RecordedRequest]:
        """Every request for something else: lists of models, unknown paths."""
        return self._log.others()

    @property
    def request_count(self) -> int:
        return len(self.requests)

    @property
    def texts_seen(self) -> list[str]:
        """The texts of all requests for vectors, also of those that were refused."""
        return [text for request in self.requests for text in request.texts]

    @property
    def tokens_served(self) -> int:
        """The tokens of all answers that held vectors, counted rightly."""
        return self._log.tokens

    @property
    def max_concurrent(self) -> int:
        """The most requests that were open at one time."""
        return max((request.concurrent for request in self.requests), default=0)

    def forget(self) -> None:
        """Drop the record of requests and the count of tokens."""
        self._log.clear()

    def _reply(self, request: RecordedRequest) -> Reply:
        behaviour = self.behaviour
        scripted = self._next_scripted() if request.embeds else None
        if scripted is None:
            scripted = self.respond(request) if self.respond else None
        if scripted is not None:
            return shaped(scripted, request)
        reply, tokens = answer(request, behaviour, self.models)
        self._log.add_tokens(tokens)
        wait = reply.wait_seconds + behaviour.latency_seconds
        reply = replace(reply, wait_seconds=wait) if wait else reply
        return _zipped(reply) if behaviour.gzip else reply

    def _next_scripted(self) -> Reply | None:
        try:
            return self._script.popleft()
        except IndexError:
            return None


def _zipped(reply: Reply) -> Reply:
    body = gzip.compress(reply.body or b"", compresslevel=1)
    return replace(reply, body=body, headers={**reply.headers, "content-encoding": "gzip"})


class _Log:
    """The requests that arrived, and how many are open; safe under threads."""

    def __init__(self, dialect: str | None) -> None:
        self._dialect = dialect
        self._lock = threading.Lock()
        self._requests: list[RecordedRequest] = []
        self._open = 0
        self.tokens = 0

    def begin(self, path: str, headers: Mapping[str, str], body: Any) -> RecordedRequest:
        with self._lock:
            self._open += 1
            request = recorded(
                path,
                headers,
                body,
                dialect=self._dialect,
                at_seconds=time.monotonic(),
                concurrent=self._open,
            )
            self._requests.append(request)
            return request

    def end(self) -> None:
        with self._lock:
            self._open -= 1

    def add_tokens(self, count: int) -> None:
        with self._lock:
            self.tokens += count

    def clear(self) -> None:
        with self._lock:
            self._requests.clear()
            self.tokens = 0

    def embedding(self) -> list[RecordedRequest]:
        with self._lock:
            return [request for request in self._requests if request.embeds]

    def others(self) -> list[RecordedRequest]:
        with self._lock:
            return [request for request in self._requests if not request.embeds]


class _HTTPServer(ThreadingHTTPServer):
    """A threaded server that knows its open connections, so that it can drop them at once."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, port: int, simulated: SimulatedServer) -> None:
        self.simulated = simulated
        self.closing = threading.Event()
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        worker = threading.Thread(
            target=self.process_request_thread, args=(request, client_address), daemon=True
        )
        with self._lock:
            self._connections[request] = worker
        worker.start()

    def close_request(self, request: Any) -> None:
        super().close_request(request)
        with self._lock:
            self._connections.pop(request, None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no event; anything else shows as the default shows it."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def close_connections(self) -> None:
        self.closing.set()
        self.server_close()
        with self._lock:
            open_now = list(self._connections.items())
        for connection, _ in open_now:
            _shut(connection)
        for _, worker in open_now:
            worker.join(timeout=5)


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the other side, or the worker, may have been faster
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    """One connection: reads requests until it closes, answers as the simulated server says."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body leave in one segment
    server: _HTTPServer

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: tests read `requests`."""

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        simulated = self.server.simulated
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = simulated._log.begin(self.path.partition("?")[0], headers, _parsed(body))
        try:
            reply = simulated._reply(request)
            if reply.wait_seconds:
                self.server.closing.wait(reply.wait_seconds)
        finally:
            simulated._log.end()
        if reply.drop or self.server.closing.is_set():
            self.close_connection = True
        else:
            self._send(reply)

    def _send(self, reply: Reply) -> None:
        body = reply.body or b""
        self.send_response_only(reply.status)
        for name, value in {"content-type": "application/json", **reply.headers}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: reply.cut_at])
        if reply.cut_at is not None:
            self.close_connection = True
        self.wfile.flush()


def _parsed(body: bytes) -> Any:
    try:
        return orjson.loads(body) if body else None
    except orjson.JSONDecodeError:
        return None


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve in the foreground until SIGTERM or SIGINT; prints the URL on a line."""
    parser = argparse.ArgumentParser(
        prog="python -m qwen_embed_plugins.testing.simulator",
        description="A server at 127.0.0.1 that answers as services for embeddings do, with "
        "made-up vectors and without a key, until Ctrl-C. Its first line is its URL; most clients "
        "want /v1 after it.",
    )
    parser.add_argument("--port", type=int, default=0, help="default: one that is free")
    parser.add_argument(
        "--native", type=int, help="length of every vector; default: by the model's name"
    )
    parser.add_argument("--model", action="append", help="a name it knows; default: any")
    parser.add_argument(
        "--latency", type=float, default=0.0, metavar="SECONDS", help="how long each answer takes"
    )
    given = parser.parse_args(arguments)
    named = dict.fromkeys(given.model, given.native or 4096) if given.model else None
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    behaviour = Behaviour(latency_seconds=given.latency)
    with SimulatedServer(behaviour, models=named, native=given.native, port=given.port) as server:
        print(server.url, flush=True)
        ended.wait()


if __name__ == "__main__":
    main()
