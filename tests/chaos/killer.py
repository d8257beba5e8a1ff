"""Kills, stops and stalls workers, and takes the server away, in an order drawn from a seed."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from tests.chaos import journal, workers
from tests.chaos.process import Process
from tests.chaos.workers import ABORTED, LEASE_SECONDS, NO_SERVER
from tests.postgres_servers import EmbeddedServer

WORKERS = 4
LONGEST_WAIT_SECONDS = 5.0
ENDS_WITHIN_SECONDS = 30
"""What a worker may take to end after a signal on a machine that has others to run, too; by itself
it gives its batches five."""


@dataclass
class Worker:
    """One process: since when it runs, when it is to be woken, how often it was told to end."""

    process: Process
    name: str
    path: Path
    once: bool
    began: float
    stopped_at: float = 0.0
    wakes_at: float | None = None
    wakes_when_robbed: float | None = None
    stood_still_until: float = 0.0
    signals: int = 0
    told_at: float = 0.0


@dataclass
class Outages:
    """Takes the server away and brings it back; knows when it was gone."""

    server: EmbeddedServer
    spans: list[tuple[float, float]] = field(default_factory=list)

    def restart(self, seconds: float) -> None:
        self._while_away(self.server.stop, seconds)

    def crash(self, seconds: float) -> None:
        self._while_away(self.server.crash, seconds)

    def fail_over(self, seconds: float) -> None:
        """It comes back as a standby that only reads, and is promoted later."""
        began = time.time()
        self.server.stop()
        self.server.start_standby()
        time.sleep(seconds)
        self.server.promote()
        self.spans.append((began, time.time()))

    def lose_a_session(self, seconds: float) -> None:
        """A session of a worker is killed, and takes all others along while the server recovers."""
        began = time.time()
        with self.server.admin() as admin:
            found = admin.execute(
                "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'chaos-w%' "
                "ORDER BY application_name DESC LIMIT 1"
            ).fetchone()
            assert found is not None
            os.kill(found[0], signal.SIGKILL)
            with contextlib.suppress(psycopg.Error):
                admin.execute("SELECT pg_sleep(10)")
        end = time.monotonic() + 60
        while not self._answers():
            assert time.monotonic() < end, "the server did not recover from the loss of a session"
            time.sleep(0.1)
        self.spans.append((began, time.time()))

    def _answers(self) -> bool:
        with contextlib.suppress(psycopg.Error), self.server.admin():
            return True
        return False

    def _while_away(self, leave: Callable[[], None], seconds: float) -> None:
        began = time.time()
        leave()
        time.sleep(seconds)
        self.server.start()
        self.spans.append((began, time.time()))

    def overlaps(self, began: float, ended: float) -> bool:
        return any(began < back and gone < ended for gone, back in self.spans)


class Killer:
    """Keeps four workers running and ends them, one way or another."""

    def __init__(
        self,
        dsn: str,
        chance: random.Random,
        folder: Path,
        outages: Outages,
        *,
        environment: Mapping[str, str],
        progress: Callable[[], int],
        plant: str | None = None,
    ) -> None:
        self.dsn, self.chance, self.folder, self.outages = dsn, chance, folder, outages
        self.environment, self.progress, self.plant = environment, progress, plant
        self.workers: list[Worker] = []
        self.leaving: list[Worker] = []
        self.journals: list[Path] = []
        self.counts: Counter[str] = Counter()
        self.complaints: list[str] = []
        while len(self.workers) < WORKERS:
            self._start()

    def run(
        self,
        kills: int,
        outages: Mapping[int, Callable[[], None]],
        *,
        enough: Callable[[], bool] = lambda: False,
    ) -> None:
        """Until so many were killed or told to end, or it is enough; `outages` says after how many
        of them what happens to the server."""
        waiting = dict(outages)
        while self.kills < kills and not enough():
            self._wait(self.chance.uniform(0.4, 1.4))
            self._wait_for_progress()
            self._strike()
            for after in [number for number in waiting if self.kills >= number]:
                waiting.pop(after)()
                self.counts["outages"] += 1

    @property
    def kills(self) -> int:
        return self.counts["killed"] + self.counts["told"]

    def _strike(self) -> None:
        worker = self.workers[self.chance.randrange(WORKERS)]
        kind = self.chance.choices(("kill", "tell", "stall"), (5, 2, 2))[0]
        if kind == "stall" and worker.wakes_at is None:
            self._stall(worker)
        elif kind == "tell" and worker.wakes_at is None:
            self.tell(worker)
            self._start()
        else:
            worker.process.kill()
            self._note_own_end(worker)
            self.counts["killed"] += 1
            self.workers.remove(worker)
            self._start()

    def _stall(self, worker: Worker) -> None:
        """Stop it past its leases. Most are woken at the worst moment: when what they held has just
        been taken by others."""
        seconds = self.chance.uniform(LEASE_SECONDS + 1, LEASE_SECONDS + 4)
        robbed_for = self.chance.uniform(0.0, 0.5) if self.chance.random() < 0.8 else None
        worker.process.send(signal.SIGSTOP)
        worker.stopped_at = time.monotonic()
        worker.wakes_at = worker.stopped_at + seconds
        worker.wakes_when_robbed = robbed_for
        self.counts["stalled"] += 1

    def _has_been_robbed(self, worker: Worker) -> bool:
        """Whether its leases have run out and been reaped."""
        if time.monotonic() - worker.stopped_at < LEASE_SECONDS:
            return False
        try:
            with psycopg.connect(self.dsn, autocommit=True) as reader:
                held = "SELECT FROM qwen_embed.lease WHERE worker LIKE %s"
                return not reader.execute(held, [f"%:{worker.process.pid}"]).fetchall()
        except psycopg.Error:
            return False

    def _note_own_end(self, worker: Worker) -> None:
        code = worker.process.code()
        if code != -signal.SIGKILL:
            self._judge(worker, code)

    def tell(self, worker: Worker) -> None:
        """Ask it to end, some a second time."""
        self.counts["told"] += 1
        worker.process.send(signal.SIGTERM)
        worker.signals, worker.told_at = 1, time.monotonic()
        if self.chance.random() < 0.25:
            time.sleep(0.2)
            worker.process.send(signal.SIGTERM)
            worker.signals = 2
        self.workers.remove(worker)
        self.leaving.append(worker)

    def _start(self) -> None:
        number = len(self.journals)
        path = self.folder / f"worker-{number}"
        name = f"chaos-worker-{number}"
        once = self.chance.random() < 0.3
        arguments = [self.dsn, str(path), *(["--once"] if once else [])]
        process = Process(
            workers.main,
            [*arguments, *(["--plant", self.plant] if self.plant else [])],
            errors=self.folder / f"worker-{number}.err",
            environment={**self.environment, "PGAPPNAME": name},
        )
        self.journals.append(path)
        self.workers.append(Worker(process, name, path, once, time.time()))

    # Waiting

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.look()
            time.sleep(0.05)

    def _wait_for_progress(self) -> None:
        """On a machine that is busy with others, a kill is worth something only after some work."""
        since, end = self.progress(), time.monotonic() + LONGEST_WAIT_SECONDS
        while self.progress() < since + 2 and time.monotonic() < end:
            self.look()
            time.sleep(0.05)

    def look(self) -> None:
        """Wake who slept long enough, replace who ended by itself, wait for who was told to."""
        now = time.monotonic()
        for worker in list(self.workers):
            if worker.wakes_at is not None:
                robbed_for = worker.wakes_when_robbed
                if robbed_for is not None and self._has_been_robbed(worker):
                    worker.wakes_at, worker.wakes_when_robbed = now + robbed_for, None
                if worker.wakes_at <= now:
                    self._wake(worker)
            code = worker.process.code()
            if code is not None:
                self._judge(worker, code)
                self.workers.remove(worker)
                self._start()
        for worker in list(self.leaving):
            code = worker.process.code()
            if code is not None:
                self._judge(worker, code)
                self.leaving.remove(worker)
            elif now - worker.told_at > ENDS_WITHIN_SECONDS:
                self.complaints.append(f"{worker.name} did not end after {worker.signals} signals")
                worker.process.kill()
                self.leaving.remove(worker)

    def _wake(self, worker: Worker) -> None:
        worker.process.send(signal.SIGCONT)
        worker.wakes_at, worker.stood_still_until = None, time.time()

    def _judge(self, worker: Worker, code: int | None) -> None:
        """Whether a worker might end so. One with an end may, and one whose server is away."""
        self.counts[f"ended {code}"] += 1
        away = self.outages.overlaps(worker.began, time.time())
        allowed = {0} if worker.once or worker.signals else set()
        if worker.signals:
            allowed |= {-signal.SIGTERM}  # told before it had a handler, and had no work yet
        if worker.signals == 2:
            allowed |= {ABORTED}
        if away and (worker.once or not self._has_started(worker)):
            allowed |= {NO_SERVER}
        if code not in allowed:
            kind = "once" if worker.once else "service"
            self.complaints.append(
                f"{worker.name} ({kind}, {worker.signals} signals) ended with {code}: "
                f"{worker.process.complaint()}"
            )

    def _has_started(self, worker: Worker) -> bool:
        return any(event["event"] == "started" for event in journal.read(worker.path))

    def wake_all(self) -> None:
        for worker in self.workers:
            if worker.wakes_at is not None:
                self._wake(worker)

    def stop(self) -> None:
        """Tell all to end, and wait until they have."""
        self.wake_all()
        for worker in list(self.workers):
            worker.process.send(signal.SIGTERM)
            worker.signals, worker.told_at = 1, time.monotonic()
            self.workers.remove(worker)
            self.leaving.append(worker)
        while self.leaving:
            self.look()
            time.sleep(0.05)

    def kill(self) -> None:
        """End all, whatever they are at."""
        for worker in [*self.workers, *self.leaving]:
            worker.process.kill()

    def may_stand_still(self, name: str) -> bool:
        """Whether a worker is stopped now, was until just now, or is gone."""
        for worker in [*self.workers, *self.leaving]:
            if worker.name == name:
                return worker.wakes_at is not None or time.time() - worker.stood_still_until < 5
        return True
