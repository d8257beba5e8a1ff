"""Places at offers: how many requests may be under way, shared fairly by all flows.

Whoever waits longest is served first. Otherwise a bulk job, which asks for its next place the
moment it gives one back, would keep a single query waiting until its end.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TypeAlias

Wake: TypeAlias = Callable[[], None]


@dataclass(slots=True)
class _Queue:
    """`taken` counts places in use and those that are granted but not yet used; `limit` is how many
    there were when one was last asked for."""

    taken: int = 0
    limit: int = 1
    waiting: deque[Wake] = field(default_factory=deque)
    granted: set[Wake] = field(default_factory=set)


class Places:
    """A flow is known by its `wake`, which is called when a place is kept for it. Every method is
    quick and safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: dict[str, _Queue] = {}

    def taken(self) -> dict[str, int]:
        """The places in use, by offer."""
        with self._lock:
            return {key: queue.taken for key, queue in self._queues.items() if queue.taken}

    def take(self, key: str, limit: int, wake: Wake) -> bool:
        """Take one of the `limit` places at an offer, or join those that wait for one."""
        with self._lock:
            queue = self._queues.setdefault(key, _Queue())
            queue.limit = limit
            if wake in queue.granted:
                queue.granted.remove(wake)
                return True
            if queue.taken < limit and (not queue.waiting or queue.waiting[0] is wake):
                queue.taken += 1
                if queue.waiting:
                    queue.waiting.popleft()
                return True
            if wake not in queue.waiting:
                queue.waiting.append(wake)
            return False

    def give_back(self, key: str) -> None:
        """A request is over: its place goes to whoever waits longest, if it is still one."""
        with self._lock:
            woken = self._pass_on(self._queues[key])
        if woken is not None:
            woken()

    def wait_only_for(self, wake: Wake, keys: Collection[str] = ()) -> None:
        """Say for which offers a flow still waits; elsewhere others come before it again, and a
        place that is kept for it unused goes to the next."""
        woken = []
        with self._lock:
            for key, queue in self._queues.items():
                if key not in keys and wake in queue.waiting:
                    queue.waiting.remove(wake)
                if wake in queue.granted:
                    queue.granted.remove(wake)
                    woken.append(self._pass_on(queue))
        for other in woken:
            if other is not None:
                other()

    def _pass_on(self, queue: _Queue) -> Wake | None:
        """Free a place, or keep it for the first that waits; gives whom to wake."""
        # Above the limit others are under way still, and pass theirs on.
        if not queue.waiting or queue.taken > queue.limit:
            queue.taken -= 1
            return None
        first = queue.waiting.popleft()
        queue.granted.add(first)
        return first
