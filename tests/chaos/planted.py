"""Bugs that a worker may be given, to show that the chaos finds them. Each names a hole that the
protocol closes."""

from __future__ import annotations

from collections.abc import Callable

from qwen_embed_plugins.postgres import _sql

Bug = Callable[[], None]


def in_query(name: str, *changes: tuple[str, str]) -> None:
    """Change the text of a named query of `sql/queries.sql`, for this process."""
    for old, new in changes:
        text = _sql._queries()[name]
        assert old in text, f"{name} no longer says {old!r}: plant the bug anew"
        _sql._queries()[name] = text.replace(old, new)


def no_fence() -> None:
    """A finish asks for no lease, and writes whatever it has for rows of the work table."""
    in_query(
        "hold_lease",
        (
            "SELECT token FROM qwen_embed.lease WHERE token = %(token)s FOR UPDATE",
            "SELECT %(token)s::bigint AS token",
        ),
    )
    for name in ("hold_work", "finish_work", "release_dirty"):
        in_query(name, ("token = %(token)s", "true"))
    in_query("write_vectors", (" AND token = %(token)s", ""))
    in_query("remove_vectors", ("work.token = %(token)s", "true"))


def no_dirty_flag() -> None:
    """A change that comes while its key is held is forgotten with the finish."""
    in_query("finish_work", (" AND NOT dirty", ""))


def sweep_by_delete() -> None:
    """The walk over vectors deletes orphans itself, and takes a moment, as over a large table."""
    in_query(
        "walk_target",
        (
            "FROM {target} AS target WHERE {after}",
            "FROM {target} AS target, (SELECT pg_catalog.pg_sleep(1)) AS moment WHERE {after}",
        ),
        (
            "    INSERT INTO {log} (op, {keys})\n    SELECT 'c', {portion_keys} FROM portion\n"
            "    WHERE NOT EXISTS (",
            "    DELETE FROM {target} AS target USING portion\n"
            "    WHERE {target_is_portion} AND NOT EXISTS (",
        ),
    )


def finish_without_the_source() -> None:
    """A vector is written whether its row is still there or not."""
    in_query(
        "write_vectors",
        ("SELECT {source_keys}, 0", "SELECT {keys}, 0"),
        (
            "JOIN {source} AS source ON {source_is_work} AND ({content}(source) IS NULL OR true)\n",
            "",
        ),
    )


def nothing_reaped() -> None:
    """Batches of silent workers stay theirs for ever."""
    in_query("reap_leases", ("expires_at < statement_timestamp()", "false"))


def no_heartbeat() -> None:
    """A lease ends while its worker waits for a slow provider."""
    in_query(
        "extend_leases",
        ("token = ANY (%(tokens)s::bigint[])", "false AND token = ANY (%(tokens)s::bigint[])"),
    )


BUGS: dict[str, Bug] = {
    bug.__name__: bug
    for bug in (
        no_fence,
        no_dirty_flag,
        sweep_by_delete,
        finish_without_the_source,
        nothing_reaped,
        no_heartbeat,
    )
}
