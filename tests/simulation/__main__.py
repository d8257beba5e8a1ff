"""`python -m tests.simulation SEED [--file]`: one schedule step by step, and the law it breaks."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.simulation.laws import Broken, check
from tests.simulation.schedules import draw


def main(seed: int, in_file: bool) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.db" if in_file else None
        schedule = draw(seed, path, print)
        schedule.run()
        schedule.close()
        try:
            check(schedule)
        except Broken as broken:
            print(f"broken: {broken}")
            return 1
    print("all laws hold")
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), "--file" in sys.argv))
