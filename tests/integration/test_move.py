"""Moving a vectorizer to another space while writers write and searchers search."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from qwen_embed_plugins import Embedder, postgres
from qwen_embed_plugins.errors import DatabaseError, QwenEmbedError, SpaceMismatch
from qwen_embed_plugins.postgres.vectors import vector_text
from qwen_embed_plugins.testing import Behaviour, SimulatedServer
from tests.integration.conftest import DIMENSIONS, MODEL, Stub

if TYPE_CHECKING:
    from tests.integration.conftest import Database

LONGER = 64
AFTER = f"{MODEL}/{LONGER}"


class Stubs:
    """An embedder for each space."""

    def __init__(self, db: Database) -> None:
        self.made = {(MODEL, DIMENSIONS): db.stub}

    def __call__(self, model: str, dimensions: int) -> Stub:
        return self.made.setdefault((model, dimensions), Stub(model, dimensions))

    @property
    def longer(self) -> Stub:
        return self(MODEL, LONGER)


@pytest.fixture
def kept(db: Database) -> Database:
    db.rows("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 50) i")
    db.create(index_kind="hnsw")
    db.work()
    return db


@pytest.fixture
def stubs(kept: Database) -> Stubs:
    return Stubs(kept)


def test_a_move_from_beginning_to_end(kept: Database, stubs: Stubs) -> None:
    db = kept
    assert postgres.move(db.dsn, "docs", dimensions=LONGER) == f"docs@{AFTER}"
    assert postgres.move_waits_for(db.dsn, "docs") == "rows are still being walked over"
    with pytest.raises(DatabaseError, match="cannot be swapped yet"):
        postgres.finish_move(db.dsn, "docs")
    db.rows("UPDATE docs SET body = 'changed' WHERE id = 1")
    db.work(embedder_for=stubs)
    # Until the swap the old one serves, and both are kept in step.
    (hit,) = postgres.search(db.dsn, "docs", "changed", k=1, embedder=db.stub)
    assert (hit.key, round(hit.distance, 3)) == ({"id": 1}, 0)
    with pytest.raises(SpaceMismatch):
        postgres.search(db.dsn, "docs", "changed", k=1, embedder=stubs.longer)
    db.in_step()

    assert postgres.move_waits_for(db.dsn, "docs") is None
    postgres.finish_move(db.dsn, "docs")
    (hit,) = postgres.search(db.dsn, "docs", "text 7", k=1, embedder=stubs.longer)
    assert (hit.key, round(hit.distance, 3)) == ({"id": 7}, 0)
    assert db.value("SELECT vector_dims(embedding) FROM docs_embedded WHERE id = 1") == LONGER
    assert {(s.name, s.state, s.dimensions) for s in postgres.status(db.dsn)} == {
        ("docs", "active", LONGER),
        (f"docs@{MODEL}/{DIMENSIONS}", "retired", DIMENSIONS),
    }
    # Nothing is captured for the old one any more, its vectors are as they were.
    db.rows("UPDATE docs SET body = 'after' WHERE id = 2")
    asked = len(db.stub.asked)
    db.work(embedder_for=stubs)
    assert len(db.stub.asked) == asked
    (hit,) = postgres.search(db.dsn, "docs", "text 2", k=1, embedder=db.stub)
    assert hit.text == "text 2"
    assert db.value("SELECT text FROM docs_embedded WHERE id = 2") == "after"

    with pytest.raises(DatabaseError, match="drop_old"):
        postgres.move(db.dsn, "docs", dimensions=DIMENSIONS)
    assert postgres.drop_old(db.dsn, "docs")
    assert not postgres.drop_old(db.dsn, "docs")
    assert db.value("SELECT to_regclass('docs_embedding')") is None
    with pytest.raises(SpaceMismatch):
        postgres.search(db.dsn, "docs", "text 2", k=1, embedder=db.stub)
    # And back again, under names that are free by now.
    postgres.move(db.dsn, "docs", dimensions=DIMENSIONS)
    db.work(embedder_for=stubs)
    postgres.finish_move(db.dsn, "docs")
    assert postgres.search(db.dsn, "docs", "after", k=1, embedder=db.stub)[0].key == {"id": 2}
    postgres.drop_vectorizer(db.dsn, "docs", drop_target=True)
    assert postgres.status(db.dsn) == []
    assert db.value("SELECT count(*) FROM pg_class WHERE relname LIKE 'docs_embed%'") == 0
    assert db.value("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'qwen%'") == 0


def test_a_move_can_be_cancelled_at_any_time(kept: Database, stubs: Stubs) -> None:
    db = kept
    for moment in ("at once", "half-way", "when complete"):
        postgres.move(db.dsn, "docs", dimensions=LONGER)
        if moment == "half-way":
            db.work(embedder_for=stubs, only=["docs"])
        elif moment == "when complete":
            db.work(embedder_for=stubs)
        postgres.cancel_move(db.dsn, "docs")
        assert [s.name for s in postgres.status(db.dsn)] == ["docs"]
        db.rows("UPDATE docs SET body = body || '!' WHERE id = 1")
        db.work()
        db.in_step()
    assert db.value("SELECT count(*) FROM pg_class WHERE relname LIKE 'docs_embedding_%d%'") == 0


def test_a_cancel_while_a_request_is_out(kept: Database, stubs: Stubs) -> None:
    db = kept
    postgres.move(db.dsn, "docs", dimensions=LONGER)

    async def during(texts: object) -> None:
        if stubs.longer.calls == 1:
            await asyncio.to_thread(postgres.cancel_move, db.dsn, "docs")

    stubs.longer.during = during
    db.work(embedder_for=stubs)
    assert stubs.longer.calls == 1
    db.in_step()


def test_a_worker_that_holds_old_work_at_the_swap(kept: Database, stubs: Stubs) -> None:
    """Its answer has no place any more; the row's vector in the new space is the new text's."""
    db = kept
    postgres.move(db.dsn, "docs", dimensions=LONGER)
    db.work(embedder_for=stubs)
    db.rows("UPDATE docs SET body = 'late' WHERE id = 3")

    async def during(texts: object) -> None:
        if "late" in list(texts):  # type: ignore[call-overload]
            await asyncio.to_thread(postgres.finish_move, db.dsn, "docs")
            db.stub.during = None

    db.stub.during = during
    db.work(embedder_for=stubs)
    db.work(embedder_for=stubs)
    assert db.value("SELECT text FROM docs_embedded WHERE id = 3") == "late"
    assert postgres.audit(db.dsn, "docs").clean


def test_what_cannot_be_moved_is_said(kept: Database, stubs: Stubs) -> None:
    db = kept

    def refused(call: Callable[[], Any]) -> str:
        with pytest.raises(DatabaseError) as error:
            call()
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "of qwen3-embedding-0.6b/32 already" in refused(lambda: postgres.move(db.dsn, "docs"))
    assert "no vectors of 2000" in refused(lambda: postgres.move(db.dsn, "docs", dimensions=2000))
    assert "is not being moved" in refused(lambda: postgres.finish_move(db.dsn, "docs"))
    assert "is not being moved" in refused(lambda: postgres.cancel_move(db.dsn, "docs"))
    assert "Did you mean 'docs'" in refused(lambda: postgres.move(db.dsn, "dosc", dimensions=64))
    db.rows("CREATE VIEW theirs AS SELECT id, embedding FROM docs_embedded")
    assert "theirs depends on" in refused(lambda: postgres.move(db.dsn, "docs", dimensions=LONGER))
    db.rows("DROP VIEW theirs")
    postgres.move(db.dsn, "docs", dimensions=LONGER)
    assert "moved already" in refused(lambda: postgres.move(db.dsn, "docs", dimensions=LONGER))
    assert "cancel_move" in refused(lambda: postgres.drop_vectorizer(db.dsn, "docs"))
    assert "to replace" in refused(
        lambda: postgres.move(db.dsn, f"docs@{AFTER}", dimensions=DIMENSIONS)
    )
    db.work(embedder_for=stubs)
    db.rows("DROP INDEX docs_embedding_64_hnsw")
    assert postgres.move_waits_for(db.dsn, "docs") == "its index is not built yet"


def test_renamed_columns_and_a_key_of_its_own_move_along(db: Database) -> None:
    db.rows("CREATE TABLE t (a int NOT NULL, b text NOT NULL, body text, UNIQUE (a, b))")
    db.create("t", columns=["body"], condition="a > 0")
    db.rows("INSERT INTO t VALUES (1, 'x', 'one'), (0, 'y', 'two')")
    db.rows("ALTER TABLE t RENAME body TO contents")
    db.rows("ALTER TABLE t RENAME a TO number")
    db.rows("ALTER TABLE t ADD PRIMARY KEY (b)")
    stubs = Stubs(db)
    db.work(embedder_for=stubs)
    postgres.move(db.dsn, "t", dimensions=LONGER, target_name="elsewhere")
    db.work(embedder_for=stubs)
    postgres.finish_move(db.dsn, "t")
    assert db.rows("SELECT number, b, text FROM elsewhere") == [(1, "x", "one")]
    (hit,) = postgres.search(db.dsn, "t", "one", embedder=stubs.longer)
    assert hit.key == {"number": 1, "b": "x"}


def test_grants_move_along(kept: Database, stubs: Stubs) -> None:
    db = kept
    db.rows("CREATE ROLE reads_moved")
    try:
        db.rows("GRANT SELECT ON docs, docs_embedding, docs_embedded TO reads_moved")
        postgres.move(db.dsn, "docs", dimensions=LONGER)
        db.work(embedder_for=stubs)
        postgres.finish_move(db.dsn, "docs")
        with db.connect(autocommit=True) as app:
            app.execute("SET ROLE reads_moved")
            assert app.execute("SELECT count(*) FROM docs_embedded").fetchone() == (50,)
            postgres.search(app, "docs", "text 1", embedder=stubs.longer)
    finally:
        db.rows("DROP OWNED BY reads_moved")
        db.rows("DROP ROLE reads_moved")


# With the real embedder, from 1,024 to 4,096, and everybody busy


@pytest.fixture
def eight_billion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedServer]:
    with SimulatedServer(Behaviour(), native=4096) as server:
        settings = tmp_path / "qwen-embed.toml"
        settings.write_text(
            f'use = ["ollama"]\nstate = "{(tmp_path / "state.db").as_posix()}"\n'
            f'[providers.ollama]\nbase_url = "{server.url}"\n',
            encoding="utf-8",
        )
        monkeypatch.setenv("QWEN_EMBED_SETTINGS", str(settings))
        yield server


class Searchers:
    """Threads that search for row 7, which nobody changes, and keep what they saw."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.over = threading.Event()
        self.failures: list[str] = []
        self.distances: dict[str, list[float]] = {}
        with (
            Embedder(model="qwen3-embedding-8b", dimensions=1024) as before,
            Embedder(model="qwen3-embedding-8b", dimensions=4096) as after,
        ):
            self.truths = [
                1 - float(e.embed_query("text 7") @ e.embed_documents(["text 7"])[0])
                for e in (before, after)
            ]
            self.old_query = vector_text(before.embed_query("text 7"))

    def by_name(self) -> list[float]:
        hits = postgres.search(self.dsn, "docs", "text 7", filter={"id": 7})
        return [hit.distance for hit in hits]

    def by_old_embedder(self) -> list[float]:
        with Embedder(model="qwen3-embedding-8b", dimensions=1024) as embedder:
            hits = postgres.search(self.dsn, "docs", "text 7", filter={"id": 7}, embedder=embedder)
        return [hit.distance for hit in hits]

    def by_sql(self) -> list[float]:
        with psycopg.connect(self.dsn, autocommit=True) as app:
            rows = app.execute(
                "SELECT distance FROM qwen_embed.search('docs', %s, filter => '{\"id\": 7}')",
                [self.old_query],
            ).fetchall()
        return [row[0] for row in rows]

    def by_view(self) -> list[float]:
        """A query that names the view must see one whole space, with all rows."""
        with psycopg.connect(self.dsn, autocommit=True, prepare_threshold=None) as app:
            dims = app.execute(
                "SELECT DISTINCT vector_dims(embedding), count(*) FROM docs_embedded "
                "WHERE id <= 100 GROUP BY 1"
            ).fetchall()
        if len(dims) != 1 or dims[0][1] != 100:
            self.failures.append(f"the view shows {dims}")
        return [0.0]

    def _loop(self, search: Callable[[], list[float]]) -> None:
        seen = self.distances.setdefault(search.__name__, [])
        while not self.over.is_set():
            try:
                found = search()
            except (QwenEmbedError, psycopg.Error) as error:
                self.failures.append(f"{search.__name__}: {error}")
            else:
                seen += found
                if len(found) != 1:
                    self.failures.append(f"{search.__name__} found {len(found)} rows")
            # The worker is to get on with the move in the same process.
            self.over.wait(0.05)

    @contextmanager
    def searching(self) -> Iterator[None]:
        loops = [self.by_name, self.by_old_embedder, self.by_sql, self.by_view]
        threads = [threading.Thread(target=self._loop, args=[loop]) for loop in loops]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.over.set()
            for thread in threads:
                thread.join()


@contextmanager
def writing(dsn: str, seed: random.Random) -> Iterator[list[str]]:
    """A writer that changes rows from 101 on."""
    over, errors = threading.Event(), list[str]()

    def write() -> None:
        with psycopg.connect(dsn, autocommit=True) as app:
            while not over.wait(0.02):
                key = seed.randrange(101, 150)
                text = f"changed {seed.random()}"
                try:
                    app.execute(
                        seed.choice(
                            [
                                "UPDATE docs SET body = %(t)s WHERE id = %(k)s",
                                "DELETE FROM docs WHERE id = %(k)s AND %(t)s <> ''",
                                "INSERT INTO docs VALUES (%(k)s, %(t)s) ON CONFLICT DO NOTHING",
                            ]
                        ),
                        {"k": key, "t": text},
                    )
                except psycopg.Error as error:
                    errors.append(str(error))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield errors
    finally:
        over.set()
        thread.join()


def wait_for_the_move(dsn: str) -> None:
    while postgres.move_waits_for(dsn, "docs") is not None:
        time.sleep(0.2)


def test_nobody_notices_a_move(
    db: Database, eight_billion: SimulatedServer, seeded: random.Random
) -> None:
    db.rows("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 150) i")
    db.create(model="qwen3-embedding-8b", dimensions=1024, index_kind="hnsw")
    postgres.run_worker(db.dsn, once=True, poll_seconds=0.05)
    searchers = Searchers(db.dsn)

    async def play() -> None:
        stopping = asyncio.Event()
        worker = asyncio.create_task(
            postgres.arun_worker(db.dsn, poll_seconds=0.05, stopping=stopping)
        )
        await asyncio.sleep(0.5)
        await postgres.amove(db.dsn, "docs", dimensions=4096)
        await asyncio.to_thread(wait_for_the_move, db.dsn)
        await postgres.afinish_move(db.dsn, "docs")
        await asyncio.sleep(1.0)
        stopping.set()
        await worker

    with searchers.searching(), writing(db.dsn, seeded) as errors:
        asyncio.run(play())
    assert searchers.failures == []
    assert errors == []
    old, new = searchers.truths
    assert abs(old - new) > 0.001, "the two spaces can be told apart"
    for kind, seen in searchers.distances.items():
        assert seen, kind
        if kind == "by_view":
            continue
        allowed = (old, new) if kind == "by_name" else (old,)
        for distance in seen:
            assert any(abs(distance - truth) < 0.0005 for truth in allowed), (kind, distance)
    assert abs(searchers.distances["by_name"][-1] - new) < 0.0005
    postgres.run_worker(db.dsn, once=True, poll_seconds=0.05)
    assert postgres.audit(db.dsn, "docs").clean
    assert postgres.drop_old(db.dsn, "docs")
