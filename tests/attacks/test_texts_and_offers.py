"""Which texts are blamed, which offers serve, which vectors are taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qwen_embed_plugins import ConfigurationError, Embedder, Model, NoOfferLeft, Offer, Settings
from qwen_embed_plugins.testing import Behaviour, Reply, SimulatedServer, reference_vector
from qwen_embed_plugins.types import Answer, Batch, Call, Exchange

Made = Callable[..., Embedder]
Reaching = Callable[..., Settings]

SMALL = "qwen3-embedding-0.6b"


def test_a_server_that_finds_everything_too_large_condemns_no_text(reaching: Reaching) -> None:
    with (
        SimulatedServer(Behaviour(always=Reply(413, "Payload Too Large"))) as server,
        Embedder(reaching(server)) as embedder,
        pytest.raises(NoOfferLeft, match="even a plain text"),
    ):
        embedder.embed([f"text {number}" for number in range(40)])


def test_a_text_that_is_too_large_is_still_found(reaching: Reaching) -> None:
    def respond(request: Any) -> Reply | None:
        if any(len(text) > 1000 for text in request.texts):
            return Reply(413, "Payload Too Large")
        return None

    with SimulatedServer(respond=respond) as server, Embedder(reaching(server)) as embedder:
        result = embedder.embed(["a", "b" * 2000, "c"])
    assert [error[:2] for error in result.errors] == [(1, "too_large")]


def test_an_unproven_offer_does_not_serve(made: Made) -> None:
    embedder = made(offers=[Offer(SMALL, "w", membership="unproven")])
    with pytest.raises(NoOfferLeft, match="unproven"):
        embedder.embed(["a"])


def test_a_vector_whose_kept_part_is_zero_is_refused(made: Made) -> None:
    def exchange(self: Any, batch: Batch) -> Exchange:
        yield Call(lambda: None)
        matrix = np.stack([reference_vector(text, 1024) for text in batch.texts])
        matrix[0, :40] = 0
        return Answer(matrix)

    with made(exchange=exchange, settings={"dimensions": 32}) as embedder:
        result = embedder.embed(["a", "b"])
    assert [error[:2] for error in result.errors] == [(0, "bad_vector")]
    assert np.isfinite(result.vectors[1]).all()


def test_a_model_that_fails_to_format_a_query_keeps_no_place(made: Made) -> None:
    def register_models(register: Callable[[Model], None]) -> None:
        def fail(text: str, instruction: str) -> str:
            raise ZeroDivisionError

        register(Model("odd", 64, 100, format_query=fail))

    embedder = made(
        register_models=register_models,
        settings={"model": "odd", "providers": {"made": {"max_concurrency": 1}}},
    )
    with pytest.raises(ZeroDivisionError):
        embedder.embed_query("a")
    assert embedder.embed(["a"]).vectors.shape == (1, 64)
    assert embedder._setup.ledger.reserved == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("garbage", [None, [None], ["made"], 5])
def test_a_policy_that_gives_garbage_is_named(made: Made, garbage: Any) -> None:
    def register_policies(register: Callable[..., None]) -> None:
        def odd(candidates: Any) -> Any:
            return garbage

        register("odd", odd)

    embedder = made(register_policies=register_policies, settings={"policy": "odd"})
    with pytest.raises(ConfigurationError, match="policy odd"):
        embedder.embed(["a"])


def test_long_texts_are_looked_for_once_and_not_for_each_batch(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qwen_embed_plugins import batching, tokens

    asked = 0
    estimate = tokens.estimate_tokens

    def counting(text: str) -> int:
        nonlocal asked
        asked += 1
        return estimate(text)

    monkeypatch.setattr(batching, "estimate_tokens", counting)
    made(offers=[Offer(SMALL, "w", max_input_tokens=100)]).embed([f"t{n}" for n in range(1000)])
    assert asked == 1000


@pytest.mark.usefixtures("hasty")
def test_a_text_that_makes_a_server_fail_harms_no_other_in_the_only_batch(
    reaching: Reaching,
) -> None:
    def respond(request: Any) -> Reply | None:
        return Reply(500, "boom") if "poison" in request.texts else None

    with SimulatedServer(respond=respond) as server, Embedder(reaching(server)) as embedder:
        result = embedder.embed(["a", "b", "poison"])
    assert [error[:2] for error in result.errors] == [(2, "bad_input")]


def test_a_server_that_always_fails_condemns_nobody(reaching: Reaching) -> None:
    with (
        SimulatedServer(Behaviour(always=Reply(500, "boom"))) as server,
        Embedder(reaching(server)) as embedder,
        pytest.raises(NoOfferLeft, match="boom"),
    ):
        embedder.embed(["a", "b"])
    assert server.request_count == 4


@pytest.mark.usefixtures("hasty")
def test_a_failing_spell_that_hits_one_text_does_not_condemn_it(reaching: Reaching) -> None:
    hits = {"x": 4}  # as often as a server that fails at random may hit one text in a row

    def respond(request: Any) -> Reply | None:
        if "x" in request.texts and hits["x"]:
            hits["x"] -= 1
            return Reply(502, "bad gateway")
        return None

    with (
        SimulatedServer(respond=respond) as server,
        Embedder(reaching(server, table={"max_inputs": 1})) as embedder,
    ):
        assert not embedder.embed(["a", "x"]).errors
