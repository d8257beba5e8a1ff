"""No attempt outlives its time, however a server, a proxy or a provider spends it."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpcore
import httpx
import pytest

from qwen_embed_plugins import AsyncEmbedder, Embedder, Settings
from qwen_embed_plugins.catalogue import build_catalogue
from qwen_embed_plugins.deadlines import Deadline
from qwen_embed_plugins.drivers import arun_exchange, run_exchange
from qwen_embed_plugins.effects import Finished, Job
from qwen_embed_plugins.plugins import load_plugins
from qwen_embed_plugins.sockets import (
    AsyncBackend,
    Backend,
    Keeping,
    Stream,
    keep_deadlines,
)
from qwen_embed_plugins.testing import FakePlugin, SimulatedServer
from qwen_embed_plugins.transport import AsyncHttpTransport, HttpTransport
from qwen_embed_plugins.types import (
    Answer,
    Batch,
    Call,
    Exchange,
    Fault,
    Pause,
    TransportFailure,
    WireRequest,
    WireResponse,
)
from qwen_embed_plugins.ways import SLICE_BYTES
from tests.loopback_servers import RawServer, silent

SECONDS = 0.4
STEP_SECONDS = 0.03
LONG_SECONDS = 20
"""An attempt that is not bounded takes longer than this in every test here."""

Attempt = Callable[..., Finished]


def within_reason(function: Callable[[], Any]) -> Any:
    """What the function returns; fails if it hangs."""
    outcome: list[Any] = []
    thread = threading.Thread(target=lambda: outcome.append(function()), daemon=True)
    thread.start()
    thread.join(LONG_SECONDS)
    assert outcome, "it did not end"
    return outcome[0]


def blocking(job: Job) -> Finished:
    transport = HttpTransport()
    try:
        return run_exchange(job, transport)
    finally:
        transport.close()


def awaiting(job: Job) -> Finished:
    async def attempt() -> Finished:
        return await arun_exchange(job, AsyncHttpTransport())

    return asyncio.run(attempt())


@pytest.fixture(params=["plain", "httpx"])
def client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose connections plain servers are asked over."""
    if request.param == "httpx":
        monkeypatch.setattr("qwen_embed_plugins.transport._is_plain", lambda *_: False)


@pytest.fixture(params=[blocking, awaiting])
def attempt(request: pytest.FixtureRequest, client: None) -> Attempt:
    """Makes one attempt at an offer of these settings, in one colour and then in the other."""

    def make(
        table: dict[str, Any],
        texts: tuple[str, ...] = ("a",),
        seconds: float = SECONDS,
        **provider: Any,
    ) -> Finished:
        plugin = FakePlugin("made")
        for name, value in provider.items():
            setattr(plugin.provider, name, value)
        mine = {"kind": "made" if provider else "openai-compatible", **table}
        settings = Settings.load(providers={"mine": mine}, use=["mine"])
        registry = load_plugins(extra={"plugin": plugin}, found=())
        [offer] = build_catalogue(settings, registry).offers
        batch = Batch(texts, "document", offer.model, "wire")
        job = Job(0, offer, batch, seconds, 10_000_000)
        finished: Finished = within_reason(lambda: request.param(job))
        return finished

    return make


def fault_of(finished: Finished) -> Fault:
    assert isinstance(finished.outcome, Fault)
    return finished.outcome


HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"


def trickles(start: bytes, again: bytes) -> Callable[[socket.socket], None]:
    """Sends a start at once, then the same bytes again and again, and never ends."""

    def serve(connection: socket.socket) -> None:
        connection.sendall(start)
        while True:
            time.sleep(STEP_SECONDS)
            connection.sendall(again)

    return serve


def stalls(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"content-length: 100\r\n\r\n")
    silent(connection)


def reads_slowly(connection: socket.socket) -> None:
    while connection.recv(1000):
        time.sleep(STEP_SECONDS)


SLOW: dict[str, Callable[[socket.socket], None]] = {
    "says nothing": silent,
    "trickles its status line": trickles(b"HTTP/1.1 200 ", b"O"),
    "trickles a header": trickles(HEAD + b"x-a: ", b"a"),
    "trickles headers": trickles(HEAD, b"x-a: a\r\n"),
    "says continue for ever": trickles(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "stalls after its headers": stalls,
    "trickles its body": trickles(HEAD + b"content-length: 9999\r\n\r\n", b" "),
    "trickles chunks": trickles(CHUNKED, b"1\r\n \r\n"),
}


@pytest.mark.parametrize("slow", SLOW)
def test_a_server_that_takes_its_time_is_left(attempt: Attempt, slow: str) -> None:
    with RawServer(SLOW[slow]) as server:
        fault = fault_of(attempt({"base_url": f"http://{server.place}"}))
    assert fault.kind == "unavailable"
    # On a machine that stands still for a moment the time is up while connecting, as it then says.
    said = fault.message.removeprefix("cannot connect: ")
    assert said == f"{server.place} did not answer in {SECONDS:g} s"


def test_a_server_that_reads_slowly_is_left(attempt: Attempt) -> None:
    texts = ("a" * 20_000_000,)  # more than the socket's buffers hold
    with RawServer(reads_slowly) as server:
        fault = fault_of(attempt({"base_url": f"http://{server.place}"}, texts))
    assert (fault.kind, "did not answer in" in fault.message) == ("unavailable", True)


class Taking(httpcore.NetworkStream):
    """Takes a moment for whatever it is given to write."""

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        time.sleep(0.01)


def test_time_is_looked_at_between_the_parts_of_a_long_request() -> None:
    stream = Stream(Taking())
    with Keeping(Deadline.after(0.1)), pytest.raises(httpcore.WriteTimeout):
        stream.write(bytes(100 * SLICE_BYTES))


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("proxy", ["http", "socks5"])
def test_a_proxy_that_says_nothing_is_left(attempt: Attempt, proxy: str, scheme: str) -> None:
    with RawServer(silent) as server:
        table = {"base_url": f"{scheme}://127.0.0.1:9", "proxy": f"{proxy}://{server.place}"}
        fault = fault_of(attempt(table))
    assert (fault.kind, "did not answer in" in fault.message) == ("unavailable", True)


@pytest.fixture
def full_port() -> Iterator[int]:
    """A port whose queue of connections is full: who connects to it hears nothing."""
    with socket.create_server(("", 0), backlog=0) as listener:
        waiting = [socket.socket() for _ in range(4)]
        for connection in waiting:
            connection.setblocking(False)
            connection.connect_ex(("127.0.0.1", listener.getsockname()[1]))
        yield listener.getsockname()[1]
        for connection in waiting:
            connection.close()


def give_localhost(addresses: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **named: Any) -> Any:
        asked = addresses if host in ("localhost", b"localhost") else [host]
        return [found for each in asked for found in real(each, *arguments, **named)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_a_name_with_many_addresses_gets_no_more_time(
    attempt: Attempt, full_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_localhost([f"127.0.0.{last}" for last in range(1, 250)], monkeypatch)
    fault = fault_of(attempt({"base_url": f"http://localhost:{full_port}"}))
    assert fault.kind == "unavailable"
    assert "cannot connect" in fault.message


class Refusing(httpcore.NetworkBackend):
    """Notes the time for each address."""

    def __init__(self) -> None:
        self.shares: dict[str, float] = {}

    def connect_tcp(self, host: str, port: int, timeout: float | None = None, *_: Any) -> Any:
        assert timeout is not None
        self.shares[host] = timeout
        raise httpcore.ConnectError("refused")


def test_the_first_of_several_addresses_leaves_time_for_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    give_localhost(["127.0.0.1", "127.0.0.2", "127.0.0.3"], monkeypatch)
    refusing = Refusing()
    with Keeping(Deadline.after(60)), pytest.raises(httpcore.ConnectError):
        Backend(refusing).connect_tcp("localhost", 9, timeout=25)
    first, second, third = refusing.shares.values()
    assert first <= 20
    assert 20 < second <= 25
    assert 20 < third <= 25


def settings_of(slow: RawServer, right: SimulatedServer) -> Settings:
    kind = "openai-compatible"
    return Settings.load(
        providers={
            "slow": {"kind": kind, "base_url": f"http://{slow.place}", "trust": True},
            "right": {"kind": kind, "base_url": f"{right.url}/v1", "trust": True},
        },
        use=["slow", "right"],
        timeout_seconds=2,  # for the right one, should the machine be busy
    )


@pytest.mark.parametrize("colour", [Embedder, AsyncEmbedder])
def test_another_offer_serves_instead(colour: type[Embedder] | type[AsyncEmbedder]) -> None:
    with RawServer(SLOW["trickles a header"]) as slow, SimulatedServer() as right:
        settings = settings_of(slow, right)

        async def embed() -> Any:
            async with AsyncEmbedder(settings) as embedder:
                return await embedder.embed(["a"])

        def run() -> Any:
            if colour is AsyncEmbedder:
                return asyncio.run(embed())
            with Embedder(settings) as embedder:
                return embedder.embed(["a"])

        result = within_reason(run)
    assert result.offers == ("right/qwen3-embedding-8b",)
    [fault] = [attempt.fault for attempt in result.attempts if attempt.fault]
    assert (fault.kind, "did not answer in 2 s" in fault.message) == ("unavailable", True)


def pauses_long(self: Any, batch: Batch) -> Exchange:
    yield Pause(3600)
    raise AssertionError("the pause did not end the exchange")


def polls_for_ever(self: Any, batch: Batch) -> Exchange:
    while True:
        yield WireRequest(f"{self.url}/poll", method="GET")


def naps_for_ever(self: Any, batch: Batch) -> Exchange:
    while True:
        yield Pause(0.01)


def hears_nothing(self: Any, batch: Batch) -> Exchange:
    """Goes on whatever it is told."""
    while True:
        try:
            yield Pause(0.05)
        except TransportFailure:
            continue


def calls_for_ever(self: Any, batch: Batch) -> Exchange:
    while True:
        yield Call(lambda: time.sleep(0.01))


ENDLESS = [pauses_long, polls_for_ever, naps_for_ever, hears_nothing, calls_for_ever]


@pytest.mark.parametrize("exchange", ENDLESS)
def test_an_exchange_that_never_ends_is_ended(attempt: Attempt, exchange: Any) -> None:
    with SimulatedServer() as server:
        finished = attempt({"base_url": server.url}, exchange=exchange)
    fault = fault_of(finished)
    assert fault.kind == "unavailable"
    assert f"in {SECONDS:g} s" in fault.message
    assert finished.maybe_served


def test_a_long_pause_is_refused_into_the_exchange_which_may_still_ask(attempt: Attempt) -> None:
    def exchange(self: Any, batch: Batch) -> Exchange:
        said = ""
        try:
            yield Pause(3600)
        except TransportFailure as failure:
            said = str(failure)
        last = yield WireRequest(f"{self.url}/poll", method="GET")
        assert last.status == 404
        raise RuntimeError(said)

    with SimulatedServer() as server:
        fault = fault_of(attempt({"base_url": server.url}, seconds=10, exchange=exchange))
    assert "asked for a pause of 3600 s; if it needs longer, raise timeout_seconds" in fault.message


def late(self: Any, batch: Batch) -> Exchange:
    yield Call(lambda: time.sleep(2 * SECONDS))
    return Answer([[1.0]])


def waits_in_parts(self: Any, batch: Batch) -> Exchange:
    for _ in range(4):
        yield Pause(SECONDS / 2)
    return Answer([[1.0]])


def test_what_a_call_gives_is_taken_however_late(attempt: Attempt) -> None:
    assert isinstance(attempt({}, exchange=late).outcome, Answer)


def test_a_provider_may_say_that_its_exchange_takes_longer(attempt: Attempt) -> None:
    finished = attempt({}, exchange=waits_in_parts, exchange_seconds=60.0)
    assert isinstance(finished.outcome, Answer)
    assert "did not end" in fault_of(attempt({}, exchange=waits_in_parts)).message


def test_a_request_of_a_longer_exchange_is_bounded_as_every_request(attempt: Attempt) -> None:
    with RawServer(silent) as server:
        url = f"http://{server.place}"
        fault = fault_of(attempt({"base_url": url}, exchange=polls_for_ever, exchange_seconds=60.0))
    assert fault.message.endswith(f"did not answer in {SECONDS:g} s")


class Noting:
    """A transport that notes the deadlines it is given."""

    def __init__(self) -> None:
        self.deadlines: list[Deadline] = []

    def send(self, request: WireRequest, job: Job, deadline: Deadline) -> WireResponse:
        self.deadlines.append(deadline)
        return WireResponse(200, b"")


@pytest.mark.parametrize(("exchange_seconds", "different"), [(None, 1), (0.001, 1), (60.0, 3)])
def test_each_request_has_what_is_left_of_the_exchange(
    exchange_seconds: float | None, different: int
) -> None:
    def exchange(self: Any, batch: Batch) -> Exchange:
        for _ in range(3):
            yield WireRequest("http://127.0.0.1:9")
        return Answer([])

    plugin = FakePlugin("made")
    for name, value in (("exchange", exchange), ("exchange_seconds", exchange_seconds)):
        setattr(plugin.provider, name, value)
    registry = load_plugins(extra={"plugin": plugin}, found=())
    [offer] = build_catalogue(Settings.load(use=["made"]), registry).offers
    transport = Noting()
    run_exchange(Job(0, offer, Batch(["a"], "document", offer.model, "wire"), 5.0, 1), transport)
    assert len(set(transport.deadlines)) == different
    assert {deadline.seconds for deadline in transport.deadlines} == {5.0}


WAYS_OUT: list[dict[str, Any]] = [
    {},
    {"trust_env": False},
    {"proxy": "http://127.0.0.1:9"},
    {"proxy": "https://127.0.0.1:9"},
    {"proxy": "socks5://127.0.0.1:9"},
]


@pytest.mark.parametrize("options", WAYS_OUT, ids=str)
async def test_every_connection_of_httpx_keeps_deadlines(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reaches into httpx as `keep_deadlines` does: fails where a new httpx is built otherwise."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with httpx.Client(**options) as client:
        keep_deadlines(client)
        assert backends(client) == {Backend}
    async with httpx.AsyncClient(**options) as twin:
        keep_deadlines(twin)
        assert backends(twin) == {AsyncBackend}


def backends(client: httpx.Client | httpx.AsyncClient) -> set[type]:
    transports: list[Any] = [client._transport, *client._mounts.values()]
    return {type(transport._pool._network_backend) for transport in transports if transport}
