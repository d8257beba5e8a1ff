"""Memory of a worker: answers of some megabytes, of a few sizes, batch after batch for weeks."""

from __future__ import annotations

import ctypes
import os

MIB = 1 << 20

# mallopt(3), for glibc. With one arena the buffer that one thread let go is the next one's; below
# the thresholds it is not given back to the system, to be fetched again page by page.
OPTIONS = {
    "MALLOC_TRIM_THRESHOLD_": (-1, 32 * MIB),
    "MALLOC_MMAP_THRESHOLD_": (-3, 32 * MIB),
    "MALLOC_ARENA_MAX": (-8, 1),
}
"""By the variable by which a user sets the same: its number, and our value."""


def keep_buffers() -> None:
    """Have the C library use large buffers again. Does nothing without glibc; an option that the
    environment has set stays."""
    if "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", ""):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):
        return
    for variable, (number, value) in OPTIONS.items():
        if variable not in os.environ:
            mallopt(number, value)
