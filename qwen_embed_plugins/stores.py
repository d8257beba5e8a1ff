"""Which store a place stands for: the state file, or a database."""

from __future__ import annotations

from collections.abc import Callable

from qwen_embed_plugins.books import Books, SQLiteBooks
from qwen_embed_plugins.postgres_books import PostgresBooks
from qwen_embed_plugins.postgres_state import PostgresState
from qwen_embed_plugins.state import SQLiteState, State
from qwen_embed_plugins.state_place import StatePlace


def books_at(place: StatePlace, now: Callable[[], float]) -> Books:
    """The ledger's books at a place; those in a database go by its own clock."""
    if place.path is None:
        return PostgresBooks(place)
    return SQLiteBooks(place.path.absolute(), now)


def state_at(place: StatePlace) -> State:
    """What was learnt, at a place."""
    return PostgresState(place) if place.path is None else SQLiteState(str(place.path))
