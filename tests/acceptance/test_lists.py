"""`providers`, `plugins`, `settings`, and the commands that plugins add."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.acceptance.conftest import Run


def test_settings_list_shows_everything_but_keys(run: Run) -> None:
    Path("qwen-embed.toml").write_text(
        'dimensions = 512\n[providers.mine]\nkind = "openai-compatible"\n'
        'base_url = "http://127.0.0.1:1/v1"\napi_key_env = "PLANTED_KEY"\n'
        f'proxy = "socks5://me:{run.planted}@127.0.0.1:1"\n',
        "utf-8",
    )
    state = f"postgresql://me:{run.planted}@db/x"
    done = run("settings", "--json", QWEN_EMBED_CONCURRENCY="3", QWEN_EMBED_STATE=state)
    found = {item["name"]: (item["value"], item["origin"]) for item in done.json["settings"]}
    assert done.json["file"] == "qwen-embed.toml"
    assert found["dimensions"] == ("512", "file qwen-embed.toml")
    assert found["concurrency"] == ("3", "environment")
    assert found["policy"] == ("free-first", "default")
    assert found["providers.mine.api_key_env"][0] == "PLANTED_KEY"
    table = run("settings", QWEN_EMBED_STATE=state).out
    assert "PLANTED_KEY" in table
    assert run.fits(table)


def offers(listed: Any) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (provider["provider"], offer["model"]): offer
        for provider in listed
        for offer in provider["offers"]
    }


def test_providers_say_what_they_offer_and_whether_they_are_set_up(run: Run) -> None:
    found = offers(run("providers", "--json").json)
    ollama = found["ollama", "qwen3-embedding-8b"]
    assert (ollama["wire_name"], ollama["price_per_million"]) == ("qwen3-embedding:8b", "0")
    assert (ollama["configured"], ollama["serves"], ollama["reason"]) == (True, True, None)
    assert ollama["source"].startswith("https://")
    assert ollama["checked"]
    other = found["openai-compatible", "qwen3-embedding-8b"]
    assert (other["configured"], other["reason"]) == (False, "no base_url set")
    assert found["lexical", "lexical"]["serves"] is False


def test_providers_of_the_settings_are_listed_even_if_they_are_wrong(run: Run) -> None:
    run.settings(
        {
            "gpu": {"kind": "openai-compatible", "base_url": "http://127.0.0.1:1/v1"},
            "half": {"kind": "openai-compatible"},
        }
    )
    found = offers(run("providers", "--json").json)
    assert found["gpu", "qwen3-embedding-8b"]["serves"] is True
    assert "base_url is missing" in found["half", "qwen3-embedding-8b"]["reason"]
    assert found["ollama", "qwen3-embedding-8b"]["reason"] == "not in `use`"
    table = run("providers").out
    assert run.fits(table)
    assert "base_url is missing" in " ".join(table.split())


@pytest.fixture
def plugins(tmp_path: Path) -> str:
    """A folder with three installed plugins: one works, one adds a command, one is broken."""
    folder = tmp_path / "site"
    sources = {
        "working": (
            "from qwen_embed_plugins import Offer, Provider, hookimpl\n"
            "class Working(Provider):\n"
            "    name = 'working'\n"
            "    base_url = 'http://127.0.0.1:1'\n"
            "@hookimpl\n"
            "def register_providers(register):\n"
            "    register(Working, offers=[Offer('qwen3-embedding-8b', 'its-8b')])\n"
        ),
        "speaking": (
            "import click\n"
            "from qwen_embed_plugins import hookimpl\n"
            "@click.command()\n"
            "def greet():\n"
            "    'Say hello.'\n"
            "    click.echo('hello')\n"
            "@hookimpl\n"
            "def register_commands(register):\n"
            "    register(greet)\n"
        ),
        "broken": "raise RuntimeError('no such luck')\n",
    }
    for name, source in sources.items():
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (folder / f"{name}_module.py").write_text(source, "utf-8")
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(
            f"[qwen_embed_plugins]\n{name} = {name}_module\n", "utf-8"
        )
    return str(folder)


def test_a_broken_plugin_is_named_and_harms_nothing(run: Run, plugins: str) -> None:
    found = {item["name"]: item for item in run("plugins", "--json", PYTHONPATH=plugins).json}
    assert found["broken"]["error"] == "RuntimeError: no such luck"
    assert found["working"]["provides"] == ["provider working"]
    assert (found["working"]["source"], found["working"]["version"]) == ("working", "1.0")
    assert found["qwen_embed_plugins.providers.ollama"]["source"] == "built-in"
    table = run("plugins", PYTHONPATH=plugins).out
    assert run.fits(table)
    assert "left out: RuntimeError: no such" in table
    listed = offers(run("providers", "--json", PYTHONPATH=plugins).json)
    assert listed["working", "qwen3-embedding-8b"]["configured"] is True
    done = run("embed", "text", "--model", "lexical", PYTHONPATH=plugins)
    assert len(done.json[0]) == 1024


def test_a_broken_plugin_is_named_to_who_asks_for_it(run: Run, plugins: str) -> None:
    done = run("embed", "text", "--use", "brokn", PYTHONPATH=plugins)
    assert done.code == 2
    assert "plugin 'broken' failed to load: RuntimeError: no such luck" in done.complaint


def test_commands_of_plugins_are_added(run: Run, plugins: str) -> None:
    assert run("greet", PYTHONPATH=plugins).out == "hello\n"
    assert "greet      Say hello." in run("--help", PYTHONPATH=plugins).out
