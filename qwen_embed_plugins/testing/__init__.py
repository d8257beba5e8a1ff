"""For tests of plugins and of applications: a simulated server, a fake provider, a contract.

Nothing is imported before it is asked for: the contract needs pytest, the rest does not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qwen_embed_plugins.testing.behaviour import Behaviour, Reply
    from qwen_embed_plugins.testing.contract import InProcessContract, ProviderContract
    from qwen_embed_plugins.testing.fake import FakePlugin, FakeProvider
    from qwen_embed_plugins.testing.simulator import RecordedRequest, SimulatedServer
    from qwen_embed_plugins.testing.vectors import reference_tokens, reference_vector

__all__ = [
    "Behaviour",
    "FakePlugin",
    "FakeProvider",
    "InProcessContract",
    "ProviderContract",
    "RecordedRequest",
    "Reply",
    "SimulatedServer",
    "reference_tokens",
    "reference_vector",
]

_HOMES = {
    "Behaviour": "behaviour",
    "FakePlugin": "fake",
    "FakeProvider": "fake",
    "InProcessContract": "contract",
    "ProviderContract": "contract",
    "RecordedRequest": "simulator",
    "Reply": "behaviour",
    "SimulatedServer": "simulator",
    "reference_tokens": "vectors",
    "reference_vector": "vectors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
