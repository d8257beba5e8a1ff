"""Forks: who holds locks or connections lets go before one, and starts anew in the child."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol


class LetsGo(Protocol):
    """Something that a fork must find at rest."""

    def before_fork(self) -> None:
        """Take all locks, and close what a child must not have."""

    def after_fork_in_parent(self) -> None:
        """Release the locks."""

    def after_fork(self) -> None:
        """Start anew, in the child."""


_registered: weakref.WeakSet[LetsGo] = weakref.WeakSet()


def let_go_at_forks(item: LetsGo) -> None:
    """Have it told of forks as long as it lives."""
    _registered.add(item)


class _Forking:
    """Forks of this process, one at a time: the items that they found."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._items: list[LetsGo] = []

    def before(self) -> None:
        self._lock.acquire()
        self._items = list(_registered)
        for item in self._items:
            item.before_fork()

    def in_parent(self) -> None:
        items, self._items = self._items, []
        for item in items:
            item.after_fork_in_parent()
        self._lock.release()

    def in_child(self) -> None:
        items, self._items = self._items, []
        for item in items:
            item.after_fork()
        self._lock = threading.Lock()


_forking = _Forking()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_forking.before,
        after_in_parent=_forking.in_parent,
        after_in_child=_forking.in_child,
    )
