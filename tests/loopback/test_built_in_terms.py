"""The built-in offers against servers that insist on what they state, and on nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from qwen_embed_plugins import Embedder, Settings
from qwen_embed_plugins.offers import Offer
from qwen_embed_plugins.plugins import load_plugins
from qwen_embed_plugins.testing import Behaviour, SimulatedServer
from tests.services import http_providers, services

KEY = "a-key-for-the-simulated-service"
REGISTRY = load_plugins(found=(), disabled=())


def offers() -> Iterator[Any]:
    for name, item in REGISTRY.providers.items():
        if name in http_providers():
            for offer in item.offers:
                yield pytest.param(name, offer, id=f"{name}-{offer.model}")


def settings(name: str, offer: Offer, server: SimulatedServer, state: Path) -> Settings:
    own_url = http_providers()[name].base_url or ""
    played = services()[name]
    path = urlsplit(own_url).path if played.path is None else played.path
    table = {"base_url": server.url + path, "trust": True, **played.options}
    return Settings.load(
        model=offer.model,
        dimensions=offer.dimensions,
        use=[name],
        providers={name: table},
        api_keys={name: KEY},
        state=str(state),
    )


@pytest.mark.parametrize(("name", "offer"), list(offers()))
def test_every_offer_serves_and_never_sends_too_many(
    name: str, offer: Offer, tmp_path: Path
) -> None:
    limit = offer.max_inputs
    native = offer.dimensions or REGISTRY.models[offer.model].dimensions
    behaviour: Behaviour = services()[name].simulated(key=KEY, max_inputs=limit)
    texts = [f"text {number}" for number in range(2 * (limit or 32) + 1)]
    with (
        SimulatedServer(
            behaviour, models={offer.wire_name: native}, dialect=services()[name].dialect
        ) as server,
        Embedder(settings(name, offer, server, tmp_path / "state.db")) as embedder,
    ):
        result = embedder.embed(texts)
    assert not result.errors
    assert result.offers == (f"{name}/{offer.model}",) * len(texts)
    assert all(attempt.fault is None for attempt in result.attempts)
    sizes = [len(request.texts) for request in server.requests]
    assert max(sizes) <= (limit or 32)
    assert sum(sizes) == len(texts)


def test_bge_m3_is_served_by_the_three_that_have_it(tmp_path: Path) -> None:
    names = ("ollama", "siliconflow", "novita")
    for name in names:
        [offer] = [item for item in REGISTRY.providers[name].offers if item.model == "bge-m3"]
        with (
            SimulatedServer(
                services()[name].simulated(key=KEY), models={offer.wire_name: 1024}
            ) as server,
            Embedder(settings(name, offer, server, tmp_path / f"{name}.db")) as embedder,
        ):
            assert embedder.embed_documents(["a text"]).shape == (1, 1024)
            assert str(embedder.space) == "bge-m3/1024"
