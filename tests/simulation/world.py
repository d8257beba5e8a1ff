"""Several flows at once under one simulated clock: the calls of processes that share a ledger and a
state, whose steps interleave at random, and which may be cancelled or killed at any moment."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from random import Random
from typing import Any, Protocol

from qwen_embed_plugins.drivers import _Progress, failed, keep_books, remember, settle_rest
from qwen_embed_plugins.effects import Aside, Finished, Flow, Job, Reserve, Settle, Start, Wait
from qwen_embed_plugins.errors import ProviderError, QwenEmbedError
from qwen_embed_plugins.events import Event
from qwen_embed_plugins.ledger import Ledger, Reservation
from qwen_embed_plugins.router import EmbedRequest, Router
from qwen_embed_plugins.state import MemoryState
from qwen_embed_plugins.testing.simulation import SimulatedClock
from qwen_embed_plugins.types import Answer, EmbedResult, Fault
from tests.simulation.servers import Reply, Server

MOST_STEPS = 300_000
"""No schedule needs a third of it."""

MOST_IDLE_STEPS = 20_000
"""So much may happen without a request: calls that wait for one place ask twice a second."""


@dataclass(slots=True, eq=False)
class Attempt:
    """One request, as the driver and the server saw it. Moments are wall clock; steps count what
    happened in the world, in order."""

    call: Call
    job: Job
    reservation: Reservation
    reserved_at: float
    reserved_step: int
    arrived_at: float | None = None
    reply: Reply | None = None
    finished: Finished | None = None
    settled_step: int | None = None
    """When the flow booked it; None if it was cancelled or killed before."""
    is_covered: bool = False
    """Whether it counted more than was held of a grant, and the grant had room for it."""
    ended_step: int | None = None
    """When its reservation ended, by whomever."""

    @property
    def counted(self) -> int:
        """The tokens that the server bills."""
        return self.reply.counted if self.reply is not None else 0


@dataclass(slots=True, eq=False)
class Call:
    """One call of a process, and what became of it."""

    number: int
    process: Process
    request: EmbedRequest
    began: float = 0.0
    flow: Flow[EmbedResult] | None = None
    mailbox: deque[Finished | None] = field(default_factory=deque)
    held: dict[int, Reservation] = field(default_factory=dict)
    attempts: dict[int, Attempt] = field(default_factory=dict)
    """By the id of their reservation."""
    reserved: tuple[Reservation, float, int] | None = None
    waits: int | None = None
    """The number of the wait that it is in."""
    ended: bool = False
    given_up: bool = False
    """Cancelled, or killed with its process."""
    result: EmbedResult | None = None
    error: QwenEmbedError | None = None


class Process(Protocol):
    """A process: what it shares with others is in the ledger and the state."""

    number: int
    router: Router
    ledger: Ledger

    def kill(self) -> None:
        """Forget what is in memory, as `kill -9` does."""


@dataclass(slots=True)
class World:
    """One schedule. Time passes from event to event; `jump` moves the clock that all can see."""

    random: Random
    clock: SimulatedClock
    servers: dict[str, Server]
    """By the key of their offer."""
    state: MemoryState = field(default_factory=MemoryState)
    interleave: float = 0.0
    """How often a flow is interrupted after an effect."""
    trace: Callable[[str], None] | None = None
    processes: list[Process] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    step: int = 0
    requested: int = 0
    """The step of the last request."""
    elapsed: float = 0.0
    work: int = 0
    """Events to come, without those of housekeeping."""
    _heap: list[tuple[float, float, int, bool, Callable[[], None]]] = field(default_factory=list)
    _began: float = field(init=False)
    _order: int = 0

    def __post_init__(self) -> None:
        self._began = self.clock.seconds

    def at(self, elapsed: float, do: Callable[[], None], *, housekeeping: bool = False) -> None:
        """Do something after so many seconds since the beginning; what falls together happens in
        any order."""
        self._order += 1
        self.work += not housekeeping
        tie = self.random.random()
        heappush(self._heap, (elapsed, tie, self._order, housekeeping, do))

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        self.at(self.elapsed + seconds, do)

    def jump(self, seconds: float) -> None:
        """Set the clock, forwards or backwards; nobody wakes earlier or later for it."""
        self.say(f"the clock jumps by {seconds:g} s")
        self._began += seconds
        self.clock.seconds += seconds

    def say(self, line: str) -> None:
        if self.trace is not None:
            self.trace(f"{self.elapsed:10.3f} {line}")

    @property
    def is_stuck(self) -> bool:
        """Whether far too much has happened, or far too much for nothing."""
        return self.step >= MOST_STEPS or self.step - self.requested >= MOST_IDLE_STEPS

    def run(self) -> None:
        """Let everything happen. Ends with the last event, or after far too many."""
        while self._heap and not self.is_stuck:
            self.elapsed, _, _, housekeeping, do = heappop(self._heap)
            self.work -= not housekeeping
            self.clock.seconds = self._began + self.elapsed
            self.step += 1
            do()

    # Calls

    def begin(self, process: Process, request: EmbedRequest) -> None:
        call = Call(len(self.calls), process, request, self.clock.seconds)
        self.calls.append(call)
        self.say(f"call {call.number} of process {process.number}: {_short(request)}")
        call.flow = process.router.flow(request, lambda: self._notify(call, None))
        self._go_on(call, None)

    def _go_on(self, call: Call, reply: Any) -> None:
        """Run a flow until it waits or is interrupted."""
        if call.ended or call.flow is None:
            return
        while not self.is_stuck:  # a flow may go round in circles without ever waiting
            self.step += 1
            try:
                effect = call.flow.send(reply)
            except StopIteration as stop:
                self._end(call, stop.value, None)
                return
            except QwenEmbedError as error:
                self._end(call, None, error)
                return
            reply = None
            if isinstance(effect, Wait):
                self._wait(call, effect)
                return
            if isinstance(effect, Start):
                self._send(call, effect.job)
            elif isinstance(effect, Reserve):
                reply = keep_books(effect, call.process.ledger, call.held)
                if isinstance(reply, Reservation):
                    call.reserved = (reply, self.clock.seconds, self.step)
                else:
                    self.say(f"call {call.number} is refused: {reply.message}")
            elif isinstance(effect, Settle):
                keep_books(effect, call.process.ledger, call.held)
                attempt = call.attempts.get(effect.reservation.id)
                if attempt is None:
                    continue  # only whether a grant has room for more than was thought
                bound = attempt.reservation.use.tokens
                attempt.is_covered = effect.tokens > bound and not effect.cost
                attempt.settled_step = attempt.ended_step = self.step
            elif not isinstance(effect, Aside):  # calls of the simulation have no cache
                reply = remember(effect, self.state)
            if self.interleave and self.random.random() < self.interleave:
                self.after(0.0, lambda: self._go_on(call, reply))  # noqa: B023
                return

    def _wait(self, call: Call, effect: Wait) -> None:
        if call.mailbox:
            self.after(0.0, lambda: self._go_on(call, call.mailbox.popleft()))
            return
        call.waits = number = self.step
        if effect.until is not None:
            # As a timeout counts: what the clock shows later does not change it.
            seconds = max(0.0, effect.until - self.clock.seconds)
            self.after(seconds, lambda: self._resume(call, number))

    def _resume(self, call: Call, number: int) -> None:
        if call.waits == number:
            call.waits = None
            self._go_on(call, call.mailbox.popleft() if call.mailbox else None)

    def _notify(self, call: Call, news: Finished | None) -> None:
        call.mailbox.append(news)
        number = call.waits
        if number is not None and not call.ended:
            self.after(0.0, lambda: self._resume(call, number))

    def _end(self, call: Call, result: EmbedResult | None, error: QwenEmbedError | None) -> None:
        call.ended, call.result, call.error = True, result, error
        if self.trace is not None:
            said = error if result is None else [*result.errors]
            self.say(f"call {call.number} ends: {said!r}")
        self._close(call)

    def _close(self, call: Call) -> None:
        """What a driver does in the end, however the call ended."""
        settle_rest(call.process.ledger, call.held)
        for attempt in call.attempts.values():
            if attempt.ended_step is None:
                attempt.ended_step = self.step
        if call.flow is not None:
            call.flow.close()

    def cancel(self, call: Call) -> None:
        """As a cancelled task or an interrupt does it."""
        if not call.ended:
            self.say(f"call {call.number} is cancelled")
            call.ended = call.given_up = True
            self._close(call)

    def kill(self, process: Process) -> None:
        """`kill -9`: nothing of it is heard of again; what was sent may still be served."""
        self.say(f"process {process.number} is killed")
        self.processes.remove(process)
        for call in self.calls:
            if call.process is process and not call.ended:
                call.ended = call.given_up = True
        process.kill()
        for call in self.calls:
            if call.process is process:
                for attempt in call.attempts.values():
                    if attempt.ended_step is None:
                        attempt.ended_step = self.step
                if call.flow is not None:
                    call.flow.close()

    # Requests

    def _send(self, call: Call, job: Job) -> None:
        assert call.reserved is not None, "a request was sent for which nothing is reserved"
        attempt = Attempt(call, job, *call.reserved)
        call.attempts[attempt.reservation.id] = attempt
        call.reserved, self.requested = None, self.step
        self.attempts.append(attempt)
        if self.trace is not None:
            use = attempt.reservation.use
            texts = [text[:24] for text in job.batch.texts]
            self.say(f"call {call.number} sends {texts} to {job.offer.key} as {_terms(use)}")
        self.after(0.02 * self.random.random(), lambda: self._arrive(attempt))

    def _arrive(self, attempt: Attempt) -> None:
        if attempt.call.ended:
            return  # the connection was closed before
        job, now = attempt.job, self.clock.seconds
        server = self.servers[job.offer.key]
        if server.temper and self.random.random() < server.temper / 10:
            error = ProviderError(Fault("unavailable", "no connection"))
            self._finish(attempt, failed(job, error, 0.1))
            return
        attempt.arrived_at = now
        attempt.reply = reply = server.respond(job, now)
        if reply.seconds >= job.timeout_seconds:
            fault = Fault("unavailable", "no answer in time")
            lost = Finished(job, fault, job.timeout_seconds, maybe_served=True)
            self.after(job.timeout_seconds, lambda: self._finish(attempt, lost))
            return
        finished = _finished(job, reply)
        self.after(reply.seconds, lambda: self._finish(attempt, finished))

    def _finish(self, attempt: Attempt, finished: Finished) -> None:
        if attempt.call.ended:
            return
        attempt.finished = finished
        if self.trace is not None:
            outcome = finished.outcome
            said = f"{len(outcome.vectors)} vectors" if isinstance(outcome, Answer) else outcome
            self.say(f"call {attempt.call.number} hears of {attempt.job.offer.key}: {said}")
        self._notify(attempt.call, finished)


def _finished(job: Job, reply: Reply) -> Finished:
    """As a driver hands over what came back, keys taken out of messages."""
    if isinstance(reply.outcome, Answer):
        return Finished(job, reply.outcome, reply.seconds)
    finished = failed(job, ProviderError(reply.outcome), reply.seconds, _Progress(answered=True))
    if reply.answered:
        return finished
    return Finished(job, finished.outcome, reply.seconds, maybe_served=True)


def _short(request: EmbedRequest) -> str:
    return f"{len(request.texts)} texts, {request.role}, {request.space}"


def _terms(use: Any) -> str:
    grant = next((meter for meter in use.meters if meter.kind in ("grant", "credit")), None)
    return f"{use.tokens} tokens, " + (f"of {grant.kind}" if grant else f"{use.cost} USD")
