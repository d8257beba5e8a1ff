"""Laws of the wire formats: what goes out comes back in place, and no answer breaks the parser."""

from __future__ import annotations

import json
from typing import Any, get_args
from urllib.parse import urlsplit

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_embed_plugins.errors import ProviderError
from qwen_embed_plugins.models import Model
from qwen_embed_plugins.provider import Provider, ProviderConfig
from qwen_embed_plugins.providers.lexical import lexical_vectors
from qwen_embed_plugins.providers.ollama import ollama_url
from qwen_embed_plugins.providers.openai_compatible import OpenAICompatible
from qwen_embed_plugins.testing import Behaviour, ProviderContract, reference_vector
from qwen_embed_plugins.testing.dialects import recorded
from qwen_embed_plugins.types import Batch, Fault, FaultKind, Role, WireResponse
from tests.services import http_providers, services

KEY = "planted-Key.without+a known/shape"
MODEL = Model("small", 12, 1000)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


def made(kind: type[Provider]) -> Provider:
    options = services()[kind.name].options
    return kind(ProviderConfig("mine", "http://127.0.0.1:1", KEY, options))


PROVIDERS = [made(kind) for kind in http_providers().values()]


def round_trip(kind: type[Provider]) -> ProviderContract:
    """A provider against the simulated server, at a length that makes many examples cheap."""
    service = services()[kind.name]
    stated = {"provider": kind, "model": MODEL, "dialect": service.dialect}
    named = {"wire_name": "@cf/qwen/qwen3-embedding-0.6b", "options": service.options}
    contract: ProviderContract = type("RoundTrip", (ProviderContract,), stated | named)()
    return contract


@pytest.mark.parametrize("kind", http_providers().values(), ids=http_providers())
@given(
    texts=st.lists(TEXTS, min_size=1, max_size=12),
    order=st.sampled_from(["in_order", "shuffled", "no_index"]),
    encodings=st.sampled_from(["both", "floats_only"]),
)
def test_each_text_gets_its_own_vector(
    kind: type[Provider], texts: list[str], order: Any, encodings: Any
) -> None:
    contract = round_trip(kind)
    behaviour = Behaviour(order=order, encodings=encodings)
    answer = contract.run(contract.batch(texts), behaviour)
    expected = np.array([reference_vector(text, MODEL.dimensions) for text in texts])
    assert np.allclose(answer.vectors, expected, atol=1e-6)


@given(rows=st.permutations(range(8)))
def test_any_order_of_rows_is_put_right(rows: list[int]) -> None:
    items = [{"index": index, "embedding": [float(index), 1.0]} for index in rows]
    response = WireResponse(200, orjson.dumps({"data": items}))
    answer = made(OpenAICompatible).parse_response(response)
    assert answer.vectors[:, 0].tolist() == list(range(8))


NAMES = ["error", "message", "type", "code", "detail", "data", "embedding", "embeddings", "index"]
NAMES += ["usage", "loc", "msg", "metadata", "error_type", "reason", "fault", "faultstring"]
NAMES += ["output", "text_index", "result", "success", "errors", "values", "details", "violations"]
NAMES += ["quotaId", "retryDelay", "usageMetadata"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(KEY),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5)
    ),
    max_leaves=12,
)
BODIES = (
    st.binary(max_size=300)
    | st.builds(lambda head, tail: head + KEY.encode() + tail, st.binary(), st.binary())
    | JSON.map(lambda value: json.dumps(value).encode())
)


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: str(provider.name))
@given(status=st.integers(100, 599), content=BODIES, after=st.text(max_size=12))
def test_any_answer_is_classified_and_never_shows_the_key(
    provider: Provider, status: int, content: bytes, after: str
) -> None:
    fault = provider.classify(WireResponse(status, content, {"retry-after": after}))
    _check(fault)


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: str(provider.name))
@given(content=BODIES)
def test_any_200_gives_rows_or_a_fault(provider: Provider, content: bytes) -> None:
    try:
        answer = provider.parse_response(WireResponse(200, content))
    except ProviderError as error:
        _check(error.fault)
    else:
        assert answer.tokens is None or answer.tokens > 0


def _check(fault: Fault) -> None:
    assert fault.kind in get_args(FaultKind)
    assert fault.message
    assert KEY not in fault.message
    assert len(fault.message) < 400
    assert fault.retry_after_seconds is None or fault.retry_after_seconds >= 0


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: str(provider.name))
@given(texts=st.lists(TEXTS, min_size=1, max_size=5))
def test_requests_carry_texts_as_they_are(provider: Provider, texts: list[str]) -> None:
    dialect = services()[provider.name].dialect
    for role in get_args(Role):
        request = provider.build_request(Batch(tuple(texts), role, MODEL, "m"))
        path, body = urlsplit(request.url).path, orjson.loads(request.content)
        arrived = recorded(path, {}, body, dialect=dialect)
        assert arrived.texts == tuple(texts)
        assert arrived.dialect.wish(arrived).dimensions is None


@given(value=st.text(max_size=40))
def test_any_ollama_host_gives_a_url_that_means_itself(value: str) -> None:
    url = ollama_url(value)
    assert "://" in url
    assert not url.endswith("/")


@given(texts=st.lists(st.text(min_size=1), min_size=1, max_size=5))
def test_lexical_vectors_have_unit_length_and_depend_on_their_text_alone(texts: list[str]) -> None:
    together = lexical_vectors(texts)
    assert together.dtype == np.float32
    assert np.allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-5)
    for row, text in zip(together, texts, strict=True):
        assert np.array_equal(lexical_vectors([text])[0], row)
