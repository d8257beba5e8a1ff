"""Long texts in chunks: written together or not at all, and no equal chunk paid twice."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import psycopg
import pytest

from qwen_embed_plugins import hookimpl, postgres
from qwen_embed_plugins.errors import DatabaseError
from qwen_embed_plugins.plugins import Registry, load_plugins
from qwen_embed_plugins.postgres import chunking, queue
from qwen_embed_plugins.postgres.kept import Kept, Ready
from qwen_embed_plugins.postgres.queue import Item
from tests.documents import blocks_of
from tests.integration.conftest import Database


def sentences(*words: str) -> str:
    """Sentences of about ten tokens: one fits into a chunk of twelve, two do not."""
    return " ".join(f"This sentence tells something of {word} here." for word in words)


def chunked(db: Database, **options: Any) -> None:
    db.create(**{"chunk_tokens": 14, "chunk_overlap": 0, **options})


def chunks(db: Database, key: int) -> list[str]:
    """The chunks of a row, after a check of their vectors and places."""
    found = db.rows(
        "SELECT e.chunk, e.text, e.start_char, e.embedding::float4[], e.content_hash, d.body "
        "FROM docs_embedding e JOIN docs d USING (id) WHERE id = %s ORDER BY chunk",
        key,
    )
    assert [row[0] for row in found] == list(range(len(found)))
    for _, text, start, embedding, digest, body in found:
        assert body[start : start + len(text)] == text
        assert digest == queue.content_hash(body)
        np.testing.assert_allclose(embedding, db.stub.vector(text), atol=1e-3)
    return [row[1] for row in found]


def test_a_long_text_has_a_vector_for_each_chunk(db: Database) -> None:
    chunked(db)
    db.rows("INSERT INTO docs VALUES (1, %s), (2, 'short')", sentences("a", "b", "c"))
    summary = db.work()
    assert summary.embedded == 4
    assert chunks(db, 1) == [sentences("a"), sentences("b"), sentences("c")]
    assert chunks(db, 2) == ["short"]
    hits = postgres.search(db.dsn, "docs", sentences("b"), embedder=db.stub, k=1)
    assert (hits[0].key, hits[0].chunk, hits[0].text) == ({"id": 1}, 1, sentences("b"))
    db.drained()
    db.rows("DELETE FROM docs WHERE id = 1")
    db.work()
    assert db.value("SELECT count(*) FROM docs_embedding") == 1


def test_overlap_is_shared(db: Database) -> None:
    chunked(db, chunk_tokens=40, chunk_overlap=15)
    db.rows("INSERT INTO docs VALUES (1, %s)", sentences(*"abcdefgh"))
    db.work()
    found = chunks(db, 1)
    assert len(found) > 2
    for before, after in itertools.pairwise(found):
        assert after.startswith(before.rsplit(". ", 1)[1])


def test_a_chunk_whose_text_stood_already_is_not_paid_again(db: Database) -> None:
    chunked(db)
    db.rows("INSERT INTO docs VALUES (1, %s)", sentences("a", "b", "c", "d"))
    db.work()
    when = db.rows("SELECT text, embedded_at FROM docs_embedding")
    # At the front, moved, in another order: all at once, and fewer than before.
    db.rows("UPDATE docs SET body = %s", sentences("new", "c", "a"))
    summary = db.work()
    assert summary.embedded == 1
    assert chunks(db, 1) == [sentences("new"), sentences("c"), sentences("a")]
    assert set(db.rows("SELECT text, embedded_at FROM docs_embedding WHERE chunk > 0")) < set(when)
    db.asked_once()
    db.rows("UPDATE docs SET body = %s", sentences("a", "a", "new"))
    assert db.work().embedded == 0
    assert chunks(db, 1) == [sentences("a"), sentences("a"), sentences("new")]
    db.rows("UPDATE docs SET body = ''")
    db.work()
    assert db.value("SELECT count(*) FROM docs_embedding") == 0
    db.drained()


def test_a_vector_that_someone_removed_is_paid_again(db: Database) -> None:
    """Between reading, which found the chunk, and finishing, which wants to keep its vector."""
    chunked(db)
    db.rows("INSERT INTO docs VALUES (1, %s), (2, 'x')", sentences("a", "b"))
    db.work()
    db.rows("UPDATE docs SET body = %s WHERE id = 1", sentences("a", "c"))

    async def remove(texts: Any) -> None:
        db.stub.during = None
        await asyncio.to_thread(db.rows, "DELETE FROM docs_embedding WHERE id = 1")

    db.stub.during = remove
    summary = db.work()
    assert summary.waiting == {}
    assert chunks(db, 1) == [sentences("a"), sentences("c")]
    db.drained()


def test_a_row_with_a_chunk_that_nobody_takes_is_a_dead_letter(db: Database) -> None:
    chunked(db)
    db.rows("INSERT INTO docs VALUES (1, %s), (2, %s)", sentences("a", "b"), sentences("c", "d"))
    db.work()
    bad = sentences("bad")
    db.stub.refuse = lambda text: ("bad_input", "refused") if text == bad else None
    db.rows("UPDATE docs SET body = %s WHERE id = 1", sentences("a", "bad", "e"))
    db.rows("UPDATE docs SET body = %s WHERE id = 2", sentences("c", "f"))
    summary = db.work()
    assert (summary.dead, summary.embedded) == (1, 4 + 1 - 4)
    (letter,) = postgres.dead_letters(db.dsn)
    assert (letter.key, letter.kind) == ({"id": 1}, "bad_input")
    assert chunks(db, 1) == []
    assert chunks(db, 2) == [sentences("c"), sentences("f")]


def test_a_row_waits_as_a_whole_and_pays_no_chunk_twice(db: Database) -> None:
    chunked(db)
    db.rows("INSERT INTO docs VALUES (1, %s), (2, 'x')", sentences("a", "b", "late"))
    late = sentences("late")
    db.stub.refuse = lambda text: (
        ("no_offer", "nobody now") if text == late and db.stub.calls < 3 else None
    )

    async def serve() -> None:
        stopping = asyncio.Event()
        service = asyncio.create_task(db.awork(once=False, stopping=stopping))
        while not db.value("SELECT count(*) FROM docs_embedding WHERE id = 2"):
            await asyncio.sleep(0.02)
            assert not service.done()
        number = db.value("SELECT id FROM qwen_embed.vectorizer")
        while db.value("SELECT count(*) FROM docs_embedding WHERE id = 1") == 0:
            await asyncio.sleep(0.02)
            assert not service.done()
            db.rows(f"UPDATE qwen_embed.work_{number} SET due_at = now() WHERE token IS NULL")
        stopping.set()
        await service

    asyncio.run(serve())
    assert chunks(db, 1) == [sentences("a"), sentences("b"), late]
    assert db.stub.asked.count(sentences("a")) == 1
    assert db.stub.asked.count(late) == 3
    db.drained()


def test_a_chunk_that_cannot_be_written_takes_its_row_along(db: Database) -> None:
    chunked(db, backfill=False)
    db.rows("ALTER TABLE docs_embedding ADD CONSTRAINT polite CHECK (text NOT LIKE '%rude%')")
    db.rows(
        "INSERT INTO docs VALUES (1, %s), (2, %s), (3, %s)",
        *(sentences("a", "b"), sentences("c", "rude"), sentences("d", "e")),
    )
    summary = db.work()
    assert (summary.embedded, summary.dead) == (4, 1)
    assert db.rows("SELECT id, count(*) FROM docs_embedding GROUP BY id ORDER BY id") == [
        (1, 2),
        (3, 2),
    ]
    db.asked_once()


def test_many_chunks_make_small_batches(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "LEASE_CHUNKS", 20)
    sizes: list[int] = []

    async def count(texts: Any) -> None:
        sizes.append(len(texts))

    db.stub.during = count
    chunked(db, backfill=False)
    for key in range(30):
        db.rows(
            "INSERT INTO docs VALUES (%s, %s)", key, sentences(*(f"w{key}x{n}" for n in range(5)))
        )
    assert db.work().embedded == 150
    assert max(sizes) <= 30


def test_more_chunks_than_memory_is_meant_for(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunking, "MOST_CHUNKS", 3)
    chunked(db, backfill=False)
    db.rows("INSERT INTO docs VALUES (1, %s), (2, %s)", sentences(*"abcd"), sentences(*"abc"))
    db.work()
    (letter,) = postgres.dead_letters(db.dsn)
    assert (letter.key, letter.kind) == ({"id": 1}, "too_large")
    assert "more than 3 chunks" in letter.message
    assert len(chunks(db, 2)) == 3


def with_chunker(chunker: Callable[..., Any], name: str = "lines") -> Registry:
    def register_chunkers(register: Callable[..., None]) -> None:
        register(name, chunker)

    module = ModuleType("chunks_of_ours")
    vars(module)["register_chunkers"] = hookimpl(register_chunkers)
    registry = load_plugins(extra={"ours": module}, found=())
    assert not registry.failed(), registry.failed()
    return registry


def the_pages_plugin() -> Registry:
    """The chunker that docs/postgres.md shows."""
    page = (Path(__file__).parents[2] / "docs" / "postgres.md").read_text("utf-8")
    [text] = [block.text for block in blocks_of(page) if "register_chunkers" in block.text]
    module = ModuleType("lines")
    exec(text, vars(module))  # noqa: S102  the page's own block
    registry = load_plugins(extra={"lines": module}, found=())
    assert not registry.failed(), registry.failed()
    return registry


def test_a_plugins_chunker(db: Database) -> None:
    chunked(db, chunker="lines")
    db.rows("INSERT INTO docs VALUES (1, %s)", "first\nsecond\n\n  third")
    db.work(registry=the_pages_plugin())
    assert chunks(db, 1) == ["first", "second", "  third"]


def test_a_worker_without_the_chunker_waits_and_says_so(db: Database) -> None:
    chunked(db, chunker="lines")
    db.rows("CREATE TABLE plain (id int PRIMARY KEY, body text)")
    db.create("plain")
    db.rows("INSERT INTO docs VALUES (1, 'a\nb')")
    db.rows("INSERT INTO plain VALUES (1, 'a')")
    summary = db.work()
    assert "unknown chunker 'lines'" in summary.waiting["docs"]
    assert db.state().state == "blocked"
    assert summary.embedded == 1
    postgres.resume(db.dsn, "docs")
    assert db.work(registry=the_pages_plugin()).embedded == 2
    assert db.state().state == "active"


@pytest.mark.parametrize(
    ("chunker", "said"),
    [
        (lambda text: [(0, "other")], "not in the text at 0"),
        (lambda text: [(2, text[2:]), (0, text)], "a chunk at 0 after one at 2"),
        (lambda text: [text], "something else than (start, text)"),
        (lambda text: [], "gave no chunk"),
        (lambda text: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_a_chunkers_mistake_is_a_dead_letter(
    db: Database, chunker: Callable[..., Any], said: str
) -> None:
    def only_long(text: str) -> Any:
        return chunker(text) if len(text) > 10 else [(0, text)]

    chunked(db, chunker="lines", backfill=False)
    db.rows("INSERT INTO docs VALUES (1, 'a secret text'), (2, 'short')")
    summary = db.work(registry=with_chunker(only_long))
    assert (summary.embedded, summary.dead) == (1, 1)
    (letter,) = postgres.dead_letters(db.dsn)
    assert (letter.key, letter.kind) == ({"id": 1}, "bad_content")
    assert said in letter.message
    assert "secret" not in letter.message


def test_a_chunker_is_chosen_at_creation_only(db: Database) -> None:
    chunked(db)
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="exists already"):
        db.rows("SELECT qwen_embed.set_chunker('docs', 'lines')")
    postgres.drop_vectorizer(db.dsn, "docs", drop_target=True)
    with pytest.raises(DatabaseError, match="splits no texts"):
        db.create(chunker="lines")
    # The refusal took the vectorizer along.
    assert postgres.list_vectorizers(db.dsn) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"chunk_tokens": 7}, "chunk_tokens is 7"),
        ({"chunk_tokens": 50, "chunk_overlap": 50}, "chunk_overlap is 50, chunk_tokens 50"),
        ({"chunk_tokens": 50, "chunk_overlap": -1}, "chunk_overlap is -1"),
        ({"chunk_overlap": 5}, "without chunk_tokens"),
    ],
)
def test_what_cannot_be_split_so_is_refused(
    db: Database, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(DatabaseError, match=said):
        db.create(**options)


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwen_embed_plugins.postgres.kept.MOST_BYTES", 10_000)
    kept = Kept()
    vector = np.ones(400, np.float32)
    items = [Item(number, f"text {number}", 0) for number in range(20)]
    kept.keep("m/400", (Ready(item, vector, "offer") for item in items))
    found = [item.id for item in items if kept.find("m/400", item) is not None]
    assert found == [15, 16, 17, 18, 19]
    assert kept.find("m/200", items[19]) is None
    kept.keep("m/400", [Ready(items[19], vector, "other")])
    again = kept.find("m/400", items[19])
    assert again is not None
    assert again.offer == "other"
    kept.forget("m/400", items)
    assert kept._bytes == 0
