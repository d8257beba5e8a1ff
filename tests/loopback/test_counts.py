"""What a bulk job costs, in what can be counted on any machine: requests, bytes, copies."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from qwen_embed_plugins import Embedder, Settings
from qwen_embed_plugins.outcome import Outcome
from qwen_embed_plugins.testing import SimulatedServer

Configure = Callable[..., Settings]
TEXTS = [f"document {number}" for number in range(640)]


def test_each_text_is_sent_once_in_full_requests(
    server: SimulatedServer, configure: Configure
) -> None:
    with Embedder(configure(server, dimensions=1024)) as embedder:
        embedder.embed_documents(TEXTS[:1])
        before = len(server.requests)
        embedder.embed_documents(TEXTS)
    sent = [request.body["input"] for request in server.requests[before:]]
    largest = max(map(len, sent))
    assert len(sent) == -(-len(TEXTS) // largest)
    assert sorted(text for texts in sent for text in texts) == sorted(TEXTS)
    for request in server.requests:
        assert request.headers["user-agent"].startswith("qwen-embed-plugins/")
        # Unpacking base64 costs several times what reading it does.
        assert request.headers["accept-encoding"] == "identity"
        assert len(orjson.dumps(request.body)) < 200 + sum(
            len(text) + 3 for text in request.body["input"]
        )


def test_vectors_are_written_into_the_result_and_nowhere_else(
    server: SimulatedServer, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    original = Outcome.__init__

    def noting(self: Outcome, *arguments: Any) -> None:
        original(self, *arguments)
        made.append(self.vectors)

    monkeypatch.setattr(Outcome, "__init__", noting)
    with Embedder(configure(server, dimensions=1024)) as embedder:
        result = embedder.embed(TEXTS)
    assert len(made) == 1
    assert np.shares_memory(result.vectors, made[0])


def test_the_ledger_writes_a_few_times_for_many_requests(
    server: SimulatedServer, configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[str] = []
    original = sqlite3.connect

    def watched(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = original(*arguments, **options)
        connection.set_trace_callback(statements.append)
        return connection

    monkeypatch.setattr(sqlite3, "connect", watched)
    with Embedder(configure(server, dimensions=32, state=str(tmp_path / "s.db"))) as embedder:
        embedder.embed_documents(TEXTS[:1])
        begun, asked = len(statements), len(server.requests)
        embedder.embed_documents(TEXTS)
        requests = len(server.requests) - asked
        written = sum(text.startswith("BEGIN") for text in statements[begun:])
    assert requests >= 10
    assert written <= requests / 4
