"""Who else is there: walks, the reaper, the application, the clock; and the laws."""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.explorer import Broken, Next
from tests.model.protocol import Moves, Workers, keys_named, put, truncating
from tests.model.states import (
    ABSENT,
    EMPTY,
    ENDED,
    NOT_BEGUN,
    TRUNCATED,
    WALKERS,
    WRITERS,
    Cell,
    Instance,
    Logged,
    State,
    Step,
    Task,
    Walker,
    Worker,
    Writer,
    in_log,
    name_of_text,
)

# What an environment does: nobody may rely on it, and without it everything must come to rest.
_FROM_OUTSIDE = ("crashes", "inserts", "updates", "deletes", "TRUNCATE")
_OUTCOMES_FROM_OUTSIDE = ("crashes", "inserts", "updates", "deletes", "TRUNCATE")


class World:
    """The protocol among everything that can happen to it; what `explore` takes."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.workers = Workers(instance)

    def start(self) -> State:
        instance = self.instance
        rows = tuple(Cell(text, int(text != ABSENT)) for text in instance.start)
        assert len(rows) == instance.keys
        vectors = tuple(
            Cell(max(row.text, ABSENT) if instance.embedded else ABSENT, row.version)
            for row in rows
        )
        return State(
            source=rows,
            target=vectors,
            dead=(0,) * instance.keys,
            doubted=(False,) * instance.keys,
            work=(None,) * instance.keys,
            leases=(),
            log=(),
            tasks=tuple(Task(kind, NOT_BEGUN, 0, 0) for kind in instance.tasks),
            workers=(Worker(),) * instance.workers,
            reaping=0,
            walkers=(Walker(),) * instance.walkers,
            writers=(Writer(),) * instance.writers,
            left=instance.statements,
        )

    def successors(self, state: State) -> Moves:
        for place in range(len(state.workers)):
            yield from self.workers.steps(state, place)
            yield from self.workers.crash(state, place)
            yield from self.workers.give_way(state, place)
        yield from self._reap(state)
        yield from self._clock(state)
        for place in range(len(state.walkers)):
            yield from self._walk(state, place)
        for place in range(len(state.writers)):
            yield from self._write(state, place)
        if self.instance.by_hand and state.left:
            yield from self._by_hand(state)
        if self.instance.audit and state.left:
            yield from self._audit(state)

    # The reaper and the clock

    def _reap(self, state: State) -> Moves:
        """Any lease may have expired. The reaper's rows are locked until it commits."""
        if state.reaping:
            forgets = self.instance.bug == "a doubt is forgotten"
            work = tuple(
                row._replace(token=0, dirty=False, due=True, again=row.again and not forgets)
                if row is not None and row.token == state.reaping
                else row
                for row in state.work
            )
            leases = tuple(lease for lease in state.leases if lease != state.reaping)
            yield Next(
                Step("reaper", "commit"), state._replace(work=work, leases=leases, reaping=0)
            )
            return
        by_row = self.instance.bug == "a version of the row as fence"
        rows = [row for row in state.work if row is not None and row.token]
        for token in sorted({row.token for row in rows}) if by_row else state.leases:
            held = [key for key, row in enumerate(state.work) if row and row.token == token]
            if self.workers.lease_is_held(state, token) or any(
                self.workers.row_is_locked(state, key) for key in held
            ):
                continue
            step = Step("reaper", "reap_leases", f"frees {keys_named(held)}", token)
            after = state._replace(reaping=token)
            if self.instance.fine:
                yield Next(step, after)
            else:
                yield from (Next(step, more.state) for more in self._reap(after))

    def _clock(self, state: State) -> Moves:
        for key, row in enumerate(state.work):
            # What a transaction holds it will write anew, whatever the clock says.
            waits = row is not None and not row.token and not row.due
            if row is not None and waits and not self.workers.row_is_locked(state, key):
                work = put(state.work, key, row._replace(due=True))
                step = Step("clock", "a pause is over", keys_named([key]), key)
                yield Next(step, state._replace(work=work))

    # Walks

    def _walk(self, state: State, place: int) -> Moves:
        me, walker = WALKERS + place, state.walkers[place]
        name = f"walker {place + 1}"
        if walker.open:
            idle = put(state.walkers, place, Walker())
            yield from self._end_of_walk(state, place, idle)
            given_up = state._replace(
                walkers=idle,
                log=tuple(row for row in state.log if row.made != me),
                tasks=tuple(t._replace(held=0) if t.held == me else t for t in state.tasks),
            )
            yield Next(Step(name, "crashes"), given_up)
            return
        free = [at for at, task in enumerate(state.tasks) if not (task.made or task.held)]
        if not free or truncating(state):
            return
        at, task = free[0], state.tasks[free[0]]
        walked, wanted = self._portion(state, task)
        reached = walked[-1] if len(walked) == self.instance.portion else ENDED
        held = state._replace(tasks=put(state.tasks, at, task._replace(held=me)))
        query = "walk_source" if task.kind == "backfill" else "walk_dead, walk_target"
        doomed: tuple[int, ...] = ()
        if task.kind == "orphans" and self.instance.bug == "a sweep by DELETE":
            doomed, wanted = tuple(wanted), []
        logged = tuple(Logged(key, me, 0) for key in wanted)
        yield Next(
            Step(name, f"next_task, {query}", f"finds {keys_named(doomed or wanted)}"),
            held._replace(
                log=in_log(state.log + logged),
                walkers=put(state.walkers, place, Walker(True, reached, doomed)),
            ),
        )

    def _portion(self, state: State, task: Task) -> tuple[list[int], list[int]]:
        """Which keys a portion passes, and which of them it appends to the log."""
        rest = range(max(task.reached, NOT_BEGUN) + 1, self.instance.keys)
        if task.kind == "backfill":
            walked = [key for key in rest if state.source[key].text != ABSENT]
            walked = walked[: self.instance.portion]
            wanted = [k for k in walked if max(state.source[k].text, 0) != state.target[k].text]
            return walked, wanted
        walked = [key for key in rest if state.target[key].text][: self.instance.portion]
        looked_at = set(walked)
        if task.reached == NOT_BEGUN and self.instance.bug != "walks pass over dead letters":
            looked_at |= {key for key, version in enumerate(state.dead) if version}
        return walked, [key for key in sorted(looked_at) if state.source[key].text == ABSENT]

    def _end_of_walk(self, state: State, place: int, idle: tuple[Walker, ...]) -> Moves:
        me, walker = WALKERS + place, state.walkers[place]
        if any(key in w.written for key in walker.doomed for w in state.workers if w.at == "wrote"):
            return  # the deleting sweep waits for the vector's row
        over = walker.reached == ENDED
        tasks = tuple(
            task._replace(held=0, reached=walker.reached) if task.held == me else task
            for task in state.tasks
            if not (over and task.held == me)
        )
        target = tuple(
            cell._replace(text=ABSENT) if key in walker.doomed else cell
            for key, cell in enumerate(state.target)
        )
        what = "end_task, commit" if over else "move_task, commit"
        if walker.doomed:
            what = f"deletes vectors, {what}"
        after = state._replace(
            walkers=idle, tasks=tasks, target=target, log=self._committed(state, me)
        )
        yield Next(Step(f"walker {place + 1}", what), after)

    def _committed(self, state: State, session: int) -> tuple[Logged, ...]:
        return in_log(row._replace(made=0) if row.made == session else row for row in state.log)

    # The application

    def _write(self, state: State, place: int) -> Moves:
        writer, name = state.writers[place], f"writer {place + 1}"
        me = WRITERS + place
        idle = put(state.writers, place, Writer())
        if writer.open:
            source = tuple(self._after(writer, key, cell) for key, cell in enumerate(state.source))
            yield Next(
                Step(name, "commit"),
                state._replace(source=source, writers=idle, log=self._committed(state, me)),
            )
            if self.instance.rollback:
                log = tuple(row for row in state.log if row.made != me)
                yield Next(Step(name, "rollback"), state._replace(writers=idle, log=log))
        others_truncate = any(
            other.truncated for at, other in enumerate(state.writers) if at != place
        )
        if not state.left or writer.sent == self.instance.per_transaction or others_truncate:
            return
        for step, changed, logged in self._statements(state, place, name):
            rows = tuple(Logged(what, me, 0) for what in logged)
            changed = changed._replace(open=True, sent=writer.sent + 1)
            yield Next(
                step,
                state._replace(
                    writers=put(state.writers, place, changed),
                    log=in_log(state.log + rows),
                    left=state.left - 1,
                ),
            )

    def _after(self, writer: Writer, key: int, cell: Cell) -> Cell:
        text = dict(writer.changes).get(key)
        if text is None:
            if not writer.truncated or cell.text == ABSENT:
                return cell
            text = ABSENT
        return Cell(text, cell.version + 1)

    def _seen(self, writer: Writer, key: int, cell: Cell) -> int:
        return self._after(writer, key, cell).text

    def _statements(
        self, state: State, place: int, name: str
    ) -> Iterator[tuple[Step, Writer, list[int]]]:
        writer = state.writers[place]
        others = [other for at, other in enumerate(state.writers) if at != place]
        seen = [self._seen(writer, key, cell) for key, cell in enumerate(state.source)]
        for key, text in enumerate(seen):
            if any(key in dict(other.changes) for other in others):
                continue  # the row is locked by another writer
            for new in self._texts(text):
                verb = "inserts" if text == ABSENT else "deletes" if new == ABSENT else "updates"
                said = f"k{key + 1}" + (f" = {name_of_text(new)}" if new != ABSENT else "")
                changes = tuple(sorted({**dict(writer.changes), key: new}.items()))
                yield Step(name, verb, said, key, new), writer._replace(changes=changes), [key]
        if self.instance.truncate and any(seen) and not self._source_in_use(state, others):
            changed = writer._replace(changes=(), truncated=True)
            yield Step(name, "TRUNCATE"), changed, [TRUNCATED]

    def _texts(self, text: int) -> list[int]:
        new = [
            *range(1, self.instance.texts + 1),
            ABSENT,
            *([EMPTY] if self.instance.empty else []),
        ]
        return [other for other in new if other != text]

    def _source_in_use(self, state: State, others: list[Writer]) -> bool:
        return (
            self.workers.read_the_source(state)
            or any(walker.open for walker in state.walkers)
            or any(other.open for other in others)
        )

    def _by_hand(self, state: State) -> Moves:
        """`enqueue` and `retry`, each a transaction that only appends."""
        wanted = (Task("backfill", NOT_BEGUN, 0, 0), Task("orphans", NOT_BEGUN, 0, 0))
        tasks = tuple(task for task in wanted if task not in state.tasks)
        left = state.left - 1
        if tasks:
            after = state._replace(tasks=state.tasks + tasks, left=left)
            yield Next(Step("owner", "enqueue"), after)
        dead = [key for key, version in enumerate(state.dead) if version]
        if dead:
            log = in_log((*state.log, *(Logged(key, 0, 0) for key in dead)))
            yield Next(Step("owner", "retry"), state._replace(log=log, left=left))

    def _audit(self, state: State) -> Moves:
        """`append_doubts`: a vector is found wanting, whatever text it is of."""
        for key, cell in enumerate(state.target):
            if cell.text and not state.doubted[key]:
                after = state._replace(
                    log=in_log((*state.log, Logged(key, 0, 0, doubt=True))),
                    doubted=put(state.doubted, key, True),
                    left=state.left - 1,
                )
                yield Next(Step("owner", "append_doubts", keys_named([key]), key), after)

    # Laws

    def broken(self, state: State) -> Broken | None:
        """Law 8: where nothing about a key is recorded, held or to be walked over, its vector is
        that of its committed text."""
        if state.tasks and any(not task.made for task in state.tasks):
            return None
        waiting = {row.what for row in state.log if not row.made}
        if TRUNCATED in waiting:
            return None
        for key, (text, version) in enumerate(state.source):
            if key in waiting or state.work[key] is not None:
                continue
            there, dead = state.target[key].text, state.dead[key]
            name = f"k{key + 1}"
            if dead:
                if there or dead != version or text <= ABSENT:
                    return Broken("every vector is of its text", f"{name} is wrongly a dead letter")
            elif state.doubted[key]:
                return Broken("every vector is of its text", f"{name}: a doubt has no effect")
            elif there != max(text, ABSENT):
                row, vector = name_of_text(text), name_of_text(there).replace("row", "vector")
                said = f"nothing is left to do for {name}; row: {row}, vector: {vector}"
                return Broken("every vector is of its text", said)
        return None

    def at_rest(self, state: State) -> bool:
        return (
            not (state.log or any(state.work) or state.leases or state.tasks or state.reaping)
            and all(worker.at == "idle" for worker in state.workers)
            and not any(walker.open for walker in state.walkers)
            and not any(writer.open for writer in state.writers)
        )

    def comes_by_itself(self, step: Step) -> bool:
        if step.what.startswith(_FROM_OUTSIDE) or step.who == "owner":
            return False
        return not (
            step.what.startswith("hold_lease") and step.detail.endswith(_OUTCOMES_FROM_OUTSIDE)
        )
