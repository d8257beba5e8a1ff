"""The server's application in this process: what an embedder may do to it, and a client."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from typing import Any, cast

import httpx
import numpy as np
import pytest
from starlette.datastructures import Headers

from qwen_embed_plugins import AsyncEmbedder
from qwen_embed_plugins.server import admission
from qwen_embed_plugins.server.admission import BODIES_AT_ONCE, Room
from qwen_embed_plugins.server.app import Application
from qwen_embed_plugins.server.counts import Counts
from qwen_embed_plugins.server.refusals import Refusal
from qwen_embed_plugins.spaces import EmbeddingSpace
from qwen_embed_plugins.types import EmbedResult, TextError, Usage

MODEL = "qwen3-embedding-8b"
KEY = "sk-12345678901234567890"
TEXT = "a whole text that nobody else may read"
BODY = {"model": MODEL, "input": TEXT}

Outcome = Callable[[Sequence[str]], Awaitable[EmbedResult]]


class Stub:
    """Stands in for an embedder: does what a test says."""

    space = EmbeddingSpace(MODEL, 2)

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome

    async def embed(
        self, texts: Sequence[str], role: str, *, instruction: str | None = None
    ) -> EmbedResult:
        return await self._outcome(texts)


def result(texts: Sequence[str], *errors: TextError) -> EmbedResult:
    vectors = np.tile(np.array([[1, 0]], np.float32), (len(texts), 1))
    usage = Usage(tokens=7, texts=len(texts))
    offers = (None,) * len(texts)
    return EmbedResult(vectors, errors, Stub.space, usage, Decimal(0), (), offers)


def application(outcome: Outcome, counts: Counts | None = None) -> Application:
    embedder = cast("AsyncEmbedder", Stub(outcome))
    return Application(
        embedder, counts or Counts(), token=None, most_body_bytes=1_000, most_requests=4
    )


async def post(app: Application, body: Any = BODY) -> httpx.Response:
    transport = httpx.ASGITransport(app.asgi)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        return await client.post("/v1/embeddings", json=body)


async def test_a_bug_shows_neither_text_nor_key(caplog: pytest.LogCaptureFixture) -> None:
    async def outcome(texts: Sequence[str]) -> EmbedResult:
        raise RuntimeError(f"{KEY}: {texts[0]}")

    with caplog.at_level(logging.DEBUG):
        answer = await post(application(outcome))
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (500, "internal_error")
    assert "RuntimeError" in error["message"]
    [record] = [record for record in caplog.records if record.message == "a request failed"]
    assert "in outcome" in vars(record)["where"]
    shown = f"{answer.text}{answer.headers}{[vars(record) for record in caplog.records]}"
    assert TEXT not in shown
    assert KEY not in shown


async def test_a_provider_that_repeats_a_key_or_a_long_text_is_cut_short() -> None:
    async def outcome(texts: Sequence[str]) -> EmbedResult:
        said = f"api_key=hunter2hunter2 {TEXT * 100}"
        return result(texts, TextError(0, "bad_input", said))

    answer = await post(application(outcome))
    assert answer.status_code == 400
    assert "hunter2" not in answer.text
    assert len(answer.text) < 600


async def test_what_takes_too_long_at_the_end_is_refused_and_cancelled() -> None:
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def outcome(texts: Sequence[str]) -> EmbedResult:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        raise AssertionError

    counts = Counts()
    app = application(outcome, counts)
    asked = asyncio.create_task(post(app))
    await began.wait()
    assert app.under_way == 1
    app.give_up()
    answer = await asked
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "stopping")
    assert cancelled.is_set()
    assert app.under_way == 0
    assert (counts.answered, counts.refused, counts.gone) == (0, 1, 0)


async def test_counts_add_up() -> None:
    async def outcome(texts: Sequence[str]) -> EmbedResult:
        return result(texts)

    counts = Counts()
    app = application(outcome, counts)
    assert (await post(app)).status_code == 200
    assert (await post(app, {"model": MODEL, "input": ["a", "b"]})).status_code == 200
    assert (await post(app, {"model": MODEL})).status_code == 400
    assert (counts.answered, counts.refused, counts.texts, counts.tokens) == (2, 1, 3, 14)


async def test_a_body_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "BODY_SECONDS", 0.01)

    async def outcome(texts: Sequence[str]) -> EmbedResult:
        raise AssertionError

    app = application(outcome)
    parts = iter([{"type": "http.request", "body": b"{", "more_body": True}])
    sent: list[Any] = []

    async def receive() -> Any:
        for part in parts:
            return part
        if not sent:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}  # a client that has its answer leaves

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/embeddings",
        "raw_path": b"/v1/embeddings",
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), (b"content-length", b"100")],
    }
    await app.asgi(scope, receive, send)
    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]
    assert b"body_too_slow" in b"".join(message.get("body", b"") for message in sent)
    assert sent[-1].get("more_body", False) is False
    assert app.under_way == 0


def test_bodies_are_bounded_in_all() -> None:
    room = Room(most_requests=1_000, most_body_bytes=100)
    unknown, large, small = (
        Headers(),
        Headers({"content-length": "100"}),
        Headers({"content-length": "0"}),
    )
    held = [room.entered(unknown if number % 2 else large) for number in range(BODIES_AT_ONCE)]
    for item in held:
        item.__enter__()
    with room.entered(small):
        assert room.requests == BODIES_AT_ONCE + 1
    with pytest.raises(Refusal, match="try again") as caught, room.entered(large):
        pass
    assert caught.value.status == 503
    held[0].__exit__(None, None, None)
    with room.entered(large):
        pass
    with (
        pytest.raises(Refusal, match="101 bytes") as caught,
        room.entered(Headers({"content-length": "101"})),
    ):
        pass
    assert caught.value.status == 413
