"""A provider that fails at random, and keeps the books of what it was paid for.

A text is paid for when its vector is made, whether or not the answer arrives.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from qwen_embed_plugins.testing import Behaviour, RecordedRequest, Reply, SimulatedServer
from qwen_embed_plugins.testing.dialects import answer
from tests.chaos.writers import REFUSED

NATIVE = 1024
CLIENT_TIMEOUT_SECONDS = 6.0
STALL_SECONDS = 8.0


class Provider:
    """One simulated server, reached by two names with faults of its own for each request."""

    def __init__(self, seed: str, faults: float = 0.15) -> None:
        self.faults = faults
        self.paid: Counter[str] = Counter()
        self.undelivered: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.answered = 0
        self._chance = random.Random(f"{seed}:provider")
        self._lock = threading.Lock()
        self._server = SimulatedServer(
            Behaviour(refuse_texts_with=REFUSED, refusal="content filter says no"),
            native=NATIVE,
            respond=self._respond,
        )

    def __enter__(self) -> Provider:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    @property
    def request_count(self) -> int:
        return self._server.request_count

    def calm(self) -> None:
        """No more failures."""
        self.faults = 0.0

    def settings(self, folder: Path) -> Path:
        path = folder / "qwen-embed.toml"
        path.write_text(
            f'use = ["ollama", "second"]\ntimeout_seconds = {CLIENT_TIMEOUT_SECONDS}\n'
            f'[providers.ollama]\nbase_url = "{self._server.url}"\n'
            f'[providers.second]\nkind = "openai-compatible"\nbase_url = "{self._server.url}/v1"\n'
        )
        return path

    def _respond(self, request: RecordedRequest) -> Reply | None:
        if not request.embeds:
            return None
        with self._lock:
            fault = self._chance.random() < self.faults
            kind = self._chance.choice(FAULTS) if fault else "none"
            latency = self._chance.choice((0.02, 0.1, 0.3, 0.6))
            self.failed[kind] += fault
        if kind in UNPAID:
            return UNPAID[kind]
        time.sleep(STALL_SECONDS if kind == "stalls" else latency)
        if any(REFUSED in text for text in request.texts):
            return None
        with self._lock:
            self.answered += 1
            self.paid.update(request.texts)
            if fault:
                self.undelivered.update(request.texts)
        if kind == "cut":
            whole, _ = answer(request, self._server.behaviour, self._server.models)
            return replace(whole, cut_at=len(whole.body or b"") // 2)
        return None


UNPAID = {
    "429": Reply.rate_limited(0.3),
    "500": Reply(500, "internal error"),
    "503": Reply.html(503),
    "dropped": Reply.dropped(),
}
FAULTS = (*UNPAID, *UNPAID, "cut", "stalls")
