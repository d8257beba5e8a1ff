"""Progress of a call: told as texts are done, exact in the caller's list, harmless if it fails."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qwen_embed_plugins import AsyncEmbedder, Embedder
from qwen_embed_plugins.testing import Reply, SimulatedServer

TEXTS = [*(f"text {number}" for number in range(20)), "text 3", "", "text 3"]


@pytest.fixture
def server() -> Iterator[SimulatedServer]:
    with SimulatedServer() as running:
        yield running


def settings(server: SimulatedServer, **more: Any) -> dict[str, Any]:
    table = {"base_url": server.url, "max_inputs": 4}
    given = {"providers": {"ollama": table}, "use": ["ollama"], "dimensions": 64}
    return {**given, **more}


def rises_to(told: list[tuple[int, int]], total: int) -> bool:
    counts = [done for done, _ in told]
    return counts == sorted(set(counts)) and counts[-1] == total


def test_it_is_told_batch_by_batch_up_to_all_texts(server: SimulatedServer) -> None:
    told: list[tuple[int, int]] = []
    threads = set()

    def on_progress(done: int, total: int) -> None:
        told.append((done, total))
        threads.add(threading.current_thread())

    with Embedder(settings(server)) as embedder:
        result = embedder.embed(TEXTS, on_progress=on_progress)
    assert [error.position for error in result.errors] == [21]
    assert told[0] == (1, 23), "the empty text is done from the beginning"
    assert {total for _, total in told} == {23}
    assert rises_to(told, 23)
    assert len(told) >= 6
    assert threads == {threading.current_thread()}


def test_both_colours_tell_alike(server: SimulatedServer) -> None:
    async def run(told: list[tuple[int, int]]) -> None:
        async with AsyncEmbedder(settings(server, concurrency=1)) as embedder:
            await embedder.embed_documents(TEXTS[:20], on_progress=lambda *at: told.append(at))

    awaited: list[tuple[int, int]] = []
    asyncio.run(run(awaited))
    blocking: list[tuple[int, int]] = []
    with Embedder(settings(server, concurrency=1)) as embedder:
        embedder.embed_documents(TEXTS[:20], on_progress=lambda *at: blocking.append(at))
    assert awaited == blocking == [(4, 20), (8, 20), (12, 20), (16, 20), (20, 20)]


def test_what_the_cache_knows_is_done_at_once(server: SimulatedServer, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    with Embedder(settings(server, cache=str(tmp_path / "vectors.db"))) as embedder:
        embedder.embed(TEXTS[:12])
        embedder.embed(TEXTS, on_progress=lambda *at: told.append(at))
        assert told[:2] == [(1, 23), (15, 23)]  # with the two that equal a known one
        assert rises_to(told, 23)
        told.clear()
        embedder.embed(TEXTS[:12], on_progress=lambda *at: told.append(at))
    assert told == [(12, 12)]


def test_refused_texts_are_done_as_well(server: SimulatedServer) -> None:
    told: list[tuple[int, int]] = []
    server.respond = lambda request: (
        Reply(400, "the input is invalid") if "text 7" in request.texts else None
    )
    with Embedder(settings(server)) as embedder:
        result = embedder.embed(TEXTS[:20], on_progress=lambda *at: told.append(at))
    assert [error.position for error in result.errors] == [7]
    assert rises_to(told, 20)


def test_a_broken_display_loses_no_vector(
    server: SimulatedServer, caplog: pytest.LogCaptureFixture
) -> None:
    calls = []

    def broken(done: int, total: int) -> None:
        calls.append(done)
        raise RuntimeError("no terminal")

    with caplog.at_level(logging.WARNING), Embedder(settings(server)) as embedder:
        vectors = embedder.embed_documents(TEXTS[:20], on_progress=broken)
    assert vectors.shape == (20, 64)
    assert len(calls) == 1
    assert "on_progress failed" in caplog.text


def test_nothing_is_told_of_nothing(server: SimulatedServer) -> None:
    told: list[tuple[int, int]] = []
    with Embedder(settings(server)) as embedder:
        embedder.embed([], on_progress=lambda *at: told.append(at))
        embedder.embed(["", " "], on_progress=lambda *at: told.append(at))
    assert told == [(2, 2)]
