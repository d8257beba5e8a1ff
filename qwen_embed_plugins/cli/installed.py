"""Whether a package may bring plugins, told without `importlib.metadata`.

That module takes longer to load than all that is ours in `--help`: it brings `email` and `socket`
along, for the metadata of packages. The look here says yes too often rather than too seldom: who
hears yes asks `importlib.metadata`, who hears no need not.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder

GROUP = "qwen_embed_plugins"
"""`hookspecs.PROJECT`, whose module loads pluggy, and with it `importlib.metadata`."""

_SECTION = f"[{GROUP}]".encode()


def may_bring_plugins() -> bool:
    """Reads the names in each folder of `sys.path`, and each `entry_points.txt` there."""
    return _others_find_packages() or any(map(_may_name_plugins, sys.path))


def _others_find_packages() -> bool:
    """Programs in one file, say, have a finder for packages that no folder shows."""
    return any(
        finder is not PathFinder and hasattr(finder, "find_distributions")
        for finder in sys.meta_path
    )


def _may_name_plugins(place: str) -> bool:
    try:
        return any(map(_names_plugins, _entry_points(place)))
    except FileNotFoundError:  # interpreters name an archive that is seldom there
        return False
    except OSError:  # an archive, or a folder that may not be read
        return True


# pathlib, used nowhere else on the way to a line of help, would take longer to load than to look.
def _entry_points(place: str) -> Iterator[str]:
    """Where packages name theirs, by the packaging guide; not each of the files is there."""
    for name in os.listdir(place or os.curdir):  # noqa: PTH208
        if name.lower().endswith((".dist-info", "egg-info")):
            yield os.path.join(place, name, "entry_points.txt")  # noqa: PTH118


def _names_plugins(path: str) -> bool:
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            return _SECTION in file.read()
    except (FileNotFoundError, NotADirectoryError):  # most packages have none
        return False
