"""Two services that answer as OpenAI does and are asked otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from qwen_embed_plugins.models import Model
from qwen_embed_plugins.provider import Provider, ProviderConfig
from qwen_embed_plugins.providers.jina import Jina
from qwen_embed_plugins.providers.voyage import Voyage
from qwen_embed_plugins.types import Batch, WireResponse

BATCH = Batch(("a", "b"), "query", Model("closed", 1024, 32000), "some-model", "Find laws")


def made(provider: type[Provider], key: str = "a-key") -> Provider:
    return provider(ProviderConfig(provider.name, provider.base_url, key))


def sent(provider: type[Provider], batch: Batch) -> Any:
    return orjson.loads(made(provider).build_request(batch).content)


def test_voyage_is_told_the_role_and_not_to_cut() -> None:
    body = {"model": "some-model", "input": ["a", "b"], "truncation": False}
    as_numbers = replace(BATCH, encoding="float")
    assert sent(Voyage, as_numbers) == {**body, "input_type": "query"}
    document = sent(Voyage, replace(as_numbers, role="document", dimensions=512))
    assert document == {**body, "input_type": "document", "output_dimension": 512}
    assert sent(Voyage, BATCH)["encoding_format"] == "base64"


@pytest.mark.parametrize(
    ("key", "url"),
    [
        ("pa-one", "https://api.voyageai.com/v1/embeddings"),
        ("al-two", "https://ai.mongodb.com/v1/embeddings"),
    ],
)
def test_keys_of_atlas_go_to_their_own_host(key: str, url: str) -> None:
    assert made(Voyage, key).build_request(BATCH).url == url


def test_an_address_in_settings_beats_that_of_the_key() -> None:
    proxied = Voyage(ProviderConfig("voyage", "http://127.0.0.1:9/v1", "al-two"))
    assert proxied.url == "http://127.0.0.1:9/v1"


def test_voyage_counts_all_tokens_together() -> None:
    body = {"data": [{"index": 0, "embedding": [1, 2]}], "usage": {"total_tokens": 12}}
    assert made(Voyage).parse_response(WireResponse(200, orjson.dumps(body))).tokens == 12


def test_the_text_that_is_too_long_is_named() -> None:
    detail = "The example at index 17 in your batch has too many tokens and does not fit"
    fault = made(Voyage).classify(WireResponse(400, orjson.dumps({"detail": detail})))
    assert (fault.kind, fault.text_index) == ("too_large", 17)


def test_jina_is_told_the_task_and_not_to_cut() -> None:
    body = {"model": "some-model", "input": ["a", "b"], "embedding_type": "float"}
    assert sent(Jina, BATCH) == {**body, "task": "retrieval.query", "truncate": False}
    document = sent(Jina, replace(BATCH, role="document", dimensions=256))
    assert (document["task"], document["dimensions"]) == ("retrieval.passage", 256)


def test_jinas_code_counts_wherever_it_stands() -> None:
    inside = {"detail": {"message": "no", "code": "AUTHZ_INSUFFICIENT_BALANCE"}}
    beside = {"detail": "no", "code": "AUTHZ_INSUFFICIENT_BALANCE"}
    for body in (inside, beside):
        fault = made(Jina).classify(WireResponse(403, orjson.dumps(body)))
        assert (fault.kind, fault.scope) == ("quota_spent", "account")
    assert made(Jina).classify(WireResponse(403, b'{"detail": "no"}')).kind == "bad_key"
