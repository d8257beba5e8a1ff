"""Standard streams that the shell closed: `qwen-embed … >&-`."""

from __future__ import annotations

import os
import sys


def open_closed_streams() -> None:
    """Python has None for a closed stream, and the system would give its number to the next file
    that is opened. To read and to write fails as on a closed one; standard error goes nowhere.
    """
    for name, flags, mode in (
        ("stdin", os.O_WRONLY, "r"),
        ("stdout", os.O_RDONLY, "w"),
        ("stderr", os.O_WRONLY, "w"),
    ):
        if getattr(sys, name) is None:
            stream = os.fdopen(os.open(os.devnull, flags), mode, encoding="utf-8", closefd=False)
            setattr(sys, name, stream)
