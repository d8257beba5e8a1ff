"""Peak memory of long jobs: a tenth of the rows must not need much less than all of them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks.instant_server import instant_server
from tests.benchmarks.measuring import say
from tests.benchmarks.worker import Table, settings_file
from tests.postgres_servers import embedded_server

MODEL, NATIVE, DIMENSIONS = "qwen3-embedding-0.6b", 1024, 32
SIZES = (100_000, 1_000_000)
LATENCY_SECONDS = 0.05
"""As a service's. All requests that may be out at once are out then, in the short job as in the
long one; with an instant server it is chance whether so many ever are."""


def peak_mib(arguments: list[str], environ: dict[str, str]) -> float:
    """The most memory that a command of ours held, in MiB."""
    process = subprocess.Popen(
        [sys.executable, "-m", "qwen_embed_plugins", *arguments], env=environ
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, arguments
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return usage.ru_maxrss / unit


def of_a_file(lines: int, environ: dict[str, str], folder: Path) -> float:
    texts, vectors = folder / "texts.txt", folder / "vectors.npy"
    with texts.open("w") as out:
        out.writelines(f"line {number} of a long file\n" for number in range(lines))
    try:
        return peak_mib(
            ["embed", "--quiet", "--file", str(texts), "--format", "npy", "--output", str(vectors)],
            environ,
        )
    finally:
        vectors.unlink(missing_ok=True)


def of_a_worker(rows: int, environ: dict[str, str]) -> float:
    with embedded_server(18) as server, server.database("template1") as name:
        table = Table(server.dsn(name), MODEL, DIMENSIONS, rows)
        table.fill("docs")
        peak = peak_mib(["pg", "worker", "--once", "--quiet", "--dsn", table.dsn], environ)
        table.check()
        table.connection.close()
        return peak


def run() -> list[dict[str, Any]]:
    records = []
    with (
        tempfile.TemporaryDirectory() as folder,
        instant_server(NATIVE, latency_seconds=LATENCY_SECONDS) as base_url,
        settings_file(base_url, MODEL, DIMENSIONS) as environ,
    ):
        for what, peaks in (
            ("embed --file", [of_a_file(size, environ, Path(folder)) for size in SIZES]),
            ("pg worker --once", [of_a_worker(size, environ) for size in SIZES]),
        ):
            few, many = peaks
            say(
                f"{what}: {few:.0f} MiB for {SIZES[0]:,} rows, {many:.0f} MiB for {SIZES[1]:,}: "
                f"{many / few:.2f} times (aim: at most 1.2)"
            )
            records.append(
                {
                    "title": f"memory of {what}",
                    "mib": dict(zip(map(str, SIZES), peaks, strict=True)),
                }
            )
    return records
