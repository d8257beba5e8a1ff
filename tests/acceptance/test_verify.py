"""`verify` and `route` as people type them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qwen_embed_plugins.testing import Behaviour, SimulatedServer

if TYPE_CHECKING:
    from tests.acceptance.conftest import Run

BEHAVIOURS = {
    "good": Behaviour(),
    "noisy": Behaviour(noise=0.01),
    "other": Behaviour(seed=5),
    "cutter": Behaviour(context_tokens=512, too_long="cut"),
}

Settings = Callable[..., Path]


@pytest.fixture
def four(tmp_path: Path) -> Iterator[Path]:
    """A settings file with four servers, three of them not quite right."""
    servers = {name: SimulatedServer(b, native=1024).start() for name, b in BEHAVIOURS.items()}
    tables = "".join(
        f'[providers.{name}]\nkind = "openai-compatible"\nbase_url = "{server.url}/v1"\n'
        for name, server in servers.items()
    )
    file = tmp_path / "qwen-embed.toml"
    file.write_text(
        f'model = "qwen3-embedding-0.6b"\nuse = {list(servers)}\n'
        f'state = "{tmp_path / "state.db"}"\n{tables}'
    )
    yield file
    for server in servers.values():
        server.close()


def test_verify_tells_them_apart_and_route_heeds_it(run: Run, four: Path) -> None:
    settings = ("--settings", four)
    before = run("route", "--json", *settings).json
    assert [entry["introduced"] for entry in before["offers"]] == [False] * 4

    verified = run("verify", *settings)
    assert verified.code == 1  # two would not serve
    assert max(map(len, verified.out.splitlines())) <= 80
    verdicts = {
        line.split()[0]: line.split()[-1] for line in verified.out.splitlines() if " / " in line
    }
    for name, verdict in {"good": "serves", "noisy": "serves", "other": "out"}.items():
        assert verdicts[name] == verdict
    assert "same vector" in verified.out

    after = {
        e["offer"].partition("/")[0]: e for e in run("route", "--json", *settings).json["offers"]
    }
    assert [name for name, entry in after.items() if entry["serves"]] == ["good", "noisy"]
    assert after["noisy"]["verdict"]["cosine_min"] > 0.9999
    assert "not those of good" in after["other"]["reason"]
    assert "cuts texts" in after["cutter"]["reason"]
    assert after["cutter"]["reason"].endswith("; `qwen-embed verify` measures it again)")
    shown = run("route", "--tokens", 1000, *settings)
    assert shown.code == 0
    assert "left out: cutter" in shown.out


def test_verify_as_json_holds_the_figures(run: Run, four: Path) -> None:
    arguments = ("--against", "noisy", "--longest", 600, "--json", "--settings", four)
    report = run("verify", "--use", "good,noisy", *arguments)
    assert report.code == 0
    assert report.json["reference"] == "noisy/qwen3-embedding-0.6b"
    assert report.json["published"] == [[0.7646, 0.1414], [0.1355, 0.6]]
    good = report.json["offers"][0]
    assert good["serves"] is True
    assert 0.9999 < good["cosine_min"] <= good["cosine_mean"] < 1
    assert len(good["matrix"]) == 2
    assert good["tokens"] > 1000
    assert good["cost_usd"] == "0"


def test_what_verify_cannot_do_is_one_line(run: Run, four: Path) -> None:
    refused = run("verify", "--against", "nobody", "--settings", four)
    assert refused.code == 2
    assert "no such offer is configured; here are: good, noisy" in refused.complaint
    nobody = run("verify", "--model", "qwen3-embedding-8b", "--use", "deepinfra")
    assert nobody.code != 0
