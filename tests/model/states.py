"""What the model of the work protocol consists of: the tables, the sessions, and steps in words.

A state holds what is committed, and for each session what its open transaction has done so far: its
locks follow from that. Keys are 0, 1, …; sessions have numbers, 0 stands for nobody.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

ABSENT, EMPTY = 0, -1
"""Texts of a row that is not there, and of one that has none. Others are 1, 2, …"""

TRUNCATED = -1
"""What stands in the log instead of a key after a TRUNCATE."""

NOT_BEGUN, ENDED = -1, -2
"""How far a walk has come, beside the last key walked over."""

WALKERS, WRITERS = 10, 20
"""Session numbers of walkers and writers start here; those of workers at 1."""

At = Literal[
    "idle", "opened", "between", "merging", "orphans", "taken", "empty", "read",
    "out", "fenced", "holding", "held", "wrote", "lost",
]  # fmt: skip
"""Where a worker is in the life of a batch; "out" is the request, with no transaction open."""

TAKING = frozenset({"opened", "between", "merging", "orphans", "taken", "empty", "read"})
FINISHING = frozenset({"fenced", "holding", "held", "wrote", "lost"})

Outcome = Literal["", "written", "refused", "later", "held", "handed back"]
"""What a provider's answer makes of a batch's texts: refused for good, a fault that earns a pause,
nobody who could serve; or no answer, since the worker ends."""

Bug = Literal[
    "claim and read in one statement",
    "a version of the row as fence",
    "no dirty flag",
    "an unchecked hash skip",
    "a sweep by DELETE",
    "a finish without the source",
    "no fence at all",
    "an answer for a changed key is dropped",
    "a burial without the source",
    "walks pass over dead letters",
    "a doubt is forgotten",
    "work that is due is not taken",
]


class Cell(NamedTuple):
    """A row's text or the text that a vector is of, and after how many changes of the row it was
    read: a ghost, which the protocol does not know."""

    text: int
    version: int


class Work(NamedTuple):
    """A row of the work table. `token` is 0 where it waits; `due` says whether its pause is over;
    `again` that the vector is doubted and made again though the text be the same. `version` counts
    claims, for the bug that takes it as fence."""

    token: int
    dirty: bool
    due: bool
    again: bool
    version: int


class Logged(NamedTuple):
    """A row of the log. `made`: the session that has yet to commit it; `gone`:
    the one that has deleted it and has yet to commit that. `doubt`: an audit's, not a change."""

    what: int
    made: int
    gone: int
    doubt: bool = False


class Task(NamedTuple):
    """A walk. `made` as in the log, `held` by the walker that locked it."""

    kind: Literal["backfill", "orphans"]
    reached: int
    made: int
    held: int


class Read(NamedTuple):
    """A key of a batch as it was read."""

    key: int
    kind: Literal["text", "equal", "gone"]
    text: int
    version: int


class Worker(NamedTuple):
    """One batch in the hands of one worker. `parts` of taking are to come; `left` are keys still to
    be merged, some of them with `doubts`, or to be locked; `mine` the claimed ones, `pending` the
    rows of work that its open transaction has changed."""

    at: At = "idle"
    token: int = 0
    parts: tuple[Literal["log", "due"], ...] = ()
    left: tuple[int, ...] = ()
    doubts: tuple[int, ...] = ()
    mine: tuple[int, ...] = ()
    pending: tuple[tuple[int, Work], ...] = ()
    truncated: bool = False
    batch: tuple[Read, ...] = ()
    outcome: Outcome = ""
    written: tuple[int, ...] = ()


class Walker(NamedTuple):
    """A walk's open transaction. `doomed` are vectors that the bug of a deleting sweep has seen."""

    open: bool = False
    reached: int = NOT_BEGUN
    doomed: tuple[int, ...] = ()


class Writer(NamedTuple):
    """An application's open transaction: its changes so far, and whether it truncated before."""

    open: bool = False
    changes: tuple[tuple[int, int], ...] = ()
    truncated: bool = False
    sent: int = 0


class State(NamedTuple):
    source: tuple[Cell, ...]
    target: tuple[Cell, ...]
    dead: tuple[int, ...]
    """For each key the version whose text was refused, or 0."""
    doubted: tuple[bool, ...]
    """Whether an audit has found a key's vector wanting, and none was written since."""
    work: tuple[Work | None, ...]
    leases: tuple[int, ...]
    log: tuple[Logged, ...]
    tasks: tuple[Task, ...]
    workers: tuple[Worker, ...]
    reaping: int
    """The lease that a reaper's open transaction has deleted, or 0."""
    walkers: tuple[Walker, ...]
    writers: tuple[Writer, ...]
    left: int
    """How many statements the application may still send."""


@dataclass(frozen=True, slots=True)
class Instance:
    """How small a world is explored. `statements` is what all writers may send together.

    `start` are the rows in the beginning; `embedded` says whether their vectors are there too.
    `fine` makes every statement a step of its own; else those are joined that nobody else can tell
    apart. `target` has room for a second kind: vectors in the user's own table.
    """

    keys: int = 1
    workers: int = 2
    writers: int = 1
    walkers: int = 0
    statements: int = 3
    per_transaction: int = 1
    texts: int = 2
    outcomes: tuple[Outcome, ...] = ("written",)
    start: tuple[int, ...] = (ABSENT,)
    embedded: bool = True
    tasks: tuple[Literal["backfill", "orphans"], ...] = ()
    truncate: bool = False
    empty: bool = False
    by_hand: bool = False
    """Whether someone calls enqueue() and retry()."""
    audit: bool = False
    """Whether an audit finds vectors wanting."""
    room: bool = False
    """Whether a batch may have no room for all that was taken."""
    rollback: bool = False
    portion: int = 100
    target: Literal["table"] = "table"
    fine: bool = False
    bug: Bug | None = None


class Step(NamedTuple):
    """One step: whose, which queries of `sql/queries.sql`, and what there was to choose."""

    who: str
    what: str
    detail: str = ""
    number: int = 0
    """The key, the session, the rows of the log as bits: what `what` needs."""
    text: int = 0

    def __str__(self) -> str:
        return f"{self.who}: {self.what}" + (f" ({self.detail})" if self.detail else "")


def in_log(rows: Iterable[Logged]) -> tuple[Logged, ...]:
    """Rows as a state keeps them: where one of them lies says nothing, so the order is fixed."""
    return tuple(sorted(rows))


def name_of_text(text: int) -> str:
    return {ABSENT: "no row", EMPTY: "no text"}.get(text, "-ABCDEFGH"[text])
