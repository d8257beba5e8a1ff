"""What a user installs: whole, typed, and with the names that the documentation promises."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import qwen_embed_plugins
from qwen_embed_plugins import errors
from qwen_embed_plugins._version import __version__

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "qwen_embed_plugins"

PUBLIC = {
    "AsyncEmbedder",
    "EmbedResult",
    "Embedder",
    "EmbeddingSpace",
    "Model",
    "Offer",
    "Provider",
    "Settings",
    "__version__",
    "hookimpl",
} | {name for name in errors.__all__ if name[0].isupper()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source archive, built from this checkout."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> dict[str, bytes]:
    [path] = built.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_the_package_and_all_sql(wheel: dict[str, bytes]) -> None:
    expected = files_of(PACKAGE) | {
        f"sql/{name}": content for name, content in files_of(ROOT / "sql").items()
    }
    shipped = {
        name.removeprefix("qwen_embed_plugins/"): content
        for name, content in wheel.items()
        if name.startswith("qwen_embed_plugins/")
    }
    assert shipped == expected
    assert "py.typed" in shipped
    assert {
        "data/demo_texts.json",
        "data/page.css",
        "data/offers.toml",
        "data/models.toml",
    } <= shipped.keys()
    assert any(name.endswith(".sql") for name in shipped)


def test_the_wheel_holds_nothing_else(wheel: dict[str, bytes]) -> None:
    tops = {name.split("/")[0] for name in wheel}
    assert tops == {"qwen_embed_plugins", f"qwen_embed_plugins-{__version__}.dist-info"}


def test_the_wheel_names_its_command_and_licence(wheel: dict[str, bytes]) -> None:
    folder = f"qwen_embed_plugins-{__version__}.dist-info"
    assert b"qwen-embed = qwen_embed_plugins.cli:main" in wheel[f"{folder}/entry_points.txt"]
    assert wheel[f"{folder}/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()


def test_the_source_archive_can_build_and_test(built: Path) -> None:
    [path] = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "Makefile", ".constraints.txt", "tests/conftest.py"} <= names
    assert any(name.startswith("sql/") for name in names)


def test_there_is_one_version() -> None:
    assert importlib.metadata.version("qwen-embed-plugins") == __version__
    assert qwen_embed_plugins.__version__ == __version__
    assert f'"{__version__}"' not in (ROOT / "pyproject.toml").read_text("utf-8")


def test_the_changelog_names_the_version_or_has_unreleased_changes() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert headings
    assert headings[0] in ("Unreleased", __version__)


def test_the_public_names_are_exactly_these() -> None:
    assert set(qwen_embed_plugins.__all__) == PUBLIC
    assert sorted(qwen_embed_plugins.__all__) == qwen_embed_plugins.__all__
    for name in PUBLIC:
        assert hasattr(qwen_embed_plugins, name), name


def test_every_direct_requirement_is_pinned() -> None:
    pinned = {
        line.split("==", maxsplit=1)[0]
        for line in (ROOT / ".constraints.txt").read_text("utf-8").splitlines()
        if line and not line.startswith("#")
    }
    requirements = importlib.metadata.requires("qwen-embed-plugins") or []
    named = {re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in requirements}
    assert named - {"qwen-embed-plugins"} <= pinned
