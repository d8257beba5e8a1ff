"""What the pages of docs/ show is run, block for block, and must succeed."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qwen_embed_plugins import Settings
from qwen_embed_plugins.catalogue import build_catalogue
from qwen_embed_plugins.plugins import load_plugins
from tests.acceptance.test_documents import run_python
from tests.documents import blocks_of

if TYPE_CHECKING:
    from qwen_embed_plugins.testing import SimulatedServer
    from tests.acceptance.conftest import Database, Run

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGES = ("from-pgai", "operations", "quickstart.ru", "troubleshooting")
ELSEWHERE = ("pip", "python3", "ollama", "export")
"""Commands that are others' own; the fixtures have set what is exported."""


@pytest.fixture
def tables(database: Database) -> Database:
    """What the pages take for granted: tables, and a role for workers."""
    database.execute(
        "CREATE TABLE blog (id int PRIMARY KEY, title text, contents text)",
        "INSERT INTO blog VALUES (1, 'Moving', 'how to move a table'), (2, 'Bread', 'needs time')",
        "DO $$BEGIN CREATE ROLE embedder; EXCEPTION WHEN duplicate_object THEN END$$",
    )
    return database


@pytest.mark.parametrize("page", PAGES)
def test_a_page_does_what_it_shows(
    run: Run, tables: Database, server: SimulatedServer, page: str
) -> None:
    blocks = blocks_of((DOCS / f"{page}.md").read_text("utf-8"))
    assert blocks
    if page == "operations":
        assert run("pg", "install").code == 0
    for block in blocks:
        if block.language in ("console", "sh"):
            for line in block.text.splitlines():
                _run_line(run, line if block.language == "console" else f"$ {line}", server)
        elif block.language == "python":
            assert run_python(block.text, run, OLLAMA_HOST=server.url).strip()
        else:
            assert block.language == "toml"
            _read_settings(block.text)


def _run_line(run: Any, line: str, server: SimulatedServer) -> None:
    prompt, *words = shlex.split(line)
    assert prompt == "$", f"{line!r} is no command"
    if words[0] in ELSEWHERE:
        return
    assert words[0] == "qwen-embed"
    once = ["--once"] if words[-1] == "worker" else []
    done = run(*words[1:], *once, OLLAMA_HOST=server.url)
    assert done.code == 0, f"{line}: {done.err}"
    assert done.out or "--html" in words, line


def _read_settings(text: str) -> None:
    Path("read-only.toml").write_text(text, "utf-8")
    settings = Settings.load("read-only.toml", environ={"DEEPINFRA_TOKEN": "k"})
    assert build_catalogue(settings, load_plugins(found=())).offers
