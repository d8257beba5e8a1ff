"""The server's parts, each alone: what is joined, who may ask, what an error becomes."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from qwen_embed_plugins.errors import BudgetExceeded, ConfigurationError, NoOfferLeft
from qwen_embed_plugins.server import joining, token_from
from qwen_embed_plugins.server.guard import Guard, is_loopback
from qwen_embed_plugins.server.joining import Embedded, Joiner, Kind, shares
from qwen_embed_plugins.server.listening import listen, port_of
from qwen_embed_plugins.server.refusals import Refusal, refusal_of, texts_without_vector
from qwen_embed_plugins.spaces import EmbeddingSpace
from qwen_embed_plugins.types import EmbedResult, FaultKind, TextError, Usage

EVERYWHERE = "0.0.0.0"  # noqa: S104  without a token nothing listens there
DOCUMENT = Kind("document", None)
QUERY = Kind("query", None)
SPACE = EmbeddingSpace("qwen3-embedding-8b", 2)


class Held:
    """An embedder whose requests return when a test says so. A text's vector is its length."""

    def __init__(self, failing: str = "no such text") -> None:
        self.failing = failing
        self.requests: list[list[str]] = []
        self.cancelled = 0
        self._gates: list[asyncio.Future[None]] = []

    async def __call__(self, texts: Sequence[str], kind: Kind) -> EmbedResult:
        self.requests.append(list(texts))
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._gates.append(gate)
        try:
            await gate
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        vectors = np.array([[len(text), 0] for text in texts], np.float32)
        errors = tuple(
            TextError(place, "bad_input", "no")
            for place, text in enumerate(texts)
            if text == self.failing
        )
        offers = (None,) * len(texts)
        usage = Usage(tokens=10 * len(texts), texts=len(texts))
        return EmbedResult(vectors, errors, SPACE, usage, Decimal(0), (), offers)

    async def release(self, number: int, error: Exception | None = None) -> None:
        gate = self._gates[number]
        if error is None:
            gate.set_result(None)
        else:
            gate.set_exception(error)
        await settled()


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def asking(
    joiner: Joiner, texts: Sequence[str], kind: Kind = DOCUMENT
) -> list[asyncio.Task[Embedded]]:
    tasks = [asyncio.create_task(joiner.embed([text], kind)) for text in texts]
    await settled()
    return tasks


def texts_of(count: int) -> list[str]:
    return ["x" * (number + 1) for number in range(count)]


def lengths(tasks: Sequence[asyncio.Task[Embedded]]) -> list[int]:
    return [int(task.result().vectors[0, 0]) for task in tasks]


async def test_a_lone_text_leaves_at_once() -> None:
    held = Held()
    [task] = await asking(Joiner(held), ["one"])
    assert held.requests == [["one"]]
    await held.release(0)
    assert lengths([task]) == [3]


async def test_texts_that_come_while_requests_are_out_leave_together() -> None:
    held = Held()
    joiner = Joiner(held)
    texts = texts_of(joining.AT_ONCE + 5)
    tasks = await asking(joiner, texts)
    assert held.requests == [[text] for text in texts[: joining.AT_ONCE]]
    await held.release(0)
    assert held.requests[joining.AT_ONCE :] == [texts[joining.AT_ONCE :]]
    for number in range(1, joining.AT_ONCE + 1):
        await held.release(number)
    assert lengths(tasks) == [len(text) for text in texts]
    assert sum(task.result().tokens for task in tasks) == 10 * len(texts)
    assert joiner.joined == 5
    assert not joiner._lines  # nothing is kept of instructions that clients made up


async def test_queries_and_documents_do_not_meet_nor_do_instructions() -> None:
    held = Held()
    joiner = Joiner(held)
    kinds = [DOCUMENT, QUERY, Kind("query", "other")]
    for kind in kinds:
        await asking(joiner, texts_of(joining.AT_ONCE + 2), kind)
    for number in range(len(held.requests)):
        await held.release(number)
    assert [len(group) for group in held.requests[joining.AT_ONCE * 3 :]] == [2, 2, 2]


async def test_long_texts_and_lists_go_alone() -> None:
    held = Held()
    joiner = Joiner(held)
    await asking(joiner, texts_of(joining.AT_ONCE))
    long = "x" * (joining.LONGEST_JOINED + 1)
    await asking(joiner, [long])
    pair = asyncio.create_task(joiner.embed(["a", "b"], DOCUMENT))
    await settled()
    assert held.requests[joining.AT_ONCE :] == [[long], ["a", "b"]]
    await held.release(joining.AT_ONCE + 1)
    assert len(pair.result().vectors) == 2


async def test_a_bad_text_is_its_own_clients_alone() -> None:
    held = Held(failing="bad")
    joiner = Joiner(held)
    await asking(joiner, texts_of(joining.AT_ONCE))
    good, bad = await asking(joiner, ["good", "bad"])
    await held.release(0)
    await held.release(joining.AT_ONCE)
    assert good.result().errors == []
    assert bad.result().errors == [TextError(0, "bad_input", "no")]


async def test_a_request_that_fails_fails_for_all_of_it() -> None:
    held = Held()
    joiner = Joiner(held)
    first = await asking(joiner, texts_of(joining.AT_ONCE))
    others = await asking(joiner, ["a", "b"])
    await held.release(0)
    await held.release(joining.AT_ONCE, RuntimeError("gone"))
    assert first[0].done()
    for task in others:
        with pytest.raises(RuntimeError, match="gone"):
            await task


async def test_a_client_that_leaves_cancels_its_request_unless_others_share_it() -> None:
    held = Held()
    joiner = Joiner(held)
    out = await asking(joiner, texts_of(joining.AT_ONCE))
    first, second, third = await asking(joiner, ["first", "second!", "third"])
    first.cancel()
    out[0].cancel()
    await settled()
    assert held.cancelled == 1
    assert held.requests[-1] == ["second!", "third"]  # the first had left before it was sent
    second.cancel()
    await settled()
    assert held.cancelled == 1
    await held.release(joining.AT_ONCE)
    assert lengths([third]) == [5]


@given(st.integers(0, 10**9), st.lists(st.integers(1, 10**6), min_size=1, max_size=64))
def test_shares_add_up_and_follow_the_weights(total: int, weights: list[int]) -> None:
    found = shares(total, weights)
    assert sum(found) == total
    exact = [total * weight / sum(weights) for weight in weights]
    assert all(
        abs(share - ideal) <= 1 + 1e-6 * ideal for share, ideal in zip(found, exact, strict=True)
    )


@pytest.mark.parametrize(
    ("name", "local"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("LOCALHOST.", True),
        ("app.localhost", True),
        ("localhost.example", False),
        ("127.0.0.1.example", False),
        ("10.0.0.1", False),
        (EVERYWHERE, False),
        ("", False),
    ],
)
def test_names_of_this_machine(name: str, local: bool) -> None:
    assert is_loopback(name) is local


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"host": "127.0.0.1:8484"}, None),
        ({"host": "[::1]:8484"}, None),
        ({"host": "localhost", "origin": "http://localhost:3000"}, None),
        ({"host": "attacker.example:8484"}, "host_not_allowed"),
        ({"host": "127.0.0.1@attacker.example"}, "host_not_allowed"),
        ({}, "host_not_allowed"),
        ({"host": "[::1"}, "host_not_allowed"),
        ({"host": "127.0.0.1", "origin": "https://attacker.example"}, "origin_not_allowed"),
        ({"host": "127.0.0.1", "origin": "null"}, "origin_not_allowed"),
    ],
)
def test_without_a_token_only_this_machine_asks(headers: dict[str, str], code: str | None) -> None:
    if code is None:
        Guard(None).check(Headers(headers))
    else:
        with pytest.raises(Refusal) as caught:
            Guard(None).check(Headers(headers))
        assert (caught.value.status, caught.value.code) == (403, code)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ("Bearer right", None),
        ("bearer right", None),
        ("Bearer wrong", "invalid_api_key"),
        ("Bearer righ", "invalid_api_key"),
        ("Bearer ", "invalid_api_key"),
        ("Bearer r\xefght", "invalid_api_key"),
        ("Basic right", "missing_token"),
        (None, "missing_token"),
    ],
)
def test_with_a_token_whoever_has_it_asks(sent: str | None, code: str | None) -> None:
    headers = {"host": "any.example", "origin": "https://any.example"}
    if sent is not None:
        headers["authorization"] = sent
    if code is None:
        Guard("right").check(Headers(headers))
    else:
        with pytest.raises(Refusal) as caught:
            Guard("right").check(Headers(headers))
        assert (caught.value.status, caught.value.code) == (401, code)
        assert "right" not in str(caught.value.content())


def test_the_token_stands_in_a_variable() -> None:
    assert token_from({}, None) is None
    assert token_from({"QWEN_EMBED_SERVER_TOKEN": "t"}, None) == "t"
    assert token_from({"MINE": "m", "QWEN_EMBED_SERVER_TOKEN": "t"}, "MINE") == "m"


@pytest.mark.parametrize(
    ("environ", "variable"),
    [
        ({}, "NOT_SET"),
        ({"QWEN_EMBED_SERVER_TOKEN": "t"}, "NOT_SET"),
        ({"QWEN_EMBED_SERVER_TOKEN": ""}, None),
        ({"MINE": "hunter2 hunter2"}, "MINE"),
        ({"MINE": "hunter2ü"}, "MINE"),
    ],
)
def test_a_token_that_is_not_there_or_cannot_be_sent(
    environ: dict[str, str], variable: str | None
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        token_from(environ, variable)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "status", "code", "waits"),
    [
        (BudgetExceeded("spent", retry_at=time.time() + 100), 429, "insufficient_quota", True),
        (BudgetExceeded("spent"), 429, "insufficient_quota", False),
        (NoOfferLeft("none", reasons={}), 503, "no_offer_left", False),
        (ConfigurationError("/secret/path"), 500, "wrong_settings", False),
        (RuntimeError("a whole text"), 500, "internal_error", False),
    ],
)
def test_errors_in_openais_shape(error: Exception, status: int, code: str, waits: bool) -> None:
    refusal = refusal_of(error)
    assert (refusal.status, refusal.code) == (status, code)
    assert ("retry-after" in refusal.headers()) is waits
    content = refusal.content()["error"]
    assert set(content) == {"message", "type", "param", "code"}
    assert "secret" not in content["message"]
    assert "whole text" not in content["message"]


@pytest.mark.parametrize(
    ("kinds", "status"),
    [
        (["rate_limited", "quota_spent"], 429),
        (["rate_limited", "unavailable"], 503),
        (["bad_key"], 503),
        ([], 503),
    ],
)
def test_a_limit_is_told_from_an_outage(kinds: list[FaultKind], status: int) -> None:
    resting = {f"offer{number}": kind for number, kind in enumerate(kinds)}
    assert refusal_of(NoOfferLeft("none", reasons={}, kinds=resting)).status == status


def failed(*kinds: Any) -> list[TextError]:
    return [TextError(2 * place, kind, f"why {place}") for place, kind in enumerate(kinds)]


@pytest.mark.parametrize(
    ("errors", "status", "code"),
    [
        (failed("bad_input", "no_offer"), 400, "text_bad_input"),
        (failed("too_large"), 400, "text_too_large"),
        (failed("bad_vector", "bad_vector"), 502, "bad_vector"),
        (failed("no_offer", "bad_vector"), 503, "no_offer_left"),
    ],
)
def test_texts_without_a_vector_are_named(errors: list[TextError], status: int, code: str) -> None:
    refusal = texts_without_vector(errors, 9)
    assert (refusal.status, refusal.code) == (status, code)
    assert refusal.content()["error"]["positions"] == [error.position for error in errors]
    for error in errors:
        assert f"position {error.position}: {error.kind}: {error.message}" in str(refusal)


def test_at_most_ten_are_told_in_words() -> None:
    refusal = texts_without_vector(failed(*["bad_input"] * 30), 60)
    assert str(refusal).count("bad_input") == 10
    assert str(refusal).endswith("and 20 more")
    assert len(refusal.positions) == 30


def test_a_listener_takes_one_port_at_every_address_of_a_name() -> None:
    sockets = listen("localhost", 0, has_token=False)
    try:
        assert {item.getsockname()[1] for item in sockets} == {port_of(sockets)}
        with pytest.raises(ConfigurationError, match=r"port \d+ of localhost is taken: choose"):
            listen("localhost", port_of(sockets), has_token=False)
    finally:
        for item in sockets:
            item.close()


def test_nobody_listens_to_others_without_a_token() -> None:
    for host in (EVERYWHERE, "::"):
        with pytest.raises(ConfigurationError, match="ask, without a token"):
            listen(host, 0, has_token=False)
    [listener] = listen(EVERYWHERE, 0, has_token=True)
    with listener:
        socket.create_connection(("127.0.0.1", port_of([listener]))).close()


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="not an address of this machine"):
        listen("192.0.2.1", 0, has_token=True)
    with pytest.raises(ConfigurationError, match="no address is known for it"):
        listen("nowhere.invalid", 0, has_token=True)
