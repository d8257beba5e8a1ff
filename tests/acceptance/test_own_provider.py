"""The example provider as a stranger meets it: installed by pip, listed, serving."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qwen_embed_plugins.testing import SimulatedServer
from tests.documents import blocks_of

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "own_provider"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the example, and nothing else."""
    target = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source")
    for file in EXAMPLE.iterdir():
        if file.is_file():
            (source / file.name).write_bytes(file.read_bytes())
    subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
            "--disable-pip-version-check", "--root-user-action=ignore", "--target", str(target),
            str(source),
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return target


def test_it_is_listed_with_what_it_brings(installed: Path, run: Any) -> None:
    listed = run("plugins", "--json", PYTHONPATH=str(installed)).json
    [acme] = [plugin for plugin in listed if plugin["name"] == "acme"]
    assert acme["error"] is None
    assert "provider acme" in str(acme["provides"])
    providers = run("providers", PYTHONPATH=str(installed))
    assert providers.code == 0
    assert "acme" in providers.out
    assert "ACME_API_KEY" in providers.out


def test_it_serves(installed: Path, run: Any, server: SimulatedServer) -> None:
    run.settings({"acme": {"base_url": f"{server.url}/v1"}})
    done = run("embed", "text", PYTHONPATH=str(installed), ACME_API_KEY="made-up")
    assert done.code == 0, done.err
    assert len(done.json[0]) == 4096
    [request] = server.requests
    assert request.headers["authorization"] == "Bearer made-up"
    assert request.body["model"] == "acme/qwen3-8b"


def test_it_is_the_first_plugin_of_the_page_that_it_points_to() -> None:
    """The page's plugin is held to the contract in `test_plugin_page.py`."""
    assert "../../docs/plugins.md" in (EXAMPLE / "README.md").read_text("utf-8")
    page = EXAMPLE.parent.parent / "docs" / "plugins.md"
    files = {block.file: block.text for block in blocks_of(page.read_text("utf-8"))}
    for name in ("qwen_embed_acme.py", "pyproject.toml"):
        assert (EXAMPLE / name).read_text("utf-8") == files[name]
