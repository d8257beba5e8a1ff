"""A closed model joins a space by measurement or by the user's word, never by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from qwen_embed_plugins import Embedder, NoOfferLeft, Settings
from qwen_embed_plugins.testing import Behaviour, SimulatedServer
from tests.services import services

KEY = "a-key-for-the-simulated-service"
SMALL = "qwen3-embedding-0.6b"

Made = Callable[..., Settings]


@pytest.fixture
def made() -> Iterator[Made]:
    """Settings with a server of open weights and DashScope's closed model, which gives these
    vectors: by default those of the open weights."""
    with ExitStack() as stack:

        def make(closed: Behaviour | None = None, **table: Any) -> Settings:
            behaviour = services()["dashscope-singapore"].simulated(key=KEY)
            servers = {
                "open": SimulatedServer(native=1024),
                "closed": SimulatedServer(closed or behaviour, native=1024),
            }
            for server in servers.values():
                stack.enter_context(server)
            return Settings.load(
                model=SMALL,
                use=["dashscope-singapore", "open"],
                providers={
                    "dashscope-singapore": {"base_url": servers["closed"].url, **table},
                    "open": {
                        "kind": "openai-compatible",
                        "base_url": f"{servers['open'].url}/v1",
                        "price_per_million": "0.01",
                    },
                },
                api_keys={"dashscope-singapore": KEY},
            )

        yield make


def test_it_serves_nobody_before_it_is_measured(made: Made) -> None:
    with Embedder(made()) as embedder:
        assert set(embedder.embed(["a", "b"]).offers) == {f"open/{SMALL}"}
    with (
        Embedder(made(), use=["dashscope-singapore"]) as embedder,
        pytest.raises(NoOfferLeft, match=r"unproven.*qwen-embed verify"),
    ):
        embedder.embed(["a"])


def test_it_joins_when_verify_finds_the_same_vectors(made: Made) -> None:
    with Embedder(made()) as embedder:
        report = embedder.verify(longest=600)
        assert report.reference == f"open/{SMALL}"  # the open weights are the measure
        assert report.all_serve
        assert set(embedder.embed(["a", "b"]).offers) == {f"dashscope-singapore/{SMALL}"}


@pytest.mark.parametrize("changes", [{"seed": 4}, {"noise": 0.3}])
def test_it_stays_out_when_verify_finds_others(made: Made, changes: dict[str, Any]) -> None:
    other = services()["dashscope-singapore"].simulated(key=KEY, **changes)
    with Embedder(made(other)) as embedder:
        report = embedder.verify(longest=600)
        assert [entry.serves for entry in report.offers] == [False, True]
        assert set(embedder.embed(["a", "b"]).offers) == {f"open/{SMALL}"}


def test_it_joins_at_the_users_word(made: Made) -> None:
    with Embedder(made(trust=True)) as embedder:
        assert set(embedder.embed(["a", "b"]).offers) == {f"dashscope-singapore/{SMALL}"}


def test_it_cannot_join_where_its_vectors_are_too_short(made: Made) -> None:
    settings = made(trust=True)
    with Embedder(settings, model="qwen3-embedding-8b", dimensions=4096) as embedder:
        with pytest.raises(NoOfferLeft) as caught:
            embedder.embed(["a"])
        assert "at most 2048" in caught.value.reasons["dashscope-singapore"]
