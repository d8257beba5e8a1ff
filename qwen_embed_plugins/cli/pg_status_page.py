"""The file of `pg status --html`: what is read for it, and how it goes on from the page before."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from qwen_embed_plugins.cli.html_file import earlier_page, write_page
from qwen_embed_plugins.cli.pg_status_html import IndexText, history_in, index_text, status_page
from qwen_embed_plugins.cli.samples import Figures, History, Sample, with_sample

if TYPE_CHECKING:
    from qwen_embed_plugins.cli.pg_status import Look

KIND = "qwen-embed pg status"
_USUAL_PORT = 5432


class StatusPage:
    """A page that is written once, or again and again. Raises `UsageError` if what stands there is
    no page of this command."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._said = False
        earlier_page(file, KIND)

    def write(self, dsn: str | None, found: Sequence[Look]) -> None:
        """Write it anew with one more sample. Blocks; asks the database for its indexes."""
        database, indexes = _asked(dsn, [look.status.name for look in found])
        history = self._earlier(database)
        sample = Sample(time.time(), {look.status.name: _figures(look) for look in found})
        history = with_sample(history, sample)
        write_page(self._file, status_page(KIND, found, indexes, history), say=not self._said)
        self._said = True

    def _earlier(self, database: str) -> History:
        """Read each time: another process may write the same page."""
        page = earlier_page(self._file, KIND)
        if not page:
            return History(database)
        try:
            history = history_in(page)
        except ValueError:
            raise click.UsageError(
                f"--html: the samples in {self._file} cannot be read; remove it to begin anew"
            ) from None
        if history.database != database:
            raise click.UsageError(
                f"--html: {self._file} tells of the database {history.database!r}, this is "
                f"{database!r}; name another file"
            )
        return history


def _figures(look: Look) -> Figures:
    status, progress = look
    return Figures(
        status.pending + status.leased + progress.to_walk,
        status.dead,
        round(progress.rows_per_second, 2),
        round(progress.tokens_per_second, 1),
    )


def _asked(dsn: str | None, names: Sequence[str]) -> tuple[str, dict[str, IndexText]]:
    """What the database is called, and the index of each vectorizer; all over one connection."""
    from psycopg.errors import InsufficientPrivilege

    from qwen_embed_plugins.errors import DatabaseError
    from qwen_embed_plugins.postgres import connect, measure_index

    indexes: dict[str, IndexText] = {}
    with connect.explained(dsn), connect.opened(dsn) as connection:
        for name in names:
            try:
                indexes[name] = index_text(measure_index(connection, name, queries=0))
            except DatabaseError as error:
                # A role that may see the status need not have the rights for this.
                hidden = isinstance(error.__cause__, InsufficientPrivilege)
                why = "seen by workers and owners alone" if hidden else f"not known: {error}"
                indexes[name] = IndexText(why, is_due=False)
        return _database_name(connection.info), indexes


def _database_name(info: Any) -> str:
    """Without user and password; a socket's folder says nothing to a reader. Of several hosts the
    one that answered may be another tomorrow: all are named."""
    if not info.host or info.host.startswith(("/", "@")):
        return str(info.dbname) if info.port == _USUAL_PORT else f"{info.dbname} at :{info.port}"
    named = info.get_parameters()
    hosts = named.get("host", info.host)
    return f"{info.dbname} at {hosts}:{named.get('port', info.port)}"
