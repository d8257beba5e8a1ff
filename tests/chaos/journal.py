"""What an actor did, a line of JSON for each event, written at once: a kill loses none of it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Journal:
    """Appends to a file. Threads and processes may share it: a line is one write."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def note(self, event: str, **facts: Any) -> None:
        line = json.dumps({"event": event, "at": time.time(), **facts})
        os.write(self._file, line.encode() + b"\n")


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The events of one actor, in order."""
    if not path.exists():
        return
    for line in path.read_text("utf-8").splitlines():
        yield json.loads(line)
