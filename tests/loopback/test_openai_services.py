"""Services that speak OpenAI's wire format, over real HTTP: what they insist on is kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from qwen_embed_plugins import Embedder, Settings
from qwen_embed_plugins.providers.openai_compatible import OpenAICompatible
from qwen_embed_plugins.testing import SimulatedServer, reference_vector
from tests.services import http_providers, services

KEY = "a-key"
MODEL, NATIVE = "qwen3-embedding-0.6b", 1024
NAMES = [name for name, kind in http_providers().items() if issubclass(kind, OpenAICompatible)]


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def service(name: str) -> Iterator[SimulatedServer]:
    with SimulatedServer(services()[name].simulated(key=KEY)) as running:
        yield running


def embedder(name: str, service: SimulatedServer, **own: Any) -> Embedder:
    path = services()[name].path
    if path is None:
        path = urlsplit(http_providers()[name].base_url or "").path
    table = {"kind": name, "base_url": service.url + path, "wire_name": "m-0.6b", **own}
    settings = Settings.load(
        model=MODEL, providers={"one": table}, use=["one"], api_keys={"one": KEY}
    )
    return Embedder(settings)


def texts(count: int) -> list[str]:
    return [f"text {number}, Процедура, 火车" for number in range(count)]


def right(count: int) -> Any:
    return np.array([reference_vector(text, NATIVE) for text in texts(count)])


def test_no_refusal_on_the_way_to_the_right_vectors(name: str, service: SimulatedServer) -> None:
    with embedder(name, service, max_inputs=10) as embedding:
        result = embedding.embed(texts(25))
    assert np.allclose(result.vectors, right(25), atol=1e-6)
    assert [attempt.fault for attempt in result.attempts] == [None] * 3
    assert max(len(request.texts) for request in service.requests) == 10


def test_a_smaller_limit_of_inputs_is_learnt(name: str, service: SimulatedServer) -> None:
    service.behave(max_inputs=7)
    with embedder(name, service) as embedding:
        result = embedding.embed(texts(25))
        assert np.allclose(result.vectors, right(25), atol=1e-6)
        service.forget()
        embedding.embed(texts(25))
    assert max(len(request.texts) for request in service.requests) == 7


def test_tokens_are_counted_where_the_service_counts_tokens(
    name: str, service: SimulatedServer
) -> None:
    with embedder(name, service) as embedding:
        usage = embedding.embed(texts(3)).usage
    assert usage.estimated is (name in ("infinity", "lm-studio"))
    assert usage.estimated or usage.tokens == service.tokens_served


def test_a_wrong_key_is_the_accounts_fault(name: str, service: SimulatedServer) -> None:
    service.behave(key="another one")
    with embedder(name, service) as embedding, pytest.raises(Exception, match="HTTP 40") as caught:
        embedding.embed(texts(3))
    assert KEY not in str(caught.value)
    assert service.request_count == 1
