"""The drivers that run flows against the world: threads for one colour, tasks for the other.

Their twin bodies are kept short; what both must do alike stands once, above them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import time
import weakref
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Protocol, TypeVar

from qwen_embed_plugins.catalogue import ConfiguredOffer
from qwen_embed_plugins.deadlines import Deadline
from qwen_embed_plugins.effects import (
    Aside,
    Finished,
    Job,
    KeepProbes,
    Learn,
    MakeFlow,
    Recall,
    Recalled,
    Remember,
    Reserve,
    Settle,
    Start,
    Wait,
)
from qwen_embed_plugins.errors import ConfigurationError, ProviderError, shown, without_secrets
from qwen_embed_plugins.ledger import Ledger, Reservation
from qwen_embed_plugins.meters import Refused
from qwen_embed_plugins.state import State
from qwen_embed_plugins.threads import Workers
from qwen_embed_plugins.types import (
    Answer,
    Batch,
    Call,
    Exchange,
    Fault,
    Pause,
    TransportFailure,
    WireRequest,
    WireResponse,
)

log = logging.getLogger("qwen_embed_plugins")

T = TypeVar("T")

INSPECTION_BYTES = 1 << 22
"""Room for a list of all models that a service has."""


class Transport(Protocol):
    """Sends a wire request. Raises `TransportFailure` when no whole answer arrives in time."""

    def send(self, request: WireRequest, job: Job, deadline: Deadline) -> WireResponse: ...


class AsyncTransport(Protocol):
    """The awaiting twin of `Transport`."""

    async def send(self, request: WireRequest, job: Job, deadline: Deadline) -> WireResponse: ...


def settle_rest(ledger: Ledger, held: dict[int, Reservation]) -> None:
    """A flow ended early: what its open attempts use will never be known, so bounds stand."""
    for reservation in held.values():
        ledger.abandon(reservation)
    held.clear()


def keep_books(effect: Reserve | Settle, ledger: Ledger, held: dict[int, Reservation]) -> Any:
    """Carry out a ledger effect, noting which reservations are open. May wait for a file."""
    if isinstance(effect, Settle):
        if _settled(effect, ledger, held):
            ledger.write()
        return None
    while (outcome := _reserved(effect, ledger, held)) is None:
        refused = ledger.top_up(effect.use)
        if refused is not None:
            return refused
    return outcome


async def akeep_books(
    effect: Reserve | Settle, ledger: Ledger, held: dict[int, Reservation]
) -> Any:
    """`keep_books`, awaiting: what may wait for a file does so in a thread."""
    if isinstance(effect, Settle):
        if _settled(effect, ledger, held):
            await asyncio.to_thread(ledger.write)
        return None
    while (outcome := _reserved(effect, ledger, held)) is None:
        refused = await asyncio.to_thread(ledger.top_up, effect.use)
        if refused is not None:
            return refused
    return outcome


def _settled(effect: Settle, ledger: Ledger, held: dict[int, Reservation]) -> bool:
    held.pop(effect.reservation.id, None)
    return ledger.settle(
        effect.reservation,
        effect.tokens,
        effect.cost,
        requests=effect.requests,
        credit=effect.credit,
    )


def _reserved(
    effect: Reserve, ledger: Ledger, held: dict[int, Reservation]
) -> Reservation | Refused | None:
    outcome = ledger.reserve(effect.use)
    if isinstance(outcome, Reservation):
        held[outcome.id] = outcome
    return outcome


def remember(effect: Remember, state: State) -> Any:
    """Carry out an effect on the state: write down what was learnt, or look up what others did.
    What cannot be written costs a request next time, no more, so a state file that is not writable
    must not fail a call whose vectors are paid."""
    try:
        if isinstance(effect, Recall):
            return Recalled(state.verdicts(effect.model), state.probes())
        if isinstance(effect, Learn):
            state.learn(effect.endpoint, effect.name, effect.value)
        elif isinstance(effect, KeepProbes):
            state.keep_probes(effect.endpoint, effect.vectors.tobytes())
            return state.probes()
        else:
            state.keep_verdict(effect.endpoint, effect.verdict)
    except ConfigurationError as error:
        about = effect.model if isinstance(effect, Recall) else effect.endpoint
        log.warning("could not remember what was learnt of %s: %s", about, error)
    return None


def fault_of(error: BaseException, offer: ConfiguredOffer) -> Fault:
    """What an exception out of an exchange means."""
    if isinstance(error, ProviderError):
        return error.fault
    if isinstance(error, ConfigurationError):
        return Fault("bad_offer", str(error))
    if isinstance(error, TransportFailure):
        try:
            fault: Any = offer.provider.classify(error)  # a stranger's plugin may give anything
        except Exception as second:
            error = second
        else:
            if isinstance(fault, Fault):
                return fault
            error = TypeError(f"classify gave {type(fault).__name__}, no Fault")
    said = without_secrets(" ".join(str(error).split()))[:200]
    return Fault("unavailable", f"the answer could not be read: {type(error).__name__}: {said}")


@dataclass(slots=True)
class _Progress:
    """How far an exchange got: whether a server answered at all, and whether its last answer was
    a success, which a provider counts even if nobody can read it."""

    answered: bool = False
    succeeded: bool = False

    def took(self, reply: Any) -> None:
        self.answered |= isinstance(reply, WireResponse)
        self.succeeded = isinstance(reply, WireResponse) and reply.status == 200


def failed(
    job: Job, error: BaseException, seconds: float, progress: _Progress | None = None
) -> Finished:
    """How a job ended that raised."""
    lost = isinstance(error, TransportFailure) and error.kind != "connect"
    lost = lost or (progress is not None and progress.succeeded)
    fault = fault_of(error, job.offer)
    # A server may repeat the key that it refuses, and a plugin may pass that on, or name an address
    # that holds a password.
    key = job.offer.provider.config.api_key
    fault = replace(fault, message=without_secrets(str(fault.message), (key,) if key else ()))
    answered = progress is not None and progress.answered
    return Finished(job, fault, seconds, maybe_served=lost, answered=answered)


def usable(answer: Any) -> Answer:
    """What an exchange returned, if it is an answer; the vectors in it are checked later."""
    if not isinstance(answer, Answer):
        raise TypeError(f"the exchange returned {type(answer).__name__}, no Answer")
    if answer.tokens is not None and (type(answer.tokens) is not int or answer.tokens < 0):
        raise TypeError(f"the answer's tokens are {shown(answer.tokens)}, no count")
    cost: Any = answer.cost
    if cost is not None and not (isinstance(cost, Decimal) and cost.is_finite() and cost >= 0):
        raise TypeError(f"the answer's cost is {shown(cost)}, no Decimal of 0 or more")
    return answer


def exchange_deadline(job: Job) -> Deadline:
    """Until when the job's exchange may take, from now on."""
    asked = job.offer.provider.exchange_seconds or 0.0
    return Deadline.after(max(asked, job.timeout_seconds))


def check_time(deadline: Deadline, wanted_seconds: float = 0.0) -> None:
    """Raise `TransportFailure` where an exchange has no time left for what it wants."""
    if deadline.left_seconds() > wanted_seconds:
        return
    said = f"the exchange did not end in {deadline.seconds:g} s"
    if wanted_seconds:
        said = f"{said}: it asked for a pause of {wanted_seconds:g} s"
    raise TransportFailure("timeout", f"{said}; if it needs longer, raise timeout_seconds")


def run_exchange(job: Job, transport: Transport) -> Finished:
    """Make one attempt, blocking. Never raises for what a server or a plugin does wrong."""
    started, progress = time.monotonic(), _Progress()
    try:
        exchange = job.offer.provider.exchange(job.batch)
        answer = usable(_drive_exchange(exchange, job, transport, progress))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also what no Exception is: a panic in a Rust extension
        return failed(job, error, time.monotonic() - started, progress)
    return Finished(job, answer, time.monotonic() - started)


def run_inspection(
    offer: ConfiguredOffer, transport: Transport, timeout_seconds: float
) -> tuple[str, ...]:
    """What a server says of itself (`Provider.inspect`), blocking. Raises what goes wrong."""
    inspection = offer.provider.inspect(offer.offer.wire_name, offer.model)
    nothing = Batch((), "document", offer.model, offer.offer.wire_name)
    job = Job(0, offer, nothing, timeout_seconds, INSPECTION_BYTES)
    return tuple(_drive_exchange(inspection, job, transport, _Progress()))


def _drive_exchange(
    exchange: Generator[WireRequest | Pause | Call, Any, T],
    job: Job,
    transport: Transport,
    progress: _Progress,
) -> T:
    deadline = exchange_deadline(job)
    try:
        step = next(exchange)
        while True:
            try:
                progress.succeeded = False
                reply = _take_step(step, job, transport, deadline)
                progress.took(reply)
            except Exception as error:
                step = exchange.throw(error)
                # It went on all the same: were it told again and again, it might never end.
                check_time(deadline)
            else:
                step = exchange.send(reply)
    except StopIteration as stop:
        result: T = stop.value
        return result


def _take_step(
    step: WireRequest | Pause | Call, job: Job, transport: Transport, deadline: Deadline
) -> Any:
    check_time(deadline, step.seconds if isinstance(step, Pause) else 0.0)
    if isinstance(step, WireRequest):
        return transport.send(step, job, deadline.within(job.timeout_seconds))
    return time.sleep(step.seconds) if isinstance(step, Pause) else step.function()


async def arun_exchange(job: Job, transport: AsyncTransport) -> Finished:
    """Make one attempt, awaiting."""
    started, progress = time.monotonic(), _Progress()
    try:
        exchange = job.offer.provider.exchange(job.batch)
        answer = usable(await _adrive_exchange(exchange, job, transport, progress))
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise
    except BaseException as error:
        return failed(job, error, time.monotonic() - started, progress)
    return Finished(job, answer, time.monotonic() - started)


async def _adrive_exchange(
    exchange: Exchange, job: Job, transport: AsyncTransport, progress: _Progress
) -> Answer:
    deadline = exchange_deadline(job)
    try:
        step = next(exchange)
        while True:
            try:
                progress.succeeded = False
                reply = await _atake_step(step, job, transport, deadline)
                progress.took(reply)
            except Exception as error:
                step = exchange.throw(error)
                # It went on all the same: were it told again and again, it might never end.
                check_time(deadline)
            else:
                step = exchange.send(reply)
    except StopIteration as stop:
        answer: Answer = stop.value
        return answer


async def _atake_step(
    step: WireRequest | Pause | Call, job: Job, transport: AsyncTransport, deadline: Deadline
) -> Any:
    check_time(deadline, step.seconds if isinstance(step, Pause) else 0.0)
    if isinstance(step, WireRequest):
        return await transport.send(step, job, deadline.within(job.timeout_seconds))
    if isinstance(step, Pause):
        return await asyncio.sleep(step.seconds)
    return await asyncio.to_thread(step.function)


class BlockingDriver:
    """Runs flows in the calling thread, their jobs in worker threads.

    A job that is alone, with nothing else to wait for, is made in the calling thread: handing it
    over would cost a single query more than the ledger does.
    """

    def __init__(self, transport: Transport, ledger: Ledger, state: State) -> None:
        self._transport = transport
        self._ledger = ledger
        self._state = state
        self._workers = Workers()
        # Many users never close an embedder; its threads end with it all the same.
        weakref.finalize(self, self._workers.close)

    def run(self, make_flow: MakeFlow[T]) -> T:
        """Run one flow to its end and give its result. Blocks; safe from any thread."""
        mailbox: queue.SimpleQueue[Finished | None] = queue.SimpleQueue()
        flow = make_flow(lambda: mailbox.put(None))
        held: dict[int, Reservation] = {}
        waiting: list[Job] = []
        running = 0
        reply: Any = None
        try:
            while True:
                effect = flow.send(reply)
                reply = None
                if isinstance(effect, Start):
                    waiting.append(effect.job)
                elif isinstance(effect, Wait):
                    if len(waiting) == 1 and not running and effect.alone and effect.until is None:
                        reply = run_exchange(waiting.pop(), self._transport)
                        continue
                    running += len(waiting)
                    for job in waiting:
                        self._workers.submit(self._task(job, mailbox))
                    waiting.clear()
                    reply = _take(mailbox, effect.until)
                    running -= isinstance(reply, Finished)
                elif isinstance(effect, (Reserve, Settle)):
                    reply = keep_books(effect, self._ledger, held)
                elif isinstance(effect, Aside):
                    reply = effect.function()
                else:
                    reply = remember(effect, self._state)
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            settle_rest(self._ledger, held)
            flow.close()

    def _task(self, job: Job, mailbox: queue.SimpleQueue[Finished | None]) -> Callable[[], None]:
        def attempt() -> None:
            try:
                finished = run_exchange(job, transport)
            except BaseException as error:
                finished = failed(job, error, 0.0)
            mailbox.put(finished)

        transport = self._transport
        return attempt

    def close(self) -> None:
        """End the worker threads; jobs that are out are forgotten."""
        self._workers.close()


def _take(mailbox: queue.SimpleQueue[Finished | None], until: float | None) -> Finished | None:
    try:
        return mailbox.get(timeout=None if until is None else max(0.0, until - time.time()))
    except queue.Empty:
        return None


class AwaitingDriver:
    """Runs flows in the running event loop, each job as a task of it."""

    def __init__(self, transport: AsyncTransport, ledger: Ledger, state: State) -> None:
        self._transport = transport
        self._ledger = ledger
        self._state = state

    async def run(self, make_flow: MakeFlow[T]) -> T:
        """Run one flow to its end and give its result. Cancelling it cancels its jobs."""
        loop = asyncio.get_running_loop()
        mailbox: asyncio.Queue[Finished | None] = asyncio.Queue()
        flow = make_flow(lambda: _wake(loop, mailbox))
        held: dict[int, Reservation] = {}
        tasks: dict[int, asyncio.Task[None]] = {}
        reply: Any = None
        try:
            while True:
                effect = flow.send(reply)
                reply = None
                if isinstance(effect, Start):
                    tasks[effect.job.id] = loop.create_task(self._attempt(effect.job, mailbox))
                elif isinstance(effect, Wait):
                    reply = await _atake(mailbox, effect.until)
                elif isinstance(effect, (Reserve, Settle)):
                    reply = await akeep_books(effect, self._ledger, held)
                elif isinstance(effect, Aside):
                    reply = await asyncio.to_thread(effect.function)
                else:
                    reply = await asyncio.to_thread(remember, effect, self._state)
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            settle_rest(self._ledger, held)
            flow.close()
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)

    async def _attempt(self, job: Job, mailbox: asyncio.Queue[Finished | None]) -> None:
        try:
            finished = await arun_exchange(job, self._transport)
        except BaseException as error:
            # Cancelled: by the call itself, which no longer listens, or by a plugin, for which it
            # must not wait for ever.
            mailbox.put_nowait(failed(job, error, 0.0))
            raise
        mailbox.put_nowait(finished)


def _wake(loop: asyncio.AbstractEventLoop, mailbox: asyncio.Queue[Finished | None]) -> None:
    # The loop may close at any moment; the flow that wakes this one must not pay for that.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(mailbox.put_nowait, None)


async def _atake(mailbox: asyncio.Queue[Finished | None], until: float | None) -> Finished | None:
    if until is None:
        return await mailbox.get()
    try:
        return await asyncio.wait_for(mailbox.get(), max(0.0, until - time.time()))
    except asyncio.TimeoutError:
        return None
