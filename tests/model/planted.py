"""The planted bugs as SQL: what a careless hand would have written in `sql/queries.sql`."""

from __future__ import annotations

import re

from qwen_embed_plugins.postgres import _sql
from tests.model.states import Bug

_SOURCE_JOIN = re.compile(r"^JOIN \{source\} .*$", re.MULTILINE)

_SEEN = """, seen AS (
    INSERT INTO public.seen SELECT work.id, 0, false, {content}(source), target.content_hash,
        target.space, %(token)s
    FROM merged AS work
    LEFT JOIN {source} AS source ON {source_is_work}
    LEFT JOIN {target} AS target ON {target_is_work}
    WHERE work.token = %(token)s
)
SELECT
    (SELECT count(*) FROM taken)"""

_SWEEP = """appended AS (
    DELETE FROM {target} AS target USING portion WHERE {target_is_portion} AND NOT EXISTS (
        SELECT FROM {source} AS source WHERE {source_is_portion})
)
SELECT count(*) OVER ()"""


def written(name: str) -> str:
    """A query as it stands in the file."""
    return _sql.query(name).as_string()


def changed(name: str, old: str, new: str) -> str:
    """The query with one thing done otherwise."""
    text = written(name)
    assert text.count(old) == 1, f"{name} has not one {old!r} any more"
    return text.replace(old, new)


def without_source(name: str) -> str:
    text, count = _SOURCE_JOIN.subn("", written(name))
    assert count == 1, f"{name} joins the source {count} times"
    return text.replace("{source_keys}", "work.k1")


def read_with_claim() -> dict[str, str]:
    take = changed("take_log", "RETURNING id, token\n", "RETURNING id, token, {keys}\n")
    head, rest = take.split("\nSELECT\n    (SELECT count(*) FROM taken)")
    return {
        "take_log": head + _SEEN + rest,
        "read_rows": "SELECT * FROM public.seen WHERE token = $1 AND id = ANY ($2)",
    }


def sweep_by_delete() -> dict[str, str]:
    text = written("walk_target")
    start, end = text.index("appended AS ("), text.index("SELECT count(*) OVER ()")
    return {"walk_target": text[:start] + _SWEEP + text[end + len("SELECT count(*) OVER ()") :]}


def planted(bug: Bug) -> dict[str, str] | None:
    """The queries of a bug; None for one that would need other tables or another flow."""
    if bug == "claim and read in one statement":
        return read_with_claim()
    if bug == "no dirty flag":
        return {
            "take_log": changed(
                "take_log", "dirty = coalesce(work.token <> excluded.token, false)", "dirty = false"
            )
        }
    if bug == "an unchecked hash skip":
        # Only for a batch of equal texts: the stage sees to that.
        return {"finish_work": changed("finish_work", " AND NOT dirty", "")}
    if bug == "a sweep by DELETE":
        return sweep_by_delete()
    if bug == "a finish without the source":
        return {"write_vectors": without_source("write_vectors")}
    if bug == "a burial without the source":
        return {"bury_work": without_source("bury_work")}
    if bug == "walks pass over dead letters":
        return {"walk_dead": changed("walk_dead", "WHERE NOT EXISTS", "WHERE false AND NOT EXISTS")}
    if bug == "a doubt is forgotten":
        freed = "token = NULL, dirty = false"
        return {"reap_leases": changed("reap_leases", freed, f"{freed}, again = false")}
    if bug == "an answer for a changed key is dropped":
        held = "OFFSET 0)"
        return {"write_vectors": changed("write_vectors", held, f"AND NOT dirty {held}")}
    if bug == "work that is due is not taken":
        return {"take_due": changed("take_due", "token IS NULL AND", "false AND token IS NULL AND")}
    return None
