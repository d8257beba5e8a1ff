"""The work protocol as it is: a batch's life, step by step, in Postgres' READ COMMITTED.

Each step is one statement, or several that nobody else can tell apart. What Postgres does is
modelled where it matters:

- A statement sees what was committed when it began, and its own transaction's doings. Taking from
  the log has two parts: it deletes by the snapshot, and then merges key by key, where it may wait,
  and meets each row of work as that is by then.
- A row that another transaction has changed or locked is waited for: the step is not possible. Then
  the row's latest version counts (EvalPlanQual), so a wait needs no state of its own, except where
  rows are merged or locked one by one. `SKIP LOCKED` passes such rows over. Whoever waits may give
  up at its `lock_timeout`.
- TRUNCATE waits for whoever has read or written the source in an open transaction, and they for it.
- A crash is a rollback and, for a batch that is out, a lease that nobody will close.

Not modelled: waiting lines for locks (who is first is anyone's guess, so all orders are tried),
heartbeats (a lease may expire at any time, whatever was promised), the count of attempts, pauses by
length (what waits may become due at any time), and where in the log a row lies: one may be put into
the room of another that is gone, so floor and limit may let a take have any of them. A reaper gets
all its rows or waits for all: what it could hold meanwhile would end by `lock_timeout`, which comes
at any wait.
Not in it: several chunks of a row, rows that cannot be read or written, partitions, a move to
another space, vectors in the user's own table (`Instance.target` is where they would begin).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from tests.model.explorer import Broken, Next
from tests.model.states import (
    ABSENT,
    FINISHING,
    NOT_BEGUN,
    TAKING,
    TRUNCATED,
    Cell,
    Instance,
    Logged,
    Outcome,
    Read,
    State,
    Step,
    Task,
    Work,
    Worker,
    in_log,
    name_of_text,
)

T = TypeVar("T")
Moves = Iterator[Next[Step, State]]

# Nobody else can tell these moments from the next: what was done is invisible or already locked,
# and what follows looks at nothing that others could change meanwhile.
_JOINED = frozenset({"opened", "empty", "read", "fenced", "held", "lost"})


def put(row: tuple[T, ...], place: int, value: T) -> tuple[T, ...]:
    """The tuple with one value changed."""
    return (*row[:place], value, *row[place + 1 :])


def keys_named(keys: Sequence[int]) -> str:
    return ", ".join(f"k{key + 1}" for key in keys) or "nothing"


def is_free(row: Logged) -> bool:
    """Whether a row of the log is committed, and nobody's yet."""
    return not (row.made or row.gone)


def names_of_rows(rows: Iterable[Logged]) -> str:
    names = [
        "TRUNCATE" if row.what == TRUNCATED else f"k{row.what + 1}{' doubted' * row.doubt}"
        for row in rows
    ]
    return ", ".join(names) or "nothing"


def any_of(places: Sequence[int], log: Sequence[Logged]) -> list[list[int]]:
    """Every choice among these rows of the log; of rows that are alike, the first are chosen."""
    choices: list[list[int]] = [[]]
    for _, group in itertools.groupby(places, key=lambda at: log[at]):
        alike = list(group)
        choices = [
            [*chosen, *alike[:count]] for chosen in choices for count in range(len(alike) + 1)
        ]
    return choices


def truncating(state: State) -> bool:
    """Whether a TRUNCATE holds the source against everyone."""
    return any(writer.truncated for writer in state.writers)


class Workers:
    """The steps of workers with their batches."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.bug = instance.bug

    def steps(self, state: State, place: int) -> Moves:
        """What worker `place` can do next."""
        for step, after, broken in self._statements(state, place):
            joined = after.workers[place].at in _JOINED and not self.instance.fine
            if broken is not None or not joined:
                yield Next(step, after, broken)
                continue
            for more in self.steps(after, place):
                detail = "; ".join(filter(None, [step.detail, more.step.detail]))
                what = f"{step.what}, {more.step.what}"
                yield Next(step._replace(what=what, detail=detail), more.state, more.broken)

    def _statements(self, state: State, place: int) -> Moves:
        worker = state.workers[place]
        at = worker.at
        if at == "idle":
            return self._open_lease(state, place)
        if at in ("opened", "between"):
            part = self._take_log if worker.parts[0] == "log" else self._take_due
            return part(state, place)
        if at == "merging":
            return self._merge(state, place)
        if at == "orphans":
            return self._add_orphans_task(state, place)
        if at == "taken":
            return self._read_rows(state, place)
        if at in ("read", "empty"):
            return self._commit_taking(state, place)
        if at == "out":
            return self._hold_lease(state, place)
        if at in ("fenced", "holding"):
            return self._hold_work(state, place)
        if at == "held":
            return self._write(state, place)
        if at == "wrote":
            return self._commit_finish(state, place)
        return self._end_lost(state, place)

    def _step(self, place: int, what: str, detail: str = "", number: int = 0) -> Step:
        return Step(f"worker {place + 1}", what, detail, number)

    def _with(self, state: State, place: int, worker: Worker) -> State:
        return state._replace(workers=put(state.workers, place, worker))

    # Locks

    def _locked(self, state: State, place: int, key: int) -> bool:
        """Whether another transaction holds the work row of a key."""
        for other, worker in enumerate(state.workers):
            if other == place:
                continue
            if worker.at in TAKING:
                if any(key == changed for changed, _ in worker.pending):
                    return True
            elif worker.at in ("holding", "held", "wrote") and self._holds(state, worker, key):
                return True
        row = state.work[key]
        return bool(state.reaping and row is not None and row.token == state.reaping)

    def _holds(self, state: State, worker: Worker, key: int) -> bool:
        keys = {read.key for read in worker.batch} - {*worker.left}
        return key in keys and self._own(state, worker, key)

    def _own(self, state: State, worker: Worker, key: int) -> bool:
        """`WHERE token = …`: whether a row of work is still this worker's."""
        row = state.work[key]
        if row is None:
            return False
        return row.token == worker.token or self.bug == "no fence at all"

    def read_the_source(self, state: State) -> bool:
        """Whether a worker has the source open, which a TRUNCATE waits for."""
        return any(
            w.at == "read" or (w.at == "wrote" and not self._looks_away(w)) for w in state.workers
        )

    def row_is_locked(self, state: State, key: int) -> bool:
        return self._locked(state, -1, key)

    def lease_is_held(self, state: State, token: int) -> bool:
        """Whether a lease's row is locked."""
        return state.reaping == token or any(
            worker.token == token and worker.at in ("fenced", "holding", "held", "wrote")
            for worker in state.workers
        )

    # Taking

    def _token(self, state: State) -> int:
        """One that nobody has or remembers. The real ones come from a sequence; to use a number
        again that nothing refers to makes no difference, and keeps the states few."""
        used = {*state.leases, state.reaping, *(worker.token for worker in state.workers)}
        return next(number for number in range(1, 100) if number not in used)

    def _open_lease(self, state: State, place: int) -> Moves:
        log = any(map(is_free, state.log))
        if log or self._due(state, place):
            token = 0 if self.bug == "a version of the row as fence" else self._token(state)
            yield Next(
                self._step(place, "open_lease"),
                self._with(state, place, Worker("opened", token, ("log", "due"))),
            )
            if log and self._due(state, place):
                # They take turns in being first; where only one is there, it makes no difference.
                yield Next(
                    self._step(place, "open_lease", "due first"),
                    self._with(state, place, Worker("opened", token, ("due", "log"))),
                )

    def _due(self, state: State, place: int) -> list[int]:
        if self.bug == "work that is due is not taken":
            return []
        return [
            key
            for key, row in enumerate(state.work)
            if row is not None and not row.token and row.due and not self._locked(state, place, key)
        ]

    def _take_log(self, state: State, place: int) -> Moves:
        """Any of the rows; none only where that is not all there is to take."""
        free = [at for at, row in enumerate(state.log) if is_free(row)]
        for taken in any_of(free, state.log):
            if free and not (taken or self._due(state, place)):
                continue
            log = list(state.log)
            for at in taken:
                log[at] = log[at]._replace(gone=place + 1)
            whats = {state.log[at].what for at in taken}
            keys = tuple(sorted(whats - {TRUNCATED}))
            doubts = {state.log[at].what for at in taken if state.log[at].doubt}
            worker = state.workers[place]._replace(
                left=keys, doubts=tuple(sorted(doubts)), truncated=TRUNCATED in whats
            )
            worker = worker._replace(at="merging") if keys else self._on(worker)
            if self.bug == "claim and read in one statement":
                worker = worker._replace(batch=tuple(self._see(state, key) for key in keys))
            said = f"{len(taken)} of {len(free)}: {names_of_rows(state.log[at] for at in taken)}"
            yield Next(
                self._step(place, "take_log deletes", said, sum(1 << at for at in taken)),
                self._with(state._replace(log=in_log(log)), place, worker),
            )

    def _on(self, worker: Worker) -> Worker:
        """Where taking goes on when a part of it is done."""
        if worker.truncated:
            return worker._replace(at="orphans")
        parts = worker.parts[1:]
        if parts:
            return worker._replace(at="between", parts=parts)
        return worker._replace(at="taken" if worker.mine else "empty", parts=())

    def _merge(self, state: State, place: int) -> Moves:
        """`ON CONFLICT DO UPDATE`, in key order, as far as nobody is in the way."""
        worker, done = state.workers[place], list[int]()
        while worker.left and not self._locked(state, place, worker.left[0]):
            key, *left = worker.left
            row = dict(worker.pending).get(key, state.work[key])
            again = key in worker.doubts or (row is not None and row.again)
            if row is not None and row.token:
                # Its own was due and is not yet read.
                dirty = row.token != worker.token and self.bug != "no dirty flag"
                worker = self._pending(worker, key, row._replace(dirty=dirty, again=again))
            else:
                worker = self._claimed(worker, key, row, again)
            worker = worker._replace(left=tuple(left))
            done.append(key)
        if not done:
            return
        if not worker.left:
            worker = self._on(worker._replace(doubts=()))
        said = f"merges {keys_named(done)}, holds {keys_named(worker.mine)}"
        yield Next(self._step(place, "take_log", said), self._with(state, place, worker))

    def _claimed(self, worker: Worker, key: int, row: Work | None, again: bool) -> Worker:
        version = 0
        if self.bug == "a version of the row as fence":
            version = 1 if row is None else row.version + 1
            worker = worker._replace(token=version)
        worker = worker._replace(mine=tuple(sorted({*worker.mine, key})))
        # `due_at` stays what it was; it counts for nothing while the row has a token.
        return self._pending(worker, key, Work(worker.token, False, True, again, version))

    def _pending(self, worker: Worker, key: int, row: Work) -> Worker:
        changed = {**dict(worker.pending), key: row}
        return worker._replace(pending=tuple(sorted(changed.items())))

    def _add_orphans_task(self, state: State, place: int) -> Moves:
        tasks = state.tasks
        waits = any(t.kind == "orphans" and t.reached == NOT_BEGUN and not t.made for t in tasks)
        if not waits:
            tasks = (*tasks, Task("orphans", NOT_BEGUN, place + 1, 0))
        worker = self._on(state.workers[place]._replace(truncated=False))
        yield Next(
            self._step(place, "add_orphans_task", "there is one" if waits else ""),
            self._with(state._replace(tasks=tasks), place, worker),
        )

    def _take_due(self, state: State, place: int) -> Moves:
        worker = state.workers[place]
        due = [key for key in self._due(state, place) if key not in dict(worker.pending)]
        for key in due:
            row = state.work[key]
            worker = self._claimed(worker, key, row, row is not None and row.again)
        if self.bug == "claim and read in one statement":
            worker = worker._replace(batch=(*worker.batch, *(self._see(state, key) for key in due)))
        said = f"claims {keys_named(due)}" if due else ""
        yield Next(self._step(place, "take_due", said), self._with(state, place, self._on(worker)))

    def _see(self, state: State, key: int, again: bool = False) -> Read:
        """A row and its vector, as committed now."""
        text, version = state.source[key]
        if text <= ABSENT:
            return Read(key, "gone", ABSENT, version)
        equal = state.target[key].text == text and not again
        return Read(key, "equal" if equal else "text", text, version)

    def _read_rows(self, state: State, place: int) -> Moves:
        if truncating(state):
            return
        worker = state.workers[place]
        if self.bug == "claim and read in one statement":
            batch = tuple(read for read in worker.batch if read.key in worker.mine)
        else:
            rows = dict(worker.pending)
            batch = tuple(self._see(state, key, rows[key].again) for key in worker.mine)
        # Where a lease has room for some of the rows only, any of them may come first.
        rooms = [batch]
        if self.instance.room and len(batch) > 1:
            rooms += [(read,) for read in batch]
        for kept in rooms:
            holder = worker._replace(at="read", batch=kept)
            for key in {read.key for read in batch} - {read.key for read in kept}:
                returned = dict(worker.pending)[key]._replace(token=0, dirty=False)
                holder = self._pending(holder, key, returned)
            said = ", ".join(f"k{r.key + 1}: {name_of_text(r.text)}, {r.kind}" for r in kept)
            query = "read_rows" if len(kept) == len(batch) else "read_rows, return_unread"
            yield Next(self._step(place, query, said), self._with(state, place, holder))

    def _commit_taking(self, state: State, place: int) -> Moves:
        worker = state.workers[place]
        work = list(state.work)
        for key, row in worker.pending:
            work[key] = row
        after = state._replace(
            log=tuple(row for row in state.log if row.gone != place + 1),
            work=tuple(work),
            tasks=tuple(t._replace(made=0) if t.made == place + 1 else t for t in state.tasks),
        )
        if worker.at == "empty":
            step = self._step(place, "close_lease, commit")
            yield Next(step, self._with(after, place, Worker()))
            return
        leases = tuple(sorted((*state.leases, worker.token)))
        out = Worker("out", worker.token, batch=worker.batch)
        yield Next(
            self._step(place, "commit"), self._with(after._replace(leases=leases), place, out)
        )

    # Finishing

    def _hold_lease(self, state: State, place: int) -> Moves:
        worker = state.workers[place]
        if self.lease_is_held(state, worker.token):
            return
        asks = any(read.kind == "text" for read in worker.batch)
        outcomes: tuple[Outcome, ...] = self.instance.outcomes if asks else ("written",)
        there = self._fence_holds(state, worker)
        for outcome in (*outcomes, "handed back") if there else outcomes[:1]:
            said = ("the answer: " + outcome if asks else "nothing to ask for") if there else ""
            said = outcome if outcome == "handed back" else said
            held = worker._replace(at="fenced" if there else "lost", outcome=outcome)
            yield Next(self._step(place, "hold_lease", said), self._with(state, place, held))

    def _fence_holds(self, state: State, worker: Worker) -> bool:
        if self.bug == "no fence at all":
            return True
        if self.bug == "a version of the row as fence":
            return any(self._own(state, worker, read.key) for read in worker.batch)
        return worker.token in state.leases

    def _end_lost(self, state: State, place: int) -> Moves:
        step = self._step(place, "drops its answer", "the lease is gone")
        yield Next(step, self._with(state, place, Worker()))

    def _hold_work(self, state: State, place: int) -> Moves:
        """Row by row in key order: what is locked stays so while the next is waited for."""
        worker = state.workers[place]
        own = sorted(r.key for r in worker.batch if self._own(state, worker, r.key))
        wanted = list(worker.left) if worker.at == "holding" else own
        left = list(wanted)
        while left and not self._locked(state, place, left[0]):
            left.pop(0)
        if wanted and len(left) == len(wanted):
            return
        held = worker._replace(at="holding" if left else "held", left=tuple(left))
        said = f"still waits for {keys_named(left)}" if left else ""
        yield Next(self._step(place, "hold_work", said), self._with(state, place, held))

    def _hand_back(self, state: State, place: int) -> Moves:
        worker = state.workers[place]
        work = list(state.work)
        for read in worker.batch:
            row = work[read.key]
            if row is not None and self._own(state, worker, read.key):
                work[read.key] = row._replace(token=0, dirty=False, due=True)
        after = state._replace(work=tuple(work), leases=self._without(state, worker.token))
        yield Next(
            self._step(place, "delay_work, close_lease, commit"),
            self._with(after, place, Worker()),
        )

    def _without(self, state: State, token: int) -> tuple[int, ...]:
        return tuple(lease for lease in state.leases if lease != token)

    def _write(self, state: State, place: int) -> Moves:
        """`write_vectors` or, for refused texts, `bury_work`: both join the source."""
        worker = state.workers[place]
        if worker.outcome == "handed back":
            yield from self._hand_back(state, place)
            return
        texts = [read.key for read in worker.batch if read.kind == "text"]
        if not texts or worker.outcome not in ("written", "refused"):
            yield from self._commit_finish(state, place)
            return
        joins = not self._looks_away(worker)
        if joins and truncating(state):
            return
        there = [key for key in texts if state.source[key].text != ABSENT or not joins]
        written = tuple(key for key in there if self._writes(state, worker, key))
        dropped = worker.outcome == "written" and len(written) < len(there)
        broken = (
            Broken("answers are kept", "an answer was dropped although the lease was held")
            if dropped
            else None
        )
        query = "write_vectors" if worker.outcome == "written" else "remove_vectors, bury_work"
        yield Next(
            self._step(place, query, keys_named(written)),
            self._with(state, place, worker._replace(at="wrote", written=written)),
            broken,
        )

    def _looks_away(self, worker: Worker) -> bool:
        if worker.outcome == "written":
            return self.bug == "a finish without the source"
        return self.bug == "a burial without the source"

    def _writes(self, state: State, worker: Worker, key: int) -> bool:
        row = state.work[key]
        if row is None or not self._own(state, worker, key):
            return False
        return not (row.dirty and self.bug == "an answer for a changed key is dropped")

    def _commit_finish(self, state: State, place: int) -> Moves:
        """The rest: it touches only rows that this transaction has locked."""
        worker = state.workers[place]
        target, dead, doubted = list(state.target), list(state.dead), list(state.doubted)
        work, removed = list(state.work), set[int]()
        broken: Broken | None = None
        for read in worker.batch:
            row = work[read.key]
            if row is None or not self._own(state, worker, read.key):
                continue
            stands = target[read.key]
            written = self._vector(worker, read, stands)
            if written is not None:
                if written.version < stands.version:
                    said = f"k{read.key + 1}: a vector of a later change is overwritten"
                    broken = Broken("no old answer over a newer one", said)
                if not written.text:
                    removed.add(read.key)
                target[read.key] = written
                doubted[read.key] = doubted[read.key] and read.kind == "equal"
            work[read.key] = self._left_of(worker, read, row)
            if work[read.key] is None:
                buried = read.kind == "text" and worker.outcome == "refused"
                if not buried:
                    dead[read.key] = 0
                elif read.key in worker.written:
                    dead[read.key] = read.version
        after = state._replace(
            target=tuple(target),
            dead=tuple(dead),
            doubted=tuple(doubted),
            work=tuple(work),
            leases=self._without(state, worker.token),
            walkers=tuple(
                w._replace(doomed=tuple(k for k in w.doomed if k not in removed)) if w.doomed else w
                for w in state.walkers
            ),
        )
        yield Next(
            self._step(place, "finish_work, release_dirty, close_lease, commit"),
            self._with(after, place, Worker()),
            broken,
        )

    def _vector(self, worker: Worker, read: Read, stands: Cell) -> Cell | None:
        """What a key's vector becomes; None if it stays as it is."""
        if read.kind == "gone" or (read.kind == "text" and worker.outcome == "refused"):
            return Cell(ABSENT, read.version)
        if read.kind == "equal":
            # Nothing is written; that it is the vector of this version, too, is known now.
            return Cell(stands.text, max(read.version, stands.version))
        if read.key in worker.written:
            return Cell(read.text, read.version)
        return None

    def _left_of(self, worker: Worker, read: Read, row: Work) -> Work | None:
        """What is left of a row of work."""
        if read.kind == "text" and worker.outcome in ("later", "held"):
            due = row.dirty or worker.outcome == "held"
            return row._replace(token=0, dirty=False, due=due)
        careless = self.bug == "an unchecked hash skip" and read.kind == "equal"
        if row.dirty and not careless:
            return row._replace(token=0, dirty=False, due=True)
        return None

    # What can always happen

    def crash(self, state: State, place: int) -> Moves:
        """The process ends: its transaction is rolled back, its lease stays."""
        worker = state.workers[place]
        if worker.at != "idle":
            step = self._step(place, "crashes")
            yield Next(step, self._with(self._rolled_back(state, place), place, Worker()))

    def give_way(self, state: State, place: int) -> Moves:
        """`lock_timeout`: a transaction that waits for another is rolled back and tried again."""
        worker = state.workers[place]
        if worker.at in TAKING:
            again = Worker()
        elif worker.at in FINISHING:
            again = Worker("out", worker.token, batch=worker.batch)
        else:
            return
        if next(self.steps(state, place), None) is None:
            step = self._step(place, "gives way", "lock_timeout")
            yield Next(step, self._with(self._rolled_back(state, place), place, again))

    def _rolled_back(self, state: State, place: int) -> State:
        mine = place + 1
        if state.workers[place].at not in TAKING:
            return state
        return state._replace(
            log=in_log(r._replace(gone=0) if r.gone == mine else r for r in state.log),
            tasks=tuple(task for task in state.tasks if task.made != mine),
        )
