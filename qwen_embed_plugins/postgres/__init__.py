"""Postgres tables that embed themselves: install, create, run a worker, search.

Every function takes an address or a psycopg connection first (None: `QWEN_EMBED_DSN`,
`DATABASE_URL`, libpq's variables) and runs in one transaction; with a connection that has one open
it joins that. The names with a leading `a` are awaited and take async connections. What Postgres
refuses is raised as `DatabaseError`: one line that says what to do.

The names load on first use: who searches needs nothing of what a worker does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qwen_embed_plugins.errors import ConfigurationError
from qwen_embed_plugins.lazy_names import loading

try:
    import psycopg as _psycopg  # noqa: F401  the extra is named before anything else fails on it
except ImportError as _missing:
    raise ConfigurationError(
        "qwen_embed_plugins.postgres needs psycopg 3 with libpq: "
        "pip install 'qwen-embed-plugins[postgres]'"
    ) from _missing

if TYPE_CHECKING:
    from qwen_embed_plugins.postgres.auditing import AuditReport, Finding, aaudit, audit
    from qwen_embed_plugins.postgres.connect import libpq_address
    from qwen_embed_plugins.postgres.estimate import BackfillEstimate
    from qwen_embed_plugins.postgres.finishing import WorkerProgress
    from qwen_embed_plugins.postgres.grants import RoleKind
    from qwen_embed_plugins.postgres.indexes import IndexProgress, abuild_index, build_index
    from qwen_embed_plugins.postgres.operations import (
        acancel_move,
        acreate_vectorizer,
        adead_letters,
        adrop_old,
        adrop_vectorizer,
        aenqueue,
        aestimate_backfill,
        afinish_move,
        agrant,
        aindex_statement,
        ainstall,
        alist_vectorizers,
        amove,
        amove_waits_for,
        apause,
        aprogress,
        aredefine,
        arepair,
        aresume,
        aretry,
        arevoke,
        astatus,
        asuspend,
        auninstall,
        avector_count,
        aworkers,
        cancel_move,
        create_vectorizer,
        dead_letters,
        drop_old,
        drop_vectorizer,
        enqueue,
        estimate_backfill,
        finish_move,
        grant,
        index_statement,
        install,
        list_vectorizers,
        move,
        move_waits_for,
        pause,
        progress,
        redefine,
        repair,
        resume,
        retry,
        revoke,
        status,
        suspend,
        uninstall,
        vector_count,
        workers,
    )
    from qwen_embed_plugins.postgres.pipeline import WorkerSummary
    from qwen_embed_plugins.postgres.recall import IndexFigures, ameasure_index, measure_index
    from qwen_embed_plugins.postgres.searching import Hit, asearch, search
    from qwen_embed_plugins.postgres.vectorizers import (
        DeadLetter,
        VectorizerDefinition,
        VectorizerProgress,
        VectorizerStatus,
        WorkerSign,
    )
    from qwen_embed_plugins.postgres.worker import arun_worker, run_worker

_HOMES = {
    "AuditReport": "auditing",
    "BackfillEstimate": "estimate",
    "DeadLetter": "vectorizers",
    "Finding": "auditing",
    "Hit": "searching",
    "IndexFigures": "recall",
    "IndexProgress": "indexes",
    "RoleKind": "grants",
    "VectorizerDefinition": "vectorizers",
    "VectorizerProgress": "vectorizers",
    "VectorizerStatus": "vectorizers",
    "WorkerProgress": "finishing",
    "WorkerSign": "vectorizers",
    "WorkerSummary": "pipeline",
    "aaudit": "auditing",
    "abuild_index": "indexes",
    "acancel_move": "operations",
    "acreate_vectorizer": "operations",
    "adead_letters": "operations",
    "adrop_old": "operations",
    "adrop_vectorizer": "operations",
    "aenqueue": "operations",
    "aestimate_backfill": "operations",
    "afinish_move": "operations",
    "agrant": "operations",
    "aindex_statement": "operations",
    "ainstall": "operations",
    "alist_vectorizers": "operations",
    "ameasure_index": "recall",
    "amove": "operations",
    "amove_waits_for": "operations",
    "apause": "operations",
    "aprogress": "operations",
    "aredefine": "operations",
    "arepair": "operations",
    "aresume": "operations",
    "aretry": "operations",
    "arevoke": "operations",
    "arun_worker": "worker",
    "asearch": "searching",
    "astatus": "operations",
    "asuspend": "operations",
    "audit": "auditing",
    "auninstall": "operations",
    "avector_count": "operations",
    "aworkers": "operations",
    "build_index": "indexes",
    "cancel_move": "operations",
    "create_vectorizer": "operations",
    "dead_letters": "operations",
    "drop_old": "operations",
    "drop_vectorizer": "operations",
    "enqueue": "operations",
    "estimate_backfill": "operations",
    "finish_move": "operations",
    "grant": "operations",
    "index_statement": "operations",
    "install": "operations",
    "libpq_address": "connect",
    "list_vectorizers": "operations",
    "measure_index": "recall",
    "move": "operations",
    "move_waits_for": "operations",
    "pause": "operations",
    "progress": "operations",
    "redefine": "operations",
    "repair": "operations",
    "resume": "operations",
    "retry": "operations",
    "revoke": "operations",
    "run_worker": "worker",
    "search": "searching",
    "status": "operations",
    "suspend": "operations",
    "uninstall": "operations",
    "vector_count": "operations",
    "workers": "operations",
}

__all__ = [
    "AuditReport",
    "BackfillEstimate",
    "DeadLetter",
    "Finding",
    "Hit",
    "IndexFigures",
    "IndexProgress",
    "RoleKind",
    "VectorizerDefinition",
    "VectorizerProgress",
    "VectorizerStatus",
    "WorkerProgress",
    "WorkerSign",
    "WorkerSummary",
    "aaudit",
    "abuild_index",
    "acancel_move",
    "acreate_vectorizer",
    "adead_letters",
    "adrop_old",
    "adrop_vectorizer",
    "aenqueue",
    "aestimate_backfill",
    "afinish_move",
    "agrant",
    "aindex_statement",
    "ainstall",
    "alist_vectorizers",
    "ameasure_index",
    "amove",
    "amove_waits_for",
    "apause",
    "aprogress",
    "aredefine",
    "arepair",
    "aresume",
    "aretry",
    "arevoke",
    "arun_worker",
    "asearch",
    "astatus",
    "asuspend",
    "audit",
    "auninstall",
    "avector_count",
    "aworkers",
    "build_index",
    "cancel_move",
    "create_vectorizer",
    "dead_letters",
    "drop_old",
    "drop_vectorizer",
    "enqueue",
    "estimate_backfill",
    "finish_move",
    "grant",
    "index_statement",
    "install",
    "libpq_address",
    "list_vectorizers",
    "measure_index",
    "move",
    "move_waits_for",
    "pause",
    "progress",
    "redefine",
    "repair",
    "resume",
    "retry",
    "revoke",
    "run_worker",
    "search",
    "status",
    "suspend",
    "uninstall",
    "vector_count",
    "workers",
]


__getattr__ = loading(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
