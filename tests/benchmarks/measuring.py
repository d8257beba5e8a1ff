"""Cases side by side: in turn, the floor before and after, ratios within a round, their medians."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROUNDS = 5
_PROCESS = Path("/proc/self")


@dataclass(frozen=True)
class Case:
    """Something to be timed; it gives how many units (texts, rows) it did. `beside` names the case
    that its ratio is to."""

    name: str
    run: Callable[[], int]
    beside: str | None = None
    wanted: float | None = None
    """The least ratio that is aimed at."""
    prepare: Callable[[], object] = lambda: None
    """What comes before, and is not timed."""


@dataclass
class Figure:
    """What a case took, one value for each time it ran; `ratios` are by round, above 1 is faster
    than the floor."""

    name: str
    unit: str
    beside: str | None = None
    wanted: float | None = None
    per_second: list[float] = field(default_factory=list)
    cpu_seconds_per_1000: list[float] = field(default_factory=list)
    peak_mib: list[float] = field(default_factory=list)
    """The most memory that this process held meanwhile; empty where the system does not tell."""
    ratios: list[float] = field(default_factory=list)

    def line(self) -> str:
        said = (
            f"{self.name:44} {statistics.median(self.per_second):10,.0f} {self.unit}/s"
            f" {statistics.median(self.cpu_seconds_per_1000):8.3f} CPU s/1,000"
        )
        if self.peak_mib:
            said += f" {statistics.median(self.peak_mib):5.0f} MiB"
        if not self.ratios:
            return said
        low, high = min(self.ratios), max(self.ratios)
        aim = f", aim {self.wanted:g}" if self.wanted else ""
        ratio = statistics.median(self.ratios)
        return f"{said}  {ratio:5.2f} of {self.beside} ({low:.2f} to {high:.2f}{aim})"


def compare(cases: Sequence[Case], *, unit: str, rounds: int = ROUNDS) -> list[Figure]:
    """Time the cases `rounds` times. Each round starts with another case; floors come before and
    after the rest, and the mean of both is what the round's ratios are to."""
    figures = {case.name: Figure(case.name, unit, case.beside, case.wanted) for case in cases}
    named = {case.beside for case in cases}
    floors = [case for case in cases if case.name in named]
    others = [case for case in cases if case.name not in named]
    for case in cases:
        case.prepare()
        case.run()  # connections, caches and code are warm for everyone
    for number in range(rounds):
        turned = [*others[number % max(1, len(others)) :], *others[: number % max(1, len(others))]]
        seconds: dict[str, list[float]] = {}
        for case in (*floors, *turned, *reversed(floors)):
            seconds.setdefault(case.name, []).append(_timed(case, figures[case.name]))
        means = {name: statistics.mean(taken) for name, taken in seconds.items()}
        for case in cases:
            if case.beside is not None:
                figures[case.name].ratios.append(means[case.beside] / means[case.name])
    return list(figures.values())


def _timed(case: Case, figure: Figure) -> float:
    """Seconds for one unit."""
    case.prepare()
    gc.collect()
    forgotten = _forget_peak()
    began, cpu = time.perf_counter(), _cpu_seconds()
    units = case.run()
    seconds, cpu = time.perf_counter() - began, _cpu_seconds() - cpu
    figure.per_second.append(units / seconds)
    figure.cpu_seconds_per_1000.append(cpu / units * 1000)
    if forgotten:
        figure.peak_mib.append(_peak_mib())
    return seconds / units


def _cpu_seconds() -> float:
    """Of this process, and of those that it started and that have ended."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def _forget_peak() -> bool:
    """Let Linux measure this process's peak anew; False where it does not."""
    try:
        # What was freed goes back first: it would count for whoever runs next.
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        _PROCESS.joinpath("clear_refs").write_text("5")
    except (OSError, AttributeError):
        return False
    return True


def _peak_mib() -> float:
    lines = _PROCESS.joinpath("status").read_text().splitlines()
    [line] = (line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def report(title: str, figures: Sequence[Figure]) -> dict[str, Any]:
    """Print the figures; gives them for a record."""
    say(title)
    for figure in figures:
        say(f"  {figure.line()}")
    return {"title": title, "figures": [asdict(figure) for figure in figures]}


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@contextlib.contextmanager
def on_core(number: int) -> Iterator[None]:
    """This process on one core, where the system knows how and has more than one."""
    if not hasattr(os, "sched_setaffinity") or (os.cpu_count() or 1) < 2:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(before)[number % len(before)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
