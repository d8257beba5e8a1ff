"""One run of the chaos, and its control: the same writers without a vectorizer."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from qwen_embed_plugins import postgres
from tests.chaos import books
from tests.chaos.books import Payments, Target, WriterBooks
from tests.chaos.killer import Killer, Outages
from tests.chaos.provider import CLIENT_TIMEOUT_SECONDS, Provider
from tests.chaos.workers import LEASE_SECONDS
from tests.chaos.writers import TABLES, Writers
from tests.postgres_servers import EmbeddedServer, embedded_server

MODEL = "qwen3-embedding-0.6b"
LONGEST_IDLE_SECONDS = CLIENT_TIMEOUT_SECONDS - 0.5
"""In a transaction, between two statements. A provider that stalls is waited for longer."""


SETTINGS = {
    "synchronous_commit": "on",
    "full_page_writes": "on",  # without, one that crashed soon after a promotion does not recover
    "deadlock_timeout": "200ms",
}


@dataclass(frozen=True)
class Plan:
    """How long, and what happens to the server after how many kills."""

    kills: int
    outages: dict[int, str]
    faults: float = 0.15
    drain_seconds: float = 90.0
    plant: str | None = None
    """A bug to give the workers; the first lapse that is seen of it is then enough."""


@dataclass
class Report:
    """What a run left, for the laws to be read from it."""

    writers: WriterBooks
    payments: Payments
    strange: list[dict[str, Any]]
    waiting: dict[str, int]
    faults: list[tuple[Any, ...]]
    spoiled: list[int]
    wrongly_dead: list[tuple[Any, ...]]
    idle: list[str]
    lapses: list[tuple[Any, ...]]
    looks: int
    found_after: float | None
    complaints: list[str]
    counts: dict[str, int]
    requests: int
    provider_faults: dict[str, int]

    def figures(self) -> str:
        paid = self.payments
        return (
            f"{self.counts}; looks {self.looks}; commits {self.writers.commits}, "
            f"changes {paid.changes.total()}, requests {self.requests} {self.provider_faults}, "
            f"texts paid {paid.paid.total()} (distinct {len(paid.paid)}), "
            f"bound {paid.allowed.total()} = changes + in flight {paid.in_flight.total()} "
            f"+ dropped {paid.dropped.total()} + given up {paid.given_up.total()} "
            f"+ set aside {paid.set_aside.total()} + undelivered {paid.undelivered.total()}; "
            f"leases lost {paid.leases_lost}; writers' errors {dict(self.writers.by_kind)}, "
            f"of them serialization failures {dict(self.writers.refused('40001'))}"
        )

    def broken(self) -> dict[str, Any]:
        """The laws that do not hold, by name, with what shows it."""
        found = {
            "workers ended wrongly": self.complaints,
            "a transaction open during a request": self.idle,
            "work left": self.waiting,
            "rows and vectors": self.faults,
            "rows and vectors, on the way": self.lapses,
            "vectors of other texts": self.spoiled,
            "dead letters": self.wrongly_dead,
            "writers' errors that name us": self.strange,
            "paid too often": self.payments.excess(),
            "leases lost without cause": self.payments.unexplained,
        }
        return {name: facts for name, facts in found.items() if facts}


class Watch:
    """Looks all the time for workers that are idle in a transaction, and for keys that nobody is
    going to bring in step. Knows when the machine was too busy to tell anything from time."""

    def __init__(self, dsn: str, target: Target, vectorizer: int, killer: Killer) -> None:
        self._dsn, self._target, self._vectorizer, self._killer = dsn, target, vectorizer, killer
        self.idle: list[str] = []
        self.slow: list[tuple[float, float]] = []
        self.lapses: list[tuple[Any, ...]] = []
        self.first_lapse: float | None = None
        self.looks = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.is_set():
            last = time.time()
            try:
                with psycopg.connect(self._dsn, autocommit=True) as watcher:
                    while not self._stop.wait(0.2):
                        self._look_for_lapses(watcher)
                        self._look_for_idle(watcher)
                        self.looks += 1
                        last = self._note_slowness(last)
            except psycopg.Error:
                self._stop.wait(0.2)

    def _note_slowness(self, since: float) -> float:
        """Two questions a fifth of a second apart: if they take long, nobody else was served."""
        now = time.time()
        if now - since > LEASE_SECONDS / 4 + 0.2:
            self.slow.append((since, now))
        return now

    def _look_for_lapses(self, watcher: psycopg.Connection[Any]) -> None:
        found = books.lapses(watcher, self._target, self._vectorizer)
        if found and self.first_lapse is None:
            self.lapses, self.first_lapse = found, time.time()

    def _look_for_idle(self, watcher: psycopg.Connection[Any]) -> None:
        rows = watcher.execute(
            "SELECT application_name, query FROM pg_stat_activity "
            "WHERE application_name LIKE 'chaos-worker-%%' AND state = 'idle in transaction' "
            "AND clock_timestamp() - state_change > make_interval(secs => %s)",
            [LONGEST_IDLE_SECONDS],
        ).fetchall()
        now = time.time()
        if not any(now - LONGEST_IDLE_SECONDS < ended for _, ended in self.slow):
            self.idle += [
                f"{name}: {query}" for name, query in rows if not self._killer.may_stand_still(name)
            ]


@contextmanager
def own_server() -> Iterator[EmbeddedServer]:
    """A server of the run's own, to be taken away. It writes commits to the WAL before it says so:
    what a crash took back would have been paid for."""
    with embedded_server(18) as own:
        with psycopg.connect(own.address, autocommit=True) as admin:
            for setting, value in SETTINGS.items():
                admin.execute(f"ALTER SYSTEM SET {setting} = '{value}'")
            admin.execute("SELECT pg_reload_conf()")
        yield own


def play(
    server: EmbeddedServer, seed: str, folder: Path, plan: Plan, target: Target = books.TABLE
) -> Report:
    """Writers, workers, killer and provider at once; then peace, and the books."""
    with ExitStack() as stack:
        provider = stack.enter_context(Provider(seed, plan.faults))
        database = stack.enter_context(server.database("template1"))
        dsn = server.dsn(database)
        vectorizer = prepare(dsn, target)
        outages = Outages(server)
        chance = random.Random(f"{seed}:killer")
        writers = Writers(dsn, seed, folder)
        stack.callback(writers.kill)
        settings = {"QWEN_EMBED_SETTINGS": str(provider.settings(folder))}
        killer = Killer(
            dsn,
            chance,
            folder,
            outages,
            environment=settings,
            progress=lambda: provider.answered,
            plant=plan.plant,
        )
        stack.callback(killer.kill)
        watch = Watch(dsn, target, vectorizer, killer)
        began = time.time()
        killer.run(
            plan.kills,
            chosen(plan, outages, chance),
            enough=lambda: bool(plan.plant and watch.lapses),
        )
        writers.stop()
        provider.calm()
        killer.wake_all()
        left = drain(dsn, vectorizer, killer, plan.drain_seconds)
        killer.stop()
        watch.stop()
        with psycopg.connect(dsn, autocommit=True) as reader:
            told = WriterBooks.read(writers.paths)
            return Report(
                writers=told,
                payments=books.payments(
                    reader, provider, killer.journals, [*outages.spans, *watch.slow]
                ),
                strange=told.strange(books.our_relations(reader)),
                waiting=left or books.waiting(reader, vectorizer),
                faults=books.faults(reader, target),
                spoiled=books.spoiled(reader, target),
                wrongly_dead=books.wrongly_dead(reader),
                idle=watch.idle,
                lapses=watch.lapses,
                looks=watch.looks,
                found_after=None if watch.first_lapse is None else watch.first_lapse - began,
                complaints=killer.complaints,
                counts=dict(killer.counts),
                requests=provider.request_count,
                provider_faults=dict(provider.failed),
            )


def prepare(dsn: str, target: Target) -> int:
    with psycopg.connect(dsn, autocommit=True) as owner:
        owner.execute(TABLES)
        postgres.install(dsn)
        postgres.create_vectorizer(
            dsn,
            "docs",
            columns=["body"],
            model=MODEL,
            dimensions=books.DIMENSIONS,
            target=target.name,
            index_kind="none",
        )
        row = owner.execute("SELECT id FROM qwen_embed.vectorizer").fetchone()
        assert row is not None
        return int(row[0])


def chosen(plan: Plan, outages: Outages, chance: random.Random) -> dict[int, Callable[[], None]]:
    def take(kind: str) -> Callable[[], None]:
        return lambda: getattr(outages, kind)(chance.uniform(0.2, 1.5))

    return {after: take(kind) for after, kind in plan.outages.items()}


def drain(dsn: str, vectorizer: int, killer: Killer, seconds: float) -> dict[str, int]:
    """Let workers run until nothing waits; what is left if that takes too long."""
    end = time.monotonic() + seconds
    with psycopg.connect(dsn, autocommit=True) as reader:
        while (left := books.waiting(reader, vectorizer)) and time.monotonic() < end:
            killer.look()
            time.sleep(0.1)
        return left


def wait_for_first_turns(dsn: str) -> None:
    """Until the conflict that every run begins with is over."""
    begun = "SELECT count(DISTINCT writer) FROM books.change WHERE turn > 1"
    end = time.monotonic() + 60
    with psycopg.connect(dsn, autocommit=True) as reader:
        while reader.execute(begun).fetchone() != (4,) and time.monotonic() < end:
            time.sleep(0.1)


def control(
    server: EmbeddedServer, seed: str, folder: Path, plan: Plan, turns: list[int]
) -> WriterBooks:
    """The same writers, turn by turn, over a plain table and a server that goes away as often."""
    folder.mkdir()
    with server.database("template1") as database:
        dsn = server.dsn(database)
        with psycopg.connect(dsn, autocommit=True) as owner:
            owner.execute(TABLES)
        writers = Writers(dsn, seed, folder, turns)
        try:
            outages = Outages(server)
            chance = random.Random(f"{seed}:control")
            wait_for_first_turns(dsn)
            for take in chosen(plan, outages, chance).values():
                time.sleep(1.0)
                take()
            while not writers.is_over():
                time.sleep(0.1)
            writers.wait()
        finally:
            writers.kill()
        return WriterBooks.read(writers.paths)
