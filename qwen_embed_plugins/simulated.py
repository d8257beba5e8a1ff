"""The third driver: flows under a simulated clock, with servers that are plain functions.

Nothing sleeps and nothing is sent, so thousands of calls fit into a second and every run of a seed
is the same. The router is the real one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import Any, TypeVar

from qwen_embed_plugins.drivers import keep_books, settle_rest
from qwen_embed_plugins.effects import (
    Aside,
    Finished,
    Job,
    MakeFlow,
    Remember,
    Reserve,
    Settle,
    Start,
    Wait,
)
from qwen_embed_plugins.ledger import Ledger, Reservation
from qwen_embed_plugins.types import Answer, Fault

T = TypeVar("T")


@dataclass(slots=True)
class SimulatedClock:
    """Seconds since the epoch that pass only when told to. Call it to read it."""

    seconds: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.seconds


@dataclass(frozen=True, slots=True)
class Served:
    """What a simulated server does with a job: its outcome, after so many simulated seconds."""

    outcome: Answer | Fault
    seconds: float = 0.01
    maybe_served: bool = False


class Stuck(AssertionError):
    """A flow waits for something that can never come."""


@dataclass(slots=True)
class SimulatedDriver:
    """Runs one flow after another; `respond` plays all servers, `jobs` records what was asked."""

    respond: Callable[[Job], Served]
    ledger: Ledger
    clock: SimulatedClock = field(default_factory=SimulatedClock)
    jobs: list[Job] = field(default_factory=list)
    learnt: list[Remember] = field(default_factory=list)

    def run(self, make_flow: MakeFlow[T]) -> T:
        """Run a flow to its end, moving the clock to whatever it waits for."""
        finishing: list[tuple[float, int, Finished]] = []
        order = count()
        flow = make_flow(lambda: None)
        held: dict[int, Reservation] = {}
        reply: Any = None
        try:
            while True:
                effect = flow.send(reply)
                reply = None
                if isinstance(effect, Start):
                    self.jobs.append(effect.job)
                    served = self.respond(effect.job)
                    done = Finished(effect.job, served.outcome, served.seconds, served.maybe_served)
                    heappush(finishing, (self.clock.seconds + served.seconds, next(order), done))
                elif isinstance(effect, Wait):
                    reply = self._wait(effect, finishing)
                elif isinstance(effect, (Reserve, Settle)):
                    reply = keep_books(effect, self.ledger, held)
                elif isinstance(effect, Aside):
                    reply = effect.function()
                else:
                    self.learnt.append(effect)
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            settle_rest(self.ledger, held)
            flow.close()

    def _wait(self, effect: Wait, finishing: list[tuple[float, int, Finished]]) -> Finished | None:
        if finishing and (effect.until is None or finishing[0][0] <= effect.until):
            moment, _, finished = heappop(finishing)
            self.clock.seconds = max(self.clock.seconds, moment)
            return finished
        if effect.until is None:
            raise Stuck("the flow waits with nothing under way and no time to look again")
        self.clock.seconds = max(self.clock.seconds, effect.until)
        return None
