"""Vectors that need not be asked for: they stand, or were paid for and wait for their row."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from qwen_embed_plugins.postgres.queue import Item, content_hash

if TYPE_CHECKING:
    from qwen_embed_plugins.types import Vector

MOST_BYTES = 32 << 20


class Ready(NamedTuple):
    """An item that need not be asked for. `vector` is None where one stands in the side table."""

    item: Item
    vector: Vector | None
    offer: str | None


class Kept:
    """Vectors by space and text, the oldest forgotten first. One process's; nothing is lost but
    money if it ends."""

    def __init__(self) -> None:
        self._vectors: OrderedDict[tuple[str, str], tuple[Vector, str | None]] = OrderedDict()
        self._bytes = 0

    def find(self, space: str, item: Item) -> Ready | None:
        """The item with its vector, if that is here."""
        found = self._vectors.get((space, item.text)) if self._vectors else None
        return None if found is None else Ready(item, *found)

    def keep(self, space: str, unused: Iterable[Ready]) -> None:
        """Take these vectors in."""
        for item, vector, offer in unused:
            if vector is None:
                continue
            self._drop(space, item.text)
            self._vectors[space, item.text] = vector.copy(), offer
            self._bytes += _weight(item.text, vector)
        while self._bytes > MOST_BYTES:
            self._drop(*next(iter(self._vectors)))

    def forget(self, space: str, written: Iterable[Item]) -> None:
        """These stand in the database now."""
        if self._vectors:
            for item in written:
                self._drop(space, item.text)

    def _drop(self, space: str, text: str) -> None:
        found = self._vectors.pop((space, text), None)
        if found is not None:
            self._bytes -= _weight(text, found[0])


def known(
    items: Sequence[Item], chunks: Mapping[tuple[int, bytes], int], kept: Kept, space: str
) -> tuple[list[Ready], list[Item]]:
    """Which of these items need not be asked for, and which must be.

    `chunks` stand in the side table, by row and hash of their text.
    """
    ready: list[Ready] = []
    asked: list[Item] = []
    for item in items:
        chunk = chunks.get((item.id, content_hash(item.text))) if chunks else None
        if chunk is not None:
            ready.append(Ready(item._replace(stands=chunk), None, None))
        elif (found := kept.find(space, item)) is not None:
            ready.append(found)
        else:
            asked.append(item)
    return ready, asked


def _weight(text: str, vector: Vector) -> int:
    return int(vector.nbytes) + 4 * len(text) + 200
