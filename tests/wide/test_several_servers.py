"""Real servers together: one space for all, and nothing lost when one of them dies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import numpy as np
import pytest

from qwen_embed_plugins import Embedder, NoOfferLeft
from qwen_embed_plugins.parity import least_cosine
from tests.wide.conftest import install_or_skip
from tests.wide.installs import Absent
from tests.wide.observers import Assassin, Seen
from tests.wide.servers import LLAMA_CPP, RECIPES, Recipe, Running, started

pytestmark = pytest.mark.wide

Embed = Callable[..., Embedder]

TEXTS = [f"Sentence {number} of a long book about trains." for number in range(160)]


@pytest.fixture(scope="module")
def servers() -> Iterator[list[Running]]:
    """All servers that this machine can have, at once."""
    with ExitStack() as stack:
        running = [stack.enter_context(started(recipe)) for recipe in RECIPES if is_had(recipe)]
        if len(running) < 2:
            pytest.skip("fewer than two servers could be had")
        yield running


def is_had(recipe: Recipe) -> bool:
    try:
        recipe.install()
    except Absent:
        return False
    return True


def test_all_give_the_same_vectors(servers: list[Running], embedder: Embed) -> None:
    first, *others = (embedder(server).embed_documents(TEXTS[:50]) for server in servers)
    assert [least_cosine(first, other) > 0.9999 for other in others] == [True] * len(others)


def test_all_serve_one_call_after_an_introduction(servers: list[Running], embedder: Embed) -> None:
    result = embedder(*servers, table={"max_inputs": 8, "max_concurrency": 1}).embed(TEXTS)
    assert not result.errors
    assert len(set(result.offers)) > 1
    alone = embedder(servers[0]).embed_documents(TEXTS)
    assert least_cosine(result.vectors, alone) > 0.9999


def test_a_server_with_another_pooling_is_left_out(
    servers: list[Running], embedder: Embed, request: pytest.FixtureRequest
) -> None:
    install_or_skip(LLAMA_CPP, request.config)
    seen = Seen()
    with started(LLAMA_CPP, "--pooling", "cls") as wrong:
        result = embedder(
            servers[0], wrong, plugins=[seen], table={"max_inputs": 8, "max_concurrency": 1}
        ).embed(TEXTS)
    assert seen.left_out == {"server-1/all-minilm-l6-v2"}
    assert set(result.offers) == {"server-0/all-minilm-l6-v2"}


def test_a_death_in_mid_call_costs_no_vector(server: Running, embedder: Embed) -> None:
    seen = Seen()
    with started(server.recipe) as victim:
        both = embedder(
            victim,
            server,
            plugins=[seen, Assassin(victim)],
            policy="ordered",
            table={"max_inputs": 8, "max_concurrency": 2},
        )
        result = both.embed(TEXTS)
    alone = embedder(server).embed_documents(TEXTS)
    assert not result.errors
    assert {str(offer).partition("/")[0] for offer in result.offers} == {"server-0", "server-1"}
    assert seen.faults == {"unavailable"}
    assert least_cosine(result.vectors, alone) > 0.999


def test_a_death_of_the_only_server_is_named(recipe: Recipe, embedder: Embed) -> None:
    seen = Seen()
    with started(recipe) as victim:
        alone = embedder(victim, plugins=[seen, Assassin(victim)], table={"max_inputs": 8})
        result = alone.embed(TEXTS)
    assert seen.faults == {"unavailable"}
    assert {error.kind for error in result.errors} == {"no_offer"}
    failed = [error.position for error in result.errors]
    assert 0 < len(failed) < len(TEXTS)
    assert np.isnan(result.vectors[failed]).all()
    with pytest.raises(NoOfferLeft, match="cannot connect"):
        embedder(victim).embed_documents(TEXTS[:1])
