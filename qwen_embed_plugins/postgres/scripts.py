"""The SQL that operations run, as scripts for psql and other clients. None needs a connection."""

from __future__ import annotations

from typing import Any

from qwen_embed_plugins.postgres import grants, schema, vectorizers
from qwen_embed_plugins.postgres._flow import Flow, Statement, written

install = schema.install_script
uninstall = schema.uninstall_script


def create(source: str, **arguments: Any) -> str:
    """What `create_vectorizer` runs, but for looking whether there is such a table."""
    return _script(vectorizers.creation(source, **arguments))


def drop(name: str, *, drop_target: bool = False) -> str:
    """What `drop_vectorizer` runs."""
    return _script(vectorizers.dropping(name, drop_target=drop_target))


def pause(name: str) -> str:
    """What `pause` runs."""
    return _only(vectorizers.pause(name))


def resume(name: str) -> str:
    """What `resume` runs."""
    return _only(vectorizers.resume(name))


def retry(name: str) -> str:
    """What `retry` runs."""
    return _only(vectorizers.retry(name))


def suspend(name: str) -> str:
    """What `suspend` runs."""
    return _only(vectorizers.suspend(name))


def repair(name: str) -> str:
    """What `repair` runs."""
    return _only(vectorizers.repair(name))


def redefine(name: str, **arguments: Any) -> str:
    """What `redefine` runs."""
    return _only(vectorizers.redefine(name, **arguments))


def cancel(name: str) -> str:
    """What `cancel_move` runs."""
    return _only(vectorizers.cancel_move(name))


def grant(role: str, kind: grants.RoleKind = "app", *, names: list[str] | None = None) -> str:
    """What `grant` runs."""
    return _only(grants.grant(role, kind, names=names))


def revoke(role: str, kind: grants.RoleKind = "app", *, names: list[str] | None = None) -> str:
    """What `revoke` runs."""
    return _only(grants.revoke(role, kind, names=names))


def _only(flow: Flow[Any]) -> str:
    """The one statement of an operation that has no other."""
    statement = next(flow)
    flow.close()
    return _script(statement)


def _script(statement: Statement) -> str:
    return schema.in_transaction(f"{written(statement)};")
