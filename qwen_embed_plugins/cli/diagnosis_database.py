"""What `doctor` finds in a database: the server, pgvector, the schema, vectorizers, indexes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from qwen_embed_plugins.cli.database import age_text, counted
from qwen_embed_plugins.cli.diagnosis import Diagnosis
from qwen_embed_plugins.cli.sql_hints import as_commands
from qwen_embed_plugins.errors import QwenEmbedError

if TYPE_CHECKING:
    from qwen_embed_plugins.postgres import VectorizerStatus
    from qwen_embed_plugins.postgres.surroundings import IndexSite, Surroundings

BROKEN_STATES = ("broken", "blocked")
VARIABLES = ("QWEN_EMBED_DSN", "DATABASE_URL")


def of_database(dsn: str | None) -> Iterator[Diagnosis]:
    """Everything in the database that is named; a note where none is."""
    named = dsn or next((name for name in VARIABLES if os.environ.get(name)), None)
    if named is None:
        remedy = "for tables that embed themselves: --dsn ADDRESS, or QWEN_EMBED_DSN"
        yield Diagnosis("postgres", "note", "no database is named", remedy)
        return
    try:
        from qwen_embed_plugins.postgres.surroundings import look_around

        around = look_around(dsn)
        yield from _of_server(around)
        if around.installed and not around.vector_is_too_old:
            yield from _of_installation(dsn)
    except QwenEmbedError as error:
        yield Diagnosis("postgres", "wrong", as_commands(str(error)))


def _of_server(around: Surroundings) -> Iterator[Diagnosis]:
    said = f"Postgres {around.version}, database {around.database}, role {around.role}"
    if around.server_is_too_old:
        yield Diagnosis("postgres", "wrong", said, "Postgres 15 or newer is needed")
    else:
        yield Diagnosis("postgres", "ok", said)
    yield _of_vector(around)
    if not around.installed:
        remedy = "`qwen-embed pg install` puts it there"
        yield Diagnosis("postgres", "note", "qwen_embed is not installed in it", remedy)


def _of_vector(around: Surroundings) -> Diagnosis:
    if around.vector is None and around.vector_at_hand is None:
        remedy = "install pgvector's package on the server (github.com/pgvector/pgvector)"
        return Diagnosis("postgres", "wrong", "the server has no extension `vector`", remedy)
    if around.vector is None:
        said = f"the extension vector {around.vector_at_hand} is at hand, not in this database"
        remedy = "CREATE EXTENSION vector; (`qwen-embed pg install` does it where it may)"
        return Diagnosis("postgres", "note", said, remedy)
    if not around.vector_is_too_old:
        return Diagnosis("postgres", "ok", f"extension vector {around.vector}")
    remedy = "ALTER EXTENSION vector UPDATE;"
    if not around.vector_can_be_updated:
        remedy = f"install a newer pgvector on the server, then: {remedy}"
    said = f"extension vector {around.vector} is too old, 0.8 is needed"
    return Diagnosis("postgres", "wrong", said, remedy)


def _of_installation(dsn: str | None) -> Iterator[Diagnosis]:
    from qwen_embed_plugins import postgres
    from qwen_embed_plugins.postgres.surroundings import check_schema

    check_schema(dsn)
    found = [one for one in postgres.status(dsn) if one.state != "retired"]
    said = f"qwen_embed is installed, with {counted(len(found), 'vectorizer')}"
    yield Diagnosis("postgres", "ok", said)
    for one in found:
        yield _of_vectorizer(one)
        yield from _of_index(dsn, one.name)
    if found and not any(worker.alive for worker in postgres.workers(dsn)):
        waiting = sum(one.pending for one in found)
        said = f"no worker runs, {counted(waiting, 'change')} wait{'s' * (waiting == 1)}"
        yield Diagnosis("postgres", "note", said, "`qwen-embed pg worker` keeps vectors in step")


def _of_vectorizer(one: VectorizerStatus) -> Diagnosis:
    parts = [f"{one.name}: {one.state}", f"{one.pending} pending"]
    if one.lag is not None:
        parts.append(f"the oldest for {age_text(one.lag)}")
    if one.dead:
        parts.append(counted(one.dead, "dead letter"))
    said = ", ".join(parts)
    remedy = as_commands(one.last_error or "")
    if one.state in BROKEN_STATES:
        return Diagnosis("postgres", "wrong", said, remedy or "see `qwen-embed pg status`")
    if one.dead:
        return Diagnosis("postgres", "note", said, f"`qwen-embed pg dead {one.name}` says why")
    if one.state in ("paused", "suspended", "held"):
        return Diagnosis("postgres", "note", said, remedy)
    return Diagnosis("postgres", "ok", said)


def _of_index(dsn: str | None, name: str) -> Iterator[Diagnosis]:
    from qwen_embed_plugins.postgres.surroundings import site_of_index

    site: IndexSite = site_of_index(dsn, name)
    build = f"`qwen-embed pg index {name}` builds it"
    if site.broken and site.standing is None:
        said = f"{name}: its index {site.index} is invalid, a build was interrupted"
        yield Diagnosis("postgres", "wrong", said, f"{build} anew")
    elif site.standing is not None:
        yield Diagnosis("postgres", "ok", f"{name}: index {site.standing}")
    elif site.statement is not None:
        said = f"{name}: no index yet, so a search reads all vectors"
        yield Diagnosis("postgres", "note", said, build)
