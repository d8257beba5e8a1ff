"""Blocks: what a process has taken of the shared record in advance, for its next attempts.

Reserving from a block and settling into it is arithmetic. One rule makes it safe to lose: a block's
*content* (spare, held by reservations, used but not yet written) is what the file says of it or
less, so that after `kill -9` the file's bound stands for whatever the process did with it. Nothing
moves in or out of a block but through the file, except what an attempt used beyond its bound:
until that is written the block is *behind*.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from qwen_embed_plugins.amounts import NOTHING, Amount
from qwen_embed_plugins.meters import Key, Meter

SHARE = 16
"""A block takes at most this part of what is left of a budget, unless one attempt needs more."""

LARGEST = 32
"""A block is taken for at most so many attempts. It begins with one and doubles while it is in use,
so that processes which come and go, or die, take little along."""


@dataclass(slots=True, eq=False)
class Block:
    """One process's block of one count. Its owner's lock guards it."""

    key: Key
    meter: Meter
    """Any of those that share the count: only its window matters here."""
    spare: Amount = NOTHING
    held: Amount = NOTHING
    used: Amount = NOTHING
    filed: Amount = NOTHING
    size: int = 1
    """For how many attempts the next filling is."""
    idle: bool = False
    """Untouched since it was last looked at."""
    awaited: bool = False
    """Another process waits for a place under way: what comes back goes back."""

    @property
    def content(self) -> Amount:
        return self.spare + self.held + self.used

    @property
    def behind(self) -> bool:
        """Whether the file knows of less than there is."""
        return not self.filed.covers(self.content)

    @property
    def empty(self) -> bool:
        return self.content == NOTHING == self.filed

    def has(self, bound: Amount) -> bool:
        """Whether there is as much for an attempt; marks the block as in use."""
        self.idle = False
        return self.spare.covers(bound)

    def hold(self, bound: Amount) -> None:
        """Set an attempt's bound aside."""
        self.spare -= bound
        self.held += bound

    def land(self, bound: Amount) -> None:
        """An attempt is no longer under way: its place is free for the next, here or elsewhere."""
        self.idle = False
        self.held -= bound
        if not self.awaited:
            self.spare += bound

    def settle(self, bound: Amount, used: Amount) -> None:
        """Replace a bound by what was used; what it was too low by comes out of the spare part."""
        self.idle = False
        self.held -= bound
        self.used += used
        self.spare = (self.spare + bound - used).or_nothing()


Left: TypeAlias = tuple[int | None, int | None, int | None]
"""What is left of the limits of a count: requests, tokens, money; None where there is none."""


def affordable(bound: Amount, left: Left) -> int:
    """For how many attempts with this bound a block may be taken; at least one, since whether there
    is room for one was seen to before."""
    parts = zip((bound.requests, bound.tokens, bound.money), left, strict=True)
    return max(
        1,
        min(
            (limit // SHARE // part for part, limit in parts if part and limit is not None),
            default=LARGEST,
        ),
    )


def filling(bound: Amount, attempts: int, spare: Amount) -> Amount:
    """What to add to the spare part for so many attempts with this bound."""
    return (bound.times(attempts) - spare).or_nothing()
