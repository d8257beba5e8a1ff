"""The command `qwen-embed`: one module for each command or group, each imported when it is used."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and give its exit code; without `arguments`, the process's own.

    0: done. 1: the world refused, or work remains. 2: settings or arguments are wrong and nothing
    was called. 130: interrupted. 141: the reader of our output went away.
    """
    from qwen_embed_plugins.cli import failures, root, signals

    with signals.interrupting():
        return failures.guarded(lambda: root.run(arguments))
