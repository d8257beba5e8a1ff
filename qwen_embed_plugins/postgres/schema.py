"""Installing into a database: the extension, the migrations, the functions."""

from __future__ import annotations

from psycopg import errors as pg
from psycopg import sql

from qwen_embed_plugins.errors import ConfigurationError, DatabaseError
from qwen_embed_plugins.postgres import _sql
from qwen_embed_plugins.postgres._flow import Flow, Row, Statement

_OLDEST_POSTGRES = 150000
_OLDEST_PGVECTOR = (0, 8)

# Any number will do as long as all installers take the same: ASCII of "qwen".
_LOCK = 0x7177656E

_BOOTSTRAP = """
CREATE SCHEMA IF NOT EXISTS qwen_embed;
CREATE TABLE IF NOT EXISTS qwen_embed.migration (
    number int PRIMARY KEY,
    name text NOT NULL,
    digest text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON SCHEMA qwen_embed IS 'Tables that embed themselves. What is public: sql/README.md.';
COMMENT ON TABLE qwen_embed.migration IS 'The numbered files that ran here, each once.';
"""


def install(*, model: str | None = None, dimensions: int | None = None) -> Flow[tuple[str, ...]]:
    """Install or upgrade; gives the names of the migrations that ran now. Blocks.

    `model` and `dimensions` become what vectorizers get that name none. Running it again, or twice
    at once, is harmless. Raises `DatabaseError` if the server or pgvector is too old, the extension
    or a right is missing, or a newer version of this package installed here before.
    """
    yield Statement(sql.SQL("SET LOCAL client_min_messages = warning"))
    yield Statement(sql.SQL("SET LOCAL lock_timeout = '30s'"))
    yield Statement(
        sql.SQL("SELECT pg_catalog.pg_advisory_xact_lock(%(key)s::bigint)"), {"key": _LOCK}
    )
    yield from _require_postgres()
    vector_schema = yield from _require_pgvector()
    yield from _require_create_right()
    yield Statement(sql.SQL(_BOOTSTRAP))
    applied = yield from _migrate()
    for text in _sql.functions():
        yield Statement(sql.SQL(text.replace("@vector_schema@", vector_schema)))
    yield from _set_defaults(model, dimensions)
    return applied


def _require_postgres() -> Flow[None]:
    rows = yield Statement(
        sql.SQL("SELECT current_setting('server_version_num')::int AS number, version() AS text")
    )
    if rows[0]["number"] < _OLDEST_POSTGRES:
        raise DatabaseError(
            f"this server is {rows[0]['text'][:20]}; Postgres 15 or newer is needed"
        )


def _require_pgvector() -> Flow[str]:
    found = yield from _pgvector()
    if found is None:
        yield from _create_pgvector()
        found = yield from _pgvector()
    if found is None:
        raise DatabaseError("CREATE EXTENSION vector succeeded, but pg_extension does not show it")
    version = tuple(int(part) for part in found["extversion"].split(".")[:2])
    if version < _OLDEST_PGVECTOR:
        raise DatabaseError(
            f"pgvector {found['extversion']} is too old, 0.8 is needed. Install it on the server, "
            "then: ALTER EXTENSION vector UPDATE;"
        )
    return str(found["schema"])


def _pgvector() -> Flow[Row | None]:
    rows = yield Statement(
        sql.SQL(
            "SELECT e.extversion, quote_ident(n.nspname) AS schema FROM pg_catalog.pg_extension e "
            "JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector'"
        )
    )
    return rows[0] if rows else None


def _create_pgvector() -> Flow[None]:
    available = yield Statement(
        sql.SQL("SELECT name FROM pg_catalog.pg_available_extensions WHERE name = 'vector'")
    )
    if not available:
        raise DatabaseError(
            "the extension pgvector is not on this server. Install its package there (see "
            "https://github.com/pgvector/pgvector), then: CREATE EXTENSION vector;"
        )
    try:
        yield Statement(sql.SQL("CREATE EXTENSION IF NOT EXISTS vector"))
    except pg.InsufficientPrivilege as refused:
        raise DatabaseError(
            "this role may not create the extension `vector`. Ask a superuser (or, where it is a "
            "trusted extension, the database's owner) for: CREATE EXTENSION vector;"
        ) from refused


def _require_create_right() -> Flow[None]:
    rows = yield Statement(
        sql.SQL(
            "SELECT current_user AS role, current_database() AS database, "
            "has_database_privilege(current_database(), 'CREATE') "
            "OR to_regnamespace('qwen_embed') IS NOT NULL AS may_create"
        )
    )
    if not rows[0]["may_create"]:
        raise DatabaseError(
            f"role {rows[0]['role']} may not create a schema here. Ask the database's owner for: "
            f"GRANT CREATE ON DATABASE {rows[0]['database']} TO {rows[0]['role']};"
        )


def _migrate() -> Flow[tuple[str, ...]]:
    rows = yield Statement(sql.SQL("SELECT number, digest FROM qwen_embed.migration"))
    done = {row["number"]: row["digest"] for row in rows}
    known = {migration.number for migration in _sql.migrations()}
    if done and max(done) > max(known):
        raise DatabaseError(
            f"this database has schema {max(done)}, this package knows {max(known)}: a newer "
            "version installed here. Upgrade with: pip install --upgrade qwen-embed-plugins"
        )
    applied = []
    for migration in _sql.migrations():
        if migration.number in done:
            _require_same(migration, done[migration.number])
            continue
        yield Statement(sql.SQL(migration.text))
        yield Statement(
            sql.SQL(
                "INSERT INTO qwen_embed.migration (number, name, digest) "
                "VALUES (%(number)s, %(name)s, %(digest)s)"
            ),
            {"number": migration.number, "name": migration.name, "digest": migration.digest},
        )
        applied.append(migration.name)
    return tuple(applied)


def _require_same(migration: _sql.Migration, digest: str) -> None:
    if digest != migration.digest:
        raise DatabaseError(
            f"migration {migration.name} ran here with another text: this database was installed "
            "by a version that was never released. Install into a fresh database."
        )


def _set_defaults(model: str | None, dimensions: int | None) -> Flow[None]:
    if model is None and dimensions is None:
        return
    if model is None or dimensions is None:
        raise ConfigurationError("give model and dimensions together, or neither")
    yield Statement(
        sql.SQL("SELECT qwen_embed.check_space(%(model)s, %(dimensions)s)"),
        {"model": model, "dimensions": dimensions},
    )
    yield Statement(
        sql.SQL(
            "INSERT INTO qwen_embed.installation (model, dimensions) "
            "VALUES (%(model)s, %(dimensions)s) ON CONFLICT (only_row) DO UPDATE "
            "SET model = excluded.model, dimensions = excluded.dimensions"
        ),
        {"model": model, "dimensions": dimensions},
    )


def uninstall() -> Flow[None]:
    """Remove the schema `qwen_embed` with its triggers. Side tables and their vectors stay. Blocks.

    Raises `DatabaseError` while a vectorizer is left, so that none ends by accident.
    """
    # One after another, and none while a vectorizer is being made that cannot be seen yet.
    yield Statement(
        sql.SQL("SELECT pg_catalog.pg_advisory_xact_lock(%(key)s::bigint)"), {"key": _LOCK}
    )
    yield Statement(sql.SQL("SET LOCAL lock_timeout = '30s'"))
    yield Statement(sql.SQL("LOCK TABLE qwen_embed.vectorizer IN ACCESS EXCLUSIVE MODE"))
    rows = yield Statement(sql.SQL("SELECT name FROM qwen_embed.vectorizer ORDER BY name"))
    if rows:
        names = ", ".join(row["name"] for row in rows)
        raise DatabaseError(f"vectorizers are left: {names}. Drop them first: qwen-embed pg drop")
    yield Statement(sql.SQL("DROP SCHEMA qwen_embed CASCADE"))
