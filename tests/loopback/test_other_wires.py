"""Wire formats other than OpenAI's, over real HTTP: what is sent for which role, and what comes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest

from qwen_embed_plugins import Embedder, NoOfferLeft, Settings
from qwen_embed_plugins.models import QWEN3_MODELS, qwen3_query
from qwen_embed_plugins.provider import Provider, ProviderConfig
from qwen_embed_plugins.providers.ollama import Ollama
from qwen_embed_plugins.testing import Behaviour, Reply, SimulatedServer, reference_vector
from qwen_embed_plugins.types import WireRequest, WireResponse
from tests.services import http_providers, services

MODEL, NATIVE = "qwen3-embedding-0.6b", 1024
WIRE_NAME = "qwen3-0.6b"
KEY = "a-key"
TASK = "Find the paragraph of the law"
QUERY, DOCUMENT = "Кто платит?", "  a document\nwith two lines "


class Wire(NamedTuple):
    """A provider, and the bodies in which it sends one text for each role. `embedded_query` is the
    text of which the server makes the query's vector: bare where it adds the instruction."""

    kind: str
    query: Callable[[str], Any]
    document: Callable[[str], Any]
    embedded_query: str = QUERY
    headers: Mapping[str, str] = {"authorization": f"Bearer {KEY}"}
    wire_name: str = WIRE_NAME


def dashscope(**parameters: str) -> Callable[[str], Any]:
    return lambda text: {
        "model": WIRE_NAME,
        "input": {"texts": [text]},
        "parameters": {**parameters, "output_type": "dense"},
    }


def openai(text: str) -> Any:
    return {"model": WIRE_NAME, "input": [text], "encoding_format": "float"}


def voyage(role: str) -> Callable[[str], Any]:
    return lambda text: {
        "model": WIRE_NAME,
        "input": [text],
        "input_type": role,
        "truncation": False,
        "encoding_format": "base64",
    }


def jina(task: str) -> Callable[[str], Any]:
    return lambda text: {
        "model": WIRE_NAME,
        "input": [text],
        "task": task,
        "embedding_type": "float",
        "truncate": False,
    }


def gemini(task: str) -> Callable[[str], Any]:
    model = f"models/{WIRE_NAME}"
    return lambda text: {
        "requests": [{"model": model, "content": {"parts": [{"text": text}]}, "taskType": task}]
    }


def tei(text: str) -> Any:
    return {"inputs": [text], "truncate": False, "normalize": True}


WIRES = (
    Wire(
        "dashscope-singapore",
        dashscope(text_type="query", instruct=TASK),
        dashscope(text_type="document"),
    ),
    Wire("dashscope-beijing", openai, openai),
    Wire(
        "cloudflare",
        lambda text: {"queries": [text], "instruction": TASK},
        lambda text: {"documents": [text]},
        wire_name="@cf/qwen/qwen3-embedding-0.6b",
    ),
    Wire("voyage", voyage("query"), voyage("document")),
    Wire("jina", jina("retrieval.query"), jina("retrieval.passage")),
    Wire(
        "gemini",
        gemini("RETRIEVAL_QUERY"),
        gemini("RETRIEVAL_DOCUMENT"),
        headers={"x-goog-api-key": KEY},
    ),
    Wire(
        "tei",
        lambda text: tei(qwen3_query(text, TASK)),
        tei,
        embedded_query=qwen3_query(QUERY, TASK),
    ),
)
NEVER_CUT = [wire for wire in WIRES if http_providers()[wire.kind].never_cuts]


@pytest.fixture(params=WIRES, ids=lambda wire: str(wire.kind))
def wire(request: pytest.FixtureRequest) -> Wire:
    given: Wire = request.param
    return given


@pytest.fixture
def server(wire: Wire) -> Iterator[SimulatedServer]:
    service = services()[wire.kind]
    with SimulatedServer(service.simulated(key=KEY), dialect=service.dialect) as running:
        yield running


def embedder(wire: Wire, server: SimulatedServer, key: str = KEY, **more: Any) -> Embedder:
    table = {"kind": wire.kind, "base_url": server.url, "wire_name": wire.wire_name}
    settings = Settings.load(
        model=MODEL,
        providers={"one": {**table, **services()[wire.kind].options, **more}},
        use=["one"],
        api_keys={"one": key},
        instruction=TASK,
    )
    return Embedder(settings)


def test_role_and_instruction_are_sent_once_and_the_right_vectors_come(
    wire: Wire, server: SimulatedServer
) -> None:
    with embedder(wire, server) as embedding:
        query = embedding.embed_query(QUERY)
        documents = embedding.embed_documents([DOCUMENT])
    assert np.allclose(query, reference_vector(wire.embedded_query, NATIVE), atol=1e-6)
    assert np.allclose(documents[0], reference_vector(DOCUMENT, NATIVE), atol=1e-6)
    assert [request.body for request in server.requests] == [
        wire.query(QUERY),
        wire.document(DOCUMENT),
    ]
    for request in server.requests:
        assert wire.headers.items() <= request.headers.items()
        assert (
            not {"authorization", "x-goog-api-key"} & request.headers.keys() - wire.headers.keys()
        )


@pytest.mark.parametrize("order", ["in_order", "shuffled"])
def test_no_request_holds_more_texts_than_its_offer_allows(
    wire: Wire, server: SimulatedServer, order: Any
) -> None:
    server.behave(max_inputs=10, order=order)
    texts = [f"text {number}" for number in range(25)]
    with embedder(wire, server, max_inputs=10) as embedding:
        result = embedding.embed(texts)
    expected = [reference_vector(text, NATIVE) for text in texts]
    assert np.allclose(result.vectors, expected, atol=1e-6)
    assert [attempt.fault for attempt in result.attempts] == [None] * 3
    assert sorted(len(request.texts) for request in server.requests) == [5, 10, 10]


def test_a_limit_that_no_offer_names_is_learnt(wire: Wire, server: SimulatedServer) -> None:
    server.behave(max_inputs=10)
    texts = [f"text {number}" for number in range(25)]
    with embedder(wire, server) as embedding:
        result = embedding.embed(texts)
    assert not result.errors
    assert np.allclose(
        result.vectors, [reference_vector(text, NATIVE) for text in texts], atol=1e-6
    )


def test_a_wrong_key_is_told_and_shown_nowhere(wire: Wire, server: SimulatedServer) -> None:
    with embedder(wire, server, key="wrong-key") as embedding, pytest.raises(NoOfferLeft) as caught:
        embedding.embed([DOCUMENT])
    assert [request.texts for request in server.requests] == [(DOCUMENT,)]
    (reason,) = caught.value.reasons.values()
    assert re.search(r"HTTP 40[013]", reason), reason
    assert "wrong-key" not in str(caught.value)


def test_one_refused_text_costs_no_other(wire: Wire, server: SimulatedServer) -> None:
    server.behave(refuse_texts_with="forbidden")
    texts = ["one", "two", "a forbidden text", "four"]
    with embedder(wire, server) as embedding:
        result = embedding.embed(texts)
    assert [(error.position, error.kind) for error in result.errors] == [(2, "bad_input")]


@pytest.mark.parametrize("wire", NEVER_CUT, indirect=True, ids=lambda wire: str(wire.kind))
def test_what_promises_never_to_cut_refuses_a_text_over_the_context(
    wire: Wire, server: SimulatedServer
) -> None:
    server.behave(context_tokens=100, too_long="cut")
    with embedder(wire, server) as embedding:
        result = embedding.embed(["short", "a word too many " * 100])
    assert [(error.position, error.kind) for error in result.errors] == [(1, "too_large")]
    assert np.allclose(result.vectors[0], reference_vector("short", NATIVE), atol=1e-6)


def test_neurons_of_a_day_that_are_spent_come_back_at_midnight() -> None:
    wire = next(wire for wire in WIRES if wire.kind == "cloudflare")
    spent = Reply(429, "you have used up your daily free allocation", code=4006)
    with (
        SimulatedServer(Behaviour(always=spent)) as running,
        embedder(wire, running) as embedding,
        pytest.raises(NoOfferLeft) as caught,
    ):
        embedding.embed([DOCUMENT])
    assert caught.value.retry_at is not None
    assert caught.value.retry_at % 86_400 == 0


def test_ollama_tells_of_its_model_over_http() -> None:
    with SimulatedServer(Behaviour(context_tokens=4096)) as running, httpx.Client() as client:
        ollama = Ollama(ProviderConfig("ollama", running.url))
        held = _inspected(ollama, "qwen3-embedding:8b", client)
        assert held[:2] == ("weights are Q4_K_M", "digest 64b933495768")
        assert "4096 of 32768" in held[2]
    with SimulatedServer(models={"other:1b": 8}) as running, httpx.Client() as client:
        ollama = Ollama(ProviderConfig("ollama", running.url))
        (missing,) = _inspected(ollama, "qwen3-embedding:8b", client)
        assert "`ollama pull qwen3-embedding:8b`" in missing


def _inspected(provider: Provider, wire_name: str, client: httpx.Client) -> tuple[str, ...]:
    inspection = provider.inspect(wire_name, QWEN3_MODELS[0])
    reply: WireResponse | None = None
    while True:
        try:
            request = inspection.send(reply)
        except StopIteration as done:
            notes: tuple[str, ...] = done.value
            return notes
        assert isinstance(request, WireRequest)
        got = client.request(
            request.method, request.url, content=request.content, headers=dict(request.headers)
        )
        reply = WireResponse(got.status_code, got.content, dict(got.headers))
