"""The model's steps on a real Postgres: the product's own flows and SQL, statement by statement.

After every step the committed tables are compared with the model's. What the model says must wait
is sent all the same, and must wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import psycopg
import pytest

from qwen_embed_plugins import postgres
from qwen_embed_plugins.postgres import queue, walks
from qwen_embed_plugins.postgres._flow import Flow
from tests.model.hands import COMMIT, Hand, Stand
from tests.model.planted import planted
from tests.model.protocol import is_free, truncating
from tests.model.stage import NUMBERS, PAUSE, TEXTS, Named, Stage, vector
from tests.model.states import ABSENT, NOT_BEGUN, TRUNCATED, At, Instance, State, Step

_TABLES = """
SELECT
    ARRAY(SELECT jsonb_build_array(id, text, encode(content_hash, 'hex'), embedding::text)
          FROM docs_embedding ORDER BY id),
    ARRAY(SELECT k1 FROM qwen_embed.dead_{n} ORDER BY k1),
    ARRAY(SELECT jsonb_build_array(k1, token, dirty, due_at <= clock_timestamp(), again)
          FROM qwen_embed.work_{n} ORDER BY k1),
    ARRAY(SELECT token FROM qwen_embed.lease ORDER BY token),
    ARRAY(SELECT jsonb_build_array(coalesce(k1, 0), op = 'a')
          FROM qwen_embed.log_{n} ORDER BY coalesce(k1, 0), op = 'a'),
    ARRAY(SELECT jsonb_build_array(kind, reached[1]::int) FROM qwen_embed.task ORDER BY id)
"""


class Differs(AssertionError):
    """Model and Postgres are not of one mind."""


class Play:
    """One schedule on the stage. `tokens` are the real ones by those of the model."""

    def __init__(self, stage: Stage, instance: Instance, start: State) -> None:
        self.stage, self.instance, self.bug = stage, instance, instance.bug
        queries = planted(instance.bug) if instance.bug is not None else {}
        assert queries is not None, f"{instance.bug}: not a matter of queries"
        self.vectorizer = Named.of(stage.vectorizer, queries)
        self.batches: dict[str, queue.Batch] = {}
        self.tokens: dict[int, int] = {}
        self.waiting: set[str] = set()
        """Sessions whose statement was sent before its time, and waits."""
        stage.set_up(start)
        self.compare(start)

    # Steps

    def step(self, step: Step, before: State, after: State) -> None:
        """Make a step happen, and compare. Raises `Differs`."""
        actor = step.who.split()[0]
        getattr(self, f"_{actor}")(step, before, after)
        self.compare(after)

    def _worker(self, step: Step, before: State, after: State) -> None:
        hand = self.stage.hand(step.who)
        place = int(step.who.split()[1]) - 1
        if step.what == "open_lease":
            return  # nobody sees it; the flow wants to know its floor when it begins
        if step.what in ("crashes", "gives way"):
            hand.break_off(self.stage.cancel)
            self._unpause(hand)
            self.waiting.discard(step.who)
            if after.workers[place].at == "idle":
                self.batches.pop(step.who, None)
            return
        waited = step.who in self.waiting
        self.waiting.discard(step.who)
        if step.what == "take_log deletes":
            self._take_log(step, hand, before, place)
        elif step.what == "take_due" and before.workers[place].at == "opened":
            self._begin_take(step, hand, due_first=True)
            self._expect(step, hand.let_on(), "gate")
        elif step.what in ("take_log", "hold_work"):
            self._lock_rows(step, hand, waited, after.workers[place].at)
        elif waited:
            self._expect(step, hand.look(), "gate")
            self._send(step, hand, step.what.split(", ")[1:])
        else:
            if step.what == "hold_lease":
                self._begin_finish(step.who, step.detail, hand)
            self._send(step, hand, step.what.split(", "))
        self._note_end(step, hand, before.workers[place].token)

    def _lock_rows(self, step: Step, hand: Hand, waited: bool, at: At) -> None:
        """One by one: where only some are free, the statement holds those and waits."""
        self._unpause(hand)
        sent = waited or step.what == "take_log"
        if not sent and hand.next != step.what:
            raise Differs(f"{step}: it comes to {hand.next}")
        partly = at in ("merging", "holding")
        stand = hand.look() if sent else hand.let_on()
        self._expect(step, stand, "waiting" if partly else "gate")
        if partly:
            self.waiting.add(step.who)

    def _send(self, step: Step, hand: Hand, names: Sequence[str]) -> None:
        for name in names:
            if name == "drops its answer":
                name = COMMIT
            while name == COMMIT and hand.next not in (COMMIT, ""):
                self._expect(step, hand.let_on(), "gate")  # what is left has nothing to do
            if hand.next != name and name != COMMIT:
                continue  # this batch has none of those
            self._expect(step, hand.let_on(), "over" if name == COMMIT else "gate")

    def _take_log(self, step: Step, hand: Hand, before: State, place: int) -> None:
        free = [(row, step.number >> at & 1) for at, row in enumerate(before.log) if is_free(row)]
        if before.workers[place].at == "opened":
            self._begin_take(step, hand, due_first=False)
        self.stage.do("SELECT pg_advisory_lock(%s, %s)", PAUSE, hand.pid)
        with self.stage.withheld([row for row, taken in free if not taken]):
            stand = hand.let_on()
        if stand == "gate":
            self._unpause(hand)
            if any(taken and row.what != TRUNCATED for row, taken in free):
                raise Differs(f"{step}: nothing was merged")
        elif hand.wait_event != "advisory":
            raise Differs(f"{step}: waits for {hand.wait_event}")

    def _begin_take(self, step: Step, hand: Hand, *, due_first: bool) -> None:
        flow = queue.take(
            self.vectorizer,
            worker=step.who,
            block=0,
            limit=100,
            lease_seconds=3600,
            due_first=due_first,
        )
        hand.begin(flow, self.vectorizer.name_of)
        self._expect(step, hand.let_on(), "gate")

    def _unpause(self, hand: Hand) -> None:
        if self._paused(hand):
            self.stage.do("SELECT pg_advisory_unlock(%s, %s)", PAUSE, hand.pid)

    def _paused(self, hand: Hand) -> bool:
        return bool(
            self.stage.do(
                "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() "
                "AND classid = %s AND objid = %s",
                PAUSE, hand.pid,
            ).fetchone()
        )  # fmt: skip

    def _begin_finish(self, who: str, said: str, hand: Hand) -> None:
        batch, vectorizer = self.batches[who], self.vectorizer
        if self.bug == "an unchecked hash skip" and not batch.equal:
            vectorizer = Named.of(self.stage.vectorizer, {})
        if said == "handed back":
            flow: Flow[Any] = queue.hand_back(vectorizer, batch)
        else:
            outcome = self._outcome(batch, said.removeprefix("the answer: "))
            flow = queue.finish(vectorizer, batch, outcome, types=self.stage.types)
        hand.begin(flow, vectorizer.name_of)

    def _outcome(self, batch: queue.Batch, answer: str) -> queue.Outcome:
        items = batch.items
        ids = tuple(item.id for item in items)
        if answer == "refused":
            return queue.Outcome(buried=tuple(queue.Burial(i, "bad_input", "no") for i in ids))
        if answer in ("later", "held"):
            pause, faults = (3600.0, 1) if answer == "later" else (0.0, 0)
            return queue.Outcome(delayed=(queue.Delay(ids, pause, faults),))
        if not items:
            return queue.Outcome()
        vectors = np.stack([vector(item.text) for item in items])
        return queue.Outcome(written=items, vectors=vectors, offers=("stub",) * len(items))

    def _note_end(self, step: Step, hand: Hand, token: int) -> None:
        if hand.next or step.who in self.waiting or not step.what.endswith((COMMIT, "answer")):
            return
        result = hand.result()
        if isinstance(result, queue.Taken):
            if result.batch is not None:
                self.batches[step.who] = result.batch
                self.tokens[token] = result.batch.token
            return
        self.batches.pop(step.who)
        if step.what == "drops its answer" and result is not None:
            raise Differs(f"{step}: it was written")
        if step.what.startswith("finish_work") and result is None:
            raise Differs(f"{step}: it was dropped")

    def _reaper(self, step: Step, before: State, after: State) -> None:
        hand = self.stage.hand("reaper")
        if step.what == COMMIT:
            self._expect(step, hand.let_on(), "over")
            hand.result()
            return
        self.stage.do(
            "UPDATE qwen_embed.lease SET expires_at = now() - interval '1 s' WHERE token = %s",
            self.tokens[step.number],
        )
        hand.begin(queue.reap(self.vectorizer), lambda _: "reap_leases")
        self._expect(step, hand.let_on(), "gate")

    def _clock(self, step: Step, before: State, after: State) -> None:
        self.stage.do(
            f"UPDATE qwen_embed.work_{self.stage.n} SET due_at = now() WHERE k1 = %s",
            step.number + 1,
        )

    def _walker(self, step: Step, before: State, after: State) -> None:
        hand = self.stage.hand(step.who)
        if step.what == "crashes":
            hand.break_off(self.stage.cancel)
            return
        if not step.what.endswith(COMMIT):
            flow = walks.walk(self.vectorizer, portion=self.instance.portion, longest_log=1000)
            hand.begin(flow, self.vectorizer.name_of)
            stops = bool(after.walkers[int(step.who.split()[1]) - 1].doomed)
            while hand.next not in ("move_task", "end_task"):
                if stops and hand.next == "walk_target":
                    self.stage.do("SELECT pg_advisory_lock(%s, %s)", PAUSE, hand.pid)
                    self._expect(step, hand.let_on(), "waiting")
                    return
                self._expect(step, hand.let_on(), "gate")
            return
        if step.what.startswith("deletes"):
            self._unpause(hand)
            self._expect(step, hand.look(), "gate")
        if hand.next != step.what.split(", ")[-2]:
            raise Differs(f"{step}: it comes to {hand.next}")
        self._expect(step, hand.let_on(), "gate")
        self._expect(step, hand.let_on(), "over")
        hand.result()

    def _writer(self, step: Step, before: State, after: State) -> None:
        app = self.stage.app(step.who)
        key, text = step.number + 1, TEXTS.get(step.text)
        if step.what == COMMIT:
            app.commit()
        elif step.what == "rollback":
            app.rollback()
        elif step.what == "inserts":
            app.execute("INSERT INTO docs VALUES (%s, %s)", (key, text))
        elif step.what == "updates":
            app.execute("UPDATE docs SET body = %s WHERE id = %s", (text, key))
        elif step.what == "deletes":
            app.execute("DELETE FROM docs WHERE id = %s", (key,))
        else:
            app.execute("TRUNCATE docs")

    def _owner(self, step: Step, before: State, after: State) -> None:
        if step.what == "append_doubts":
            query, values = (
                "INSERT INTO qwen_embed.log_{n} (op, k1) VALUES ('a', %s)",
                [step.number + 1],
            )
            self.stage.do(query.format(n=self.stage.n), *values)
        else:
            getattr(postgres, step.what)(self.stage.eye, "docs")

    # What must wait

    def send_early(self, who: str, state: State) -> None:
        """Send a worker's next statement although the model says that it cannot be done yet."""
        hand, at = self.stage.hand(who), state.workers[int(who.split()[1]) - 1].at
        step = Step(who, f"the next after {at}")
        if at == "merging":
            self._unpause(hand)
            stand = hand.look()
        elif at == "out":
            self._begin_finish(who, "the answer: written", hand)
            stand = hand.let_on()
        else:
            stand = hand.let_on()
        self._expect(step, stand, "waiting")
        self.waiting.add(who)

    def truncate_must_wait(self) -> None:
        """Somebody has the source open: a TRUNCATE does not get it."""
        with psycopg.connect(self.stage.dsn) as other:
            other.execute("SET lock_timeout = '20ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                other.execute("TRUNCATE docs")

    def _expect(self, step: Step, stand: Stand, wanted: Stand) -> None:
        if stand != wanted:
            lock = self.stage.hand(step.who).wait_event
            raise Differs(f"{step}: expected {wanted}, found {stand} (lock: {lock})")

    # What is there

    def is_quiet(self) -> bool:
        """Whether nothing is recorded, held or to be walked over, whatever the model says."""
        found = self.real()
        return not (found["log"] or found["work"] or found["leases"] or found["tasks"])

    def is_in_step(self) -> bool:
        """Whether each row has the vector of its text, or is a dead letter, and no other row is."""
        rows = self.stage.do(
            "SELECT d.id, d.body, e.text, x.k1 "
            "FROM docs d FULL JOIN docs_embedding e ON e.id = d.id "
            f"FULL JOIN qwen_embed.dead_{self.stage.n} x ON x.k1 = coalesce(d.id, e.id)"
        ).fetchall()
        return all(
            key is not None and (text is None if letter is not None else text == (body or None))
            for key, body, text, letter in rows
        )

    def compare(self, state: State) -> None:
        """Hold the committed tables against the model's."""
        found, expected = self.real(), self.modelled(state)
        if not truncating(state):  # else it cannot be read
            rows = self.stage.do("SELECT id, body FROM docs")
            found["source"] = {key - 1: NUMBERS[text] for key, text in rows}
            cells = enumerate(state.source)
            expected["source"] = {k: cell.text for k, cell in cells if cell.text != ABSENT}
        if found != expected:
            lines = [
                f"{name}: Postgres has {found[name]}, the model {expected[name]}"
                for name in found
                if found[name] != expected[name]
            ]
            raise Differs("; ".join(lines))

    def real(self) -> dict[str, Any]:
        row = self.stage.do(_TABLES.format(n=self.stage.n)).fetchone()
        target, dead, work, leases, log, tasks = cast("tuple[Any, ...]", row)
        for _, text, digest, embedding in target:
            if digest != queue.content_hash(text).hex():
                raise Differs(f"the hash beside {text!r} is of another text")
            np.testing.assert_allclose(
                np.fromstring(embedding.strip("[]"), sep=","), vector(text), atol=1e-5
            )
        tokens = {real: token for token, real in self.tokens.items()}
        return {
            "target": {key - 1: NUMBERS[text] for key, text, _, _ in target},
            "dead": [key - 1 for key in dead],
            "work": {
                key - 1: (
                    tokens.get(token, token) or 0,
                    dirty,
                    due if token is None else None,
                    again,
                )
                for key, token, dirty, due, again in work
            },
            "leases": sorted(tokens.get(token, token) for token in leases),
            "log": [(key - 1, doubt) for key, doubt in log],
            "tasks": [
                (kind, NOT_BEGUN if reached is None else reached - 1) for kind, reached in tasks
            ],
        }

    def modelled(self, state: State) -> dict[str, Any]:
        return {
            "target": {k: cell.text for k, cell in enumerate(state.target) if cell.text != ABSENT},
            "dead": [key for key, version in enumerate(state.dead) if version],
            "work": {
                key: (row.token, row.dirty, None if row.token else row.due, row.again)
                for key, row in enumerate(state.work)
                if row is not None
            },
            "leases": list(state.leases),
            "log": sorted((row.what, row.doubt) for row in state.log if not row.made),
            "tasks": [(task.kind, task.reached) for task in state.tasks if not task.made],
        }
