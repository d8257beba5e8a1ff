"""What the README shows is run, in order, and must do what it says."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from qwen_embed_plugins import Settings
from qwen_embed_plugins.catalogue import build_catalogue
from qwen_embed_plugins.plugins import load_plugins
from tests.documents import blocks_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from qwen_embed_plugins.testing import SimulatedServer

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = blocks_of(README)
SHOP = "postgresql://localhost/shop"


def under(heading: str, language: str) -> list[str]:
    found = [
        block.text for block in BLOCKS if (block.heading, block.language) == (heading, language)
    ]
    assert found, f"the README has no {language} block under {heading!r}"
    return found


def run_python(code: str, run: Any, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=run.environment(**variables),
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_block_is_covered_here() -> None:
    covered = {
        ("", "console"),
        ("Install", "console"),
        ("Install", "toml"),
        ("Python", "python"),
        ("LangChain", "python"),
        ("Postgres", "console"),
        ("Postgres", "sql"),
        ("Postgres", "python"),
        ("Stacking free tiers", "toml"),
        ("Stacking free tiers", "console"),
        ("Your own provider", "python"),
        ("Your own provider", "toml"),
    }
    assert {(block.heading, block.language) for block in BLOCKS} == covered


@pytest.mark.parametrize("heading", ["Python", "LangChain"])
def test_python_blocks(heading: str, run: Any, server: SimulatedServer) -> None:
    for code in under(heading, "python"):
        if SHOP not in code:  # those come with the blocks of Postgres
            assert run_python(code, run, OLLAMA_HOST=server.url).strip()
    assert server.request_count


def test_settings_block() -> None:
    [text] = under("Install", "toml")
    Path("qwen-embed.toml").write_text(text, "utf-8")
    settings = Settings.load(environ={})
    offers = build_catalogue(settings, load_plugins(found=())).offers
    assert [offer.key.split("/")[0] for offer in offers] == list(settings.use or ())


def test_install_block(run: Any, server: SimulatedServer) -> None:
    [text] = under("Install", "console")
    ours = [line for line in text.splitlines() if line.startswith("$ qwen-embed")]
    for line in ours:
        assert run(*shlex.split(line)[2:], OLLAMA_HOST=server.url).code == 0


def test_postgres_blocks(run: Any, database: Any, server: SimulatedServer) -> None:
    database.execute(*under("Postgres", "sql"))
    for line in "".join(under("Postgres", "console")).splitlines():
        words = shlex.split(line.removeprefix("$ "))
        if words[0] == "export":
            continue  # the fixture has set it, to this test's database
        assert words[0] == "qwen-embed"
        done = run(*words[1:], OLLAMA_HOST=server.url)
        assert done.code == 0, done.err
    [search] = under("Postgres", "python")
    [retrieve] = [code for code in under("LangChain", "python") if SHOP in code]
    for code in (search, retrieve):
        code = code.replace(SHOP, database.address)
        assert len(run_python(code, run, OLLAMA_HOST=server.url).splitlines()) >= 2


def test_stacking_blocks(run: Any) -> None:
    [text] = under("Stacking free tiers", "toml")
    Path("qwen-embed.toml").write_text(text, "utf-8")
    names = ("SILICONFLOW_API_KEY", "DEEPINFRA_TOKEN", "SCW_SECRET_KEY", "OPENROUTER_API_KEY")
    [console] = under("Stacking free tiers", "console")
    for shown in console.split("$ ")[1:]:
        command, *lines = shown.splitlines()
        if command.startswith("export "):
            assert re.findall(r"(\w+)=", command) == list(names)
            continue
        done = run(*shlex.split(command)[1:], COLUMNS="80", **dict.fromkeys(names, "k"))
        assert done.code == 0, done.err
        printed = [line.rstrip() for line in done.out.splitlines()]
        assert [line for line in lines if line != "..." and line not in printed] == []


def test_provider_block() -> None:
    [code] = under("Your own provider", "python")
    module = ModuleType("anvil_embed")
    exec(code, vars(module))  # noqa: S102  the README's own block
    registry = load_plugins(extra={"anvil": module}, found=())
    assert not registry.failed()
    assert registry.providers["anvil"].offers[0].max_inputs == 32


def changing(output: str) -> str:
    """An output without what differs from run to run and from machine to machine."""
    output = re.sub(r"\(\d+\.\d s\)", "(… s)", output)
    return re.sub(r"Postgres \d+\.\d+", "Postgres …", output)


def test_the_demo_prints_what_the_readme_shows(run: Callable[..., Any]) -> None:
    shown = next(block.text for block in BLOCKS if "make demo" in block.text)
    lines = changing(shown).splitlines()
    assert lines[0] == "$ make demo"
    printed = changing(run("demo", OLLAMA_HOST="http://127.0.0.1:9").out)
    found = [line.rstrip() for line in printed.splitlines()]
    for line in lines[1:]:
        if line and line != "...":
            assert line.rstrip().replace(":11434", ":9") in found
