"""A real Postgres with pgvector for every test here: never skipped, never mocked.

The server is the one that `postgres_servers.py` finds. Each test gets a database of its own, cloned
from a template in which qwen_embed is installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg
import pytest

from qwen_embed_plugins import postgres
from qwen_embed_plugins.errors import ConfigurationError
from qwen_embed_plugins.spaces import EmbeddingSpace
from qwen_embed_plugins.types import EmbedResult, TextError, Usage
from tests.postgres_servers import Server, embedded_server

if TYPE_CHECKING:
    import numpy.typing as npt

MODEL = "qwen3-embedding-0.6b"
DIMENSIONS = 32
_numbers = itertools.count(1)


class Stub:
    """An embedder without a provider: one vector for each text, and a record of what was asked.

    `refuse` gives the error of a text, `fail` raises instead of answering, `during` runs while a
    request is out: that is where tests change rows behind the worker's back.
    """

    def __init__(self, model: str = MODEL, dimensions: int = DIMENSIONS) -> None:
        self.space = EmbeddingSpace(model, dimensions)
        self.asked: list[str] = []
        self.calls = 0
        self.refuse: Callable[[str], tuple[str, str] | None] = lambda text: None
        self.fail: Callable[[], Exception | None] = lambda: None
        self.during: Callable[[Sequence[str]], Awaitable[None]] | None = None

    def vector(self, text: str) -> npt.NDArray[np.float32]:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        vector = np.random.default_rng(seed).standard_normal(self.space.dimensions)
        return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)

    async def embed(self, texts: Sequence[str], role: Any = "document") -> EmbedResult:
        assert role == "document"
        self.calls += 1
        self.asked += texts
        if self.during is not None:
            await self.during(texts)
        failure = self.fail()
        if failure is not None:
            raise failure
        found = [(place, self.refuse(text)) for place, text in enumerate(texts)]
        errors = tuple(
            TextError(place, error[0], error[1])  # type: ignore[arg-type]
            for place, error in found
            if error is not None
        )
        vectors = np.stack([self.vector(text) for text in texts])
        offers: list[str | None] = ["stub"] * len(texts)
        for error in errors:
            vectors[error.position] = np.nan
            offers[error.position] = None
        return EmbedResult(vectors, errors, self.space, Usage(), Decimal(0), (), tuple(offers))

    def embed_query(self, text: str, *, instruction: str | None = None) -> Any:
        return self.vector(text)


class AsyncQueries:
    """The stub's other colour for `asearch`."""

    def __init__(self, stub: Stub) -> None:
        self.space = stub.space
        self._stub = stub

    async def embed_query(self, text: str, *, instruction: str | None = None) -> Any:
        return self._stub.vector(text)


class Database:
    """One test's database: a superuser's connection in autocommit, a stub, the usual calls."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.stub = Stub()
        self.conn = psycopg.connect(dsn, autocommit=True)

    def connect(self, **options: Any) -> psycopg.Connection[Any]:
        return psycopg.connect(self.dsn, **options)

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        cursor = self.conn.execute(query, values or None)
        return cursor.fetchall() if cursor.description is not None else []

    def value(self, query: str, *values: Any) -> Any:
        return self.rows(query, *values)[0][0]

    def create(self, source: str = "docs", **options: Any) -> str:
        options = {"columns": ["body"], "index_kind": "none", **options}
        if "template" in options:
            del options["columns"]
        space = {"model": MODEL, "dimensions": DIMENSIONS}
        return postgres.create_vectorizer(self.dsn, source, **{**space, **options})

    def embedder_for(self, model: str, dimensions: int) -> Stub:
        if (model, dimensions) != (self.stub.space.model, self.stub.space.dimensions):
            raise ConfigurationError(f"no offer for {model}/{dimensions}")
        return self.stub

    async def awork(self, **options: Any) -> postgres.WorkerSummary:
        settings = {"once": True, "embedder_for": self.embedder_for, "poll_seconds": 0.02}
        return await postgres.arun_worker(self.dsn, **{**settings, **options})

    def work(self, **options: Any) -> postgres.WorkerSummary:
        return asyncio.run(self.awork(**options))

    def state(self, name: str = "docs") -> postgres.VectorizerStatus:
        return postgres.status(self.dsn, name)[0]

    def vectors(self, target: str = "docs_embedding", key: str = "id") -> dict[Any, str]:
        """The stored texts by key, after a check that each vector is of its text."""
        found = {}
        for row in self.rows(
            f"SELECT {key}, text, embedding::float4[], content_hash, offer FROM {target}"
        ):
            *keys, text, embedding, digest, offer = row
            np.testing.assert_allclose(embedding, self.stub.vector(text), atol=1e-3)
            assert digest == hashlib.sha256(text.encode()).digest()
            assert offer == "stub"
            found[keys[0] if len(keys) == 1 else tuple(keys)] = text
        return found

    def expect(self, texts: dict[Any, str], **where: str) -> None:
        assert self.vectors(**where) == texts

    def in_step(self) -> None:
        """Every row of docs(id, body) has the vector of its text, and no other vector is there."""
        wanted = {key: text for key, text in self.rows("SELECT id, body FROM docs") if text}
        self.expect(wanted)
        self.drained()

    def drained(self, name: str = "docs") -> None:
        """Nothing waits, nothing is held."""
        number = self.value("SELECT id FROM qwen_embed.vectorizer WHERE name = %s", name)
        for table in (f"log_{number}", f"work_{number}", "lease", "task"):
            assert self.value(f"SELECT count(*) FROM qwen_embed.{table}") == 0, table

    def asked_once(self) -> None:
        assert max(Counter(self.stub.asked).values(), default=0) <= 1


@pytest.fixture(scope="session")
def server(postgres_server: Server) -> Server:
    return postgres_server


def installed_template(server: Server) -> Iterator[str]:
    with server.database("template1") as name:
        postgres.install(server.dsn(name))
        yield name


@pytest.fixture(scope="session")
def template(server: Server) -> Iterator[str]:
    yield from installed_template(server)


@contextlib.contextmanager
def opened_database(server: Server, template: str) -> Iterator[Database]:
    with server.database(template) as name:
        database = Database(server.dsn(name))
        try:
            yield database
        finally:
            database.conn.close()


@pytest.fixture
def db(server: Server, template: str) -> Iterator[Database]:
    """A database in which qwen_embed is installed, with an empty table docs(id, body, other)."""
    with opened_database(server, template) as database:
        database.rows("CREATE TABLE docs (id int PRIMARY KEY, body text, other int DEFAULT 0)")
        yield database


@pytest.fixture
def bare(server: Server) -> Iterator[Database]:
    """A database in which nothing is installed."""
    with opened_database(server, "template1") as database:
        yield database


@pytest.fixture(scope="session")
def oldest_server() -> Iterator[Server]:
    """The oldest Postgres at hand: the embedded 16."""
    with embedded_server(16) as chosen:
        yield chosen


@pytest.fixture
def oldest(oldest_server: Server) -> Iterator[Database]:
    with opened_database(oldest_server, "template1") as database:
        yield database


def _server_versions() -> list[str]:
    """Capture is tried on both embedded versions, and on whatever server the run was given."""
    return ["16", "18", *(["given"] if os.environ.get("QWEN_EMBED_TEST_DSN") else [])]


@pytest.fixture(scope="session", params=_server_versions())
def every_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    if request.param == "16":
        yield request.getfixturevalue("oldest_server")
        return
    server: Server = request.getfixturevalue("postgres_server")
    if request.param == "given" or server.version() // 10000 == 18:
        yield server
        return
    with embedded_server(18) as newest:
        yield newest


@pytest.fixture(scope="session")
def every_template(every_server: Server) -> Iterator[str]:
    yield from installed_template(every_server)


@pytest.fixture
def db_everywhere(every_server: Server, every_template: str) -> Iterator[Database]:
    """As `db`, on one server after the other."""
    with opened_database(every_server, every_template) as database:
        database.rows("CREATE TABLE docs (id int PRIMARY KEY, body text, other int DEFAULT 0)")
        yield database


@pytest.fixture
def queries() -> Callable[[Stub], AsyncQueries]:
    return AsyncQueries
