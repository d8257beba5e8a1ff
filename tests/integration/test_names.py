"""Names: what may stand in them, and what a worker does when they change hands."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from qwen_embed_plugins import postgres
from tests.integration.conftest import Database


def test_percent_signs_and_braces_in_names_are_only_letters(db: Database) -> None:
    table = '"a%s{b}"."t%(x)s{}"'
    db.rows('CREATE SCHEMA "a%s{b}"; CREATE TYPE "a%s{b}"."k%s{x}" AS ENUM (\'%s\', \'{}\')')
    db.rows(
        f'CREATE TABLE {table} ("i%d{{k}}" int, "k""%%" "a%s{{b}}"."k%s{{x}}", "b%{{o}}dy" text, '
        'PRIMARY KEY ("i%d{k}", "k""%%"))'
    )
    db.rows(f"INSERT INTO {table} SELECT i, '%s', 'text ' || i FROM generate_series(1, 9) i")
    db.create(table, columns=["b%{o}dy"], name="o%{d}")
    db.work(batch_size=1)  # portions of four: a walk takes several, and starts anew at a key
    assert db.value('SELECT count(*) FROM "a%s{b}"."t%(x)s{}_embedding"') == 9
    found = postgres.search(
        db.dsn, "o%{d}", "query", embedder=db.stub, filter={"i%d{k}": [1, 2], 'k"%%': "%s"}
    )
    assert len(found) == 2


def test_a_table_that_took_the_sources_name_is_not_taken_for_it(db: Database) -> None:
    db.create(backfill=False)
    db.rows("CREATE TABLE docs_new (LIKE docs INCLUDING ALL)")
    db.rows("INSERT INTO docs VALUES (1, 'a'), (2, 'b')")

    async def swap(texts: Sequence[str]) -> None:
        db.stub.during = None
        await asyncio.to_thread(
            db.rows,
            "BEGIN; ALTER TABLE docs RENAME TO docs_old; "
            "ALTER TABLE docs_new RENAME TO docs; COMMIT",
        )

    db.stub.during = swap
    db.work()
    db.drained()
    db.expect({1: "a", 2: "b"})
    db.asked_once()
