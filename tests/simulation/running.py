"""Running schedules by the hundred, and saying which seed broke which law."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tests.simulation.laws import Broken, check
from tests.simulation.schedules import draw


def run(seed: int, path: Path | None = None) -> None:
    """Run one schedule and hold it against the laws. Raises `Broken`, or what the product raised;
    says which seed shows it again."""
    try:
        schedule = draw(seed, path)
        schedule.run()
        schedule.close()
        check(schedule)
    except Exception:
        in_file = "" if path is None else " --file"
        print(f"to see it: python -m tests.simulation {seed}{in_file}")  # shown where a test fails
        raise


def first_broken(seeds: Iterable[int], folder: Path | None = None) -> str | None:
    """The first law that a schedule breaks; "error" where the product raised what it never may.
    With a folder the ledgers are files there."""
    for seed in seeds:
        try:
            run(seed, None if folder is None else folder / f"{seed}.db")
        except Broken as broken:
            return broken.law
        except Exception:
            return "error"
    return None
