"""Each provider's own proxy: used by it and by nobody else, and its password shown nowhere."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from qwen_embed_plugins import AsyncEmbedder, Embedder, EmbedResult, NoOfferLeft, Settings
from qwen_embed_plugins.testing import Reply, SimulatedServer
from tests.loopback_proxies import HttpProxy, Proxy, Socks5Proxy
from tests.loopback_servers import RawServer, silent

SECRET = "planted-hunter2"
LOGIN = ("me", SECRET)
KINDS = {"http": HttpProxy, "socks5": Socks5Proxy, "socks5h": Socks5Proxy}

Embed = Callable[..., list[EmbedResult]]

TEXTS = [f"text {number}" for number in range(40)]  # two batches


def embed_blocking(settings: Settings, *steps: Callable[[], None]) -> list[EmbedResult]:
    """What one embedder gives, asked once at first and once after each step."""
    with Embedder(settings) as embedder:
        results = [embedder.embed(TEXTS)]
        for step in steps:
            step()
            results.append(embedder.embed(TEXTS))
    return results


def embed_awaiting(settings: Settings, *steps: Callable[[], None]) -> list[EmbedResult]:
    async def embed() -> list[EmbedResult]:
        async with AsyncEmbedder(settings) as embedder:
            results = [await embedder.embed(TEXTS)]
            for step in steps:
                step()
                results.append(await embedder.embed(TEXTS))
        return results

    return asyncio.run(embed())


@pytest.fixture(params=[embed_blocking, embed_awaiting])
def embed(request: pytest.FixtureRequest) -> Embed:
    function: Embed = request.param
    return function


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG)
    for name in ("httpx", "httpcore", "httpcore.socks", "httpcore.proxy"):
        caplog.set_level(logging.DEBUG, name)
    return caplog


def port_of(server: SimulatedServer) -> int:
    return int(server.url.rpartition(":")[2])


def table(base_url: str, **more: Any) -> dict[str, Any]:
    """One server of an outsider's, whose vectors are trusted and cost nothing."""
    terms = {"kind": "openai-compatible", "trust": True, "price_per_million": "0"}
    return {**terms, "base_url": base_url, **more}


def settings_of(providers: dict[str, Any], **more: Any) -> Settings:
    return Settings.load(providers=providers, use=list(providers), **more)


@pytest.mark.parametrize("login", [None, LOGIN], ids=["open", "password"])
@pytest.mark.parametrize("scheme", KINDS)
def test_a_proxy_resolves_the_name_and_passes_the_requests(
    embed: Embed, scheme: str, login: tuple[str, str] | None
) -> None:
    with SimulatedServer() as server, KINDS[scheme]({"far.example": port_of(server)}, login) as way:
        user = ":".join(login) + "@" if login else ""
        address = f"{scheme}://{user}{way.place}"
        [result] = embed(settings_of({"far": table("http://far.example/v1", proxy=address)}))
        assert set(result.offers) == {"far/qwen3-embedding-8b"}
        assert set(way.passed) == {"far.example:80"}
        assert server.request_count


def test_each_provider_has_its_own_way_out(embed: Embed, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        SimulatedServer() as first,
        SimulatedServer() as second,
        SimulatedServer() as near,
        Socks5Proxy({"a.example": port_of(first)}) as socks,
        HttpProxy({"b.example": port_of(second)}) as http,
    ):
        monkeypatch.setenv("B_PROXY", f"http://{http.place}")
        providers = {
            "a": table("http://a.example/v1", proxy=f"socks5://{socks.place}"),
            "b": table("http://b.example/v1", proxy_env="B_PROXY"),
            "near": table(f"{near.url}/v1"),
        }
        down = Reply(503, "down")
        results = embed(
            settings_of(providers),
            lambda: first.behave(always=down),
            lambda: second.behave(always=down),
        )
        served = [set(result.offers) for result in results]
        assert served == [{f"{name}/qwen3-embedding-8b"} for name in ("a", "b", "near")]
        assert set(socks.passed) == {"a.example:80"}
        assert set(http.passed) == {"b.example:80"}
        assert near.request_count == 2


@pytest.mark.parametrize("scheme", KINDS)
def test_a_proxy_that_is_named_is_used_for_a_server_nearby_too(embed: Embed, scheme: str) -> None:
    with SimulatedServer() as server, KINDS[scheme]({}) as way:
        near = table(f"{server.url}/v1", proxy=f"{scheme}://{way.place}")
        embed(settings_of({"near": near}))
        assert set(way.passed) == {server.url.removeprefix("http://")}


@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_a_proxy_of_the_environment_is_for_the_outside(
    embed: Embed,
    scheme: str,
    monkeypatch: pytest.MonkeyPatch,
    everything_logged: pytest.LogCaptureFixture,
) -> None:
    with SimulatedServer() as server, KINDS[scheme]({"far.example": port_of(server)}, LOGIN) as way:
        monkeypatch.setenv("ALL_PROXY", f"{scheme}://me:{SECRET}@{way.place}")
        embed(settings_of({"near": table(f"{server.url}/v1")}))
        assert not way.passed
        embed(settings_of({"far": table("http://far.example/v1")}))
        assert set(way.passed) == {"far.example:80"}
    assert SECRET not in everything_logged.text


def test_an_encrypted_service_is_reached_through_a_tunnel(embed: Embed) -> None:
    with HttpProxy({}, LOGIN) as way:
        address = f"http://me:{SECRET}@{way.place}"
        with pytest.raises(NoOfferLeft, match=f"through the proxy {way.place}"):
            embed(settings_of({"far": table("https://far.example/v1", proxy=address)}))
        assert set(way.passed) == {"far.example:443"}
        assert all(start.startswith(b"\x16\x03") for start in way.tunnelled)  # a TLS handshake


def test_signs_in_a_password_may_be_percent_encoded(embed: Embed) -> None:
    login = ("me", "p@ss:/w")
    for kind, scheme in ((HttpProxy, "http"), (Socks5Proxy, "socks5")):
        with SimulatedServer() as server, kind({}, login) as way:
            proxy = f"{scheme}://me:p%40ss%3A%2Fw@{way.place}"
            embed(settings_of({"near": table(f"{server.url}/v1", proxy=proxy)}))
            assert way.passed


def gone() -> str:
    """Where nobody listens any more."""
    with RawServer(silent) as server:
        return server.place


def says_something_else(connection: Any) -> None:
    connection.recv(1000)
    connection.sendall(b"SSH-2.0-OpenSSH_9.9\r\n")


BROKEN: dict[str, Callable[[], Proxy | RawServer]] = {
    "socks5 with another password": lambda: Socks5Proxy({}, ("me", "another")),
    "socks5 without a password": lambda: Socks5Proxy({}),
    "http with another password": lambda: HttpProxy({}, ("me", "another")),
    "socks5 of another kind": lambda: RawServer(says_something_else),
    "http of another kind": lambda: RawServer(says_something_else),
    "socks5 that hangs up": lambda: RawServer(lambda connection: None),
    "http that hangs up": lambda: RawServer(lambda connection: None),
}


def assert_secret(settings: Settings, said: str, log: str) -> None:
    """The password is in nothing that may be seen, and not in the state."""
    with Embedder(settings) as embedder:
        [first, *_] = embedder._setup.catalogue.offers
        shown = [settings, embedder, first, first.provider.config, settings.explain(), said, log]
    assert not any(SECRET in f"{value!s} {value!r}" for value in shown)
    state = settings.state_place().path
    assert state is not None
    assert not state.exists() or SECRET.encode() not in state.read_bytes()


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("target", ["http", "https"])
def test_another_offer_serves_when_a_proxy_fails(
    embed: Embed, broken: str, target: str, everything_logged: pytest.LogCaptureFixture
) -> None:
    with SimulatedServer() as near, BROKEN[broken]() as way:
        scheme = broken.partition(" ")[0]
        far = table(f"{target}://far.example/v1", proxy=f"{scheme}://me:{SECRET}@{way.place}")
        settings = settings_of({"far": far, "near": table(f"{near.url}/v1")})
        [result] = embed(settings)
    assert set(result.offers) == {"near/qwen3-embedding-8b"}
    faults = [attempt.fault for attempt in result.attempts if attempt.fault]
    assert faults
    assert all(fault.kind == "unavailable" for fault in faults)
    assert all(f"through the proxy {way.place}" in fault.message for fault in faults)
    assert_secret(settings, str(result), everything_logged.text)


@pytest.mark.parametrize("scheme", KINDS)
def test_another_offer_serves_when_a_proxy_is_gone(
    embed: Embed, scheme: str, everything_logged: pytest.LogCaptureFixture
) -> None:
    place = gone()
    with SimulatedServer() as near:
        far = table("http://far.example/v1", proxy=f"{scheme}://me:{SECRET}@{place}")
        settings = settings_of({"far": far, "near": table(f"{near.url}/v1")})
        [result] = embed(settings)
    assert set(result.offers) == {"near/qwen3-embedding-8b"}
    faults = [attempt.fault for attempt in result.attempts if attempt.fault]
    said = f"cannot connect to far.example through the proxy {place}"
    assert all(said in fault.message for fault in faults)
    assert_secret(settings, str(result), everything_logged.text)


@pytest.mark.parametrize("scheme", KINDS)
def test_a_password_that_works_shows_nowhere(
    embed: Embed, scheme: str, everything_logged: pytest.LogCaptureFixture
) -> None:
    with SimulatedServer() as server, KINDS[scheme]({}, LOGIN) as way:
        near = table(f"{server.url}/v1", proxy=f"{scheme}://me:{SECRET}@{way.place}")
        settings = settings_of({"near": near})
        [result] = embed(settings)
        assert way.passed
    assert_secret(settings, str(result), everything_logged.text)


def test_the_proxy_of_an_ollama_is_named_before_the_remedy() -> None:
    place = gone()
    terms = {"price_per_million": "0", "proxy": f"socks5://{place}"}
    ollama = {"base_url": "http://far.example:11434", **terms}
    with (
        Embedder(Settings.load(providers={"ollama": ollama}, use=["ollama"])) as embedder,
        pytest.raises(NoOfferLeft, match=f"through the proxy {place}.*ollama serve"),
    ):
        embedder.embed(["a"])
