"""How long it takes until anything can begin: fresh interpreters, medians of eleven."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from typing import Any

from tests.benchmarks.measuring import say

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import qwen_embed_plugins": ["-c", "import qwen_embed_plugins"],
    "qwen-embed --help": ["-m", "qwen_embed_plugins", "--help"],
    "qwen-embed pg --help": ["-m", "qwen_embed_plugins", "pg", "--help"],
}
TIMES = 11


def seconds(arguments: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - began


def run() -> list[dict[str, Any]]:
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(TIMES + 1):
        for name, arguments in COMMANDS.items():
            taken[name].append(seconds(arguments))
    medians = {name: statistics.median(values[1:]) for name, values in taken.items()}
    say("start-up, with the interpreter's own (aim: 0.15 s each)")
    for name, value in medians.items():
        say(f"  {name:44} {value:.3f} s")
    return [{"title": "start-up", "seconds": medians}]
