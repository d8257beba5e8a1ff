"""A server that bans whoever asks beyond its limits, and processes that share one state."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from qwen_embed_plugins.testing import SimulatedServer
from qwen_embed_plugins.testing.behaviour import Reply
from qwen_embed_plugins.testing.dialects import RecordedRequest

ROOT = Path(__file__).parents[2]

CLIENT = """
import sys, time
from qwen_embed_plugins import Embedder, NoOfferLeft
url, state, per_minute, per_day, until = sys.argv[1:]
table = {"kind": "openai-compatible", "base_url": url, "max_inputs": 1,
         "requests_per_minute": int(per_minute), "requests_per_day": int(per_day)}
embedder = Embedder(providers={"mine": table}, use=["mine"], state=state, dimensions=64,
                    model="qwen3-embedding-0.6b", timeout_seconds=5)
number = 0
while time.time() < float(until):
    number += 1
    try:
        embedder.embed([f"text {number} {part}" for part in range(3)])
    except NoOfferLeft:
        time.sleep(0.5)
embedder.close()
"""


class Guard:
    """Notes when each request comes, and answers 429 beyond the limits, in any window."""

    def __init__(self, per_minute: int, per_day: int) -> None:
        self.per_minute = per_minute
        self.per_day = per_day
        self.arrivals: list[float] = []
        self.refused = 0

    def __call__(self, request: RecordedRequest) -> Reply | None:
        now = time.monotonic()
        self.arrivals.append(now)
        in_a_minute = sum(moment > now - 60 for moment in self.arrivals)
        if in_a_minute > self.per_minute or len(self.arrivals) > self.per_day:
            self.refused += 1
            return Reply.rate_limited()
        return None


def crowd(state: Path, per_minute: int, per_day: int, seconds: float) -> Guard:
    """Four processes that ask as fast as they may, for so long."""
    guard = Guard(per_minute, per_day)
    with SimulatedServer(native=1024, respond=guard) as server:
        given = [f"{server.url}/v1", state, per_minute, per_day, time.time() + seconds]
        command = [sys.executable, "-c", CLIENT, *map(str, given)]
        processes = [subprocess.Popen(command, cwd=ROOT) for _ in range(4)]
        codes = [process.wait(timeout=seconds + 240) for process in processes]
    assert codes == [0] * 4
    return guard


def test_four_processes_keep_to_a_limit_by_the_day(tmp_path: Path) -> None:
    guard = crowd(tmp_path / "state.db", per_minute=1000, per_day=20, seconds=8)
    assert len(guard.arrivals) == 20, "all that is allowed is used"
    assert not guard.refused


@pytest.mark.chaos
def test_four_processes_never_send_the_21st_in_a_minute_nor_the_51st_in_a_day(
    tmp_path: Path,
) -> None:
    guard = crowd(tmp_path / "state.db", per_minute=20, per_day=50, seconds=200)
    assert len(guard.arrivals) == 50, "all that is allowed is used"
    assert not guard.refused
    for first, later in zip(guard.arrivals, guard.arrivals[20:], strict=False):
        assert later - first >= 60
