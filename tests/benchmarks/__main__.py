"""`python -m tests.benchmarks [NAME ...] [--json FILE]`: all benchmarks, or those named."""

from __future__ import annotations

import argparse
import importlib
import platform
from datetime import datetime, timezone
from pathlib import Path

import orjson

from tests.benchmarks.measuring import say

NAMES = ("startup", "router", "worker", "writers", "waiting_line", "memory", "scale")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep a record here")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(NAMES))
    if unknown:
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(NAMES)}")
    records = []
    for name in arguments.names or NAMES:
        records += importlib.import_module(f"tests.benchmarks.{name}").run()
    if arguments.json is not None:
        record = {
            "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "python": platform.python_version(),
            "machine": platform.machine(),
            "benchmarks": records,
        }
        arguments.json.write_bytes(orjson.dumps(record, option=orjson.OPT_INDENT_2) + b"\n")
        say(f"kept in {arguments.json}")


if __name__ == "__main__":
    main()
