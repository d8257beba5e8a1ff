"""The whole path: many rows, a provider that refuses, writers that meet nobody. Kills and conflicts
are in `tests/chaos`."""

from __future__ import annotations

import asyncio
import random
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg
import pytest
from psycopg import sql

from qwen_embed_plugins import postgres
from qwen_embed_plugins.spaces import shorten
from qwen_embed_plugins.testing import Behaviour, Reply, SimulatedServer, reference_vector

if TYPE_CHECKING:
    from tests.integration.conftest import Database

NATIVE = 1024


class TestTenThousandRows:
    """A composite key of uuid and text, quotes in names, changes of every kind."""

    source = '"Odd schema"."Таблица 1"'
    target = '"Odd schema"."Таблица 1_embedding"'
    id_, language, body, price = ('"Id ""x"""', '"lan\'g"', '"The ""body"""', '"Price"')

    def texts(self, db: Database) -> dict[Any, str]:
        rows = db.rows(f"SELECT {self.id_}, {self.language}, {self.body} FROM {self.source}")
        return {(key, language): text for key, language, text in rows}

    def check(self, db: Database) -> None:
        key = f"{self.id_}, {self.language}"
        db.expect(self.texts(db), target=self.target, key=key)
        db.drained("Таблица 1")

    def test(self, db: Database, seeded: random.Random) -> None:
        db.rows('CREATE SCHEMA "Odd schema"')
        db.rows(
            f"CREATE TABLE {self.source} ({self.id_} uuid, {self.language} text, {self.body} text, "
            f"{self.price} numeric DEFAULT 1.0, PRIMARY KEY ({self.id_}, {self.language}))"
        )
        self.insert(db, 10_000, seeded)
        db.create(self.source, columns=['The "body"'])
        db.work()
        self.check(db)
        assert len(db.stub.asked) == 10_000

        keys = seeded.sample(sorted(self.texts(db)), 2_000)
        with db.conn.transaction():
            self.each(
                db, keys[:1000], f"UPDATE {self.source} SET {self.body} = 'new ' || {self.body}"
            )
            self.each(db, keys[1000:1500], f"DELETE FROM {self.source}")
            self.each(db, keys[1500:1700], f"UPDATE {self.source} SET {self.language} = 'changed'")
            self.each(
                db, keys[1700:2000], f"UPDATE {self.source} SET {self.id_} = gen_random_uuid()"
            )
        db.work()
        self.check(db)
        # The 500 changed keys have vectors anew: what stands beside a vector is its own row.
        assert len(db.stub.asked) == 11_500

        asked = len(db.stub.asked)
        db.rows(f"UPDATE {self.source} SET {self.price} = 2")
        db.rows(f"UPDATE {self.source} SET {self.body} = {self.body}")
        summary = db.work()
        assert (len(db.stub.asked), summary.equal) == (asked, 0)

        rows = db.rows(f"SELECT {self.id_}, {self.language}, {self.body} FROM {self.source}")
        with db.conn.transaction():
            db.rows(f"TRUNCATE {self.source}")
            self.copy(db, rows[:5_000])
        self.insert(db, 100, seeded)
        db.work()
        self.check(db)
        assert len(db.stub.asked) == asked + 100

    def insert(self, db: Database, count: int, seeded: random.Random) -> None:
        ids = [uuid.UUID(int=seeded.getrandbits(128)) for _ in range(count)]
        languages = ("en", "ru", "中文", "it's")
        self.copy(
            db,
            [(key, languages[i % 4], f"текст {seeded.random()} {i}") for i, key in enumerate(ids)],
        )

    def copy(self, db: Database, rows: list[Any]) -> None:
        with db.conn.cursor().copy(
            f"COPY {self.source} ({self.id_}, {self.language}, {self.body}) FROM STDIN"
        ) as copy:
            for row in rows:
                copy.write_row(row)

    def each(self, db: Database, keys: list[Any], statement: str) -> None:
        where = f" WHERE {self.id_} = %s AND {self.language} = %s"
        query = sql.SQL(statement.replace("%", "%%") + where)
        db.conn.cursor().executemany(query, keys)


@pytest.fixture
def provider() -> Iterator[SimulatedServer]:
    with SimulatedServer(Behaviour(), native=NATIVE) as running:
        yield running


@pytest.fixture
def settings_file(provider: SimulatedServer, tmp_path: Path) -> Path:
    path = tmp_path / "qwen-embed.toml"
    path.write_text(f'use = ["ollama"]\n[providers.ollama]\nbase_url = "{provider.url}"\n')
    return path


@pytest.fixture
def real(db: Database, settings_file: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    """A database whose workers use the real embedder over loopback."""
    monkeypatch.setenv("QWEN_EMBED_SETTINGS", str(settings_file))
    db.rows("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 200) i")
    db.create()
    return db


def in_step(db: Database) -> None:
    """Every row has the vector of its text as the provider gives it, and no other is there."""
    wanted = {key: text for key, text in db.rows("SELECT id, body FROM docs") if text}
    stored = db.rows("SELECT id, text, embedding::float4[], offer FROM docs_embedding")
    assert {key: text for key, text, _, _ in stored} == wanted
    for _, text, embedding, offer in stored:
        truth = shorten(reference_vector(text, NATIVE)[None], 32)[0]
        np.testing.assert_allclose(embedding, truth, atol=2e-3)
        assert "ollama" in offer
    db.drained()


def real_work(db: Database, **options: Any) -> postgres.WorkerSummary:
    return postgres.run_worker(db.dsn, once=True, poll_seconds=0.05, **options)


def test_one_refused_text_among_two_hundred(real: Database, provider: SimulatedServer) -> None:
    real.rows("UPDATE docs SET body = 'the unspeakable' WHERE id = 77")
    provider.behave(refuse_texts_with="unspeakable", refusal="content filter says no")
    summary = real_work(real)
    assert (summary.embedded, summary.waiting) == (199, {})
    (letter,) = postgres.dead_letters(real.dsn)
    assert letter.key == {"id": 77}
    assert "content filter says no" in letter.message


def test_a_server_that_refuses_everything_kills_no_text(
    real: Database, provider: SimulatedServer
) -> None:
    provider.behave(always=Reply(400, "model not supported"))
    summary = real_work(real)
    assert (summary.embedded, summary.dead) == (0, 0)
    assert summary.waiting["docs"]
    state = real.state()
    assert (state.state, state.dead) == ("held", 0)
    assert "model not supported" in (state.last_error or "")


def test_a_server_that_is_down_for_a_while(real: Database, provider: SimulatedServer) -> None:
    provider.close()
    summary = real_work(real)
    assert (summary.embedded, summary.dead) == (0, 0)
    assert "\n" not in summary.waiting["docs"]
    assert real.state().state == "held"

    provider.start()
    assert real_work(real).embedded == 200
    in_step(real)
    assert real.state().dead == 0


@pytest.mark.parametrize(
    "level",
    [psycopg.IsolationLevel.SERIALIZABLE, psycopg.IsolationLevel.REPEATABLE_READ],
    ids=["serializable", "repeatable read"],
)
def test_writers_that_do_not_meet_each_other_meet_nobody(
    db: Database, level: psycopg.IsolationLevel, seeded: random.Random
) -> None:
    """Writers of separate pages get no error alone, and so none with triggers and workers."""
    # Room in every page for all versions of its rows, whoever's snapshot keeps them, so that an
    # update changes no index page that others read; and rows of two writers never share a page.
    # Under SERIALIZABLE either would be a conflict of their own.
    db.rows("ALTER TABLE docs SET (fillfactor = 10)")
    db.rows("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 400) i")

    def write(base: int, count: int, errors: list[psycopg.Error]) -> None:
        chance = random.Random(f"{seeded.random()}{base}")
        with db.connect() as app:
            app.isolation_level = level
            for turn in range(count):
                keys = chance.sample(range(base + 1, base + 51), 10)
                try:
                    with app.transaction():
                        for key in keys:
                            app.execute("SELECT body FROM docs WHERE id = %s", [key])
                            app.execute(
                                "UPDATE docs SET body = %s WHERE id = %s",
                                [f"turn {turn} {key}", key],
                            )
                except psycopg.Error as error:
                    errors.append(error)

    def all_writers(during: Callable[[], None]) -> list[psycopg.Error]:
        errors: list[psycopg.Error] = []
        threads = [
            threading.Thread(target=write, args=(base, 20, errors)) for base in (0, 100, 200, 300)
        ]
        for thread in threads:
            thread.start()
        during()
        for thread in threads:
            thread.join()
        return errors

    alone = all_writers(lambda: None)
    db.create()

    def work() -> None:
        for _ in range(4):
            db.work(batch_size=20)

    assert alone == []
    assert all_writers(work) == []
    db.work()
    db.in_step()


def test_two_services_share_the_work(db: Database) -> None:
    db.rows("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 1000) i")
    db.create()

    async def play() -> list[postgres.WorkerSummary]:
        return await asyncio.gather(*(db.awork(batch_size=50) for _ in range(3)))

    summaries = asyncio.run(play())
    assert sum(summary.embedded for summary in summaries) == 1000
    db.asked_once()
    db.in_step()


def test_the_oldest_postgres(oldest: Database) -> None:
    db = oldest
    postgres.install(db.dsn)
    db.rows("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.rows("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 300) i")
    db.create(index_kind="hnsw")
    db.work()
    db.in_step()
    db.rows("UPDATE docs SET body = 'new ' || id WHERE id < 20")
    db.rows("UPDATE docs SET id = id + 1000 WHERE id > 280")
    db.rows("DELETE FROM docs WHERE id BETWEEN 50 AND 60")
    db.work()
    db.in_step()
    db.rows("TRUNCATE docs")
    db.rows("INSERT INTO docs VALUES (5, 'only')")
    db.work()
    db.in_step()
    (hit,) = postgres.search(db.dsn, "docs", "only", filter={"id": [5, 6]}, embedder=db.stub)
    assert hit.text == "only"
    postgres.drop_vectorizer(db.dsn, "docs", drop_target=True)
    postgres.uninstall(db.dsn)
