"""Vectors that were paid for already: a file from which equal texts are answered without a request.

A row is found by a digest of space, role, instruction and text, so no text stands in the file. It
holds the float32 numbers that a call returned, to the bit, with the offer that made them and when:
what is learnt of that offer later decides whether they are still believed. A checksum tells a
damaged row, which counts as not there.

It is a cache: a file that cannot be used costs requests and never a call. It is opened for each use
and closed again, and no fork happens meanwhile, so nothing is held across one.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import orjson

from qwen_embed_plugins.errors import ConfigurationError
from qwen_embed_plugins.state_file import bring_up
from qwen_embed_plugins.types import Kept, Maker, Role

if TYPE_CHECKING:
    from qwen_embed_plugins.spaces import EmbeddingSpace
    from qwen_embed_plugins.types import Matrix, Vector

log = logging.getLogger("qwen_embed_plugins")

VERSION = 1

APPLICATION = 0x51454356
"""Marks the file as ours: rows are deleted from it, and a wrong path may name any database."""

SCHEMA = f"""
pragma application_id = {APPLICATION};
create table if not exists maker (
    id integer primary key,
    offer text not null,
    endpoint text not null,
    declared integer not null,
    unique (offer, endpoint, declared)
);
-- `used` is in hours since the epoch. What is narrow comes first: long rows overflow their page.
create table if not exists vector (
    key blob primary key,
    used integer not null,
    maker integer not null,
    made_at real not null,
    checksum integer not null,
    content blob not null
);
create index if not exists vector_by_use on vector (used);
"""

BUSY_SECONDS = 2.0
"""How long one process waits for another that writes: a cache is there to save time."""

REST_SECONDS = 30.0
"""For so long nothing is written to a file that could not be written."""

USED_SECONDS = 3600
"""How coarsely the last use of a row is noted, so that reading rarely writes."""

WRITTEN_AT_ONCE = 1 << 20
"""Bytes of vectors in a transaction: others may write between two, and the log stays short."""

ASKED_AT_ONCE = 500
"""SQLite once took no more than 999 values in a statement."""

ROOM_MADE = 20
"""When the file is full a twentieth of it is made free, so that this is rarely done."""

ROW_BESIDES = 220
"""Bytes of a row besides its numbers, indexes included: no less."""

UNIT = 1e-3
"""How far from 1 the square of a kept vector's length may be; float32 keeps it within 1e-6."""

_NUMBER = np.dtype("<f4")

_ROWS = """
select key, vector.used, maker.id, offer, endpoint, declared, made_at, checksum, content
from vector join maker on maker.id = vector.maker where key in ({})
"""


@dataclass(slots=True)
class _Seen:
    """What a look at the file says should be written there."""

    used: list[bytes] = field(default_factory=list)
    damaged: list[bytes] = field(default_factory=list)
    refused: dict[int, float] = field(default_factory=dict)


class VectorCache:
    """A cache in a file of at most `megabytes` (of 1,000,000 bytes), shared by all processes that
    name it; while it is written, a log of a few megabytes stands beside it. The file appears with
    the first `keep`.

    No method raises for what is wrong with the file: it is said once in the log, and the cache then
    knows nothing. Each blocks, for at most some seconds; any thread may call it.
    """

    def __init__(self, path: str, megabytes: int, now: Callable[[], float] = time.time) -> None:
        self.path = Path(path).absolute()  # a daemon changes its folder
        self._most_bytes = megabytes * 1_000_000
        self._now = now
        self._warned = False
        self._rests_until = 0.0

    def look_up(
        self,
        space: EmbeddingSpace,
        role: Role,
        instruction: str | None,
        texts: Sequence[str],
        believed_since: Callable[[Maker], float | None],
    ) -> dict[int, Kept]:
        """The vectors that are known, by place among the texts.

        `believed_since` gives the moment since which vectors of a maker are the space's: older ones
        are deleted. None means that these settings do not let it serve: then they are left alone.
        """
        believed_since = cache(believed_since)
        keys = digests(space, role, instruction, texts)
        found: dict[bytes, Kept] = {}
        seen = _Seen()

        def look(database: sqlite3.Connection) -> None:
            for row in _rows(database, keys):
                self._sort(row, space.dimensions, believed_since, found, seen)

        if not self._done(look, make=False):
            return {}
        if seen.used or seen.damaged or seen.refused:
            self._written(lambda database: self._note(database, seen))
        return {place: found[key] for place, key in enumerate(keys) if key in found}

    def _sort(
        self,
        row: tuple[Any, ...],
        dimensions: int,
        believed_since: Callable[[Maker], float | None],
        found: dict[bytes, Kept],
        seen: _Seen,
    ) -> None:
        """Take a row in, or note why not."""
        key, used, made_by, offer, endpoint, declared, made_at, checksum, content = row
        maker = Maker(offer, endpoint, declared == 1)
        vector = _vector(content, dimensions)
        if vector is None or checksum != _checksum(key, maker, made_at, content):
            seen.damaged.append(key)
            return
        since = believed_since(maker)
        if since is None:
            return
        if made_at <= since:
            seen.refused[made_by] = since
            return
        found[key] = Kept(vector, maker.offer)
        if used != self._hour():
            seen.used.append(key)

    def _hour(self) -> int:
        return int(self._now() // USED_SECONDS)

    def _note(self, database: sqlite3.Connection, seen: _Seen) -> None:
        """Write down what was used, and delete what nobody may have any more."""
        database.execute("begin immediate")
        hour = self._hour()
        database.executemany(
            "update vector set used = ? where key = ?", [(hour, key) for key in seen.used]
        )
        database.executemany("delete from vector where key = ?", [(key,) for key in seen.damaged])
        database.executemany(
            "delete from vector where maker = ? and made_at <= ?", list(seen.refused.items())
        )
        database.execute("commit")

    def keep(
        self,
        space: EmbeddingSpace,
        role: Role,
        instruction: str | None,
        texts: Sequence[str],
        vectors: Matrix,
        makers: Mapping[int, Maker],
        made_at: float,
    ) -> None:
        """Keep the rows that `makers` names by place, the least recently used ones going for them.

        `made_at` is a moment before the first of them was asked for, in seconds since the epoch.
        """
        row_bytes = space.dimensions * _NUMBER.itemsize
        at_once = max(1, min(WRITTEN_AT_ONCE, self._most_bytes // 8) // row_bytes)
        kept = [texts[place] for place in makers]
        keys = digests(space, role, instruction, kept)
        rows = iter(zip(keys, makers.items(), strict=True))

        def write(database: sqlite3.Connection) -> None:
            while part := list(islice(rows, at_once)):
                database.execute("begin immediate")
                _make_room(database, self._most_bytes, len(part), row_bytes)
                ids = _ids(database, {maker for _, (_, maker) in part})
                for key, (place, maker) in part:
                    content = vectors[place].astype(_NUMBER, copy=False).tobytes()
                    checksum = _checksum(key, maker, made_at, content)
                    database.execute(
                        "insert or replace into vector values (?, ?, ?, ?, ?, ?)",
                        (key, self._hour(), ids[maker], made_at, checksum, content),
                    )
                database.execute("commit")
            _shrink(database, self._most_bytes)

        if makers:
            self._written(write)

    def _written(self, action: Callable[[sqlite3.Connection], None]) -> None:
        """Carry out what writes, unless the file could not be written a moment ago."""
        if time.monotonic() >= self._rests_until and not self._done(action):
            self._rests_until = time.monotonic() + REST_SECONDS

    def _done(self, action: Callable[[sqlite3.Connection], None], *, make: bool = True) -> bool:
        """Whether an action on the file was carried out; without `make` none is, on no file."""
        try:
            if not make and not self.path.exists():
                return False
            with _no_fork, closing(_connect(self.path)) as database:
                action(database)
        except (OSError, sqlite3.Error, ConfigurationError) as error:
            if not self._warned:
                log.warning(
                    "cache file %s: %s; calls go on without it; mend or delete it, or name "
                    "another with cache = … or QWEN_EMBED_CACHE",
                    self.path,
                    error,
                )
            self._warned = True
            return False
        return True


_no_fork = threading.Lock()
"""Held while a file is open: SQLite forbids to take a connection along into a fork's child."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_no_fork.acquire,
        after_in_parent=_no_fork.release,
        after_in_child=_no_fork.release,
    )


def digests(
    space: EmbeddingSpace, role: Role, instruction: str | None, texts: Iterable[str]
) -> list[bytes]:
    """What each text is kept under: a digest over space, role, instruction and the text."""
    head = (space.model, space.dimensions, space.normalised, role, instruction)
    begun = sha256(orjson.dumps(head) + b"\n")  # which JSON escapes: no text can pass for a head
    made = []
    for text in texts:
        digest = begun.copy()
        digest.update(text.encode("utf-8"))
        made.append(digest.digest())
    return made


def _vector(content: Any, dimensions: int) -> Vector | None:
    """A row's numbers; None if they are no unit vector of that length."""
    if not isinstance(content, bytes) or len(content) != dimensions * _NUMBER.itemsize:
        return None
    vector = np.frombuffer(content, _NUMBER)
    with np.errstate(over="ignore", invalid="ignore"):
        is_unit = abs(float(vector @ vector) - 1) < UNIT
    return vector if is_unit else None


def _checksum(key: bytes, maker: Maker, made_at: float, content: bytes) -> int | None:
    """Tells whether a row is as it was written; None for what was never written so."""
    try:
        return crc32(content, crc32(orjson.dumps([*maker, made_at]), crc32(key)))
    except TypeError:
        return None


def _rows(database: sqlite3.Connection, keys: Iterable[bytes]) -> Iterator[tuple[Any, ...]]:
    """The rows that there are, in no order."""
    rest = iter(keys)
    while part := list(islice(rest, ASKED_AT_ONCE)):
        yield from database.execute(_ROWS.format(", ".join("?" * len(part))), part)


def _ids(database: sqlite3.Connection, makers: Iterable[Maker]) -> dict[Maker, int]:
    """By which number each maker is known in the file, from now on if not before."""
    ids = {}
    for maker in makers:
        database.execute(
            "insert or ignore into maker (offer, endpoint, declared) values (?, ?, ?)", maker
        )
        (ids[maker],) = database.execute(
            "select id from maker where offer = ? and endpoint = ? and declared = ?", maker
        ).fetchone()
    return ids


def _pragma(database: sqlite3.Connection, name: str) -> int:
    (value,) = database.execute(f"pragma {name}").fetchone()
    return int(value)


def _make_room(database: sqlite3.Connection, most_bytes: int, count: int, row_bytes: int) -> None:
    """Delete rows, the least recently used first, until so many more fit into the file."""
    page = _pragma(database, "page_size")
    most = most_bytes // page
    size = row_bytes + ROW_BESIDES
    # Short rows share pages; a long one fills up to twice what it needs.
    room = (count // (page // size) if size <= page else count * 2 * size // page) + 8

    def over(margin: int) -> int:
        used = _pragma(database, "page_count") - _pragma(database, "freelist_count")
        return used + room + margin - most

    if over(0) <= 0:
        return
    while (excess := over(most // ROOM_MADE)) > 0:
        deleted = database.execute(
            "delete from vector where rowid in "
            "(select rowid from vector order by used, rowid limit ?)",
            (-(-excess // 8),),
        )
        if not deleted.rowcount:
            return


def _shrink(database: sqlite3.Connection, most_bytes: int) -> None:
    """Cut free pages off a file that was allowed to be larger."""
    excess = _pragma(database, "page_count") - most_bytes // _pragma(database, "page_size")
    if excess > 0:
        # Not `execute`: it takes one step of a statement without columns, which frees one page.
        database.executescript(f"pragma incremental_vacuum({excess})")


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        _prepare(database)
    except BaseException:
        database.close()
        raise
    return database


def _steps(found: int) -> Iterator[str]:
    """The statements that make the tables; none if another process was faster."""
    if found < VERSION:
        yield from SCHEMA.split(";")
        yield f"pragma user_version = {VERSION}"


def _prepare(database: sqlite3.Connection) -> None:
    """Make sure that the file is a cache of this version, and make it one if it is empty."""
    # First: who sees tables that another process makes just now sees also whose they are.
    (tables,) = database.execute("select count(*) from sqlite_master").fetchone()
    version, application = _pragma(database, "user_version"), _pragma(database, "application_id")
    if tables and application != APPLICATION:
        raise ConfigurationError("it is a database of something else")
    if version > VERSION:
        raise ConfigurationError(
            f"made by a newer version (schema {version}, this one knows {VERSION})"
        )
    database.execute("pragma synchronous = normal")
    if not tables:
        database.execute("pragma auto_vacuum = incremental")
        bring_up(database, _steps)
