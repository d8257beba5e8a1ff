"""Every interleaving of a small world keeps the laws, and none of them gets stuck."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from tests.model.explorer import Broken, Explored, Next, explore
from tests.model.instances import BACKFILL, CHANGES, LARGE, SMALL, SWEEPS
from tests.model.protocol import Moves
from tests.model.states import Bug, Instance, State, Step
from tests.model.world import World

WRITES = "hold_lease, hold_work, write_vectors"
DIRTY = "a change while a key is held"
FENCED = "hold_lease, drops its answer"
MEETS = {
    "changes": (DIRTY, FENCED, WRITES, "hold_lease, hold_work, delay_work, close_lease, commit"),
    "truncates": (DIRTY, FENCED, "TRUNCATE", "rollback", "next_task, walk_dead, walk_target"),
    "sweeps": ("add_orphans_task", "take_due, close_lease, commit", "end_task, commit"),
    "refusals": ("hold_lease, hold_work, remove_vectors, bury_work", "enqueue", "retry",
                 "a pause is over"),
    "skips": ("next_task, walk_source", "read_rows, commit",
              "hold_lease, hold_work, finish_work, release_dirty, close_lease, commit"),
    "two keys": ("read_rows, return_unread, commit", "gives way", "deletes", "inserts"),
    "late": (DIRTY, FENCED, "take_log"),
    "doubts": ("append_doubts", WRITES, DIRTY),
    "backfill": ("move_task, commit", "end_task, commit"),
}  # fmt: skip
"""What each world is for."""


class Watched(World):
    """A world that counts what happens in it."""

    def __init__(self, instance: Instance) -> None:
        super().__init__(instance)
        self.seen: Counter[str] = Counter()

    def successors(self, state: State) -> Moves:
        for move in super().successors(state):
            self.seen[move.step.what] += 1
            if any(row is not None and row.dirty for row in move.state.work):
                self.seen["a change while a key is held"] += 1
            yield move


@pytest.mark.parametrize("name", SMALL)
def test_the_laws_hold(name: str) -> None:
    world = Watched(SMALL[name])
    explored = explore(world)
    print(f"{name}: {explored.states} states, {explored.steps} steps")
    assert explored.violation is None, str(explored.violation)
    assert explored.at_rest > 0
    # Else the laws would hold for want of anything that could break them.
    for wanted in ("crashes", "reap_leases", *MEETS[name]):
        assert world.seen[wanted] > 0, f"{wanted}: not among {sorted(world.seen)}"


@pytest.mark.chaos
@pytest.mark.parametrize("name", LARGE)
def test_the_laws_hold_in_larger_worlds(name: str) -> None:
    explored = explore(World(LARGE[name]), most=5_000_000)
    print(f"{name}: {explored.states} states, {explored.steps} steps")
    assert explored.violation is None, str(explored.violation)


@pytest.mark.parametrize(
    "instance",
    [replace(CHANGES, statements=2), SWEEPS, replace(BACKFILL, keys=1, start=(1,))],
    ids=["changes", "sweeps", "walk"],
)
def test_joined_statements_hide_nothing(instance: Instance) -> None:
    """What others can see is the same whether statements are joined into one step or not."""
    assert _visible(instance) == _visible(replace(instance, fine=True))


def _visible(instance: Instance) -> set[object]:
    """All committed tables that occur, with tokens by the order of their keys."""
    world, found = World(instance), set[object]()
    known = {world.start()}
    fringe = [world.start()]
    while fringe:
        state = fringe.pop()
        found.add(_committed(state))
        for move in world.successors(state):
            if move.state not in known:
                known.add(move.state)
                fringe.append(move.state)
    return found


def _committed(state: State) -> object:
    tokens: dict[int, int] = {0: 0}
    for row in state.work:
        if row is not None:
            tokens.setdefault(row.token, len(tokens))
    work = [row and (tokens[row.token], row.dirty, row.due, row.again) for row in state.work]
    log = sorted((row.what, row.doubt) for row in state.log if not row.made)
    tasks = [(task.kind, task.reached) for task in state.tasks if not task.made]
    texts = [
        (cell.text, stored.text) for cell, stored in zip(state.source, state.target, strict=True)
    ]
    return str((texts, state.dead, work, log, tasks, len(state.leases)))


SURVIVE: list[tuple[Bug, str, str]] = [
    ("a finish without the source", "changes", "a DELETE is logged by key, and so looked at again"),
]


@pytest.mark.parametrize(("bug", "world", "why"), SURVIVE)
def test_what_is_no_bug_here_is_not_claimed(bug: Bug, world: str, why: str) -> None:
    """Known to survive; that the product loses `dirty` when a lease expires is another such case:
    whoever takes the key next reads it anew. It is what reap_leases does, here too."""
    assert explore(World(replace(SMALL[world], bug=bug, statements=2))).violation is None, why


class Ring:
    """A model to try the explorer with: a walk round a ring, with a way out or without one."""

    def __init__(self, exit_at: int | None) -> None:
        self.exit_at = exit_at

    def start(self) -> int:
        return 0

    def successors(self, state: int) -> list[Next[Step, int]]:
        moves = [Next(Step("walker", "goes on"), (state + 1) % 5)] if state < 5 else []
        if state == self.exit_at:
            moves.append(Next(Step("walker", "leaves"), 9))
        return moves

    def broken(self, state: int) -> Broken | None:
        return None

    def at_rest(self, state: int) -> bool:
        return state == 9

    def comes_by_itself(self, step: Step) -> bool:
        return True


def test_a_circle_without_a_way_out_is_found() -> None:
    explored: Explored[Step] = explore(Ring(None))
    assert explored.violation is not None
    assert explored.violation.law == "stuck"
    assert explore(Ring(3)).violation is None
