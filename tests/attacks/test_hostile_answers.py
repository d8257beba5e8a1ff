"""Every provider against a server that answers wrongly: the vectors come from another offer, or an
error names the offer and the cause. Nothing wrong is returned or remembered."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from qwen_embed_plugins import Embedder, EmbedResult, NoOfferLeft, PartialFailure, Settings
from qwen_embed_plugins.plugins import Registry, load_plugins
from qwen_embed_plugins.state import SQLiteState
from qwen_embed_plugins.testing import Behaviour, Reply, SimulatedServer, reference_vector
from tests.services import Service, http_providers, services

MODEL = "qwen3-embedding-0.6b"
TEXTS = [f"text number {number}" for number in range(6)]
KEY = "a-key-for-the-simulated-service"

ANSWERS: Mapping[str, Mapping[str, Any]] = {
    "indexes with gaps": {"order": "shuffled_with_gaps"},
    "one row twice": {"order": "duplicate"},
    "one row too few": {"order": "one_missing"},
    "one row too many": {"order": "one_extra"},
    "null for NaN": {"rows": "null"},
    "NaN": {"rows": "nan"},
    "infinite": {"rows": "infinite"},
    "all zeros": {"rows": "zero"},
    "half the length": {"rows": "cut"},
    "twice the length": {"rows": "long"},
    "zero-padded": {"rows": "padded"},
    "an HTML page with 200": {"always": Reply.html(200)},
    "an HTML page with 502": {"always": Reply.html(502)},
    "an error inside a 200": {"always": Reply.error_in_200("upstream failed", 502)},
    "a body that ends early": {"always": Reply.truncated()},
    "a dropped connection": {"always": Reply.dropped()},
    "two megabytes of garbage": {"always": Reply.garbage(2_000_000)},
    "nothing at all with 200": {"always": Reply(200, body=b"")},
    "an empty list": {"always": Reply(200, body=b"[]")},
}
"""What is wrong, as the behaviour of the server."""

HARMLESS: Mapping[str, Mapping[str, Any]] = {
    "indexes shuffled": {"order": "shuffled"},
    "not normalised": {"rows": "not_normalised"},
    "gzip though not asked for": {"gzip": True},
    "floats where base64 was asked for": {"encodings": "floats_only"},
}

RIGHT_FOR_ONE_TEXT = {"indexes with gaps", "one row twice"}
"""With a single text in the request nothing is wrong, so the offer may serve it then."""

NO_INDEX = {"ollama", "tei", "cloudflare", "gemini"}
"""Their formats know places only: rows in another order cannot be told, nor be simulated."""

ROUTED = sorted(http_providers())


class Pair:
    """A hostile server of a service, and a healthy one of another kind."""

    def __init__(self, service: Service, stack: ExitStack, changes: Mapping[str, Any]) -> None:
        self.service = service
        behaviour = service.simulated(key=KEY, **changes)
        self.hostile = stack.enter_context(
            SimulatedServer(behaviour, native=1024, dialect=service.dialect)
        )
        self.healthy = stack.enter_context(SimulatedServer(Behaviour(), native=1024))

    def embedder(self, *use: str, state: Path, **given: Any) -> Embedder:
        own_url = http_providers()[self.service.name].base_url or ""
        path = urlsplit(own_url).path if self.service.path is None else self.service.path
        tables = {
            "hostile": {
                "kind": self.service.name,
                "base_url": self.hostile.url + path,
                "wire_name": "Qwen/Qwen3-Embedding-0.6B",
                **self.service.options,
            },
            "healthy": {"kind": "openai-compatible", "base_url": f"{self.healthy.url}/v1"},
        }
        settings = Settings.load(
            model=MODEL,
            providers=tables,
            use=list(use),
            api_keys={"hostile": KEY} if "hostile" in use else {},
            state=str(state),
            **given,
        )
        return Embedder(settings, registry=registry_without_terms())


@lru_cache(maxsize=1)
def registry_without_terms() -> Registry:
    """The built-ins without what they say of prices and models: only their answers count here."""
    registry = load_plugins(found=(), disabled=())
    providers = registry.declared.providers
    providers.update({name: replace(item, offers=()) for name, item in providers.items()})
    return registry


Make = Callable[..., Pair]


@pytest.fixture
def pair() -> Iterator[Make]:
    with ExitStack() as stack:
        yield lambda name, changes: Pair(services()[name], stack, changes)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller who does not wait for a failing offer to recover."""
    monkeypatch.setattr("qwen_embed_plugins.choosing.OUTAGE_PATIENCE_SECONDS", 0.0)


def all_right(result: EmbedResult) -> bool:
    expected = np.stack([reference_vector(text, 1024) for text in TEXTS])
    return bool((np.einsum("ij,ij->i", result.vectors, expected) > 0.999).all())


def served_by(result: EmbedResult) -> set[str]:
    return {str(key).partition("/")[0] for key in result.offers}


@pytest.mark.parametrize("fault", ANSWERS)
@pytest.mark.parametrize("name", ROUTED)
def test_the_vectors_come_from_elsewhere_or_the_error_names_offer_and_cause(
    pair: Make, name: str, fault: str, tmp_path: Path
) -> None:
    if name in NO_INDEX and fault == "indexes with gaps":
        return
    two = pair(name, ANSWERS[fault])
    state = tmp_path / "two.db"
    with two.embedder("hostile", "healthy", state=state) as embedder:
        result = embedder.embed(TEXTS)
    assert all_right(result)
    if fault in RIGHT_FOR_ONE_TEXT:
        return
    assert served_by(result) == {"healthy"}
    assert not [
        met for place, met in SQLiteState(str(state)).probes().items() if _hostile(two, place)
    ]
    with (
        two.embedder("hostile", state=tmp_path / "one.db") as embedder,
        pytest.raises((NoOfferLeft, PartialFailure)) as caught,
    ):
        embedder.embed_documents(TEXTS)
    assert "hostile" in str(caught.value)
    assert KEY not in str(caught.value)


def _hostile(two: Pair, endpoint: str) -> bool:
    return endpoint.startswith(two.hostile.url)


@pytest.mark.parametrize("habit", HARMLESS)
@pytest.mark.parametrize("name", ROUTED)
def test_what_can_be_put_right_is(pair: Make, name: str, habit: str, tmp_path: Path) -> None:
    two = pair(name, HARMLESS[habit])
    with two.embedder("hostile", state=tmp_path / "one.db") as embedder:
        result = embedder.embed(TEXTS)
    assert all_right(result)


@pytest.mark.parametrize("name", ROUTED)
def test_a_stall_ends_in_time(pair: Make, name: str, tmp_path: Path) -> None:
    two = pair(name, {"always": Reply(200, body=b"{}", wait_seconds=30)})
    given = {"timeout_seconds": 0.3}
    with two.embedder("hostile", "healthy", state=tmp_path / "two.db", **given) as embedder:
        result = embedder.embed(TEXTS)
    assert served_by(result) == {"healthy"}


@pytest.mark.parametrize("name", ["ollama", "openai", "dashscope-singapore", "gemini", "tei"])
def test_fifty_megabytes_of_garbage_are_not_kept(pair: Make, name: str, tmp_path: Path) -> None:
    two = pair(name, {"always": Reply.garbage(50_000_000)})
    with two.embedder("hostile", "healthy", state=tmp_path / "two.db") as embedder:
        tracemalloc.start()
        try:
            result = embedder.embed(TEXTS)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert served_by(result) == {"healthy"}
    assert peak < 30_000_000
