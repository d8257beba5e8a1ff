"""`docs/sql.md` is read from files; what a server has of them is the same."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from docs.generators import sql

if TYPE_CHECKING:
    from tests.integration.conftest import Database

PUBLIC = [name for names in sql.FUNCTIONS.values() for name in names]


def test_functions_have_these_arguments_results_and_comments(db: Database) -> None:
    found = {
        name: (arguments, returns, comment)
        for name, arguments, returns, comment in db.rows(
            "SELECT proname, pg_get_function_arguments(oid), pg_get_function_result(oid), "
            "obj_description(oid, 'pg_proc') FROM pg_proc "
            "WHERE pronamespace = 'qwen_embed'::regnamespace AND proname = ANY (%s)",
            PUBLIC,
        )
    }
    assert found.keys() == set(PUBLIC)
    for name, (arguments, returns, comment) in found.items():
        told = sql.functions()[name]
        assert comment == sql.comments()[name]
        assert _as_postgres_says(", ".join(told.arguments)) == _as_written(arguments)
        assert _as_postgres_says(told.returns) == _as_written(returns)


def _as_postgres_says(signature: str) -> str:
    for ours, theirs in (("int", "integer"), ("float8", "double precision")):
        signature = re.sub(rf"\b{ours}\b", theirs, signature)
    return signature.replace("TABLE (", "TABLE(")


def _as_written(signature: str) -> str:
    """A default has no type, and the extension's schema is not named."""
    bare = re.sub(r"(?<=DEFAULT )([^,]+?)::[\w\[\]]+", r"\1", signature)
    return re.sub(r"\w+\.vector\b", "vector", bare)


def test_views_have_these_columns_each_with_its_comment(db: Database) -> None:
    for view in sql.VIEWS:
        relation = f"qwen_embed.{view}"
        [(comment,)] = db.rows("SELECT obj_description(%s::regclass, 'pg_class')", relation)
        assert comment == sql.comments()[view]
        columns = db.rows(
            "SELECT attname, col_description(attrelid, attnum) FROM pg_attribute "
            "WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum",
            relation,
        )
        told = [(f"`{name}`", comment) for name, comment in columns]
        assert list(sql.columns(view)) == told


def test_the_side_table_and_the_view_are_as_told(db: Database) -> None:
    db.rows("CREATE TABLE odd (text int PRIMARY KEY, body text)")
    db.create("docs")
    db.create("odd")

    def columns(relation: str) -> list[str]:
        return [
            name
            for (name,) in db.rows(
                "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 "
                "ORDER BY attnum",
                relation,
            )
        ]

    _, *told = sql.SIDE_TABLE
    assert columns("docs_embedding") == ["id", *told]
    assert columns("odd_embedding")[0] == "key_text"
    of_view = re.findall(r"`(\w+)`", sql.VIEW)
    assert columns("docs_embedded") == ["id", "body", "other", *of_view]
    assert "embedded_text" in columns("odd_embedded")
