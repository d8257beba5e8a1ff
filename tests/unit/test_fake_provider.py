"""The fake provider follows its script, and one plugin's script is not another's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import qwen_embed_plugins.testing
from qwen_embed_plugins.errors import ProviderError
from qwen_embed_plugins.models import QWEN3_MODELS
from qwen_embed_plugins.provider import ProviderConfig
from qwen_embed_plugins.testing import FakePlugin, FakeProvider, reference_vector
from qwen_embed_plugins.types import Answer, Batch, Call, Fault

MODEL = QWEN3_MODELS[-1]


def attempt(provider: type[FakeProvider], *texts: str) -> Answer:
    batch = Batch(texts, "document", MODEL, "any")
    exchange = provider(ProviderConfig(provider.name)).exchange(batch)
    effect = next(exchange)
    assert isinstance(effect, Call)
    try:
        exchange.send(effect.function())
    except StopIteration as done:
        answer: Answer = done.value
        return answer
    raise AssertionError("the exchange asked for more")


def test_faults_come_in_order_and_then_vectors() -> None:
    fake = FakePlugin("mine", faults=[Fault("unavailable", "down"), None])
    with pytest.raises(ProviderError) as caught:
        attempt(fake.provider, "a")
    assert caught.value.kind == "unavailable"
    answer = attempt(fake.provider, "a", "b")
    assert np.array_equal(answer.vectors[1], reference_vector("b", MODEL.dimensions))
    assert fake.texts_seen == ["a", "a", "b"]
    fake.script(Fault("bad_key", "no"))
    with pytest.raises(ProviderError):
        attempt(fake.provider, "c")


def test_two_plugins_share_nothing() -> None:
    first, second = FakePlugin("one", faults=[Fault("unavailable", "down")]), FakePlugin("two")
    attempt(second.provider, "x")
    assert (first.texts_seen, second.texts_seen) == ([], ["x"])


def test_it_registers_its_own_class() -> None:
    registered: list[Any] = []
    fake = FakePlugin("mine")
    fake.register_providers(registered.append)
    assert registered == [fake.provider]
    assert fake.provider.name == "mine"


def test_every_public_name_exists() -> None:
    for name in qwen_embed_plugins.testing.__all__:
        assert getattr(qwen_embed_plugins.testing, name).__name__ == name
    assert dir(qwen_embed_plugins.testing) == qwen_embed_plugins.testing.__all__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = qwen_embed_plugins.testing.nothing
