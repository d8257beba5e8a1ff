"""What the README shows is run, in order, and must do what it says."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

import pytest

from qwen_embed_plugins import Settings
from qwen_embed_plugins.catalogue import build_catalogue
from qwen_embed_plugins.plugins import load_plugins
from tests.documents import blocks_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qwen_embed_plugins.testing import SimulatedServer

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = blocks_of(README)
BASH = shutil.which("bash") or "bash"


def under(heading: str, language: str) -> list[str]:
    found = [
        block.text for block in BLOCKS if (block.heading, block.language) == (heading, language)
    ]
    assert found, f"the README has no {language} block under {heading!r}"
    return found


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """The path of a socket has a limit."""
    with tempfile.TemporaryDirectory(prefix="walk") as folder:
        yield Path(folder)


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
        ("Install", "sh"),
        ("LangChain", "python"),
        ("LangChain", "text"),
        ("Postgres", "sh"),
        ("Postgres", "text"),
        ("Postgres", "python"),
        ("Stacking free tiers", "toml"),
        ("Stacking free tiers", "sh"),
        ("Stacking free tiers", "console"),
        ("Your own provider", "python"),
        ("Your own provider", "toml"),
    }
    assert {(block.heading, block.language) for block in BLOCKS} == covered


def test_the_extras_to_install_are_ours() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    [block] = under("Install", "sh")
    installs = re.findall(r"pip install .*\[([\w,]+)\]'", README)
    assert f"[{installs[0]}]" in block
    assert len(set(installs)) == 1, "a package and a checkout are installed alike"
    assert set(installs[0].split(",")) <= set(extras)


@pytest.mark.skipif(sys.platform == "win32", reason="the blocks are for a Unix shell")
def test_the_walk_from_the_install_to_the_retriever(
    run: Any, monkeypatch: pytest.MonkeyPatch, short_folder: Path
) -> None:
    """All that the README has a newcomer type after the installation, in one shell and folder."""
    monkeypatch.chdir(short_folder)
    *_, model = under("Install", "sh")[0].splitlines()
    fill, change = under("Postgres", "sh")
    scripts = {
        "similar": under("LangChain", "python")[0],
        "search": under("Postgres", "python")[0],
        "retrieve": under("Postgres", "python")[1],
    }
    for name, code in scripts.items():
        Path(f"{name}.py").write_text(code, "utf-8")
    python = [f"python {name}.py >{name}.txt" for name in scripts]
    walk = (
        f'set -e; export PATH="{Path(sys.executable).parent}:$PATH"\n'
        f"{model}\n{python[0]}\n{fill}\n{change}\n{python[1]}\n{python[2]}"
    )
    done = subprocess.run(
        [BASH, "-c", walk], capture_output=True, text=True, env=run.environment(), timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""

    [said] = under("LangChain", "text")
    assert Path("similar.txt").read_text("utf-8") == said
    filled, changed, *printed = map(changing, under("Postgres", "text"))
    assert filled.startswith("...\n")
    assert changing(done.stdout).endswith(filled.removeprefix("...\n") + changed)
    assert printed == [
        Path("search.txt").read_text("utf-8"),
        Path("retrieve.txt").read_text("utf-8"),
    ]


def test_the_page_of_embedding(run: Any, server: SimulatedServer) -> None:
    blocks = blocks_of((ROOT / "docs" / "embedding.md").read_text("utf-8"))
    assert [block.language for block in blocks] == ["python", "toml"]
    printed = run_python(blocks[0].text, run, OLLAMA_HOST=server.url)
    assert len(printed.strip("[] \n").split()) == 2
    Path("qwen-embed.toml").write_text(blocks[1].text, "utf-8")
    settings = Settings.load(environ={})
    offers = build_catalogue(settings, load_plugins(found=())).offers
    assert [offer.key.split("/")[0] for offer in offers] == list(settings.use or ())


def test_stacking_blocks(run: Any) -> None:
    [text] = under("Stacking free tiers", "toml")
    Path("qwen-embed.toml").write_text(text, "utf-8")
    [exports] = under("Stacking free tiers", "sh")
    variables = dict(re.findall(r"(\w+)=(\S+)", exports))
    assert "unset QWEN_EMBED_MODEL" in exports
    [console] = under("Stacking free tiers", "console")
    for shown in console.split("$ ")[1:]:
        command, *lines = shown.splitlines()
        done = run(*shlex.split(command)[1:], COLUMNS="80", **variables)
        assert done.code == 0, done.err
        printed = [line.rstrip() for line in done.out.splitlines()]
        assert [line for line in lines if line != "..." and line not in printed] == []
    assert Path("plan.db").exists()


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
