"""Embedders against a simulated server on loopback: real HTTP, both wire formats."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qwen_embed_plugins import Settings
from qwen_embed_plugins.testing import Behaviour, SimulatedServer

Configure = Callable[..., Settings]


@pytest.fixture
def server() -> Iterator[SimulatedServer]:
    with SimulatedServer(Behaviour()) as running:
        yield running


@pytest.fixture(params=["ollama", "openai-compatible"])
def wire(request: pytest.FixtureRequest) -> str:
    """The wire format in use: every test with it runs once for each."""
    return str(request.param)


@pytest.fixture
def configure(wire: str) -> Configure:
    """Makes settings that reach a server over the wire format in use, and nobody else."""

    def settings(server: SimulatedServer, **arguments: Any) -> Settings:
        if wire == "ollama":
            table: dict[str, Any] = {"base_url": server.url}
        else:
            table = {"kind": wire, "base_url": f"{server.url}/v1"}
        name = "ollama" if wire == "ollama" else "mine"
        return Settings.load(providers={name: table}, use=[name], **arguments)

    return settings
