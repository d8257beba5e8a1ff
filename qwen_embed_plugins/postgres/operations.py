"""The operations that are one transaction each, blocking and awaiting."""

from __future__ import annotations

from qwen_embed_plugins.postgres import estimate, grants, indexes, schema, vectorizers
from qwen_embed_plugins.postgres._flow import awaiting, blocking

install = blocking(schema.install, may_be_new=True)
ainstall = awaiting(schema.install, may_be_new=True)
uninstall, auninstall = blocking(schema.uninstall), awaiting(schema.uninstall)
create_vectorizer = blocking(vectorizers.create_vectorizer)
acreate_vectorizer = awaiting(vectorizers.create_vectorizer)
drop_vectorizer = blocking(vectorizers.drop_vectorizer)
adrop_vectorizer = awaiting(vectorizers.drop_vectorizer)
list_vectorizers = blocking(vectorizers.list_vectorizers)
alist_vectorizers = awaiting(vectorizers.list_vectorizers)
progress, aprogress = blocking(vectorizers.progress), awaiting(vectorizers.progress)
workers, aworkers = blocking(vectorizers.workers), awaiting(vectorizers.workers)
status, astatus = blocking(vectorizers.status), awaiting(vectorizers.status)
dead_letters, adead_letters = (
    blocking(vectorizers.dead_letters),
    awaiting(vectorizers.dead_letters),
)
retry, aretry = blocking(vectorizers.retry), awaiting(vectorizers.retry)
enqueue, aenqueue = blocking(vectorizers.enqueue), awaiting(vectorizers.enqueue)
pause, apause = blocking(vectorizers.pause), awaiting(vectorizers.pause)
resume, aresume = blocking(vectorizers.resume), awaiting(vectorizers.resume)
repair, arepair = blocking(vectorizers.repair), awaiting(vectorizers.repair)
suspend, asuspend = blocking(vectorizers.suspend), awaiting(vectorizers.suspend)
redefine, aredefine = blocking(vectorizers.redefine), awaiting(vectorizers.redefine)
move, amove = blocking(vectorizers.move), awaiting(vectorizers.move)
move_waits_for, amove_waits_for = (
    blocking(vectorizers.move_waits_for),
    awaiting(vectorizers.move_waits_for),
)
finish_move, afinish_move = (
    blocking(vectorizers.finish_move),
    awaiting(vectorizers.finish_move),
)
cancel_move, acancel_move = (
    blocking(vectorizers.cancel_move),
    awaiting(vectorizers.cancel_move),
)
drop_old, adrop_old = blocking(vectorizers.drop_old), awaiting(vectorizers.drop_old)
index_statement, aindex_statement = (
    blocking(indexes.index_statement),
    awaiting(indexes.index_statement),
)
estimate_backfill, aestimate_backfill = (
    blocking(estimate.estimate_backfill),
    awaiting(estimate.estimate_backfill),
)
vector_count, avector_count = (
    blocking(vectorizers.vector_count),
    awaiting(vectorizers.vector_count),
)
grant, agrant = blocking(grants.grant), awaiting(grants.grant)
revoke, arevoke = blocking(grants.revoke), awaiting(grants.revoke)
