"""Requests that fail together are one failure, and one that succeeds among them ends no pause."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from qwen_embed_plugins import Embedder, NoOfferLeft, Settings
from qwen_embed_plugins.testing import Behaviour, Reply, SimulatedServer

Reaching = Callable[..., Settings]

TEXTS = [f"text {number}" for number in range(300)]


@pytest.mark.parametrize("reply", [Reply.dropped(), Reply(503, "restarting")])
def test_one_blip_under_many_requests_fails_no_call(reaching: Reaching, reply: Reply) -> None:
    with (
        SimulatedServer(Behaviour(latency_seconds=0.05), script=[reply] * 8) as server,
        Embedder(reaching(server)) as embedder,
    ):
        assert not embedder.embed(TEXTS).errors


def test_two_bursts_of_rate_limits_fail_no_call(reaching: Reaching) -> None:
    script = [Reply.rate_limited(0.2)] * 16
    with (
        SimulatedServer(Behaviour(latency_seconds=0.05), script=script) as server,
        Embedder(reaching(server)) as embedder,
    ):
        assert not embedder.embed(TEXTS).errors


def test_a_server_that_says_retry_now_for_ever_is_asked_ever_more_slowly(
    reaching: Reaching,
) -> None:
    with (
        SimulatedServer(Behaviour(always=Reply.rate_limited(0))) as server,
        Embedder(reaching(server, timeout_seconds=3)) as embedder,
        pytest.raises(NoOfferLeft, match="rate limit"),
    ):
        embedder.embed(["a"])
    assert 2 <= server.request_count <= 4  # at once, after 2 s, and not after 4 s


def test_a_success_under_way_does_not_end_a_pause_that_was_told() -> None:
    from random import Random

    from qwen_embed_plugins.health import Health
    from qwen_embed_plugins.types import Fault

    health = Health(Random(1))
    limited = Fault("rate_limited", "slow down", retry_after_seconds=30)
    health.failed("a", limited, now=10.0, began=9.0)
    health.succeeded("a", "document", 1.5, began=9.0)
    assert health.paused("a", 11.0)
    health.succeeded("a", "document", 1.5, began=41.0)
    assert not health.paused("a", 42.5)
