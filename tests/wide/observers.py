"""Plugins that watch what an embedder does, and one that interferes."""

from __future__ import annotations

from qwen_embed_plugins import hookimpl
from qwen_embed_plugins.events import AttemptFinished, Event, VerdictChanged
from qwen_embed_plugins.types import FaultKind
from tests.wide.servers import Running


class Seen:
    """Keeps the kinds of all faults, and which offers did not pass their introduction."""

    def __init__(self) -> None:
        self.faults: set[FaultKind] = set()
        self.left_out: set[str] = set()

    @hookimpl
    def observe(self, event: Event) -> None:
        if isinstance(event, AttemptFinished) and event.fault:
            self.faults.add(event.fault)
        if isinstance(event, VerdictChanged) and not event.serves:
            self.left_out.add(event.offer)


class Assassin:
    """Kills a server when the second batch has come back, while others are under way."""

    def __init__(self, victim: Running) -> None:
        self.victim = victim
        self.batches = 0

    @hookimpl
    def observe(self, event: Event) -> None:
        # An embedder's first server; its introduction comes back in one batch of four texts.
        if isinstance(event, AttemptFinished) and event.offer.startswith("server-0/"):
            self.batches += 1
            if self.batches == 3:
                self.victim.kill()
