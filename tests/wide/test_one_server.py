"""Each real server alone: right vectors in the right order, and refusals that are understood."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

from qwen_embed_plugins import AsyncEmbedder, Embedder, NoOfferLeft
from qwen_embed_plugins.parity import least_cosine
from qwen_embed_plugins.plugins import load_plugins
from qwen_embed_plugins.provider import ProviderConfig
from qwen_embed_plugins.types import Answer, Batch, WireResponse
from tests.wide.conftest import MINILM
from tests.wide.observers import Seen
from tests.wide.servers import MODEL_NAME, Running

if TYPE_CHECKING:
    from qwen_embed_plugins.types import Matrix

pytestmark = pytest.mark.wide

Embed = Callable[..., Embedder]

TEXTS = [
    "The night train leaves at nine.",
    "Bread needs flour, water, salt and time.",
    "A bicycle with a flat tyre must be mended.",
    "Процедура банкротства физических лиц",
    "火车几点出发",
    "هذا نص باللغة العربية",
    "  spaces at both ends  ",
    "tab\tand\nnew lines\r\n",
    '引号 "quoted" \\ back\\slash {"json": null}',
    "emoji 🙂, a family 👨‍👩‍👧 and \u200b a zero-width space",
    "a \x00 zero and a \x07 bell",
    "e\u0301 and \u00e9",
    "x",
    "🙂",
    "word " * 100,
]


def is_whole(vectors: Matrix, count: int, dimensions: int = MINILM.dimensions) -> bool:
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    return vectors.shape == (count, dimensions) and bool(np.allclose(norms, 1, atol=1e-5))


def answered(server: Running, encoding: Any) -> Answer:
    """One answer of the server, read by its provider."""
    provider_class = load_plugins(found=()).providers[server.recipe.kind].provider
    provider = provider_class(ProviderConfig("mine", base_url=server.url))
    request = provider.build_request(
        Batch(TEXTS, "document", MINILM, MODEL_NAME, encoding=encoding)
    )
    with httpx.Client(trust_env=False, headers=dict(request.headers), timeout=60) as client:
        response = client.post(request.url, content=request.content)
    return provider.parse_response(WireResponse(response.status_code, response.content))


def test_every_text_gets_its_own_vector(server: Running, embedder: Embed) -> None:
    together = embedder(server).embed_documents(TEXTS)
    alone = np.stack([embedder(server).embed_documents([text])[0] for text in TEXTS])
    assert is_whole(together, len(TEXTS))
    assert least_cosine(together, alone) > 0.999


def test_vectors_mean_something(server: Running, embedder: Embed) -> None:
    reaching = embedder(server)
    documents = reaching.embed_documents(TEXTS[:3])
    queries = ("When does the train go?", "How do I bake?", "My bike is broken.")
    nearest = [int(np.argmax(documents @ reaching.embed_query(query))) for query in queries]
    assert nearest == [0, 1, 2]


def test_a_shorter_length_is_cut_here(server: Running, embedder: Embed) -> None:
    native = embedder(server).embed_documents(TEXTS)
    short = embedder(server, dimensions=64).embed_documents(TEXTS)
    assert is_whole(short, len(TEXTS), 64)
    assert least_cosine(short, native[:, :64]) > 0.999


def test_base64_and_floats_agree(server: Running) -> None:
    packed, plain = answered(server, "base64"), answered(server, "float")
    expected = "base64" if server.recipe.gives_base64 else "float"
    assert (packed.encoding, plain.encoding) == (expected, "float")
    assert least_cosine(packed.vectors, plain.vectors) > 0.9999


def test_an_empty_text_is_named_and_harms_no_other(server: Running, embedder: Embed) -> None:
    result = embedder(server).embed([TEXTS[0], "", " \n\t", TEXTS[1]])
    assert [(error.position, error.kind) for error in result.errors] == [(1, "empty"), (2, "empty")]
    assert is_whole(result.vectors[[0, 3]], 2)


@pytest.mark.parametrize("words", [1_000, 30_000])
def test_a_too_long_text_is_named_also_where_the_server_cuts_it(
    server: Running, embedder: Embed, words: int
) -> None:
    longs = ["night " * words, "night " * words + TEXTS[1]]
    result = embedder(server).embed([*TEXTS, *longs, *TEXTS[:3]])
    first = len(TEXTS)
    named = [(error.position, error.kind) for error in result.errors]
    assert named == [(first, "too_large"), (first + 1, "too_large")]
    others = np.delete(result.vectors, [first, first + 1], axis=0)
    assert is_whole(others, len(TEXTS) + 3)


def test_a_request_with_too_many_texts_is_split(server: Running, embedder: Embed) -> None:
    texts = [f"text {number}" for number in range(2_500)]
    result = embedder(server, table={"max_inputs": 2_500}).embed(texts)
    assert is_whole(result.vectors, len(texts))
    accepted = [attempt.texts for attempt in result.attempts if not attempt.fault]
    assert max(accepted) <= server.recipe.max_inputs
    few = embedder(server).embed_documents(texts[-3:])
    assert least_cosine(result.vectors[-3:], few) > 0.999


def test_many_callers_at_once_get_their_own_vectors(server: Running, embedder: Embed) -> None:
    reaching = embedder(server)
    expected = reaching.embed_documents(TEXTS)

    def call(first: int) -> Matrix:
        return reaching.embed_documents(TEXTS[first:] + TEXTS[:first])

    with ThreadPoolExecutor(16) as threads:
        for first, found in enumerate(threads.map(call, range(len(TEXTS)))):
            assert least_cosine(found, np.roll(expected, -first, axis=0)) > 0.999


async def test_awaiting_gives_the_same(server: Running, embedder: Embed) -> None:
    blocking = embedder(server)
    async with blocking.awaiting() as awaiting:
        assert isinstance(awaiting, AsyncEmbedder)
        found = await awaiting.embed_documents(TEXTS)
    assert least_cosine(found, blocking.embed_documents(TEXTS)) > 0.999


def test_tokens_are_counted_or_estimated(server: Running, embedder: Embed) -> None:
    usage = embedder(server).embed(TEXTS[:3]).usage
    assert usage.tokens > 3
    assert usage.estimated is not server.recipe.counts_tokens


def test_another_model_is_refused_or_known_by_its_length(server: Running, embedder: Embed) -> None:
    name, seen = "qwen3-embedding-0.6b", Seen()
    with pytest.raises(NoOfferLeft):
        embedder(server, plugins=[seen], model=name, table={"wire_name": name}).embed(TEXTS)
    refuses = server.recipe.checks_models == "always"
    assert seen.faults == {"bad_offer" if refuses else "bad_vector"}


def test_an_unknown_model_is_a_bad_offer_if_the_server_looks(
    several: Running, embedder: Embed
) -> None:
    seen = Seen()
    reaching = embedder(several, plugins=[seen], table={"wire_name": "nobody"})
    if several.recipe.checks_models == "never":
        reaching.embed_documents(TEXTS)
        assert not seen.faults
    else:
        with pytest.raises(NoOfferLeft):
            reaching.embed(TEXTS)
        assert seen.faults == {"bad_offer"}


@pytest.mark.parametrize("key", ["sk-wide-another", None])
def test_a_wrong_key_is_a_bad_key(several: Running, embedder: Embed, key: str | None) -> None:
    seen = Seen()
    with pytest.raises(NoOfferLeft):
        embedder(several, plugins=[seen], key=key).embed(TEXTS)
    assert seen.faults == {"bad_key"}


def test_the_right_key_is_let_in(several: Running, embedder: Embed) -> None:
    assert is_whole(embedder(several).embed_documents(TEXTS), len(TEXTS))
