"""The command `qwen-embed`: one module for each command or group, each imported when it is used."""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Sequence

_OBJECTS_UNTIL_COLLECTED = 50_000
"""Batches of rows are many objects without cycles: looking through them at each 700th took a tenth
of a worker's time, and of loading the modules."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and give its exit code; without `arguments`, the process's own.

    0: done. 1: the world refused, or work remains. 2: settings or arguments are wrong and nothing
    was called. 130: interrupted (a service that ends in order gives 0). 141: the reader of our
    output went away.
    """
    if arguments is None:
        gc.set_threshold(_OBJECTS_UNTIL_COLLECTED)
        # Nor at the end: the interpreter would look through all of it before the system takes it.
        atexit.register(gc.freeze)
        # numpy's linear algebra, of which nothing here takes long, would start a thread for each
        # core, and each would look for work for a moment at every start.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from qwen_embed_plugins.cli import failures, root, signals, streams

    streams.open_closed_streams()
    with signals.interrupting():
        return failures.guarded(lambda: root.run(arguments))
