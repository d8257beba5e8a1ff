"""The part of a finish that writes vectors: of whole rows, or of the chunks of rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from qwen_embed_plugins.postgres import blame
from qwen_embed_plugins.postgres._flow import Flow, Statement
from qwen_embed_plugins.postgres.vectors import (
    bytes_array,
    ids_array,
    texts_array,
    vector_array,
)

if TYPE_CHECKING:
    from qwen_embed_plugins.postgres.definition import Vectorizer, VectorTypes
    from qwen_embed_plugins.postgres.queue import Outcome


def write(
    vectorizer: Vectorizer, token: int, outcome: Outcome, types: VectorTypes
) -> Flow[dict[int, psycopg.Error]]:
    """Write the vectors, all of a row or none; gives the rows that cannot be written."""
    name = "write_vectors" if vectorizer.chunk_tokens is None else "write_chunks"
    if vectorizer.in_column:
        name = "write_column"
    query = vectorizer.query(
        name,
        vector_type=vectorizer.vector_type(types),
        vector_send=sql.Identifier(types.schema, f"{vectorizer.storage}_send"),
    )

    def attempt(rows: Sequence[int]) -> Flow[psycopg.Error | None]:
        values = _values(vectorizer, outcome.only(rows), types)
        found = yield from blame.tried(Statement(query, {"token": token, **values}))
        return found if isinstance(found, psycopg.Error) else None

    rows = list(dict.fromkeys(item.id for item in outcome.written))
    errors = yield from blame.apart(rows, attempt)
    if vectorizer.chunk_tokens is not None and len(errors) < len(rows):
        yield _remove_surplus(vectorizer, token, outcome)
    return errors


def _values(vectorizer: Vectorizer, outcome: Outcome, types: VectorTypes) -> dict[str, Any]:
    written = outcome.written
    values: dict[str, Any] = {
        "ids": ids_array([item.id for item in written]),
        "texts": texts_array(item.text for item in written),
        "hashes": bytes_array(item.row_hash for item in written),
        "offers": texts_array(outcome.offers),
        "vectors": vector_array(
            outcome.vectors, storage=vectorizer.storage, type_oid=types.oids[vectorizer.storage]
        ),
    }
    if vectorizer.chunk_tokens is not None:
        values |= {
            "chunks": [item.chunk for item in written],
            "starts": [item.start for item in written],
            "stands": [item.stands for item in written],
            "places": outcome.places(),
        }
    return values


def _remove_surplus(vectorizer: Vectorizer, token: int, outcome: Outcome) -> Statement:
    counts = Counter(item.id for item in outcome.written)
    return Statement(
        vectorizer.query("remove_surplus"),
        {"token": token, "ids": list(counts), "counts": list(counts.values())},
    )


def rows_without(vectorizer: Vectorizer, token: int, outcome: Outcome) -> Flow[list[int]]:
    """The rows of which a chunk was to keep its vector, and someone has removed it."""
    standing = [item for item in outcome.written if item.stands is not None]
    if not standing:
        return []
    found = yield Statement(
        vectorizer.query("find_missing"),
        {
            "token": token,
            "ids": [item.id for item in standing],
            "stands": [item.stands for item in standing],
        },
    )
    return [row["id"] for row in found]
