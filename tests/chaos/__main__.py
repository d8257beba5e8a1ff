"""One run by hand: `python -m tests.chaos SEED [--kills N] [--target column]
[--plant BUG] [--faults SHARE]`."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from tests.chaos.books import TARGETS
from tests.chaos.planted import BUGS
from tests.chaos.run import Plan, own_server, play


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("seed")
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--target", choices=sorted(TARGETS), default="table")
    parser.add_argument("--plant", choices=sorted(BUGS))
    parser.add_argument("--faults", type=float, default=0.15)
    given = parser.parse_args()
    kinds = ("restart", "crash", "fail_over", "lose_a_session")
    outages = {given.kills * (place + 1) // 5: kind for place, kind in enumerate(kinds)}
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    plan = Plan(given.kills, outages, given.faults, drain_seconds=300, plant=given.plant)
    began = time.monotonic()
    with own_server() as server:
        report = play(server, given.seed, folder, plan, TARGETS[given.target])
    print(report.figures())
    for law, facts in report.broken().items():
        print(f"BROKEN: {law}: {str(facts)[:1500]}")
    print(
        f"{time.monotonic() - began:.0f} s, lapse after {report.found_after}, journals in {folder}"
    )


if __name__ == "__main__":
    main()
