"""Every state that a model can reach, and the shortest way to one that breaks a law.

Breadth first, so that a trace is as short as any. From every state it must be possible to come to
rest, by steps alone that the model says happen by themselves: who cannot is stuck, be it in a
deadlock or in a circle that nothing leads out of.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

S = TypeVar("S", bound=Hashable)
Move = TypeVar("Move")


class Broken(NamedTuple):
    """A law that does not hold, by name, and what was seen."""

    law: str
    said: str


class Next(NamedTuple, Generic[Move, S]):
    """One step from a state. `broken` is a law that the step itself breaks."""

    step: Move
    state: S
    broken: Broken | None = None


class Model(Protocol[Move, S]):
    """What is explored."""

    def start(self) -> S: ...

    def successors(self, state: S) -> Iterable[Next[Move, S]]: ...

    def broken(self, state: S) -> Broken | None:
        """The law that a state breaks."""

    def at_rest(self, state: S) -> bool:
        """Whether nothing is left to be done."""

    def comes_by_itself(self, step: Move) -> bool:
        """Whether a step happens sooner or later without anyone from outside."""


@dataclass(frozen=True)
class Violation(Generic[Move]):
    """A broken law and the steps that lead to it."""

    law: str
    said: str
    trace: tuple[Move, ...]

    def __str__(self) -> str:
        steps = [f"{number:3}. {step}" for number, step in enumerate(self.trace, 1)]
        return "\n".join([*steps, f"     {self.law}: {self.said}"])


@dataclass(frozen=True)
class Explored(Generic[Move]):
    """How much was seen. Exploring ends at the first violation."""

    states: int
    steps: int
    at_rest: int
    violation: Violation[Move] | None


class TooMany(Exception):
    """The model has more states than it was given room for."""


def explore(model: Model[Move, S], *, most: int = 2_000_000) -> Explored[Move]:
    """Visit every state once. Raises `TooMany` beyond `most`."""
    return _Exploration(model, most).run()


class _Exploration(Generic[Move, S]):
    def __init__(self, model: Model[Move, S], most: int) -> None:
        self.model = model
        self.most = most
        first = model.start()
        self.states = [first]
        self.numbers = {first: 0}
        self.came_from = array("l", [-1])
        self.by_step: list[Move | None] = [None]
        # Edges of the graph that help, backwards: `sources[i]` leads to `targets[i]`.
        self.sources, self.targets = array("l"), array("l")
        self.steps = 0

    def run(self) -> Explored[Move]:
        violation = next(self._violations(), None)
        at_rest = sum(map(self.model.at_rest, self.states)) if violation is None else 0
        return Explored(len(self.states), self.steps, at_rest, violation)

    def _violations(self) -> Iterator[Violation[Move]]:
        said = self.model.broken(self.states[0])
        if said is not None:
            yield Violation(*said, ())
        number = 0
        while number < len(self.states):
            yield from self._visit(number)
            number += 1
        yield from self._stuck()

    def _visit(self, number: int) -> Iterator[Violation[Move]]:
        for step, state, broken in self.model.successors(self.states[number]):
            self.steps += 1
            known = self.numbers.get(state)
            if known is None:
                known = self._add(state, number, step)
                broken = broken or self.model.broken(state)
            if broken is not None:
                yield Violation(*broken, (*self._trace(number), step))
            if self.model.comes_by_itself(step):
                self.sources.append(number)
                self.targets.append(known)

    def _add(self, state: S, number: int, step: Move) -> int:
        known = len(self.states)
        if known >= self.most:
            raise TooMany(f"more than {self.most} states")
        self.numbers[state] = known
        self.states.append(state)
        self.came_from.append(number)
        self.by_step.append(step)
        return known

    def _trace(self, number: int) -> tuple[Move, ...]:
        steps: list[Move] = []
        while (step := self.by_step[number]) is not None:
            steps.append(step)
            number = self.came_from[number]
        return tuple(reversed(steps))

    def _stuck(self) -> Iterator[Violation[Move]]:
        leading_to: list[list[int]] = [[] for _ in self.states]
        for source, target in zip(self.sources, self.targets, strict=True):
            leading_to[target].append(source)
        fringe = [i for i, state in enumerate(self.states) if self.model.at_rest(state)]
        safe = bytearray(len(self.states))
        for number in fringe:
            safe[number] = 1
        while fringe:
            for source in leading_to[fringe.pop()]:
                if not safe[source]:
                    safe[source] = 1
                    fringe.append(source)
        stuck = safe.find(0)
        if stuck >= 0:
            said = "from here nothing that happens by itself leads to rest"
            yield Violation("stuck", said, self._trace(stuck))
