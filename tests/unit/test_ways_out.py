"""When no offer is left: which other model would cost nothing with what is set up here."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from types import ModuleType
from typing import Any

import pytest

from qwen_embed_plugins import (
    BudgetExceeded,
    Embedder,
    NoOfferLeft,
    Offer,
    Provider,
    Settings,
    hookimpl,
)
from qwen_embed_plugins.catalogue import WayOut, ways_out
from qwen_embed_plugins.plugins import Registry, load_plugins
from qwen_embed_plugins.providers import _catalogue
from qwen_embed_plugins.providers.openai_compatible import OpenAICompatible
from qwen_embed_plugins.testing import Reply, SimulatedServer


class CloudA(OpenAICompatible):
    name = "cloud-a"
    base_url = "https://a.example/v1"
    needs_address = False
    api_key_env = "A_KEY"


class CloudB(CloudA):
    name = "cloud-b"
    base_url = "https://b.example/v1"
    api_key_env = "B_KEY"


class Doubtful(Provider):
    name = "doubtful"
    base_url = "https://c.example/v1"


@pytest.fixture
def registry() -> Registry:
    """Two services that give bge-m3 away, and one whose free vectors nobody has measured."""
    plugin = ModuleType("sellers")

    def register_providers(register: Callable[..., None]) -> None:
        register(CloudA, offers=_catalogue.offers_of("siliconflow"))
        register(CloudB, offers=_catalogue.offers_of("novita"))
        doubtful = Offer("qwen3-embedding-4b", "x", Decimal(0), membership="unproven")
        register(Doubtful, offers=[doubtful])

    plugin.register_providers = hookimpl(register_providers)  # type: ignore[attr-defined]
    return load_plugins(extra={"sellers": plugin}, found=())


def settings(*, environ: dict[str, str] | None = None, **given: Any) -> Settings:
    return Settings.load(environ=environ or {}, **given)


KEYS = {"A_KEY": "a", "B_KEY": "b"}


def test_the_model_that_most_providers_give_away_comes_first(registry: Registry) -> None:
    first, *others = ways_out(settings(environ=KEYS), registry)
    assert first == WayOut("bge-m3", ("ollama", "cloud-a", "cloud-b"))
    assert [way.model for way in others] == [
        "qwen3-embedding-4b",
        "qwen3-embedding-0.6b",
        "nomic-embed-text-v1.5",
    ]
    assert all(way.providers == ("ollama",) for way in others)


@pytest.mark.parametrize(
    ("given", "without", "expected"),
    [
        # Only what is set up counts.
        (
            {"environ": {"B_KEY": "b"}, "use": ["cloud-a", "cloud-b"]},
            (),
            [("bge-m3", ("cloud-b",))],
        ),
        ({"environ": KEYS, "use": ["cloud-a"]}, (), [("bge-m3", ("cloud-a",))]),
        ({"environ": KEYS}, ("ollama", "cloud-a"), [("bge-m3", ("cloud-b",))]),
        ({"environ": KEYS, "model": "bge-m3", "use": ["cloud-b"]}, (), []),
        # A price of the user's own is not free.
        (
            {"environ": KEYS, "providers": {"cloud-b": {"price_per_million": "0.01"}}},
            ("ollama", "cloud-a"),
            [],
        ),
        # Nobody knows what a server holds that may hold anything.
        (
            {
                "use": ["mine"],
                "providers": {
                    "mine": {"kind": "openai-compatible", "base_url": "http://127.0.0.1:1"}
                },
            },
            (),
            [],
        ),
        # Free, but of which space?
        ({"use": ["doubtful"]}, (), []),
        ({"use": ["lexical"]}, (), []),
        # A length that the other model lacks is not asked of it.
        ({"environ": KEYS, "use": ["cloud-b"], "dimensions": 2048}, (), [("bge-m3", ("cloud-b",))]),
    ],
)
def test_what_counts(
    registry: Registry, given: dict[str, Any], without: tuple[str, ...], expected: list[Any]
) -> None:
    assert ways_out(settings(**given), registry, without) == expected


def test_the_error_names_the_way_out(registry: Registry) -> None:
    given = settings(environ=KEYS, use=["ollama", "cloud-a", "cloud-b"], model="qwen3-embedding-8b")
    with SimulatedServer(respond=lambda _: Reply(404, 'model "x" not found')) as server:
        local = {name: {"base_url": server.url} for name in ("ollama", "cloud-a", "cloud-b")}
        with (
            Embedder(given, providers=local, registry=registry) as embedder,
            pytest.raises(NoOfferLeft) as caught,
        ):
            embedder.embed(["a"])
    assert str(caught.value).endswith(
        '; model = "bge-m3" would be served by ollama, cloud-a and cloud-b, free; it is another '
        "space: its vectors cannot stand beside those of qwen3-embedding-8b"
    )
    assert "bge-m3" not in " ".join(caught.value.reasons.values())


def test_a_provider_that_is_down_is_no_way_out(registry: Registry) -> None:
    tables = {"ollama": {"base_url": "http://127.0.0.1:1"}}
    with (
        Embedder(settings(use=["ollama"], providers=tables), registry=registry) as embedder,
        pytest.raises(NoOfferLeft) as caught,
    ):
        embedder.embed(["a"])
    assert "would be served" not in str(caught.value)


def test_a_spent_budget_names_it_too(registry: Registry) -> None:
    given = settings(environ=KEYS, use=["cloud-a", "cloud-b"], budget={"usd_per_day": 0})
    with Embedder(given, registry=registry) as embedder, pytest.raises(BudgetExceeded) as caught:
        embedder.embed(["a"])
    assert 'model = "bge-m3" would be served by cloud-a and cloud-b, free' in str(caught.value)


@pytest.mark.usefixtures("hasty")
def test_services_that_nobody_has_set_up_are_counted_and_not_listed(registry: Registry) -> None:
    tables = {"ollama": {"base_url": "http://127.0.0.1:1"}}
    with (
        Embedder(settings(providers=tables), registry=registry) as embedder,
        pytest.raises(NoOfferLeft) as caught,
    ):
        embedder.embed(["a"])
    said = str(caught.value)
    assert "ollama/qwen3-embedding-8b: cannot connect" in said
    assert "deepinfra" not in said
    assert "more are known, see `qwen-embed providers`" in said
    assert "no key: set DEEPINFRA_TOKEN" in caught.value.reasons["deepinfra"]
    with (
        Embedder(settings(use=["cloud-a"]), registry=registry) as embedder,
        pytest.raises(NoOfferLeft, match="cloud-a: no key: set A_KEY"),
    ):
        embedder.embed(["a"])
