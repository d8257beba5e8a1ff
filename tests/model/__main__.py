"""`python -m tests.model [WORLD] [--bug BUG]`: states, and the shortest way to a broken law.

Without a world all small ones are explored; `--bugs` plants each bug where it is to be found.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace

from tests.model.explorer import explore
from tests.model.instances import BUGS, LARGE, SMALL
from tests.model.states import Instance
from tests.model.world import World


def show(name: str, instance: Instance) -> bool:
    began = time.process_time()
    explored = explore(World(instance))
    spent = time.process_time() - began
    print(f"{name}: {explored.states:,} states, {explored.steps:,} steps, {spent:.1f} s")
    if explored.violation is not None:
        print(explored.violation)
    return explored.violation is None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    worlds = {**SMALL, **LARGE}
    parser.add_argument("world", nargs="*", choices=[*worlds, []])
    parser.add_argument("--bug", choices=list(BUGS))
    parser.add_argument("--bugs", action="store_true")
    given = parser.parse_args()
    if given.bugs:
        for bug, (name, _) in BUGS.items():
            show(f"{name}, {bug}", replace(worlds[name], bug=bug))
        return 0
    hold = [show(name, replace(worlds[name], bug=given.bug)) for name in given.world or SMALL]
    return 0 if all(hold) else 1


if __name__ == "__main__":
    sys.exit(main())
