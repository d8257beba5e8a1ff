"""Short texts that come alone and at the same time share a request.

A web application asks for one query at a time, and a provider takes thirty-two as quickly as one.
Nothing is ever held back to see whether more will come: a text leaves at once while fewer than
`AT_ONCE` requests of its kind are out. Those that come while so many are out wait together for the
first of them to return, where each for itself would wait for a place at the offer, and then leave
as one request.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NamedTuple

from qwen_embed_plugins.tokens import estimate_tokens
from qwen_embed_plugins.types import Role, TextError

if TYPE_CHECKING:
    from qwen_embed_plugins.types import EmbedResult, Matrix

AT_ONCE = 4
"""Requests of one kind that are out at a time. One would double the time of a query that comes
just after another, and a server that hangs would stop all of them."""

MOST_JOINED = 64

LONGEST_JOINED = 4_000
"""Characters. A longer text takes its time by itself: short ones would wait for it."""


class Embedded(NamedTuple):
    """What came of the texts of one client's request."""

    vectors: Matrix
    errors: Sequence[TextError]
    tokens: int


class Kind(NamedTuple):
    """What texts of one request have in common."""

    role: Role
    instruction: str | None


Embed = Callable[[Sequence[str], Kind], "Awaitable[EmbedResult]"]


@dataclass(eq=False, slots=True)
class _Waiting:
    text: str
    answer: asyncio.Future[Embedded]


@dataclass(eq=False, slots=True)
class _Line:
    """The texts of one kind: those that wait, and how many requests are out."""

    waiting: deque[_Waiting] = field(default_factory=deque)
    out: set[asyncio.Task[None]] = field(default_factory=set)


class Joiner:
    """Embeds texts for many clients of one event loop."""

    def __init__(self, embed: Embed) -> None:
        self._embed = embed
        self._lines: dict[Kind, _Line] = {}
        self.joined = 0
        """Texts that shared a request with others'."""

    async def embed(self, texts: Sequence[str], kind: Kind) -> Embedded:
        """The vectors of one client's texts. Cancelling it cancels its request, unless others
        share that."""
        if len(texts) == 1 and len(texts[0]) <= LONGEST_JOINED:
            return await self._embed_joined(texts[0], kind)
        result = await self._embed(texts, kind)
        return Embedded(result.vectors, result.errors, result.usage.tokens)

    async def _embed_joined(self, text: str, kind: Kind) -> Embedded:
        waiting = _Waiting(text, asyncio.get_running_loop().create_future())
        line = self._lines.setdefault(kind, _Line())
        line.waiting.append(waiting)
        self._start(kind, line)
        return await waiting.answer

    def _start(self, kind: Kind, line: _Line) -> None:
        while len(line.out) < AT_ONCE and (group := _next_group(line.waiting)):
            task = asyncio.create_task(self._ask(kind, line, group))
            line.out.add(task)
            for waiting in group:
                waiting.answer.add_done_callback(partial(_call_off, group, task))

    async def _ask(self, kind: Kind, line: _Line, group: Sequence[_Waiting]) -> None:
        try:
            result = await self._embed([waiting.text for waiting in group], kind)
        except asyncio.CancelledError:
            for waiting in group:
                waiting.answer.cancel()
            raise
        except Exception as error:
            for waiting in group:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
                    waiting.answer.exception()  # seen: a client that leaves now is no event
        else:
            self.joined += len(group) if len(group) > 1 else 0
            _hand_out(result, group)
        finally:
            line.out.remove(_this_task())
            self._start(kind, line)
            if not line.out:
                self._lines.pop(kind, None)


def _this_task() -> asyncio.Task[None]:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  a coroutine runs in one
    return task


def _next_group(waiting: deque[_Waiting]) -> list[_Waiting]:
    """The next texts to leave; those that nobody waits for any more are dropped."""
    group: list[_Waiting] = []
    while waiting and len(group) < MOST_JOINED:
        first = waiting.popleft()
        if not first.answer.done():
            group.append(first)
    return group


def _call_off(group: Sequence[_Waiting], task: asyncio.Task[None], _: object) -> None:
    """Cancel the request of a group that nobody waits for any more."""
    if all(waiting.answer.cancelled() for waiting in group):
        task.cancel()


def _hand_out(result: EmbedResult, group: Sequence[_Waiting]) -> None:
    failed = {error.position: error._replace(position=0) for error in result.errors}
    tokens = shares(result.usage.tokens, [estimate_tokens(waiting.text) for waiting in group])
    for position, waiting in enumerate(group):
        if not waiting.answer.done():
            errors = [failed[position]] if position in failed else []
            row = result.vectors[position : position + 1]
            waiting.answer.set_result(Embedded(row, errors, tokens[position]))


def shares(total: int, weights: Sequence[int]) -> list[int]:
    """A count divided in proportion to weights, in whole numbers whose sum is the count.

    >>> shares(10, [1, 1, 1])
    [3, 3, 4]
    """
    whole = sum(weights)
    ends = [total * weight // whole for weight in accumulate(weights, initial=0)]
    return [end - begin for begin, end in pairwise(ends)]
