"""Postgres tables that embed themselves: install, create, run a worker, search.

Every function takes an address or a psycopg connection first (None: `QWEN_EMBED_DSN`,
`DATABASE_URL`, libpq's variables) and runs in one transaction; with a connection that has one open
it joins that. The names with a leading `a` are awaited and take async connections. What Postgres
refuses is raised as `DatabaseError`: one line that says what to do.
"""

from __future__ import annotations

from qwen_embed_plugins.errors import ConfigurationError

try:
    import psycopg as _psycopg  # noqa: F401  the extra is named before anything else fails on it
except ImportError as _missing:
    raise ConfigurationError(
        "qwen_embed_plugins.postgres needs psycopg 3 with libpq: "
        "pip install 'qwen-embed-plugins[postgres]'"
    ) from _missing

from qwen_embed_plugins.postgres import grants as _grants
from qwen_embed_plugins.postgres import schema as _schema
from qwen_embed_plugins.postgres import vectorizers as _vectorizers
from qwen_embed_plugins.postgres._flow import awaiting as _awaiting
from qwen_embed_plugins.postgres._flow import blocking as _blocking
from qwen_embed_plugins.postgres.audit import AuditReport, Finding, aaudit, audit
from qwen_embed_plugins.postgres.connect import libpq_address
from qwen_embed_plugins.postgres.estimate import BackfillEstimate
from qwen_embed_plugins.postgres.estimate import estimate_backfill as _estimate_backfill
from qwen_embed_plugins.postgres.finishing import WorkerProgress
from qwen_embed_plugins.postgres.grants import RoleKind
from qwen_embed_plugins.postgres.indexes import IndexProgress, abuild_index, build_index
from qwen_embed_plugins.postgres.indexes import index_statement as _index_statement
from qwen_embed_plugins.postgres.pipeline import WorkerSummary
from qwen_embed_plugins.postgres.recall import IndexFigures, ameasure_index, measure_index
from qwen_embed_plugins.postgres.search import Hit, asearch, search
from qwen_embed_plugins.postgres.vectorizers import (
    DeadLetter,
    VectorizerDefinition,
    VectorizerProgress,
    VectorizerStatus,
    WorkerSign,
)
from qwen_embed_plugins.postgres.worker import arun_worker, run_worker

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

install = _blocking(_schema.install, may_be_new=True)
ainstall = _awaiting(_schema.install, may_be_new=True)
uninstall, auninstall = _blocking(_schema.uninstall), _awaiting(_schema.uninstall)
create_vectorizer = _blocking(_vectorizers.create_vectorizer)
acreate_vectorizer = _awaiting(_vectorizers.create_vectorizer)
drop_vectorizer = _blocking(_vectorizers.drop_vectorizer)
adrop_vectorizer = _awaiting(_vectorizers.drop_vectorizer)
list_vectorizers = _blocking(_vectorizers.list_vectorizers)
alist_vectorizers = _awaiting(_vectorizers.list_vectorizers)
progress, aprogress = _blocking(_vectorizers.progress), _awaiting(_vectorizers.progress)
workers, aworkers = _blocking(_vectorizers.workers), _awaiting(_vectorizers.workers)
status, astatus = _blocking(_vectorizers.status), _awaiting(_vectorizers.status)
dead_letters, adead_letters = (
    _blocking(_vectorizers.dead_letters),
    _awaiting(_vectorizers.dead_letters),
)
retry, aretry = _blocking(_vectorizers.retry), _awaiting(_vectorizers.retry)
enqueue, aenqueue = _blocking(_vectorizers.enqueue), _awaiting(_vectorizers.enqueue)
pause, apause = _blocking(_vectorizers.pause), _awaiting(_vectorizers.pause)
resume, aresume = _blocking(_vectorizers.resume), _awaiting(_vectorizers.resume)
repair, arepair = _blocking(_vectorizers.repair), _awaiting(_vectorizers.repair)
suspend, asuspend = _blocking(_vectorizers.suspend), _awaiting(_vectorizers.suspend)
redefine, aredefine = _blocking(_vectorizers.redefine), _awaiting(_vectorizers.redefine)
move, amove = _blocking(_vectorizers.move), _awaiting(_vectorizers.move)
move_waits_for, amove_waits_for = (
    _blocking(_vectorizers.move_waits_for),
    _awaiting(_vectorizers.move_waits_for),
)
finish_move, afinish_move = (
    _blocking(_vectorizers.finish_move),
    _awaiting(_vectorizers.finish_move),
)
cancel_move, acancel_move = (
    _blocking(_vectorizers.cancel_move),
    _awaiting(_vectorizers.cancel_move),
)
drop_old, adrop_old = _blocking(_vectorizers.drop_old), _awaiting(_vectorizers.drop_old)
index_statement, aindex_statement = _blocking(_index_statement), _awaiting(_index_statement)
estimate_backfill, aestimate_backfill = (
    _blocking(_estimate_backfill),
    _awaiting(_estimate_backfill),
)
vector_count, avector_count = (
    _blocking(_vectorizers.vector_count),
    _awaiting(_vectorizers.vector_count),
)
grant, agrant = _blocking(_grants.grant), _awaiting(_grants.grant)
revoke, arevoke = _blocking(_grants.revoke), _awaiting(_grants.revoke)
