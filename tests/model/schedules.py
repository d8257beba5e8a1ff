"""Schedules for a real Postgres: drawn at random from the model, or the traces that it found."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from tests.model.explorer import Next
from tests.model.replay import Play
from tests.model.stage import Stage
from tests.model.states import Instance, State, Step
from tests.model.world import World

_RARE = {"crashes": 0.15, "handed back": 0.3, "rollback": 0.5, "refused": 0.4, "owner": 0.3}
_LONGEST_WAY_TO_REST = 1000

Move = Next[Step, State]


@dataclass
class Drawn:
    """What a schedule did, for the message of one that fails, and what it met."""

    lines: list[str] = field(default_factory=list)
    waits: int = 0
    truncates_that_wait: int = 0


class Schedule:
    """A way through the model, made on the stage too. Ends what it left open there."""

    def __init__(self, stage: Stage, instance: Instance, seed: object = 0) -> None:
        self.world = World(replace(instance, fine=True))
        self.state = self.world.start()
        self.play = Play(stage, instance, self.state)
        self.chance = random.Random(f"{seed}")
        self.drawn = Drawn()

    def draw(self, steps: int) -> Drawn:
        """So many steps at random, then only what leads to rest by itself."""
        for _ in range(steps):
            self._any(lambda step: True)
            self._provoke()
        return self.rest()

    def rest(self) -> Drawn:
        for _ in range(_LONGEST_WAY_TO_REST):
            if self.world.at_rest(self.state):
                return self.drawn
            self._any(self.world.comes_by_itself)
        raise AssertionError("the model does not come to rest")

    def follow(self, trace: Iterable[Step]) -> Drawn:
        """The steps of a trace, as far as this model allows them."""
        for step in trace:
            alike = [m for m in self._possible() if (m.step.who, m.step.what) == step[:2]]
            exact = [move for move in alike if move.step == step]
            for move in (exact or alike)[:1]:
                self._make(move)
        return self.drawn

    def _make(self, move: Move) -> None:
        self.drawn.lines.append(str(move.step))
        try:
            self.play.step(move.step, self.state, move.state)
        except BaseException:
            self.drawn.lines.append(f"before: {self.state}")
            raise
        self.state = move.state

    def _any(self, allowed: Callable[[Step], bool]) -> None:
        moves = [move for move in self._possible() if allowed(move.step)]
        if moves:
            weights = [self._weight(move.step) for move in moves]
            self._make(self.chance.choices(moves, weights)[0])

    def _weight(self, step: Step) -> float:
        words = (step.what, step.detail.removeprefix("the answer: "), step.who)
        return min(_RARE.get(word, 1.0) for word in words)

    def _possible(self) -> list[Move]:
        """What the model allows, less what a statement that waits has decided already."""
        for who in self.play.waiting:
            own = [move for move in self._steps_of(who) if move.step.detail != "handed back"]
            if own:
                return own[:1]  # Postgres does it the moment it can
        moves = list(self.world.successors(self.state))
        if self.play.waiting:
            return [move for move in moves if not self._begins_to_wait(move)]
        return moves

    def _steps_of(self, who: str) -> list[Move]:
        return list(self.world.workers.steps(self.state, int(who.split()[1]) - 1))

    def _begins_to_wait(self, move: Move) -> bool:
        # One at a time: which of two that wait is served first is Postgres' affair.
        if move.step.what not in ("take_log", "hold_work"):
            return False
        at = move.state.workers[int(move.step.who.split()[1]) - 1].at
        return at in ("merging", "holding")

    def _provoke(self) -> None:
        """Now and then send what cannot be done yet."""
        if self.play.waiting or self.chance.random() > 0.5:
            return
        stopped = [
            f"worker {place + 1}"
            for place, worker in enumerate(self.state.workers)
            if worker.at in ("merging", "taken", "out", "fenced", "held")
            and not self._steps_of(f"worker {place + 1}")
        ]
        if stopped:
            who = self.chance.choice(stopped)
            self.drawn.lines.append(f"{who}: its next statement waits")
            self.drawn.waits += 1
            self.play.send_early(who, self.state)
        elif self.world.workers.read_the_source(self.state):
            self.drawn.lines.append("a TRUNCATE waits")
            self.drawn.truncates_that_wait += 1
            self.play.truncate_must_wait()


Begin = Callable[..., Schedule]
"""Begins a schedule of an instance, with a seed."""


def in_single_statements(instance: Instance, trace: Sequence[Step]) -> list[Step]:
    """A trace of joined steps as one of single statements."""
    joined, single = World(instance), World(replace(instance, fine=True))
    state, steps = joined.start(), list[Step]()
    for step in trace:
        after = next(move.state for move in joined.successors(state) if move.step == step)
        way = _way(single, state, after, step.who)
        assert way is not None, f"{step} is not what its statements are one by one"
        steps += way
        state = after
    return steps


def _way(world: World, state: State, wanted: State, who: str, left: int = 7) -> list[Step] | None:
    if state == wanted:
        return []
    for move in world.successors(state) if left else ():
        if move.step.who == who:
            rest = _way(world, move.state, wanted, who, left - 1)
            if rest is not None:
                return [move.step, *rest]
    return None
