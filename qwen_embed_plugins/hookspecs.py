"""The plugin contract, whole. Implement what you need, with `hookimpl`, and name the module in the
entry-point group `qwen_embed_plugins`. No hook may do I/O: hooks declare, the core acts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from qwen_embed_plugins.chunkers import Chunker
    from qwen_embed_plugins.events import Event
    from qwen_embed_plugins.models import Model
    from qwen_embed_plugins.routing import Policy

PROJECT = "qwen_embed_plugins"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def register_providers(register: Callable[..., None]) -> None:
    """Call `register(MyProvider, offers=[Offer(...)])` once for each provider class."""


@hookspec
def register_models(register: Callable[[Model], None]) -> None:
    """Call `register(Model(...))` for each model that settings may name."""


@hookspec
def register_policies(register: Callable[[str, Policy], None]) -> None:
    """Call `register("name", policy)` for each way of ranking offers."""


@hookspec
def register_chunkers(register: Callable[[str, Chunker], None]) -> None:
    """Call `register("name", chunker)` for each way of splitting a long text: a function of `text`,
    `tokens` and `overlap`, or some of these, that gives pairs of start and chunk, in order."""


@hookspec
def register_commands(register: Callable[[Any], None]) -> None:
    """Call `register(command)` with a `click.Command` to add it to `qwen-embed`."""


@hookspec
def observe(event: Event) -> None:
    """See what happened. What this raises is caught and counted, never passed on."""
