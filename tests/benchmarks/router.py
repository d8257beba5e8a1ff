"""A bulk job and a single query through the router, beside what a hand-written client would do.

The floors are httpx, orjson and pybase64 with nothing checked, written as most would write them, in
the same colour and with as many requests at once.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pybase64

from qwen_embed_plugins import AsyncEmbedder, Embedder, Settings
from qwen_embed_plugins.langchain import QwenEmbeddings
from tests.benchmarks.instant_server import instant_server
from tests.benchmarks.measuring import Case, compare, on_core, report, say

MODEL = "qwen3-embedding-8b"
DIMENSIONS = 4096
BATCH = 32
AT_ONCE = 8
TEXTS = [f"document {number} of a bulk job, as short as many are" for number in range(2_000)]
JOBS = 4
QUERIES = 300


def settings(base_url: str, folder: Path, **more: Any) -> Settings:
    """One server, all checks, and the ledger in a file of its own."""
    table = {"kind": "openai-compatible", "base_url": base_url, "max_inputs": BATCH}
    return Settings.load(
        model=MODEL,
        dimensions=DIMENSIONS,
        providers={"here": table},
        use=["here"],
        state=str(folder / "state.db"),
        **more,
    )


def portions() -> Iterator[list[str]]:
    for start in range(0, len(TEXTS), BATCH):
        yield TEXTS[start : start + BATCH]


def body_of(texts: list[str], encoding: str) -> dict[str, Any]:
    return {"model": MODEL, "input": texts, "encoding_format": encoding}


def rows_of(content: bytes) -> list[Any]:
    """The vectors of an answer, by index."""
    rows = sorted(orjson.loads(content)["data"], key=lambda row: row["index"])
    return [
        np.frombuffer(pybase64.b64decode(value, validate=True), "<f4")
        if isinstance(value := row["embedding"], str)
        else np.array(value, np.float32)
        for row in rows
    ]


class Bare:
    """The floors."""

    def __init__(self, base_url: str) -> None:
        self.url = f"{base_url}/embeddings"
        self.client = httpx.Client()
        self.pool = ThreadPoolExecutor(AT_ONCE)

    def ask(self, texts: list[str], encoding: str) -> list[Any]:
        return rows_of(self.client.post(self.url, json=body_of(texts, encoding)).content)

    def in_turn(self, encoding: str) -> int:
        return len(
            np.array([row for part in portions() for row in self.ask(part, encoding)], np.float32)
        )

    def at_once(self) -> int:
        parts = self.pool.map(lambda part: self.ask(part, "base64"), portions())
        return len(np.array([row for part in parts for row in part], np.float32))

    def awaiting(self, loop: asyncio.AbstractEventLoop) -> int:
        return loop.run_until_complete(self._all())

    async def _all(self) -> int:
        places = asyncio.Semaphore(AT_ONCE)

        async def ask(client: httpx.AsyncClient, part: list[str]) -> list[Any]:
            async with places:
                answer = await client.post(self.url, json=body_of(part, "base64"))
            return rows_of(answer.content)

        async with httpx.AsyncClient() as client:
            parts = await asyncio.gather(*(ask(client, part) for part in portions()))
        return len(np.array([row for part in parts for row in part], np.float32))


def bulk(base_url: str, folder: Path, stack: ExitStack) -> list[dict[str, Any]]:
    bare = Bare(base_url)
    in_floats = stack.enter_context(instant_server(DIMENSIONS, floats_only=True))
    bare_floats = Bare(in_floats)
    loop = asyncio.new_event_loop()
    stack.callback(loop.close)
    in_turn = stack.enter_context(Embedder(settings(base_url, folder, concurrency=1)))
    at_once = stack.enter_context(Embedder(settings(base_url, folder, concurrency=AT_ONCE)))
    awaiting = AsyncEmbedder(settings(base_url, folder, concurrency=AT_ONCE))
    stack.callback(lambda: loop.run_until_complete(awaiting.aclose()))
    floats = stack.enter_context(Embedder(settings(in_floats, folder, concurrency=1)))
    cases = [
        Case("httpx, one at a time", lambda: bare.in_turn("base64")),
        Case("httpx, 8 threads", bare.at_once),
        Case("httpx, 8 tasks", lambda: bare.awaiting(loop)),
        Case("httpx, JSON floats", lambda: bare_floats.in_turn("float")),
        Case("Embedder, one at a time", _embeds(in_turn), "httpx, one at a time", 1.0),
        Case("Embedder, 8 threads", _embeds(at_once), "httpx, 8 threads", 1.0),
        Case(
            "AsyncEmbedder, 8 tasks",
            lambda: len(loop.run_until_complete(awaiting.embed_documents(TEXTS))),
            "httpx, 8 tasks",
            1.0,
        ),
        Case("Embedder, JSON floats", _embeds(floats), "httpx, JSON floats", 1.4),
    ]
    results = [
        report(
            "2,000 texts, 4,096 numbers each, 32 in a request", compare(_often(cases), unit="texts")
        )
    ]
    peer = openai_embeddings(base_url)
    if peer is None:
        say("  langchain-openai is not installed: no comparison with it and the openai SDK")
        return results
    lists = QwenEmbeddings(embedder=at_once)
    client = openai_client(base_url)
    cases = [
        Case("openai SDK, one at a time", lambda: embedded_by(client)),
        Case("Embedder, one at a time", _embeds(in_turn), "openai SDK, one at a time"),
        Case("OpenAIEmbeddings", lambda: len(peer.embed_documents(TEXTS))),
        Case("Embedder, 8 threads", _embeds(at_once), "OpenAIEmbeddings", 5.0),
        Case(
            "QwenEmbeddings (lists)",
            lambda: len(lists.embed_documents(TEXTS)),
            "OpenAIEmbeddings",
            1.8,
        ),
    ]
    results.append(report("the same beside others", compare(_often(cases), unit="texts")))
    return results


def _embeds(embedder: Embedder) -> Callable[[], int]:
    return lambda: len(embedder.embed_documents(TEXTS))


def _often(cases: list[Case]) -> list[Case]:
    """The same, a few jobs at a time: one alone takes a fifth of a second, which is noise."""

    def several(run: Callable[[], int]) -> Callable[[], int]:
        return lambda: sum(run() for _ in range(JOBS))

    return [replace(case, run=several(case.run)) for case in cases]


def openai_embeddings(base_url: str) -> Any:
    """LangChain's own for OpenAI, pointed at the same server; None where it is not installed."""
    if importlib.util.find_spec("langchain_openai") is None:
        return None
    return importlib.import_module("langchain_openai").OpenAIEmbeddings(
        model=MODEL,
        base_url=base_url,
        api_key="none",
        chunk_size=BATCH,
        check_embedding_ctx_length=False,
    )


def openai_client(base_url: str) -> Any:
    """The openai SDK's client, which langchain-openai brings along."""
    return importlib.import_module("openai").OpenAI(base_url=base_url, api_key="none")


def embedded_by(client: Any) -> int:
    """A bulk job through it, as its users write it."""
    rows = [
        row.embedding
        for part in portions()
        for row in client.embeddings.create(model=MODEL, input=part).data
    ]
    return len(np.array(rows, np.float32))


def queries(base_url: str, folder: Path, stack: ExitStack) -> dict[str, Any]:
    """Medians of single queries, in turn: one of each before the next of any."""
    bare = Bare(base_url)
    loop = asyncio.new_event_loop()
    stack.callback(loop.close)
    blocking = stack.enter_context(Embedder(settings(base_url, folder)))
    awaiting = AsyncEmbedder(settings(base_url, folder))
    stack.callback(lambda: loop.run_until_complete(awaiting.aclose()))
    client = httpx.AsyncClient()
    stack.callback(lambda: loop.run_until_complete(client.aclose()))

    async def ask(text: str) -> Any:
        answer = await client.post(bare.url, json=body_of([text], "base64"))
        return rows_of(answer.content)[0]

    asked: dict[str, Callable[[str], Any]] = {
        "httpx": lambda text: bare.ask([text], "base64")[0],
        "Embedder": blocking.embed_query,
        "httpx, awaited": lambda text: loop.run_until_complete(ask(text)),
        "AsyncEmbedder": lambda text: loop.run_until_complete(awaiting.embed_query(text)),
    }
    taken: dict[str, list[float]] = {name: [] for name in asked}
    for number in range(QUERIES):
        for name, function in asked.items():
            began = time.perf_counter()
            function(f"query {number}")
            if number >= 20:
                taken[name].append((time.perf_counter() - began) * 1000)
    medians = {name: statistics.median(values) for name, values in taken.items()}
    say("one query, 4,096 numbers: medians, one of each in turn")
    for name, floor in (("Embedder", "httpx"), ("AsyncEmbedder", "httpx, awaited")):
        more = medians[name] - medians[floor]
        say(
            f"  {name:44} {medians[name]:.3f} ms, {floor} {medians[floor]:.3f} ms: "
            f"{more:+.3f} ms (aim +0.2)"
        )
    return {"title": "one query", "milliseconds": medians}


def run() -> list[dict[str, Any]]:
    with (
        ExitStack() as stack,
        tempfile.TemporaryDirectory() as folder,
        instant_server(DIMENSIONS) as base_url,
        on_core(0),
    ):
        return [
            *bulk(base_url, Path(folder), stack),
            queries(base_url, Path(folder), stack),
        ]
