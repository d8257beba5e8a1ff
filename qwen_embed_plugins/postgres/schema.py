"""Installing into a database and removing it again."""

from __future__ import annotations

from collections.abc import Iterator

from psycopg import sql

from qwen_embed_plugins.errors import ConfigurationError, DatabaseError
from qwen_embed_plugins.postgres import _sql
from qwen_embed_plugins.postgres._flow import Flow, Statement

_NEWER = """
DO $newer$
DECLARE
    newest int := (SELECT max(number) FROM qwen_embed.migration);
BEGIN
    IF newest > {known} THEN
        RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
            MESSAGE = pg_catalog.format('this database has schema %s, this package knows {known}: '
                'a newer version installed here', newest),
            HINT = 'Upgrade with: pip install --upgrade qwen-embed-plugins';
    END IF;
END $newer$;
"""

_MIGRATION = """
DO $migration$
DECLARE
    done text := (SELECT digest FROM qwen_embed.migration WHERE number = {number});
BEGIN
    IF done IS NULL THEN
        EXECUTE $file$
{text}
$file$;
        INSERT INTO qwen_embed.migration (number, name, digest, needs)
        VALUES ({number}, {name}, {digest}, {needs});
    ELSIF done <> {digest} THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = 'migration {plain_name} ran here with another text: this database was '
                'installed by a version that was never released',
            HINT = 'Install into a fresh database.';
    END IF;
END $migration$;
"""

# Where pgvector lives is known to the server alone.
_IN_VECTOR_SCHEMA = """
DO $functions$
BEGIN
    EXECUTE pg_catalog.replace($file$
{text}
$file$, '@vector_schema@', (SELECT pg_catalog.quote_ident(n.nspname)
        FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
        WHERE e.extname = 'vector'));
END $functions$;
"""

_DEFAULTS = """
SELECT qwen_embed.check_space({model}, {dimensions});
INSERT INTO qwen_embed.installation (model, dimensions) VALUES ({model}, {dimensions})
ON CONFLICT (only_row) DO UPDATE SET model = excluded.model, dimensions = excluded.dimensions;
"""

_END = "SELECT pg_catalog.set_config('role', pg_catalog.current_setting('qwen_embed.role'), true);"


def install(*, model: str | None = None, dimensions: int | None = None) -> Flow[tuple[str, ...]]:
    """Install or upgrade; gives the names of the migrations that ran now. Blocks.

    `model` and `dimensions` become what vectorizers get that name none. Running it again, or twice
    at once, is harmless. Raises `DatabaseError` if the server or pgvector is too old, the extension
    or a right is missing, another role installed, or a newer version of this package did.
    """
    steps = _steps(model, dimensions)
    yield Statement(sql.SQL(next(steps)))
    before = {row["name"] for row in (yield _MIGRATIONS)}
    for step in steps:
        yield Statement(sql.SQL(step))
    after = yield _MIGRATIONS
    return tuple(row["name"] for row in after if row["name"] not in before)


_MIGRATIONS = Statement(sql.SQL("SELECT name FROM qwen_embed.migration ORDER BY number"))


def newest() -> int:
    """The schema that this package is made for."""
    return max(migration.number for migration in _sql.migrations())


def require_schema() -> Flow[None]:
    """Raise `DatabaseError` unless a worker of this package may work on the schema there."""
    rows = yield Statement(_sql.query("schema_version"))
    there, needs, known = rows[0]["newest"] or 0, rows[0]["needs"] or 0, newest()
    if there < known:
        raise DatabaseError(
            f"this database has schema {there}, this worker needs {known}. Run "
            "`qwen-embed pg install` on it first."
        )
    if needs > known:
        raise DatabaseError(
            f"this database has schema {there}, this worker knows {known}: a newer version "
            "installed here. Upgrade with: pip install --upgrade qwen-embed-plugins"
        )


def install_script(*, model: str | None = None, dimensions: int | None = None) -> str:
    """What `install` runs, as one transaction for psql or another client. It asks the server
    whatever depends on it, so no connection is needed to write it."""
    return in_transaction("SET LOCAL client_encoding = 'UTF8';", *_steps(model, dimensions))


def in_transaction(*statements: str) -> str:
    """The statements as a script that runs as a whole or not at all."""
    return "\n\n".join(["BEGIN;", *(text.strip() for text in statements), "COMMIT;"]) + "\n"


def _steps(model: str | None, dimensions: int | None) -> Iterator[str]:
    if (model is None) != (dimensions is None):
        raise ConfigurationError("give model and dimensions together, or neither")
    yield _sql.whole("install")
    yield _NEWER.format(known=newest())
    for migration in _sql.migrations():
        yield _MIGRATION.format(
            number=migration.number,
            name=_literal(migration.name),
            plain_name=migration.name,
            digest=_literal(migration.digest),
            needs=migration.needs,
            text=_quotable(migration.text),
        )
    for text in _sql.functions():
        there = "@vector_schema@" in text
        yield _IN_VECTOR_SCHEMA.format(text=_quotable(text)) if there else text
    if model is not None:
        yield _DEFAULTS.format(model=_literal(model), dimensions=_literal(dimensions))
    yield _END


def _literal(value: str | int | None) -> str:
    return sql.Literal(value).as_string()


def _quotable(text: str) -> str:
    if "$file$" in text:
        raise ConfigurationError("an SQL file holds $file$, which it is quoted with here")
    return text


def uninstall(*, everything: bool = False, drop_data: bool = False) -> Flow[None]:
    """Remove the schema `qwen_embed` with its triggers. Blocks.

    `everything` drops the vectorizers too. Side tables and columns keep their vectors unless
    `drop_data`. Raises `DatabaseError` while a vectorizer is left, so that none ends by accident.
    """
    yield Statement(sql.SQL(_uninstalling(everything, drop_data)))


def uninstall_script(*, everything: bool = False, drop_data: bool = False) -> str:
    """What `uninstall` runs, as one transaction for psql or another client."""
    return in_transaction(_uninstalling(everything, drop_data))


def _uninstalling(everything: bool, drop_data: bool) -> str:
    if drop_data and not everything:
        raise ConfigurationError("data goes with its vectorizers: give --all (everything=True) too")
    text = _sql.whole("uninstall")
    for word, value in (("@all@", everything), ("@drop_data@", drop_data)):
        text = text.replace(word, "true" if value else "false")
    return text
