"""Comparing every row with its vector, in portions, while everything goes on.

An audit only reads. Repairing appends keys to the log, as a trigger would: whoever holds a key's
lease is the only one to touch its vector, so an audit that wrote or deleted one itself could undo
what a worker has just stored.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar

import psycopg
from psycopg import sql

from qwen_embed_plugins.errors import ConfigurationError, DatabaseError, InvalidInput, shown
from qwen_embed_plugins.postgres import connect
from qwen_embed_plugins.postgres._flow import Flow, Row, Statement, arun, run
from qwen_embed_plugins.postgres.definition import Vectorizer, VectorTypes, named, vector_types
from qwen_embed_plugins.postgres.session import RETRIED, begin

T = TypeVar("T")
FindingKind = Literal["missing", "stale", "orphan", "wrong_space", "wrong_vector", "doubted"]
"""missing: a text without a vector. stale: the vector of another text, or chunks of it that are not
whole. orphan: a vector whose row is gone or has no text. wrong_space: of another model or length.
wrong_vector: not as long as it should be, or not of unit length. doubted: what an offer wrote."""

Steps: TypeAlias = Generator[Callable[[], Flow[Any]], Any, T]
"""Transactions to be run one after the other, each made again if it has to be tried again."""

_EXAMPLES = 5
_TRIES = 10
_NORMS = {"vector": "vector_norm", "halfvec": "l2_norm"}
_BEGINNING = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True, slots=True)
class Finding:
    """One key that is not as it should be. `key` is {column: value as Postgres writes it}."""

    kind: FindingKind
    key: dict[str, str]


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What an audit found: `counts` by kind, some examples of each, and what explains the rest.

    `rows` were compared. `waiting` differ because their change is on its way, `dead` have no vector
    because their text was refused. `walks` are backfills and sweeps that have yet to end.
    `repaired` keys were given to the workers.
    """

    name: str
    rows: int = 0
    counts: dict[FindingKind, int] = field(default_factory=dict)
    examples: tuple[Finding, ...] = ()
    waiting: int = 0
    dead: int = 0
    walks: int = 0
    repaired: int = 0

    @property
    def clean(self) -> bool:
        """Whether nothing was found. What waits or is dead is no finding."""
        return not any(self.counts.values())


def audit(
    target: connect.Target,
    /,
    name: str,
    *,
    repair: bool = False,
    offer: str | None = None,
    since: datetime | None = None,
    portion: int = 2000,
    on_progress: Callable[[int, int | None], None] | None = None,
) -> AuditReport:
    """Compare every row of a vectorizer with its vector; `repair` has workers mend it. Blocks.

    Reads `portion` rows at a time, each in a short transaction, so that memory stays flat and
    writers and workers go on. With `offer` it looks for what that offer wrote (since a moment)
    instead, as after a canary's finding; repairing then embeds it again although the texts are the
    same. `on_progress` is told how many rows were compared and about how many there are. Raises
    `DatabaseError` for an unknown name or without the right to see every row, `ConfigurationError`
    for a connection that is not in autocommit, `InvalidInput` for `since` without `offer` and for
    an offer by which no vector is.
    """
    steps = _Audit(name, repair, offer, since, portion, on_progress).steps()
    with connect.explained(target), connect.opened(target) as connection:
        _require_autocommit(connection.autocommit)
        return _drive(connection, steps)


async def aaudit(
    target: connect.AsyncTarget,
    /,
    name: str,
    *,
    repair: bool = False,
    offer: str | None = None,
    since: datetime | None = None,
    portion: int = 2000,
    on_progress: Callable[[int, int | None], None] | None = None,
) -> AuditReport:
    """As `audit`, awaiting."""
    steps = _Audit(name, repair, offer, since, portion, on_progress).steps()
    with connect.explained(target):
        async with connect.aopened(target) as connection:
            _require_autocommit(connection.autocommit)
            return await _adrive(connection, steps)


def _require_autocommit(autocommit: bool) -> None:
    if not autocommit:
        raise ConfigurationError(
            "an audit runs many short transactions: pass an address or a connection in autocommit"
        )


def _drive(connection: psycopg.Connection[Any], steps: Steps[T]) -> T:
    result: Any = None
    while True:
        try:
            transaction = steps.send(result)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        for tries in range(1, _TRIES + 1):
            connection.execute(begin())
            try:
                result = run(connection, transaction())
                connection.execute("COMMIT")
                break
            except BaseException as error:
                connection.execute("ROLLBACK")
                if tries == _TRIES or not isinstance(error, RETRIED):
                    raise


async def _adrive(connection: psycopg.AsyncConnection[Any], steps: Steps[T]) -> T:
    result: Any = None
    while True:
        try:
            transaction = steps.send(result)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        for tries in range(1, _TRIES + 1):
            await connection.execute(begin())
            try:
                result = await arun(connection, transaction())
                await connection.execute("COMMIT")
                break
            except BaseException as error:
                await connection.execute("ROLLBACK")
                if tries == _TRIES or not isinstance(error, RETRIED):
                    raise


@dataclass
class _Audit:
    """One audit under way: what it was asked, and what it has found so far."""

    name: str
    repair: bool
    offer: str | None
    since: datetime | None
    portion: int
    on_progress: Callable[[int, int | None], None] | None
    rows: int = 0
    waiting: int = 0
    dead: int = 0
    repaired: int = 0
    about: int | None = None
    counts: dict[FindingKind, int] = field(default_factory=dict)
    examples: list[Finding] = field(default_factory=list)

    def steps(self) -> Steps[AuditReport]:
        if self.since is not None and self.offer is None:
            raise InvalidInput("since goes with offer: name the offer whose vectors are doubted")
        vectorizer, types, about = yield lambda: _opening(self.name)
        self.about = about if about > 0 else None
        asked = _Questions(vectorizer, types, self.portion)
        if self.offer is None:
            yield from self._walk(vectorizer, asked.rows, self._judge_row)
            yield from self._walk(vectorizer, asked.vectors, self._judge_vector)
        else:
            by_offer = partial(asked.of_offer, self.offer, self.since or _BEGINNING)
            yield from self._walk(vectorizer, by_offer, lambda row: "doubted")
            if not self.counts:
                offers = yield lambda: _offers_here(vectorizer)
                self._require_known(self.offer, offers)
        walks = yield lambda: _unfinished_walks(vectorizer)
        return AuditReport(
            self.name,
            self.rows,
            dict(self.counts),
            tuple(self.examples),
            waiting=self.waiting,
            dead=self.dead,
            walks=walks,
            repaired=self.repaired,
        )

    def _walk(
        self,
        vectorizer: Vectorizer,
        ask: Callable[[Sequence[str] | None], Flow[list[Row]]],
        judge: Callable[[Row], FindingKind | None],
    ) -> Steps[None]:
        reached: Sequence[str] | None = None
        while True:
            rows = yield partial(ask, reached)
            in_order = reversed(rows)  # they come last key first
            found = [(kind, row["key"]) for row in in_order if (kind := judge(row)) is not None]
            self._count(vectorizer, found)
            if self.repair and found:
                yield partial(_append, vectorizer, [key for _, key in found])
                self.repaired += len(found)
            if self.on_progress is not None:
                self.on_progress(self.rows, self.about)
            if not rows or rows[0]["walked"] < self.portion:
                return
            reached = rows[0]["key"]

    def _require_known(self, offer: str, known: Sequence[str]) -> None:
        """A name that nobody here has would otherwise pass for one that wrote nothing wrong."""
        if not any(name == offer or name.startswith(f"{offer}/") for name in known):
            there = ", ".join(known) or "none"
            raise InvalidInput(f"no vector of {self.name} is by {shown(offer)}. There are: {there}")

    def _judge_row(self, row: Row) -> FindingKind | None:
        self.rows += 1
        finding: FindingKind | None = row["finding"]
        if finding is None or (row["doubtful"] is not None and not row["doubtful"].strip()):
            return None
        return self._unexplained(row, finding)

    def _judge_vector(self, row: Row) -> FindingKind | None:
        return self._unexplained(row, "orphan") if row["orphan"] else None

    def _unexplained(self, row: Row, finding: FindingKind) -> FindingKind | None:
        if row["waits"]:
            self.waiting += 1
        elif finding == "missing" and row["dead"]:
            self.dead += 1
        else:
            return finding
        return None

    def _count(
        self, vectorizer: Vectorizer, found: Sequence[tuple[FindingKind, list[str]]]
    ) -> None:
        for kind, key in found:
            self.counts[kind] = self.counts.get(kind, 0) + 1
            if self.counts[kind] <= _EXAMPLES:
                named_key = dict(zip(vectorizer.source_key, key, strict=True))
                self.examples.append(Finding(kind, named_key))


@dataclass(frozen=True)
class _Questions:
    """The portions that an audit reads, each from a key on."""

    vectorizer: Vectorizer
    types: VectorTypes
    portion: int

    def rows(self, reached: Sequence[str] | None) -> Flow[list[Row]]:
        query = self.vectorizer.query(
            "audit_rows",
            after=self.vectorizer.after("source", reached),
            dimensions=sql.Literal(self.vectorizer.dimensions),
            vector_dims=sql.Identifier(self.types.schema, "vector_dims"),
            vector_norm=sql.Identifier(self.types.schema, _NORMS[self.vectorizer.storage]),
        )
        return (yield Statement(query, {"limit": self.portion}))

    def vectors(self, reached: Sequence[str] | None) -> Flow[list[Row]]:
        after = self.vectorizer.after("target", reached)
        query = self.vectorizer.query("audit_vectors", after=after)
        return (yield Statement(query, {"limit": self.portion}))

    def of_offer(
        self, offer: str, since: datetime, reached: Sequence[str] | None
    ) -> Flow[list[Row]]:
        after = self.vectorizer.after("target", reached)
        query = self.vectorizer.query("audit_offer", after=after)
        values = {"limit": self.portion, "offer": offer, "since": since}
        return (yield Statement(query, values))


def _opening(name: str) -> Flow[tuple[Vectorizer, VectorTypes, int]]:
    vectorizer = yield from named(name)
    if not vectorizer.workable:
        raise DatabaseError(vectorizer.problem or f"the tables of {name} are missing")
    types = yield from vector_types()
    about = yield Statement(vectorizer.query("rows_about"))
    return vectorizer, types, int(about[0]["rows"])


def _offers_here(vectorizer: Vectorizer) -> Flow[list[str]]:
    rows = yield Statement(vectorizer.query("offers_here"))
    return [row["offer"] for row in rows]


def _unfinished_walks(vectorizer: Vectorizer) -> Flow[int]:
    rows = yield Statement(vectorizer.query("unfinished_walks"))
    return int(rows[0]["walks"])


def _append(vectorizer: Vectorizer, keys: Sequence[Sequence[str]]) -> Flow[None]:
    columns = {f"k{place}": list(column) for place, column in enumerate(zip(*keys, strict=True), 1)}
    yield Statement(vectorizer.query("append_doubts"), columns)
