"""What the package itself registers besides providers: models, policies and a chunker."""

from __future__ import annotations

from collections.abc import Callable

from qwen_embed_plugins import chunkers, routing
from qwen_embed_plugins.hookspecs import hookimpl
from qwen_embed_plugins.models import MODELS, Model


@hookimpl
def register_models(register: Callable[[Model], None]) -> None:
    for model in MODELS:
        register(model)


@hookimpl
def register_policies(register: Callable[[str, routing.Policy], None]) -> None:
    register("free-first", routing.free_first)
    register("cheapest", routing.cheapest)
    register("fastest", routing.fastest)
    register("ordered", routing.ordered)


@hookimpl
def register_chunkers(register: Callable[[str, chunkers.Chunker], None]) -> None:
    register(chunkers.BUILT_IN, chunkers.by_meaning)
