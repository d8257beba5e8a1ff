"""The worker: what it pays for, what it holds back, what it survives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

from qwen_embed_plugins import postgres
from qwen_embed_plugins.errors import (
    BudgetExceeded,
    ConfigurationError,
    DatabaseError,
    NoOfferLeft,
)

if TYPE_CHECKING:
    from tests.integration.conftest import Database


@pytest.fixture
def filled(db: Database) -> Database:
    db.rows("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 200) i")
    db.create()
    return db


def test_backfill_then_changes(filled: Database) -> None:
    db = filled
    assert db.state().state == "backfill"
    summary = db.work()
    assert (summary.embedded, summary.waiting) == (200, {})
    db.in_step()
    db.rows("UPDATE docs SET body = 'new ' || id WHERE id <= 10")
    db.rows("DELETE FROM docs WHERE id > 190")
    db.rows("UPDATE docs SET id = id + 1000 WHERE id BETWEEN 20 AND 25")
    db.rows("UPDATE docs SET other = 7")
    db.rows("UPDATE docs SET body = body")
    summary = db.work()
    assert summary.embedded == 16
    assert summary.removed == 16
    db.in_step()


def test_equal_text_is_not_paid_again(filled: Database) -> None:
    db = filled
    db.work()
    db.rows("UPDATE docs SET body = body || '!'")
    db.rows("UPDATE docs SET body = rtrim(body, '!')")
    postgres.enqueue(db.dsn, "docs")
    db.rows("INSERT INTO docs SELECT * FROM docs WHERE false")
    summary = db.work()
    assert summary.embedded == 0
    assert len(db.stub.asked) == 200
    db.in_step()


def test_truncate_and_the_same_rows_again_cost_nothing(filled: Database) -> None:
    db = filled
    db.work()
    with db.conn.transaction():
        db.rows("CREATE TEMP TABLE saved AS SELECT * FROM docs")
        db.rows("TRUNCATE docs")
        db.rows("INSERT INTO docs SELECT * FROM saved WHERE id <= 150")
    db.work()
    db.in_step()
    db.asked_once()


def test_empty_texts_have_no_vector(filled: Database) -> None:
    db = filled
    db.work()
    db.rows("UPDATE docs SET body = NULL WHERE id = 1")
    db.rows("UPDATE docs SET body = '' WHERE id = 2")
    db.rows("UPDATE docs SET body = E' \\n\\t' WHERE id = 3")
    assert db.work().removed == 3
    assert not {1, 2, 3} & set(db.vectors())
    assert db.state().dead == 0
    db.drained()


def test_templates_and_columns(db: Database) -> None:
    db.rows("ALTER TABLE docs ADD title text")
    db.rows(
        "INSERT INTO docs (id, title, body) VALUES "
        "(1, 'T', 'B'), (2, NULL, 'B2'), (3, 'T3', ''), (4, NULL, NULL)"
    )
    db.create(columns=["title", "body"])
    db.create(template="{{{title}}}: {body}", name="second", target_name="second_embedding")
    db.work()
    db.expect({1: "T\nB", 2: "B2", 3: "T3"})
    db.expect({1: "{T}: B", 2: "{}: B2", 3: "{T3}: "}, target="second_embedding")


def test_settings_of_a_session_do_not_change_a_text(db: Database) -> None:
    db.rows("CREATE TABLE events (id int PRIMARY KEY, at timestamptz, took interval, b bytea)")
    db.rows("INSERT INTO events VALUES (1, '2026-11-23 12:00+00', '1 day 02:03', '\\xdead')")
    db.create("events", columns=["at", "took", "b"], target_name="docs_embedding")
    db.work()
    name = db.value("SELECT current_database()")
    for setting in (
        "timezone = 'Asia/Tokyo'",
        "datestyle = 'German'",
        "intervalstyle = 'iso_8601'",
        "bytea_output = 'escape'",
    ):
        db.rows(f"ALTER DATABASE {name} SET {setting}")
    postgres.enqueue(db.dsn, "events")
    assert db.work().embedded == 0


def test_one_refused_text_is_one_dead_letter(filled: Database) -> None:
    db = filled
    message = "input 17 was refused: sk-" + "a" * 20
    db.stub.refuse = lambda text: ("bad_input", message) if text == "text 17" else None
    summary = db.work()
    assert (summary.embedded, summary.dead) == (199, 1)
    (letter,) = postgres.dead_letters(db.dsn, "docs")
    assert (letter.key, letter.kind, letter.attempts) == ({"id": 17}, "bad_input", 1)
    assert letter.message == "input 17 was refused: sk-***"
    assert db.state().dead == 1
    assert 17 not in db.vectors()

    # Tried again when its text changes, and then no dead letter any more.
    db.rows("UPDATE docs SET body = 'better' WHERE id = 17")
    assert db.work().embedded == 1
    assert postgres.dead_letters(db.dsn) == []
    db.in_step()


def test_retry_brings_dead_letters_back(filled: Database) -> None:
    db = filled
    db.stub.refuse = lambda text: ("too_large", "too long") if text.endswith("7") else None
    assert db.work().dead == 20
    assert db.work().dead == 0
    db.stub.refuse = lambda text: None
    assert postgres.retry(db.dsn, "docs") == 20
    assert db.work().embedded == 20
    assert db.state().dead == 0
    db.in_step()


def test_a_refused_text_does_not_keep_the_vector_of_its_old_one(filled: Database) -> None:
    db = filled
    db.work()
    db.stub.refuse = lambda text: ("bad_input", "no") if text == "bad" else None
    db.rows("UPDATE docs SET body = 'bad' WHERE id = 5")
    db.work()
    assert 5 not in db.vectors()
    postgres.enqueue(db.dsn, "docs")
    assert db.work().dead == 1


def test_a_text_that_changes_while_it_is_refused_is_not_dead(filled: Database) -> None:
    db = filled
    db.stub.refuse = lambda text: ("bad_input", "no") if text == "text 9" else None

    async def during(texts: Sequence[str]) -> None:
        if "text 9" in texts:
            db.rows("UPDATE docs SET body = 'text nine' WHERE id = 9")
            await asyncio.sleep(0.2)

    db.stub.during = during
    db.work()
    db.in_step()
    assert db.state().dead == 0


def test_bad_vectors_are_tried_five_times(filled: Database) -> None:
    db = filled
    db.stub.refuse = lambda text: ("bad_vector", "length 0.4") if text == "text 3" else None
    number = db.value("SELECT id FROM qwen_embed.vectorizer")
    for attempt in range(1, 5):
        assert db.work().dead == 0
        found = db.rows(f"SELECT attempts, due_at > now() FROM qwen_embed.work_{number}")
        assert found == [(attempt, True)]
        db.rows(f"UPDATE qwen_embed.work_{number} SET due_at = now()")
    assert db.work().dead == 1
    (letter,) = postgres.dead_letters(db.dsn)
    assert (letter.kind, letter.attempts) == ("bad_vector", 5)


TROUBLES = {
    "no offer": lambda: NoOfferLeft("no offer left: ollama refused", reasons={"ollama": "refused"}),
    "budget": lambda: BudgetExceeded("usd_per_day = 1.00 is spent"),
    "a bug": lambda: RuntimeError("something else"),
}


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES.keys())
def test_an_outage_kills_nothing_and_says_why(filled: Database, trouble: object) -> None:
    db = filled
    db.stub.fail = trouble  # type: ignore[assignment]
    summary = db.work()
    reason = str(trouble())  # type: ignore[operator]
    assert reason in summary.waiting["docs"]
    assert (summary.embedded, summary.dead) == (0, 0)
    state = db.state()
    assert (state.state, state.dead) == ("held", 0)
    assert reason in (state.last_error or "")
    assert db.stub.calls <= 4

    db.stub.fail = lambda: None
    number = db.value("SELECT id FROM qwen_embed.vectorizer")
    db.rows(f"UPDATE qwen_embed.work_{number} SET due_at = now()")
    assert db.work().embedded == 200
    db.in_step()
    state = db.state()
    assert (state.state, state.last_error) == ("active", None)
    assert db.value("SELECT count(*) FROM qwen_embed.dead_letters") == 0


def test_texts_without_an_offer_wait_while_others_are_written(filled: Database) -> None:
    db = filled
    db.stub.refuse = lambda text: ("no_offer", "all out") if text == "text 8" else None
    summary = db.work()
    assert (summary.embedded, summary.dead) == (199, 0)
    assert summary.waiting == {"docs": "all out"}
    assert db.state().state == "held"
    number = db.value("SELECT id FROM qwen_embed.vectorizer")
    assert db.rows(f"SELECT attempts FROM qwen_embed.work_{number}") == [(0,)]


def test_a_service_catches_up_by_itself(filled: Database) -> None:
    db = filled
    ends = time.monotonic() + 1.5
    db.stub.fail = lambda: (
        NoOfferLeft("down", reasons={}, retry_at=time.time() + 0.2)
        if time.monotonic() < ends
        else None
    )
    serve(db, until=lambda: db.value("SELECT count(*) FROM docs_embedding") == 200)
    db.in_step()
    assert db.state().state == "active"


def serve(db: Database, *, until: object, **options: object) -> postgres.WorkerSummary:
    """Run the worker as a service until a condition holds, then stop it politely."""

    async def play() -> postgres.WorkerSummary:
        stopping = asyncio.Event()
        settings = {"once": False, "stopping": stopping, "poll_seconds": 0.05, **options}
        service = asyncio.create_task(db.awork(**settings))
        ends = time.monotonic() + 60
        while not until() and not service.done():  # type: ignore[operator]
            assert time.monotonic() < ends, "the service did not get there"
            await asyncio.sleep(0.05)
        stopping.set()
        return await asyncio.wait_for(service, 20)

    return asyncio.run(play())


def test_one_vectorizer_in_trouble_does_not_stop_the_others(db: Database) -> None:
    db.rows("INSERT INTO docs VALUES (1, 'one')")
    db.rows("CREATE TABLE notes (id int PRIMARY KEY, body text)")
    db.rows("INSERT INTO notes VALUES (1, 'note')")
    db.create("docs", dimensions=64)
    db.create("notes")
    summary = db.work()
    assert summary.embedded == 1
    assert "no offer for" in summary.waiting["docs"]
    state = db.state("docs")
    assert (state.state, state.dead) == ("blocked", 0)
    assert "no offer for" in (state.last_error or "")
    assert db.state("notes").state == "active"


def test_pause_and_resume(filled: Database) -> None:
    db = filled
    postgres.pause(db.dsn, "docs")
    assert db.work().waiting == {"docs": "paused"}
    db.rows("UPDATE docs SET body = 'while paused' WHERE id = 1")
    assert db.state().state == "paused"
    postgres.resume(db.dsn, "docs")
    db.work()
    db.in_step()


def test_only_named_vectorizers(filled: Database) -> None:
    assert filled.work(only=["docs"]).embedded == 200
    with pytest.raises(DatabaseError, match="there is no vectorizer dogs"):
        filled.work(only=["dogs"])


def test_nothing_is_open_while_a_request_is_out(filled: Database) -> None:
    db = filled
    seen: list[int] = []

    async def during(texts: Sequence[str]) -> None:
        await asyncio.sleep(0.1)
        seen.append(
            db.value(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                "AND state LIKE 'idle in transaction%%' AND now() - state_change > '50 ms'"
            )
        )

    db.stub.during = during
    db.work(batch_size=50)
    assert seen
    assert not any(seen)


def test_a_stop_hands_back_what_it_cannot_finish(
    filled: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qwen_embed_plugins.postgres.pipeline._GRACE_SECONDS", 0.2)
    db = filled
    started = asyncio.Event()

    async def forever(texts: Sequence[str]) -> None:
        started.set()
        await asyncio.sleep(3600)

    async def play() -> None:
        stopping = asyncio.Event()
        service = asyncio.create_task(db.awork(once=False, stopping=stopping))
        await started.wait()
        stopping.set()
        await asyncio.wait_for(service, 20)

    db.stub.during = forever
    asyncio.run(play())
    assert db.value("SELECT count(*) FROM qwen_embed.lease") == 0
    db.stub.during = None
    assert db.work().embedded == 200
    db.in_step()


def test_a_cancelled_worker_hands_back_too(filled: Database) -> None:
    db = filled
    started = asyncio.Event()

    async def forever(texts: Sequence[str]) -> None:
        started.set()
        await asyncio.sleep(3600)

    async def play() -> None:
        service = asyncio.create_task(db.awork(once=False))
        await started.wait()
        service.cancel()
        with pytest.raises(asyncio.CancelledError):
            await service

    db.stub.during = forever
    asyncio.run(play())
    assert db.value("SELECT count(*) FROM qwen_embed.lease") == 0


def test_a_silent_worker_is_reaped_and_its_late_answer_dropped(filled: Database) -> None:
    db = filled

    async def reaped(texts: Sequence[str]) -> None:
        if db.stub.calls == 1:
            db.rows("DELETE FROM qwen_embed.lease")
            number = db.value("SELECT id FROM qwen_embed.vectorizer")
            db.rows(f"UPDATE qwen_embed.work_{number} SET token = NULL, due_at = now()")

    db.stub.during = reaped
    summary = db.work()
    assert summary.lost == 200
    db.in_step()


def test_a_dropped_connection_does_not_stop_a_service(filled: Database) -> None:
    db = filled
    killed = 0

    async def cut(texts: Sequence[str]) -> None:
        nonlocal killed
        if killed < 3:
            killed += db.value(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    db.stub.during = cut
    serve(db, until=lambda: db.value("SELECT count(*) FROM docs_embedding") == 200)
    db.in_step()


def test_dropping_while_a_request_is_out(filled: Database) -> None:
    db = filled

    async def drop(texts: Sequence[str]) -> None:
        if db.stub.calls == 1:
            await asyncio.to_thread(postgres.drop_vectorizer, db.dsn, "docs", drop_target=True)

    db.stub.during = drop
    db.work(batch_size=50)
    assert postgres.status(db.dsn) == []
    db.rows("UPDATE docs SET body = 'free' WHERE id = 1")
    assert db.value("SELECT count(*) FROM qwen_embed.lease") == 0


def test_run_worker_inside_a_loop_names_the_other(db: Database) -> None:
    async def inside() -> None:
        with pytest.raises(ConfigurationError, match="arun_worker"):
            postgres.run_worker(db.dsn)

    asyncio.run(inside())


def test_run_worker_takes_a_connection(filled: Database) -> None:
    summary = postgres.run_worker(
        filled.conn, once=True, embedder_for=filled.embedder_for, poll_seconds=0.02
    )
    assert summary.embedded == 200


def test_progress_is_told(filled: Database) -> None:
    told: list[postgres.WorkerProgress] = []
    filled.work(batch_size=50, on_progress=told.append)
    assert told[-1].embedded == 200
    assert [progress.embedded for progress in told] == sorted(p.embedded for p in told)


def test_row_level_security_that_hides_rows_is_refused_not_obeyed(filled: Database) -> None:
    """A worker that saw no rows would take every row for deleted."""
    db = filled
    db.work()
    db.rows("DROP ROLE IF EXISTS half_blind")
    db.rows("CREATE ROLE half_blind LOGIN")
    db.rows("GRANT ALL ON SCHEMA qwen_embed, public TO half_blind")
    db.rows("GRANT ALL ON ALL TABLES IN SCHEMA qwen_embed, public TO half_blind")
    db.rows("GRANT ALL ON ALL FUNCTIONS IN SCHEMA qwen_embed TO half_blind")
    db.rows("ALTER TABLE docs ENABLE ROW LEVEL SECURITY")
    db.rows("UPDATE docs SET body = 'hidden' WHERE id = 1")
    owner, db.dsn = db.dsn, db.dsn.replace("user=postgres", "user=half_blind")
    if owner == db.dsn:
        pytest.fail(f"the address names no user: {owner}")
    summary = db.work()
    db.dsn = owner
    assert "row-level security" in summary.waiting["docs"]
    assert db.state().state == "blocked"
    assert len(db.vectors()) == 200
    db.work()
    db.in_step()
    db.rows("DROP OWNED BY half_blind")
    db.rows("DROP ROLE half_blind")


def test_a_transaction_that_commits_late_is_found(db: Database) -> None:
    """Its record lies before everything that was consumed since: no watermark may hide it."""
    db.create()
    late = db.connect()
    late.execute("INSERT INTO docs VALUES (0, 'late')")
    db.rows("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 3000) i")

    def until() -> bool:
        count = db.value("SELECT count(*) FROM docs_embedding")
        if count == 3000 and not late.closed:
            late.commit()
            late.close()
        return bool(count == 3001)

    serve(db, until=until, batch_size=200)
    db.in_step()


def test_a_notified_worker_wakes_at_once(filled: Database) -> None:
    """With NOTIFY on, a worker that looks once an hour embeds a change within moments."""
    db = filled
    db.work()
    db.rows("SELECT qwen_embed.notify_workers('docs', true)")

    async def play() -> None:
        stopping = asyncio.Event()
        worker = asyncio.create_task(db.awork(once=False, stopping=stopping, poll_seconds=3600.0))
        await asyncio.sleep(1.0)  # it has looked for the first time
        for number in range(3):
            await asyncio.to_thread(db.rows, f"UPDATE docs SET body = 'now {number}' WHERE id = 1")
            for _ in range(500):
                if f"now {number}" in db.stub.asked:
                    break
                await asyncio.sleep(0.02)
            assert f"now {number}" in db.stub.asked
        # A lost ear is no loss of work, and no end of the worker.
        db.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND query = 'LISTEN qwen_embed'"
        )
        await asyncio.sleep(0.2)
        assert not worker.done()
        stopping.set()
        await worker

    asyncio.run(play())


def test_a_backfill_can_be_slowed_and_live_changes_are_not(db: Database) -> None:
    db.rows("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 5000) i")
    db.create()
    db.rows("UPDATE docs SET body = 'live' WHERE id = 5000")

    async def play() -> float:
        stopping = asyncio.Event()
        began = time.monotonic()
        worker = asyncio.create_task(
            db.awork(once=False, stopping=stopping, backfill_rows_per_second=20.0)
        )
        for _ in range(500):
            if "live" in db.stub.asked and len(db.stub.asked) > 30:
                break
            await asyncio.sleep(0.02)
        stopping.set()
        await worker
        return time.monotonic() - began

    took = asyncio.run(play())
    assert "live" in db.stub.asked
    assert 30 < len(db.stub.asked) <= 20 * (took + 1) + 20 + 1


def test_a_hundred_thousand_changes_of_a_row_cost_one_request(filled: Database) -> None:
    db = filled
    db.work()
    asked = len(db.stub.asked)
    db.rows(
        "DO $$ BEGIN FOR i IN 1..100000 LOOP "
        "UPDATE docs SET body = 'version ' || i WHERE id = 1; "
        # Within one transaction each would step over all versions before it.
        "IF i % 100 = 0 THEN COMMIT; END IF; END LOOP; END $$"
    )
    assert db.value("SELECT count(*) FROM qwen_embed.log_1") == 100_000
    db.work()
    assert db.stub.asked[asked:] == ["version 100000"]
    db.drained()
