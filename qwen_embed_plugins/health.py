"""What flows share about offers: pauses and latency. In memory, behind one small lock.

An offer's pause grows with each failure in a row and carries jitter, so that many workers do not
come back at the same moment; one success ends it. Attempts that break together are one failure:
those that were under way when the first showed add nothing. A success among them shows that an
outage is over, but does not end the pause that the others were told to make.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from random import Random

from qwen_embed_plugins.types import Fault, FaultKind, Role

FIRST_PAUSE_SECONDS: dict[FaultKind, float] = {
    "rate_limited": 1.0,
    "unavailable": 0.5,
    "bad_vector": 5.0,
    "quota_spent": 600.0,
    # Out until the settings change, by the user's own view of it; but a model may be pulled and a
    # key be topped up while a worker runs for weeks, so these are asked again, rarely.
    "bad_key": 300.0,
    "bad_offer": 60.0,
}
LONGEST_PAUSE_SECONDS = 20.0
JITTER = 0.25
LATENCY_WEIGHT = 0.2
BAD_VECTORS_IN_A_ROW = 3


@dataclass(frozen=True, slots=True)
class Paused:
    """An offer is not to be asked before `until` (seconds since the epoch), because of `fault`;
    `is_ours` says that no answer told so, but a limit that the ledger keeps."""

    until: float
    fault: Fault
    is_ours: bool = False


@dataclass(slots=True)
class _OfferHealth:
    failures: int = 0
    bad_vectors: int = 0
    paused_until: float = 0.0
    failed_at: float = float("-inf")
    fault: Fault | None = None
    rest: Paused | None = None
    """Kept because of a limit that the ledger counts; no success ends it."""
    latency_seconds: dict[Role, float] = field(default_factory=dict)


class Health:
    """Shared by all flows of an embedder; every method takes the lock for arithmetic only."""

    def __init__(self, rng: Random) -> None:
        self._lock = threading.Lock()
        self._rng = rng
        self._offers: dict[str, _OfferHealth] = {}

    def _of(self, key: str) -> _OfferHealth:
        state = self._offers.get(key)
        if state is None:
            state = self._offers[key] = _OfferHealth()
        return state

    def paused(self, key: str, now: float) -> Paused | None:
        """The pause that an offer or an account is in, if any."""
        with self._lock:
            state = self._of(key)
            if state.fault is not None and state.paused_until > now:
                return Paused(state.paused_until, state.fault)
            return state.rest if state.rest is not None and state.rest.until > now else None

    def latency_seconds(self, key: str, role: Role) -> float | None:
        """The decaying mean of an offer's attempts for a role: batches take longer than queries."""
        with self._lock:
            return self._of(key).latency_seconds.get(role)

    def has_served(self, key: str) -> bool:
        """Whether an attempt succeeded since this process began."""
        with self._lock:
            return bool(self._of(key).latency_seconds)

    def succeeded(self, key: str, role: Role, seconds: float, began: float) -> None:
        """An attempt that began then gave good vectors: pauses end, latency is noted."""
        with self._lock:
            state = self._of(key)
            state.bad_vectors = 0
            told = state.fault is not None and state.fault.kind not in ("unavailable", "bad_vector")
            if began >= state.failed_at or not told:
                state.failures = 0
                state.paused_until, state.fault = 0.0, None
            old = state.latency_seconds.get(role, seconds)
            state.latency_seconds[role] = old + LATENCY_WEIGHT * (seconds - old)

    def failed(self, key: str, fault: Fault, now: float, began: float) -> Paused:
        """Pause an offer or account as its fault asks, longer with each failure in a row."""
        with self._lock:
            state = self._of(key)
            # A failure that is still to come was seen before the clock was set back.
            if began >= state.failed_at or now < state.failed_at:
                state.failures += 1
                state.failed_at = now
            until = max(state.paused_until, now + self._pause_seconds(state, fault, now))
            state.paused_until, state.fault = until, fault
            return Paused(until, fault)

    def forgive(self, key: str) -> None:
        """Its failures were put down to what it was sent."""
        with self._lock:
            state = self._of(key)
            state.failures, state.paused_until, state.fault = 0, 0.0, None

    def is_doubtful(self, key: str) -> bool:
        """Whether its last attempts failed, and nothing succeeded since. A rate limit is no doubt:
        it takes as much as it takes."""
        with self._lock:
            fault = self._of(key).fault
            return fault is not None and fault.kind in ("unavailable", "bad_vector")

    def rests(self, key: str, fault: Fault, until: float) -> Paused:
        """Pause an offer or account because of a limit that we keep, which is no failure."""
        with self._lock:
            rest = self._of(key).rest = Paused(until, fault, is_ours=True)
            return rest

    def gave_bad_vector(self, key: str) -> bool:
        """Count a single bad vector; True when so many came in a row that the offer is at fault
        and not a text that it happens to mangle."""
        with self._lock:
            state = self._of(key)
            state.bad_vectors += 1
            return state.bad_vectors >= BAD_VECTORS_IN_A_ROW

    def _pause_seconds(self, state: _OfferHealth, fault: Fault, now: float) -> float:
        if fault.until is not None:
            return max(0.0, fault.until - now)
        first = FIRST_PAUSE_SECONDS.get(fault.kind, 1.0)
        told = fault.retry_after_seconds
        # Told or not, a pause doubles while failures go on; never beyond the longest of its kind.
        grown = min(first * 2.0 ** min(state.failures - 1, 20), max(first, LONGEST_PAUSE_SECONDS))
        seconds = grown if told is None else max(told, grown if state.failures > 1 else 0.0)
        return seconds * (1 + JITTER * self._rng.random())
