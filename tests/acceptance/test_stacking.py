"""Free tiers stacked, over real HTTP: where three million tokens go, and what the books say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from qwen_embed_plugins import Embedder
from qwen_embed_plugins.books import usage
from qwen_embed_plugins.testing import Behaviour, SimulatedServer, reference_tokens
from qwen_embed_plugins.types import EmbedResult

MILLION = 1_000_000
GRANTED = ("siliconflow", "fireworks", "deepinfra", "scaleway")
"""In the order in which what is left of their grants would be lost."""


def in_days(days: int) -> str:
    return f"{datetime.now(timezone.utc) + timedelta(days=days):%Y-%m-%d}"


def grants() -> dict[str, dict[str, Any]]:
    return {
        "deepinfra": {"free_tokens": MILLION // 2, "free_until": in_days(30)},
        "openrouter": {"price_per_million": "0.01"},
        "scaleway": {"free_tokens": MILLION},
        "fireworks": {"free_tokens": MILLION // 2, "free_until": in_days(20)},
        "siliconflow": {"free_tokens": MILLION // 2, "free_until": in_days(10)},
        "dashscope-singapore": {},
        "dashscope-beijing": {},
    }


Servers = Mapping[str, SimulatedServer]
Made = Callable[..., Embedder]


@pytest.fixture
def servers() -> Iterator[dict[str, SimulatedServer]]:
    """One for each service, that knows the 8B by whatever name."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(SimulatedServer(native=4096)) for name in (*grants(), "home")
        }


@pytest.fixture
def embedder(servers: Servers, tmp_path: Path) -> Iterator[Made]:
    with ExitStack() as stack:

        def make(tables: Mapping[str, Mapping[str, Any]], **settings: Any) -> Embedder:
            providers = {
                name: {"base_url": f"{servers[name].url}/v1", **table}
                for name, table in tables.items()
                if name != "ollama"
            }
            if "ollama" in tables:
                providers["ollama"] = {"base_url": servers["home"].url}
            settings.setdefault("use", [*tables])  # a machine may have an Ollama of its own
            given = {"state": str(tmp_path / "state.db"), "dimensions": 64, **settings}
            keys = dict.fromkeys(providers, "k")
            return stack.enter_context(Embedder(providers=providers, api_keys=keys, **given))

        yield make


def long_texts(tokens: int) -> list[str]:
    """Texts of some 1,500 tokens each that count so many together."""
    texts = []
    for number in range(tokens // 1_500):
        text = f"{number} ".replace("0", "o") + "some words of a text " * 286
        texts.append(text[: 4 * 1_498 + 2])
    left = tokens - sum(map(reference_tokens, texts))
    return [*texts, "z" * 4 * (left - 1)] if left else texts


def by_offer(result: EmbedResult) -> dict[str, int]:
    used: dict[str, int] = {}
    for attempt in result.attempts:
        name = attempt.offer.split("/")[0]
        used[name] = used.get(name, 0) + attempt.tokens
    return used


def test_three_million_tokens_go_where_they_are_free_and_would_be_lost_first(
    embedder: Made, servers: Servers, tmp_path: Path
) -> None:
    texts = long_texts(3 * MILLION)
    assert sum(map(reference_tokens, texts)) == 3 * MILLION
    stacking = embedder(grants())
    result = stacking.embed(texts)
    assert not result.errors
    order = list(dict.fromkeys(attempt.offer.split("/")[0] for attempt in result.attempts))
    assert order == [*GRANTED, "openrouter"]
    used = by_offer(result)
    # Each new offer shows first, with some 13,000 tokens, that it reads long texts to their ends;
    # and a grant keeps what no text fits into.
    for name, given in zip(GRANTED, (0.5, 0.5, 0.5, 1), strict=True):
        assert given * MILLION * 0.99 < used[name] <= given * MILLION
    assert 0.5 * MILLION <= used["openrouter"] < 0.6 * MILLION
    assert result.cost == used["openrouter"] * Decimal("0.01") / MILLION
    for name in ("dashscope-singapore", "dashscope-beijing"):
        assert not servers[name].requests
        reason = stacking._router().parity.refuses(offer_of(stacking, name))
        assert reason is not None
        assert "verify" in reason
    stacking.close()
    counted = {line.offer.split("/")[0]: line.used.tokens for line in usage(tmp_path / "state.db")}
    assert counted == {
        name: server.tokens_served for name, server in servers.items() if server.requests
    }
    assert sum(line.cost for line in usage(tmp_path / "state.db")) == result.cost


def offer_of(embedder: Embedder, name: str) -> Any:
    return next(item for item in embedder._setup.catalogue.offers if item.account == name)


def test_with_ollama_up_everything_goes_there(embedder: Made, servers: Servers) -> None:
    result = embedder({"ollama": {}, **grants()}).embed(long_texts(MILLION // 10))
    assert set(result.offers) == {"ollama/qwen3-embedding-8b"}
    assert result.cost == 0
    assert not any(server.requests for name, server in servers.items() if name != "home")


def test_the_grants_outlive_the_process(embedder: Made, servers: Servers) -> None:
    tables = {name: grants()[name] for name in ("siliconflow", "fireworks")}
    tables["siliconflow"]["free_tokens"] = 65_000
    texts = long_texts(40_000)
    with embedder(tables) as first:
        assert set(first.embed(texts).offers) == {"siliconflow/qwen3-embedding-8b"}
    with embedder(tables) as second:
        used = by_offer(second.embed([f"again {text}" for text in texts]))
    assert used["siliconflow"] <= 15_000
    assert used["fireworks"] >= 25_000


def test_a_bulk_job_of_ten_thousand_texts_costs_nothing_while_a_slow_server_is_free(
    embedder: Made, servers: Servers
) -> None:
    servers["home"].behaviour = Behaviour(latency_seconds=0.02)
    tables = {"ollama": {"max_inputs": 200}, "openrouter": grants()["openrouter"]}
    result = embedder(tables).embed([f"text {number}" for number in range(10_000)])
    assert not result.errors
    assert result.cost == 0
    assert set(result.offers) == {"ollama/qwen3-embedding-8b"}
    assert not servers["openrouter"].requests


def test_a_bulk_job_uses_all_servers_that_are_free(embedder: Made, servers: Servers) -> None:
    for name in ("home", "deepinfra"):
        servers[name].behaviour = replace(servers[name].behaviour, latency_seconds=0.02)
    tables = {
        "ollama": {"max_concurrency": 1},
        "deepinfra": {"max_concurrency": 1, "max_inputs": 32},
    }
    result = embedder(tables).embed([f"text {number}" for number in range(1_000)])
    assert set(result.offers) == {"ollama/qwen3-embedding-8b", "deepinfra/qwen3-embedding-8b"}
