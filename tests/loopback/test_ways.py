"""Every way out gives the same answer for the same bytes, and says the same of a failure."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import random
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from qwen_embed_plugins.deadlines import Deadline
from qwen_embed_plugins.transport import AsyncHttpTransport, HttpTransport
from qwen_embed_plugins.types import TransportFailure, WireRequest, WireResponse
from qwen_embed_plugins.ways import CONNECT_SECONDS, KEEPALIVE_SECONDS, Way, plain_address
from qwen_embed_plugins.ways_httpx import AsyncHttpxWay, HttpxWay
from qwen_embed_plugins.ways_plain import Cut, PlainWay
from qwen_embed_plugins.ways_threaded import ThreadedWay
from tests.loopback_servers import RawServer

MOST_BYTES = 1_000_000
OK = b"HTTP/1.1 200 OK\r\n"
JOB: Any = SimpleNamespace(
    max_answer_bytes=MOST_BYTES,
    timeout_seconds=5.0,
    offer=SimpleNamespace(proxy=None, private=True),
)


class InLoop:
    """An awaiting way as a blocking one, in a loop of its own."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._loop = asyncio.new_event_loop()

        async def made() -> Any:
            return make()

        self._way = self._loop.run_until_complete(made())

    def fetch(self, request: WireRequest, job: Any, deadline: Deadline) -> WireResponse:
        response: WireResponse = self._loop.run_until_complete(
            self._way.fetch(request, job, deadline)
        )
        return response

    def close(self) -> None:
        self._loop.run_until_complete(self._way.aclose())
        self._loop.close()


WAYS: dict[str, Callable[[], Way]] = {
    "http.client": PlainWay,
    "httpx": lambda: HttpxWay(JOB),
    "http.client, awaited": lambda: InLoop(ThreadedWay),
    "httpx, awaited": lambda: InLoop(lambda: AsyncHttpxWay(JOB)),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Any:
    made = WAYS[request.param]()
    yield made
    made.close()


def ask(way: Way, place: str, content: bytes = b"{}", **more: Any) -> WireResponse:
    request = WireRequest(f"http://{place}/v1/embeddings?a=b", content, **more)
    return way.fetch(request, JOB, Deadline.after(5))


def read_request(connection: socket.socket) -> bytes:
    """One request, whose body is as long as it says; empty when there is none any more."""
    got = b""
    while b"\r\n\r\n" not in got:
        part = connection.recv(65536)
        if not part:
            return b""
        got += part
    head, _, body = got.partition(b"\r\n\r\n")
    sizes = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    size = int(sizes[0].split(b":")[1]) if sizes else 0
    while len(body) < size:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


class Speaking:
    """Answers each request of a connection with the same bytes, and notes what it was asked."""

    def __init__(self, answer: bytes, *, closes: bool = False) -> None:
        self.answer = answer
        self.closes = closes
        self.requests: list[bytes] = []
        self.connections = 0

    def __call__(self, connection: socket.socket) -> None:
        self.connections += 1
        while request := read_request(connection):
            self.requests.append(request)
            connection.sendall(self.answer)
            if self.closes:
                return


def sized(body: bytes, *headers: bytes, status: bytes = OK) -> bytes:
    lines = b"".join(header + b"\r\n" for header in headers)
    return status + lines + b"content-length: %d\r\n\r\n" % len(body) + body


def chunked(*parts: bytes) -> bytes:
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return OK + b"transfer-encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"


LONG = b"x" * 700_000
ANSWERS: dict[str, tuple[bytes, bytes]] = {
    "of known length": (sized(b"abc"), b"abc"),
    "long": (sized(LONG), LONG),
    "empty": (sized(b""), b""),
    "in chunks": (chunked(b"ab", b"c", LONG), b"abc" + LONG),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "after a word to go on": (b"HTTP/1.1 100 Continue\r\n\r\n" + sized(b"abc"), b"abc"),
    "packed": (sized(gzip.compress(LONG), b"Content-Encoding: gzip"), LONG),
    "deflated": (sized(zlib.compress(b"abc"), b"content-encoding: deflate"), b"abc"),
    "an error": (sized(b"no", status=b"HTTP/1.1 429 Slow Down\r\n"), b"no"),
    "after early hints": (
        b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + sized(b"abc"),
        b"abc",
    ),
    "of an old server": (sized(b"abc", status=b"HTTP/1.0 200 OK\r\n"), b"abc"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_the_same_by_every_way(way: Way, name: str) -> None:
    answer, content = ANSWERS[name]
    with RawServer(Speaking(answer)) as server:
        responses = [ask(way, server.place) for _ in range(2)]
    assert [response.content for response in responses] == [content] * 2
    assert responses[0].status == int(answer.rpartition(b"HTTP/1.")[2][2:5])


def test_a_body_may_end_with_its_connection(way: Way) -> None:
    speaking = Speaking(OK + b"\r\n" + LONG, closes=True)
    with RawServer(speaking) as server:
        assert [ask(way, server.place).content for _ in range(2)] == [LONG] * 2
    assert speaking.connections == 2


def test_headers_are_in_lower_case_and_joined(way: Way) -> None:
    answer = sized(b"", b"Retry-After: 7", b"X-Limit: a", b"X-LIMIT: b", b"Set-Cookie: a=b")
    speaking = Speaking(answer)
    with RawServer(speaking) as server:
        headers = ask(way, server.place).headers
        ask(way, server.place)
    assert (headers["retry-after"], headers["x-limit"]) == ("7", "a, b")
    assert b"cookie" not in speaking.requests[1].lower()


def test_a_request_is_the_same_by_every_way(way: Way) -> None:
    speaking = Speaking(sized(b"abc"))
    content = b"x" * 300_000
    with RawServer(speaking) as server:
        ask(way, server.place, content, headers={"Authorization": "Bearer k", "Accept": "a/b"})
        ask(way, server.place, b"", method="GET")
        ask(way, server.place, b"")
    first, second, third = (
        request.partition(b"\r\n\r\n")[0].lower().split(b"\r\n") for request in speaking.requests
    )
    assert first[0] == b"post /v1/embeddings?a=b http/1.1"
    assert second[0].startswith(b"get ")
    names = sorted(line.split(b":")[0] for line in first[1:] if b"connection" not in line)
    assert names == sorted(
        b"host accept content-type accept-encoding user-agent authorization content-length".split()
    )
    assert {b"accept: a/b", b"accept-encoding: identity", b"authorization: bearer k"} < {*first}
    assert b"host: " + server.place.encode() in first
    assert speaking.requests[0].endswith(b"\r\n\r\n" + content)
    assert b"content-length: 0" in third
    assert not any(line.startswith(b"content-length") for line in second)


def test_each_request_on_a_connection_has_its_own_key_and_length(way: Way) -> None:
    speaking = Speaking(sized(b"abc"))
    sent = [("one", b"x"), ("one", b"yy" * 50), ("two", b"zz"), ("one", b"")]
    with RawServer(speaking) as server:
        for key, content in sent:
            ask(way, server.place, content, headers={"authorization": f"Bearer {key}"})
    seen = []
    for request in speaking.requests:
        head, _, body = request.partition(b"\r\n\r\n")
        lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        assert lines[b"content-length"] == b"%d" % len(body)
        seen.append((lines[b"authorization"].decode().removeprefix("bearer "), body))
    assert (seen, speaking.connections) == (sent, 1)


def test_a_connection_serves_again(way: Way) -> None:
    speaking = Speaking(sized(b"abc"))
    with RawServer(speaking) as server:
        for _ in range(5):
            ask(way, server.place)
    assert speaking.connections == 1


def test_one_that_its_server_closed_is_not_asked_again(way: Way) -> None:
    speaking = Speaking(sized(b"abc"), closes=True)
    with RawServer(speaking) as server:
        for _ in range(5):
            ask(way, server.place)
            time.sleep(0.05)
    assert speaking.connections == 5


def test_one_that_was_idle_for_long_is_not_asked_again(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    speaking = Speaking(sized(b"abc"))
    with RawServer(speaking) as server:
        ask(way, server.place)
        real = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: real + KEEPALIVE_SECONDS + 1)
        ask(way, server.place)
    assert speaking.connections == 2


def test_what_comes_after_an_answer_is_nobodys_answer() -> None:
    """A second answer that nobody asked for, in the same packet as the first."""
    speaking = Speaking(sized(b"first") + sized(b"second"))
    way = PlainWay()
    with RawServer(speaking) as server:
        assert [ask(way, server.place).content for _ in range(3)] == [b"first"] * 3
    assert speaking.connections == 3
    way.close()


FAILURES: dict[str, tuple[bytes, str, str]] = {
    "too long by its own word": (OK + b"content-length: 1000001\r\n\r\n", "too_big", "sent more"),
    "too long in the end": (chunked(LONG, LONG), "too_big", "sent more than 1000000 bytes"),
    "a bomb": (
        sized(gzip.compress(b"0" * 100_000_000), b"content-encoding: gzip"),
        "too_big",
        "sent more than 1000000 bytes",
    ),
    "chunks of negative length": (
        OK + b"transfer-encoding: chunked\r\n\r\n-5\r\nabc\r\n0\r\n\r\n",
        "dropped",
        "broke",
    ),
    "chunks of a length that means all": (
        OK + b"transfer-encoding: chunked\r\n\r\n-1\r\n" + LONG + b"\r\n0\r\n\r\n",
        "dropped",
        "broke",
    ),
    "two lengths": (
        OK + b"content-length: 2\r\ncontent-length: 5\r\n\r\nhello",
        "dropped",
        "broke",
    ),
    "a length that is none": (OK + b"content-length: abc\r\n\r\nabc", "dropped", "broke"),
    "cut off": (OK + b"content-length: 100\r\n\r\nabc", "dropped", "broke"),
    "cut off in a chunk": (chunked(b"abc")[:-8], "dropped", "broke"),
    "nothing": (b"", "dropped", "broke"),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "dropped", "broke"),
    "a head without end": (OK + b"x: " + b"a" * 500_000, "dropped", "broke"),
    "a proxy's question": (sized(b"", status=b"HTTP/1.1 407 No\r\n"), "connect", "the proxy wants"),
    "broken packing": (sized(b"abc", b"content-encoding: gzip"), "dropped", "broke"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_told_alike_and_the_next_request_is_served(way: Way, name: str) -> None:
    answer, kind, said = FAILURES[name]
    speaking = Speaking(answer, closes=True)
    with RawServer(speaking) as server:
        with pytest.raises(TransportFailure, match=said) as raised:
            ask(way, server.place)
        speaking.answer = sized(b"abc")
        time.sleep(0.05)  # until it has closed
        assert ask(way, server.place).content == b"abc"
    assert raised.value.kind == kind
    assert server.place in str(raised.value)


def refuses_early(connection: socket.socket) -> None:
    """Answers when it has seen the head, and reads no more."""
    got = b""
    while b"\r\n\r\n" not in got:
        got += connection.recv(1000)
    connection.sendall(sized(b"too big", b"connection: close", status=b"HTTP/1.1 413 No\r\n"))


# Not httpx's awaiting transport: it gives up where writing fails (httpx 0.28, httpcore 1.0).
@pytest.mark.parametrize("name", ["http.client", "httpx", "http.client, awaited"])
def test_who_refuses_a_request_before_he_has_read_it_is_heard(name: str) -> None:
    way = WAYS[name]()
    with RawServer(refuses_early) as server:
        response = ask(way, server.place, b"x" * 900_000)
    assert (response.status, response.content) == (413, b"too big")
    way.close()


def test_no_address_with_its_parameters_is_in_a_message(way: Way) -> None:
    with RawServer(Speaking(b"HTTP/9 garbage\r\n\r\n", closes=True)) as server:
        request = WireRequest(f"http://{server.place}/v1?key=s3cret", b"{}")
        with pytest.raises(TransportFailure) as raised:
            way.fetch(request, JOB, Deadline.after(5))
    assert "s3cret" not in str(raised.value)
    assert server.place in str(raised.value)


def test_connections_that_nobody_needs_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    way, slow = PlainWay(), threading.Barrier(8)

    class Waiting(Speaking):
        def __call__(self, connection: socket.socket) -> None:
            if read_request(connection):
                slow.wait(10)
                connection.sendall(self.answer)
            super().__call__(connection)

    with RawServer(Waiting(sized(b"abc"))) as server:
        threads = [threading.Thread(target=ask, args=(way, server.place)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        [waiting] = way._idle.values()
        assert len(waiting) == 8
        real = time.monotonic()
        last = waiting[-1]
        monkeypatch.setattr(time, "monotonic", lambda: real + KEEPALIVE_SECONDS / 2)
        last._idle_since = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: real + KEEPALIVE_SECONDS + 1)
        ask(way, server.place)
        assert len(waiting) == 1
    way.close()


async def test_closing_waits_for_what_is_under_way() -> None:
    released = threading.Event()

    class Late(Speaking):
        def __call__(self, connection: socket.socket) -> None:
            while read_request(connection):
                released.wait(10)
                connection.sendall(self.answer)

    with RawServer(Late(sized(b"abc"))) as server:
        transport = AsyncHttpTransport()
        request = WireRequest(f"http://{server.place}/v1", b"{}")
        sent = [
            asyncio.create_task(transport.send(request, JOB, Deadline.after(5))) for _ in range(3)
        ]
        await asyncio.sleep(0.2)
        await transport.aclose()
        released.set()
        responses = await asyncio.gather(*sent)
    assert [response.content for response in responses] == [b"abc"] * 3


def test_a_connection_that_is_in_use_when_all_are_closed_is_not_kept() -> None:
    asked, released = threading.Event(), threading.Event()

    def late(connection: socket.socket) -> None:
        read_request(connection)
        asked.set()
        released.wait(10)
        connection.sendall(sized(b"abc"))

    way = PlainWay()
    with RawServer(late) as server:
        sent = threading.Thread(target=ask, args=(way, server.place))
        sent.start()
        assert asked.wait(10)
        way.close()
        released.set()
        sent.join()
    assert not any(way._idle.values())


def test_nobody_there(way: Way) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(TransportFailure, match=f"cannot connect to 127.0.0.1:{port}: .*") as raised:
        ask(way, f"127.0.0.1:{port}")
    assert raised.value.kind == "connect"


def test_a_key_with_a_line_end_is_not_sent(way: Way) -> None:
    speaking = Speaking(sized(b"abc"))
    with RawServer(speaking) as server, pytest.raises((TransportFailure, ValueError)):
        ask(way, server.place, headers={"authorization": "k\r\nx-more: a"})
    assert not speaking.requests


def test_threads_share_a_way() -> None:
    speaking, way = Speaking(sized(b"abc")), PlainWay()
    found: list[bytes] = []

    def work() -> None:
        found.extend(ask(way, server.place).content for _ in range(50))

    with RawServer(speaking) as server:
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [b"abc"] * 400
    assert speaking.connections <= 8
    way.close()


# Which way a request takes

ADDRESSES = {
    "http://127.0.0.1:8080/v1/embeddings": ("127.0.0.1", 8080, "127.0.0.1:8080", "/v1/embeddings"),
    "http://localhost": ("localhost", 80, "localhost", "/"),
    "http://[::1]:11434/api/embed": ("::1", 11434, "[::1]:11434", "/api/embed"),
    "http://gpu-box.local:80/a?b=c": ("gpu-box.local", 80, "gpu-box.local:80", "/a?b=c"),
    "https://127.0.0.1:8080/v1": None,
    "http://user:word@127.0.0.1:8080/v1": None,
    "http://127.0.0.1:99999/v1": None,
    "http://бокс:8080/v1": None,
    "http://127.0.0.1:8080/a b": None,
    "http://127.0.0.1:8080/a\r\nx: y": None,
    "http://127.0.0.1:8080/v1\n": None,
    "HTTP://127.0.0.1/": None,
}


@pytest.mark.parametrize("url", ADDRESSES)
def test_plain_addresses(url: str) -> None:
    assert plain_address(url) == ADDRESSES[url]


def kinds(ways: Any) -> set[str]:
    return {type(way).__name__ for way in ways.values()}


def test_plain_servers_are_asked_without_httpx() -> None:
    speaking = Speaking(sized(b"abc"))
    transport, twin = HttpTransport(), AsyncHttpTransport()

    async def both(request: WireRequest) -> set[str]:
        await twin.send(request, JOB, Deadline.after(5))
        return kinds((await twin._loop_ways())._ways)

    with RawServer(speaking) as server:
        url = f"http://{server.place}/v1"
        transport.send(WireRequest(url), JOB, Deadline.after(5))
        assert kinds(transport._ways) == {"PlainWay"}
        assert asyncio.run(both(WireRequest(url))) == {"ThreadedWay"}
    transport.close()


# Tasks that are cancelled


def http_threads() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name.startswith("qwen-embed-")}


async def test_a_cancelled_request_ends_its_connection_and_its_thread() -> None:
    asked, ended = threading.Event(), threading.Event()

    def silent(connection: socket.socket) -> None:
        read_request(connection)
        asked.set()
        if connection.recv(1) == b"":
            ended.set()

    before = http_threads()
    with RawServer(silent) as server:
        way = ThreadedWay()
        request = WireRequest(f"http://{server.place}/v1", b"{}")
        sent = asyncio.create_task(way.fetch(request, JOB, Deadline.after(600)))
        assert await asyncio.to_thread(asked.wait, 10)
        sent.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sent
        assert await asyncio.to_thread(ended.wait, 10)
    await way.aclose()
    for thread in http_threads() - before:
        await asyncio.to_thread(thread.join, 10)
        assert not thread.is_alive()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere connecting is not cut off")
async def test_one_that_is_cancelled_while_it_connects_ends_its_thread() -> None:
    before = http_threads()
    with contextlib.ExitStack() as full:
        listener = full.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        place = listener.getsockname()
        for _ in range(4):  # nobody accepts, so that from the third on none gets through
            waiting = full.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(place)
        way = ThreadedWay()
        request = WireRequest(f"http://127.0.0.1:{place[1]}/v1", b"{}")
        sent = asyncio.create_task(way.fetch(request, JOB, Deadline.after(600)))
        await asyncio.sleep(0.3)
        assert not sent.done()
        sent.cancel()
        await asyncio.wait([sent])
        await way.aclose()
        for thread in http_threads() - before:
            await asyncio.to_thread(thread.join, CONNECT_SECONDS / 2)
            assert not thread.is_alive()


def test_a_cut_that_comes_late_leaves_the_next_request_alone() -> None:
    """The connection of the first serves the second by then."""
    way, cut = PlainWay(), Cut()
    with RawServer(Speaking(sized(b"abc"))) as server:
        request = WireRequest(f"http://{server.place}/v1", b"{}")
        way.fetch(request, JOB, Deadline.after(5), cut)
        [[idle]] = way._idle.values()
        cut.cut()
        assert idle.is_fresh()
        assert way.fetch(request, JOB, Deadline.after(5)).content == b"abc"
        with pytest.raises(TransportFailure):
            way.fetch(request, JOB, Deadline.after(5), cut)
    way.close()


@pytest.mark.parametrize("seed", range(3))
async def test_cancelled_at_any_moment_the_others_have_their_own_answers(seed: int) -> None:
    """Tasks that give up at random; those that do not get what they asked for."""
    chance = random.Random(seed)

    def echo(connection: socket.socket) -> None:
        while request := read_request(connection):
            time.sleep(0.001)
            with contextlib.suppress(OSError):
                connection.sendall(sized(request.rpartition(b"\r\n\r\n")[2]))

    async def one(number: int) -> bool:
        content = b"%d" % number
        request = WireRequest(f"http://{server.place}/v1", content)
        sent = asyncio.create_task(way.fetch(request, JOB, Deadline.after(30)))
        if chance.random() < 0.5:
            await asyncio.sleep(chance.random() * 0.01)
            sent.cancel()
        try:
            return (await sent).content == content
        except asyncio.CancelledError:
            return True

    with RawServer(echo) as server:
        way = ThreadedWay()
        for _ in range(20):
            assert all(await asyncio.gather(*(one(number) for number in range(20))))
        await way.aclose()


PROGRAM = """
import asyncio, sys
from types import SimpleNamespace
from qwen_embed_plugins.deadlines import Deadline
from qwen_embed_plugins.transport import AsyncHttpTransport
from qwen_embed_plugins.types import WireRequest

job = SimpleNamespace(
    max_answer_bytes=1000, timeout_seconds=600.0, offer=SimpleNamespace(proxy=None, private=True)
)
"""

INTERRUPTED = (
    PROGRAM
    + """
async def main():
    sent = AsyncHttpTransport().send(WireRequest(sys.argv[1]), job, Deadline.after(600))
    await asyncio.wait_for(sent, 0.5)

asyncio.run(main())
"""
)


def test_a_process_ends_at_once_when_its_request_is_given_up() -> None:
    """Not after the 600 seconds that the request had."""
    over = threading.Event()

    def silent(_: socket.socket) -> None:
        over.wait(60)

    with RawServer(silent) as server:
        command = [sys.executable, "-c", INTERRUPTED, f"http://{server.place}/v1"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        over.set()
    assert done.stderr.splitlines()[-1].endswith("TimeoutError")


ABANDONED = (
    PROGRAM
    + """transport = AsyncHttpTransport()
loop = asyncio.new_event_loop()
sent = loop.create_task(transport.send(WireRequest(sys.argv[1]), job, Deadline.after(600)))
loop.run_until_complete(asyncio.sleep(0.5))
"""
)


def test_a_process_ends_at_once_where_nobody_gave_its_request_up() -> None:
    over = threading.Event()

    def silent(_: socket.socket) -> None:
        over.wait(60)

    with RawServer(silent) as server:
        command = [sys.executable, "-c", ABANDONED, f"http://{server.place}/v1"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        over.set()
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


async def test_a_slow_lookup_does_not_outlast_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, over = socket.getaddrinfo, threading.Event()

    def slow(*arguments: Any, **options: Any) -> Any:
        over.wait(30)
        return real(*arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    speaking = Speaking(sized(b"abc"))
    with RawServer(speaking) as server:
        way = ThreadedWay()
        request = WireRequest(f"http://{server.place}/v1", b"{}")
        with pytest.raises(TransportFailure, match=r"did not answer in 0\.3 s") as raised:
            await asyncio.wait_for(way.fetch(request, JOB, Deadline.after(0.3)), 20)
        over.set()
        await asyncio.sleep(0.2)
        await way.aclose()
    assert raised.value.kind == "connect"
    assert not speaking.requests, "it was said that nobody had heard it"


async def test_where_no_thread_is_to_be_had_nothing_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    speaking = Speaking(sized(b"abc"))
    with RawServer(speaking) as server:
        way = ThreadedWay()
        request = WireRequest(f"http://{server.place}/v1", b"{}")
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refused)
            with pytest.raises(TransportFailure, match="can't start new thread"):
                await way.fetch(request, JOB, Deadline.after(5))
        assert (await way.fetch(request, JOB, Deadline.after(5))).content == b"abc"
        await way.aclose()
    assert len(speaking.requests) == 1


LEFT = """
import asyncio, sys
from types import SimpleNamespace
from qwen_embed_plugins.deadlines import Deadline
from qwen_embed_plugins.transport import AsyncHttpTransport
from qwen_embed_plugins.types import WireRequest

job = SimpleNamespace(
    max_answer_bytes=1000, timeout_seconds=5.0, offer=SimpleNamespace(proxy=None, private=True)
)
transport = AsyncHttpTransport()
loop = asyncio.new_event_loop()
loop.run_until_complete(transport.send(WireRequest(sys.argv[1]), job, Deadline.after(5)))
if sys.argv[2] == "closed":
    loop.close()
"""


@pytest.mark.parametrize("loop", ["closed", "open"])
def test_a_loop_that_nobody_shuts_down_says_nothing(loop: str) -> None:
    with RawServer(Speaking(sized(b"abc"))) as server:
        command = [sys.executable, "-c", LEFT, f"http://{server.place}/v1", loop]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    gc.collect()
