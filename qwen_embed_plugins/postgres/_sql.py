"""What the SQL files of the helper hold. The only door from Python to them."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from psycopg import sql

from qwen_embed_plugins.sql_files import folder

_NEEDS = re.compile(r"^-- needs: (\d+)$", re.MULTILINE)
_QUERY_HEAD = re.compile(r"^-- (\w+) --$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file of `sql/migrations/`; `digest` is the SHA-256 of its bytes.

    Workers that were made for a schema older than `needs` must not go on beside it. A file says so
    by a line `-- needs: 7`; by default it is its own number.
    """

    number: int
    name: str
    text: str
    digest: str
    needs: int


@cache
def migrations() -> tuple[Migration, ...]:
    """All migrations in the order in which they run."""
    return tuple(_migration(path) for path in sorted((folder() / "migrations").glob("*.sql")))


def _migration(path: Path) -> Migration:
    # Line ends differ between checkouts; what is run does not.
    text = path.read_text(encoding="utf-8")
    digest = hashlib.sha256(text.encode()).hexdigest()
    number, said = int(path.stem.split("_")[0]), _NEEDS.search(text)
    return Migration(number, path.stem, text, digest, int(said[1]) if said else number)


@cache
def functions() -> tuple[str, ...]:
    """The texts of `sql/functions/`, in the order in which they run at each install."""
    paths = sorted((folder() / "functions").glob("*.sql"))
    return tuple(path.read_text(encoding="utf-8") for path in paths)


@cache
def whole(name: str) -> str:
    """The text of a file of `sql/` that is run as a whole: install, uninstall."""
    return (folder() / f"{name}.sql").read_text(encoding="utf-8")


@cache
def query(name: str) -> sql.SQL:
    """The named query of `sql/queries.sql`; its {fields} are filled by `format`."""
    return sql.SQL(_queries()[name])


@cache
def _queries() -> dict[str, str]:
    text = (folder() / "queries.sql").read_text(encoding="utf-8")
    parts = _QUERY_HEAD.split(text)[1:]
    return {
        name: _without_purpose(body) for name, body in zip(parts[::2], parts[1::2], strict=True)
    }


def _without_purpose(body: str) -> str:
    lines = [line for line in body.strip().splitlines() if not line.startswith("--")]
    return "\n".join(lines)
