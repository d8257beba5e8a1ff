-- The statements that workers and the Python interface send. {braces} are identifiers and fragments
-- that the caller fills in quoted; %(names)s are values. Each needs the settings of a worker's
-- transaction (see qwen_embed_plugins/postgres/session.py) where it touches a user's table.
--
-- Answers find their work row through a LATERAL subquery with OFFSET 0, which the planner leaves as it
-- is: one look into the index for each. As a plain join it counted on one row where the work table's
-- statistics were of another moment, and read all answers again for each row.

-- define_vectorizers --
-- Every vectorizer with what a worker must know, and whether its capture is whole.
SELECT v.id, v.name, v.model, v.dimensions, v.storage, v.index_kind, v.chunk_tokens,
    coalesce(v.chunk_overlap, 0) AS chunk_overlap, v.chunker, v.paused, v.suspended IS NOT NULL AS suspended,
    v.notify, v.trouble,
    n.nspname AS source_schema, s.relname AS source_table,
    tn.nspname AS target_schema, t.relname AS target_table, qwen_embed.vector_column(v.id, v.source) AS vector_column,
    key.source_key, key.target_key, key.key_types, key.equality, key.greater,
    qwen_embed.capture_problem(v) AS problem,
    v.capture_mark IS DISTINCT FROM qwen_embed.capture_mark(v) AS capture_changed,
    qwen_embed.partitions_changed(v) AS partitions_changed,
    EXISTS (SELECT FROM qwen_embed.task k WHERE k.vectorizer = v.id) AS has_task,
    EXISTS (SELECT FROM qwen_embed.lease l
        WHERE l.vectorizer = v.id AND l.expires_at < statement_timestamp()) AS has_expired,
    (SELECT max(coalesce((to_jsonb(m) ->> 'needs')::int, m.number)) FROM qwen_embed.migration m) AS needs
FROM qwen_embed.vectorizer v
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(k.source_column ORDER BY k.place), '{}') AS source_key,
        coalesce(array_agg(CASE v.target WHEN 'column' THEN 'k' || k.place ELSE k.target_column END ORDER BY k.place), '{}')
            AS target_key,
        coalesce(array_agg(k.type ORDER BY k.place), '{}') AS key_types,
        coalesce(array_agg(k.equality ORDER BY k.place), '{}') AS equality,
        coalesce(array_agg(k.greater ORDER BY k.place), '{}') AS greater
    FROM qwen_embed.key_columns(v.id) k) AS key
LEFT JOIN pg_catalog.pg_class s ON s.oid = v.source
LEFT JOIN pg_catalog.pg_namespace n ON n.oid = s.relnamespace
LEFT JOIN pg_catalog.pg_class t ON t.oid = CASE v.target
    WHEN 'column' THEN to_regclass('qwen_embed.vectors_' || v.id) ELSE v.target_table END
LEFT JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
WHERE v.retired_at IS NULL
ORDER BY v.id;

-- schema_version --
-- The newest migration that ran here, and the oldest schema that a worker must be made for.
SELECT max(m.number) AS newest, max(coalesce((to_jsonb(m) ->> 'needs')::int, m.number)) AS needs
FROM qwen_embed.migration m;

-- vector_types --
-- Where pgvector lives, and the types of a binary array of vectors.
SELECT n.nspname, t.typname, t.oid, t.typarray
FROM pg_catalog.pg_extension e
JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
JOIN pg_catalog.pg_type t ON t.typnamespace = n.oid AND t.typname IN ('vector', 'halfvec')
WHERE e.extname = 'vector';

-- is_ready --
-- Whether the log from a block on, or a due retry, waits, and how many blocks the log has, which may
-- all be empty. One per vectorizer, joined by UNION ALL.
SELECT {id}::int AS id,
    EXISTS (SELECT FROM {log} WHERE ctid >= {floor}::tid)
        OR EXISTS (SELECT FROM {work} WHERE token IS NULL AND due_at <= statement_timestamp()) AS waits,
    pg_relation_size({log_name}::regclass) / current_setting('block_size')::int AS blocks

-- open_lease --
-- A new batch: its token is the fence, from a sequence and so never used again.
INSERT INTO qwen_embed.lease (vectorizer, worker, expires_at)
VALUES (%(vectorizer)s, %(worker)s, clock_timestamp() + make_interval(secs => %(lease_seconds)s))
RETURNING token;

-- take_log --
-- Recorded changes become work of this lease. Keys that another lease holds are marked dirty there.
-- op: c, the row may have changed; a, its vector is doubted and made again; t, a TRUNCATE.
WITH taken AS (
    DELETE FROM {log}
    WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM {log} WHERE ctid >= %(floor)s::tid LIMIT %(limit)s FOR UPDATE SKIP LOCKED))
    RETURNING op, {keys}, at, ctid AS place
), merged AS (
    INSERT INTO {work} AS work ({keys}, token, again, since)
    SELECT {keys}, %(token)s::bigint, bool_or(op = 'a'), min(at) FROM taken
    WHERE op IN ('c', 'a') AND num_nulls({keys}) = 0 GROUP BY {keys} ORDER BY {keys}
    ON CONFLICT ({keys}) DO UPDATE SET
        -- Its own are keys that were due, taken a moment ago and not yet read.
        dirty = coalesce(work.token <> excluded.token, false),
        again = work.again OR excluded.again,
        since = least(work.since, excluded.since),
        token = coalesce(work.token, excluded.token),
        attempts = 0
    RETURNING id, token
)
SELECT
    (SELECT count(*) FROM taken) AS taken,
    (SELECT max(place)::text FROM taken) AS furthest,
    (SELECT coalesce(bool_or(op = 't'), false) FROM taken) AS truncated,
    ARRAY(SELECT id FROM merged WHERE token = %(token)s) AS ids;

-- take_due --
-- Keys whose pause is over, under this lease.
UPDATE {work} SET token = %(token)s, dirty = false
WHERE id IN (
    SELECT id FROM {work} WHERE token IS NULL AND due_at <= statement_timestamp()
    ORDER BY due_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
RETURNING id;

-- add_orphans_task --
-- A TRUNCATE passed through the log: walk over the vectors, once for all that is waiting.
INSERT INTO qwen_embed.task (vectorizer, kind)
SELECT %(vectorizer)s, 'orphans'
WHERE NOT EXISTS (
    SELECT FROM qwen_embed.task
    WHERE vectorizer = %(vectorizer)s AND kind = 'orphans' AND reached IS NULL);

-- read_rows --
-- The committed text of each key that this lease holds, and the hash of the text that its vector is
-- of. Never one statement with the taking: its snapshot would be older than what it takes. $1 is the
-- token, $2 the ids: read_within runs it.
SELECT work.id, work.attempts, work.again, {content}(source) AS content, target.content_hash, target.space
FROM {work} AS work
LEFT JOIN {source} AS source ON {source_is_work}
LEFT JOIN {target} AS target ON {target_is_work} AND target.chunk = 0
WHERE work.token = $1 AND work.id = ANY ($2);

-- read_within --
-- As many of those rows as the room holds; at least one.
SELECT id, attempts, again, content, octets, content_hash, space
FROM qwen_embed.read_within({query}, %(token)s, %(ids)s::bigint[], %(room)s, %(longest)s, %(short)s);

-- read_chunks --
-- The chunks that stand of these keys, each with the hash of its own text: equal text is not paid again.
SELECT work.id, target.chunk, sha256(convert_to(target.text, 'UTF8')) AS text_hash
FROM {work} AS work JOIN {target} AS target ON {target_is_work}
WHERE work.token = %(token)s AND work.id = ANY (%(ids)s::bigint[]) AND target.space = {space};

-- return_unread --
-- What a batch has no room for goes back as it was, and keeps its place in the line.
UPDATE {work} SET token = NULL, dirty = false
WHERE token = %(token)s AND id = ANY (%(ids)s::bigint[]);

-- hold_lease --
-- The fence. No row: the lease was reaped, and whatever this worker knows is too old to write.
SELECT token FROM qwen_embed.lease WHERE token = %(token)s FOR UPDATE;

-- hold_work --
-- This batch's keys, locked in key order so that nobody can mark them dirty until the commit.
SELECT id FROM {work} WHERE token = %(token)s AND id = ANY (%(ids)s::bigint[]) ORDER BY {keys} FOR UPDATE;

-- write_vectors --
-- New vectors, for rows that still exist. The join also waits for, or is seen by, a TRUNCATE. The last
-- condition is never computed: it fails to parse where another table has taken the source's name,
-- and joining that one would end the work without a vector.
INSERT INTO {target} AS target ({target_keys}, chunk, text, embedding, content_hash, offer, embedded_at, space)
SELECT {source_keys}, 0, answer.text, answer.embedding, answer.content_hash, answer.offer, clock_timestamp(),
    {space}
FROM unnest(
    %(ids)s::bigint[], %(texts)s::text[], %(vectors)s::{vector_type}[], %(hashes)s::bytea[], %(offers)s::text[]
) AS answer(id, text, embedding, content_hash, offer)
CROSS JOIN LATERAL (SELECT * FROM {work} WHERE id = answer.id AND token = %(token)s OFFSET 0) AS work
JOIN {source} AS source ON {source_is_work} AND ({content}(source) IS NULL OR true)
ON CONFLICT ({target_keys}, chunk) DO UPDATE SET
    text = excluded.text, embedding = excluded.embedding, content_hash = excluded.content_hash,
    offer = excluded.offer, embedded_at = excluded.embedded_at, space = excluded.space;

-- write_chunks --
-- The same for rows in chunks. One whose text stood already keeps its vector, maybe at another place:
-- all are read as they stood before.
INSERT INTO {target} AS target
    ({target_keys}, chunk, start_char, text, embedding, content_hash, offer, embedded_at, space)
SELECT {source_keys}, answer.chunk, answer.start_char, answer.text, coalesce(paid.embedding, stands.embedding),
    answer.content_hash, CASE WHEN answer.place IS NULL THEN stands.offer ELSE paid.offer END,
    coalesce(stands.embedded_at, clock_timestamp()), {space}
FROM unnest(
    %(ids)s::bigint[], %(chunks)s::int[], %(starts)s::int[], %(texts)s::text[], %(hashes)s::bytea[],
    %(stands)s::int[], %(places)s::bigint[]
) AS answer(id, chunk, start_char, text, content_hash, stands, place)
LEFT JOIN ROWS FROM (unnest(%(vectors)s::{vector_type}[]), unnest(%(offers)s::text[]))
    WITH ORDINALITY AS paid(embedding, offer, place) ON paid.place = answer.place
CROSS JOIN LATERAL (SELECT * FROM {work} WHERE id = answer.id AND token = %(token)s OFFSET 0) AS work
LEFT JOIN {target} AS stands ON {stands_is_work} AND stands.chunk = answer.stands
JOIN {source} AS source ON {source_is_work} AND ({content}(source) IS NULL OR true)
ON CONFLICT ({target_keys}, chunk) DO UPDATE SET
    start_char = excluded.start_char, text = excluded.text, embedding = excluded.embedding,
    content_hash = excluded.content_hash, offer = excluded.offer, embedded_at = excluded.embedded_at,
    space = excluded.space;

-- find_missing --
-- Keys of which a chunk is not there any more whose vector was to be kept.
SELECT DISTINCT work.id
FROM unnest(%(ids)s::bigint[], %(stands)s::int[]) AS kept(id, chunk)
CROSS JOIN LATERAL (SELECT * FROM {work} WHERE id = kept.id AND token = %(token)s OFFSET 0) AS work
WHERE NOT EXISTS (
    SELECT FROM {target} AS target WHERE {target_is_work} AND target.chunk = kept.chunk AND target.space = {space});

-- remove_surplus --
-- Chunks beyond the last one that a row has now.
DELETE FROM {target} AS target
USING unnest(%(ids)s::bigint[], %(counts)s::int[]) AS row_of(id, chunks)
CROSS JOIN LATERAL (SELECT * FROM {work} WHERE id = row_of.id AND token = %(token)s OFFSET 0) AS work
WHERE {target_is_work} AND target.chunk >= row_of.chunks;

-- remove_vectors --
-- Vectors of keys whose row is gone, whose text is empty, or whose text nobody takes.
DELETE FROM {target} AS target USING {work} AS work
WHERE work.token = %(token)s AND work.id = ANY (%(ids)s::bigint[]) AND {target_is_work};

-- lock_rows --
-- Rows of a user's table that are about to be written, locked in key order; those that someone else has
-- locked are left out, since waiting for one while holding another is how deadlocks begin.
SELECT work.id FROM {work} AS work JOIN {source} AS source ON {source_is_work}
WHERE work.token = %(token)s AND work.id = ANY (%(ids)s::bigint[])
ORDER BY {source_keys} FOR NO KEY UPDATE OF source SKIP LOCKED;

-- find_rows --
-- Those of them that are there, locked or not.
SELECT work.id FROM {work} AS work JOIN {source} AS source ON {source_is_work}
WHERE work.token = %(token)s AND work.id = ANY (%(ids)s::bigint[]);

-- read_locked --
-- Their text as it is now that nobody can change it. A later statement than the locking, or it would be
-- the text from before.
SELECT work.id, sha256(convert_to({content}(source), 'UTF8')) AS content_hash
FROM {work} AS work JOIN {source} AS source ON {source_is_work}
WHERE work.token = %(token)s AND work.id = ANY (%(ids)s::bigint[]);

-- find_users_names --
-- Triggers of the user find what they name, as in a session of the worker's role; what we name comes
-- from pg_catalog still.
SELECT set_config('search_path', 'pg_catalog, ' || reset_val, true)
FROM pg_catalog.pg_settings WHERE name = 'search_path' AND reset_val <> '';

-- write_column --
-- Vectors into locked rows of a user's table, and beside each what is known of it.
WITH answer AS (
    SELECT answer.*, {work_keys}
    FROM unnest(
        %(ids)s::bigint[], %(vectors)s::{vector_type}[], %(hashes)s::bytea[], %(offers)s::text[]
    ) AS answer(id, embedding, content_hash, offer)
    CROSS JOIN LATERAL (SELECT * FROM {work} WHERE id = answer.id AND token = %(token)s OFFSET 0) AS work
), written AS (
    UPDATE {source} AS source SET {vector_column} = work.embedding
    FROM answer AS work WHERE {source_is_work}
    RETURNING work.*, {vector_send}(source.{vector_column}) AS stored
)
INSERT INTO {marks} AS mark ({keys}, content_hash, vector_hash, space, offer, embedded_at)
SELECT {work_keys}, work.content_hash, sha256(work.stored), {space}, work.offer, clock_timestamp()
FROM written AS work
ON CONFLICT ({keys}) DO UPDATE SET
    content_hash = excluded.content_hash, vector_hash = excluded.vector_hash, space = excluded.space,
    offer = excluded.offer, embedded_at = excluded.embedded_at;

-- clear_column --
-- No vector in locked rows any more, and nothing known of one; also of rows that are gone.
WITH cleared AS (
    UPDATE {source} AS source SET {vector_column} = NULL
    FROM {work} AS work
    WHERE work.token = %(token)s AND work.id = ANY (%(ids)s::bigint[]) AND {source_is_work}
        AND source.{vector_column} IS NOT NULL
)
DELETE FROM {marks} AS mark USING {work} AS work
WHERE work.token = %(token)s AND work.id = ANY (%(ids)s::bigint[]) AND {mark_is_work};

-- pause_for --
-- Nothing is paid any more until someone has read why.
SELECT qwen_embed.pause_because(%(vectorizer)s, %(message)s);

-- finish_work --
-- Done, unless the key changed meanwhile. A key that is done is no dead letter any more.
WITH done AS (
    DELETE FROM {work}
    WHERE token = %(token)s AND id = ANY (%(ids)s::bigint[]) AND NOT dirty
    RETURNING {keys}
)
DELETE FROM {dead} AS dead USING done WHERE {dead_is_done};

-- bury_work --
-- Texts that nobody takes become dead letters, unless they changed meanwhile or their row is gone. The
-- join does what it does in write_vectors: a TRUNCATE's walk must not miss a letter buried during it.
WITH done AS (
    DELETE FROM {work}
    WHERE token = %(token)s AND id = ANY (%(ids)s::bigint[]) AND NOT dirty
    RETURNING id, attempts, {keys}
)
INSERT INTO {dead} ({keys}, kind, message, attempts)
SELECT {done_keys}, reason.kind, reason.message, done.attempts + 1
FROM done JOIN unnest(%(ids)s::bigint[], %(kinds)s::text[], %(messages)s::text[]) AS reason(id, kind, message) USING (id)
JOIN {source} AS source ON {source_is_done} AND ({content}(source) IS NULL OR true)
ON CONFLICT ({keys}) DO UPDATE SET
    kind = excluded.kind, message = excluded.message, attempts = excluded.attempts, died_at = excluded.died_at;

-- delay_work --
-- Given back, to be tried again later. A key that changed meanwhile is due at once and starts afresh.
UPDATE {work} SET
    token = NULL,
    due_at = clock_timestamp() + CASE WHEN dirty THEN interval '0' ELSE make_interval(secs => %(pause_seconds)s) END,
    attempts = CASE WHEN dirty THEN 0 ELSE attempts + %(faults)s END,
    dirty = false
WHERE token = %(token)s AND id = ANY (%(ids)s::bigint[]);

-- release_dirty --
-- What changed while it was held is due again, for anyone. The change that was held is answered.
UPDATE {work} SET token = NULL, dirty = false, due_at = clock_timestamp(), since = clock_timestamp()
WHERE token = %(token)s AND id = ANY (%(ids)s::bigint[]) AND dirty;

-- close_lease --
-- The batch is over.
DELETE FROM qwen_embed.lease WHERE token = %(token)s;

-- extend_leases --
-- The heartbeat: one statement for all batches in flight. Gives the tokens that it reached. One that
-- is being finished is passed over: it needs no beat, since reaping passes over it as well, and
-- waiting for it could let the others expire.
UPDATE qwen_embed.lease SET expires_at = clock_timestamp() + make_interval(secs => %(lease_seconds)s)
WHERE token IN (
    SELECT token FROM qwen_embed.lease WHERE token = ANY (%(tokens)s::bigint[])
    ORDER BY token FOR UPDATE SKIP LOCKED)
RETURNING token;

-- reap_leases --
-- Batches of silent workers are free again. A lease that is being finished right now is left alone.
WITH expired AS (
    DELETE FROM qwen_embed.lease
    WHERE token IN (
        SELECT token FROM qwen_embed.lease
        WHERE vectorizer = %(vectorizer)s AND expires_at < statement_timestamp()
        FOR UPDATE SKIP LOCKED)
    RETURNING token
)
UPDATE {work} SET token = NULL, dirty = false, due_at = clock_timestamp()
WHERE token IN (SELECT token FROM expired);

-- next_task --
-- The oldest walk of a vectorizer that no other worker is at. One over a partition is over when it left.
SELECT k.id, k.kind, k.reached, k.part IS NOT NULL AS of_part, n.nspname AS part_schema, c.relname AS part_table
FROM qwen_embed.task k
LEFT JOIN pg_catalog.pg_class c ON c.oid = k.part AND c.oid IN (
    SELECT l FROM qwen_embed.vectorizer v CROSS JOIN LATERAL qwen_embed.leaves(v.source) AS l WHERE v.id = k.vectorizer)
LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE k.vectorizer = %(vectorizer)s
ORDER BY k.id LIMIT 1 FOR UPDATE OF k SKIP LOCKED;

-- log_is_short --
-- Whether the waiting line has room: walks wait for live changes, and the log stays small.
SELECT count(*) < %(limit)s FROM (SELECT FROM {log} LIMIT %(limit)s) AS waiting;

-- walk_source --
-- The next portion of the source: keys whose vector is missing or of another text go to the log.
WITH portion AS MATERIALIZED (
    SELECT {source_keys_as}, sha256(convert_to({content}(source), 'UTF8')) AS content_hash
    FROM {source} AS source WHERE {after} ORDER BY {source_keys} LIMIT %(limit)s
), appended AS (
    INSERT INTO {log} (op, {keys})
    SELECT 'c', {portion_keys} FROM portion LEFT JOIN {target} AS target ON {target_is_portion} AND target.chunk = 0
    WHERE portion.content_hash IS DISTINCT FROM target.content_hash OR target.space <> {space}
)
SELECT count(*) OVER () AS walked, ARRAY[{portion_keys_text}] AS reached
FROM portion ORDER BY {portion_keys_descending} LIMIT 1;

-- walk_source_unread --
-- The same where a text cannot be computed: all keys go to the log, and reading them tells which.
WITH portion AS MATERIALIZED (
    SELECT {source_keys_as}
    FROM {source} AS source WHERE {after} ORDER BY {source_keys} LIMIT %(limit)s
), appended AS (
    INSERT INTO {log} (op, {keys}) SELECT 'c', {portion_keys} FROM portion
)
SELECT count(*) OVER () AS walked, ARRAY[{portion_keys_text}] AS reached
FROM portion ORDER BY {portion_keys_descending} LIMIT 1;

-- walk_dead --
-- Dead letters of rows that a TRUNCATE removed go to the log, where a worker will clear them. There are
-- few, so that they need no portions. The last condition is as in write_vectors.
INSERT INTO {log} (op, {keys})
SELECT 'c', {dead_keys} FROM {dead} AS dead
WHERE NOT EXISTS (
    SELECT FROM {source} AS source WHERE {source_is_dead} AND ({content}(source) IS NULL OR true));

-- walk_target --
-- The next portion of the vectors: keys without a row go to the log, where a worker will remove them.
-- The last condition is as in write_vectors.
WITH portion AS MATERIALIZED (
    SELECT DISTINCT {target_keys_as}
    FROM {target} AS target WHERE {after} ORDER BY {target_keys_of} LIMIT %(limit)s
), appended AS (
    INSERT INTO {log} (op, {keys})
    SELECT 'c', {portion_keys} FROM portion
    WHERE NOT EXISTS (
        SELECT FROM {source} AS source WHERE {source_is_portion} AND ({content}(source) IS NULL OR true))
)
SELECT count(*) OVER () AS walked, ARRAY[{portion_keys_text}] AS reached
FROM portion ORDER BY {portion_keys_descending} LIMIT 1;

-- move_task --
-- How far the walk has come.
UPDATE qwen_embed.task SET reached = %(reached)s, walked = walked + %(walked)s WHERE id = %(task)s;

-- end_task --
-- The walk is over.
DELETE FROM qwen_embed.task WHERE id = %(task)s;

-- audit_rows --
-- The next portion of the source beside its vectors: how many rows, and each one that is not as it
-- should be, unless a recorded change explains it. A row that changed is looked at in one snapshot
-- with the log and the work, so what is on its way is never taken for lost.
WITH portion AS MATERIALIZED (
    SELECT {source_keys_as}, {content}(source) AS content
    FROM {source} AS source WHERE {after} ORDER BY {source_keys} LIMIT %(limit)s
), compared AS (
    SELECT {portion_keys}, portion.content, stored.*
    FROM portion CROSS JOIN LATERAL (
        SELECT count(*) AS chunks, coalesce(max(target.chunk), -1) AS last,
            bool_and(target.content_hash IS NOT DISTINCT FROM sha256(convert_to(portion.content, 'UTF8'))) AS of_text,
            bool_and(target.space = {space}) AS of_space,
            bool_and({vector_dims}(target.embedding) = {dimensions}
                AND abs({vector_norm}(target.embedding) - 1) < 0.01) AS whole
        FROM {target} AS target WHERE {target_is_portion}
    ) AS stored
), judged AS (
    SELECT portion.*, CASE
        WHEN content IS NULL AND chunks = 0 THEN NULL
        WHEN content IS NULL THEN 'orphan'
        WHEN chunks = 0 THEN 'missing'
        WHEN NOT of_text OR last <> chunks - 1 THEN 'stale'
        WHEN NOT of_space THEN 'wrong_space'
        WHEN NOT whole THEN 'wrong_vector' END AS finding
    FROM compared AS portion
)
SELECT ARRAY[{portion_keys_text}] AS key, finding, content IS NOT NULL AS has_text,
    -- Only a text without a letter or digit may be one that counts as empty.
    CASE WHEN finding = 'missing' AND content !~ '[[:alnum:]]' THEN left(content, 1000) END AS doubtful,
    finding IS NOT NULL AND (EXISTS (SELECT FROM {log} AS log WHERE {log_is_portion})
        OR EXISTS (SELECT FROM {work} AS work WHERE {work_is_portion})) AS waits,
    finding IS NOT NULL AND EXISTS (SELECT FROM {dead} AS dead WHERE {dead_is_portion}) AS dead,
    count(*) OVER () AS walked
FROM judged AS portion ORDER BY {portion_keys_descending};

-- audit_vectors --
-- The next portion of the vectors: keys without a row. The last condition is as in write_vectors.
WITH portion AS MATERIALIZED (
    SELECT DISTINCT {target_keys_as}
    FROM {target} AS target WHERE {after} ORDER BY {target_keys_of} LIMIT %(limit)s
), judged AS (
    SELECT portion.*, NOT EXISTS (
        SELECT FROM {source} AS source WHERE {source_is_portion} AND ({content}(source) IS NULL OR true)) AS orphan
    FROM portion
)
SELECT ARRAY[{portion_keys_text}] AS key, orphan,
    orphan AND (EXISTS (SELECT FROM {log} AS log WHERE log.op = 't')
        OR EXISTS (SELECT FROM {log} AS log WHERE {log_is_portion})
        OR EXISTS (SELECT FROM {work} AS work WHERE {work_is_portion})) AS waits,
    false AS dead, count(*) OVER () AS walked
FROM judged AS portion ORDER BY {portion_keys_descending};

-- audit_offer --
-- The next portion of the vectors that one offer, or one provider's, wrote since a moment.
WITH portion AS MATERIALIZED (
    SELECT DISTINCT {target_keys_as} FROM {target} AS target
    WHERE {after} AND (target.offer = %(offer)s OR starts_with(target.offer, %(offer)s || '/'))
        AND target.embedded_at >= %(since)s
    ORDER BY {target_keys_of} LIMIT %(limit)s
)
SELECT ARRAY[{portion_keys_text}] AS key, count(*) OVER () AS walked FROM portion ORDER BY {portion_keys_descending};

-- offers_here --
-- Who made the vectors.
SELECT DISTINCT target.offer FROM {target} AS target WHERE target.offer IS NOT NULL ORDER BY 1 LIMIT 20;

-- append_doubts --
-- Keys that an audit found go to the log, as text; workers make their vectors again, or remove them.
INSERT INTO {log} (op, {keys})
SELECT 'a', {keys_from_text} FROM unnest({key_arrays}) AS given({keys});

-- rows_about --
-- How many rows a table has, as the planner thinks; -1 before it was ever looked at.
SELECT coalesce(sum(c.reltuples) FILTER (WHERE c.relkind = 'r'), -1)::bigint AS rows
FROM pg_catalog.pg_class c
WHERE c.oid IN (SELECT v.source FROM qwen_embed.vectorizer v WHERE v.id = {id}
    UNION SELECT l FROM qwen_embed.vectorizer v CROSS JOIN LATERAL qwen_embed.leaves(v.source) AS l WHERE v.id = {id});

-- count_rows --
-- How many rows a table has, if they are not too many to count.
SELECT count(*) AS rows FROM (SELECT FROM {source} LIMIT %(limit)s) AS counted;

-- rows_by_size --
-- How many rows of the size of the first ones its pages would hold.
SELECT (sum(pg_catalog.pg_relation_size(c.oid)) / greatest(1, (
    SELECT avg(pg_catalog.pg_column_size(s.*)) FROM (SELECT * FROM {source} LIMIT 1000) AS s)))::bigint AS rows
FROM pg_catalog.pg_class c
WHERE c.oid IN (SELECT v.source FROM qwen_embed.vectorizer v WHERE v.id = {id}
    UNION SELECT l FROM qwen_embed.vectorizer v CROSS JOIN LATERAL qwen_embed.leaves(v.source) AS l WHERE v.id = {id});

-- sample_rows --
-- Some rows, at random, with what stands beside their vectors.
SELECT {content}(source) AS content, target.content_hash, target.space
FROM {source} AS source TABLESAMPLE {method} ({percent})
LEFT JOIN {target} AS target ON {target_is_source} AND target.chunk = 0
LIMIT %(limit)s;

-- unfinished_walks --
-- Walks that have yet to append what they find.
SELECT count(*) AS walks FROM qwen_embed.task WHERE vectorizer = {id};

-- report_trouble --
-- Why a vectorizer's work waits. Written when it changes, not at each try.
UPDATE qwen_embed.vectorizer
SET trouble = %(trouble)s, last_error = %(message)s, last_error_at = clock_timestamp()
WHERE id = %(vectorizer)s AND (trouble, last_error) IS DISTINCT FROM (%(trouble)s::text, %(message)s::text);

-- clear_trouble --
-- It works again, and no text waits for an offer any more.
UPDATE qwen_embed.vectorizer SET trouble = NULL, last_error = NULL, last_error_at = NULL
WHERE id = %(vectorizer)s AND last_error IS NOT NULL AND NOT EXISTS (
    SELECT FROM {work} WHERE token IS NULL AND attempts = 0 AND due_at > statement_timestamp());

-- notice_capture --
-- The triggers were changed behind our back and are whole again: compare everything once.
WITH changed AS (
    UPDATE qwen_embed.vectorizer AS v SET capture_mark = qwen_embed.capture_mark(v)
    WHERE v.id = %(vectorizer)s AND v.capture_mark IS DISTINCT FROM qwen_embed.capture_mark(v)
    RETURNING v.*
)
SELECT qwen_embed.record_sweep(changed::qwen_embed.vectorizer) FROM changed;

-- notice_partitions --
-- Partitions came or went, which fires no trigger.
SELECT qwen_embed.notice_partitions(%(vectorizer)s);

-- give_sign --
-- This worker runs.
INSERT INTO qwen_embed.worker (run, name, version) VALUES (%(run)s, %(name)s, %(version)s)
ON CONFLICT (run) DO UPDATE SET beat_at = clock_timestamp();

-- tell_tally --
-- What it did so far and how fast it is, for the vectorizers of which that changed.
INSERT INTO qwen_embed.tally (run, vectorizer, rows, tokens, cost, rows_per_second, tokens_per_second)
SELECT %(run)s, told.*
FROM unnest(
    %(vectorizers)s::int[], %(rows)s::bigint[], %(tokens)s::bigint[], %(costs)s::numeric[],
    %(row_speeds)s::real[], %(token_speeds)s::real[]
) AS told(vectorizer, rows, tokens, cost, rows_per_second, tokens_per_second)
JOIN qwen_embed.vectorizer v ON v.id = told.vectorizer
ON CONFLICT (run, vectorizer) DO UPDATE SET
    rows = excluded.rows, tokens = excluded.tokens, cost = excluded.cost,
    rows_per_second = excluded.rows_per_second, tokens_per_second = excluded.tokens_per_second;

-- forget_workers --
-- Those that were killed some time ago.
DELETE FROM qwen_embed.worker WHERE beat_at < clock_timestamp() - interval '1 hour';

-- leave --
-- This worker ends.
DELETE FROM qwen_embed.worker WHERE run = %(run)s;

-- what_is_left --
-- What a worker that ends leaves behind: recorded changes, held by others, waiting, and walks.
SELECT
    (SELECT count(*) FROM (SELECT FROM {log} LIMIT 1000000) AS waiting) AS recorded,
    (SELECT count(*) FROM {work} WHERE token IS NOT NULL) AS leased,
    (SELECT count(*) FROM {work} WHERE token IS NULL AND due_at > statement_timestamp()) AS later,
    (SELECT count(*) FROM {work} WHERE token IS NULL AND due_at <= statement_timestamp()) AS due,
    (SELECT count(*) FROM qwen_embed.task WHERE vectorizer = {id}) AS tasks;

-- surroundings --
-- What a server is, and what of ours is in the database; works without an installation, and on any server.
SELECT current_setting('server_version') AS version, current_setting('server_version_num')::int AS number,
    current_user AS role, current_database() AS database,
    (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'vector') AS vector,
    (SELECT default_version FROM pg_catalog.pg_available_extensions WHERE name = 'vector') AS vector_at_hand,
    EXISTS (
        SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'qwen_embed' AND c.relname = 'migration') AS installed;

-- index_site --
-- All that building or measuring the index of a vectorizer needs to know. Fails for an unknown name.
SELECT v.id, v.name, v.storage, v.index_kind, v.dimensions, t.oid AS table_id, n.nspname AS schema,
    t.relname AS table, t.reltuples::float8 AS rows, pg_catalog.pg_table_size(t.oid) AS table_bytes,
    qwen_embed.index_name(v) AS index, qwen_embed.index_statement(v) AS statement,
    stands.index AS standing, pg_catalog.pg_relation_size(stands.index) AS standing_bytes,
    EXISTS (
        SELECT FROM pg_catalog.pg_index x JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid
        WHERE x.indrelid = t.oid AND i.relname = qwen_embed.index_name(v) AND NOT x.indisvalid) AS broken,
    pg_catalog.pg_has_role(t.relowner, 'USAGE') AS may_build,
    qwen_embed.extension_schema() AS vector_schema
FROM qwen_embed.named(%(name)s) AS v
CROSS JOIN LATERAL (SELECT qwen_embed.standing_index(v) AS index) AS stands
LEFT JOIN pg_catalog.pg_class t ON t.oid = qwen_embed.indexed_table(v)
LEFT JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace;

-- index_settings --
-- What a build changes in its session, as it is now; memory in kilobytes.
SELECT pg_catalog.current_setting('maintenance_work_mem') AS maintenance_work_mem,
    pg_catalog.current_setting('max_parallel_maintenance_workers') AS max_parallel_maintenance_workers,
    pg_catalog.current_setting('statement_timeout') AS statement_timeout,
    pg_catalog.current_setting('lock_timeout') AS lock_timeout,
    (SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = 'maintenance_work_mem') AS memory,
    (SELECT setting::bigint * 8 FROM pg_catalog.pg_settings WHERE name = 'shared_buffers') AS buffers;

-- index_progress --
-- How far the build on a table is. For HNSW the rows of a read block are in the graph already.
SELECT phase, blocks_done, blocks_total, tuples_done, nullif(current_locker_pid, 0) AS locker
FROM pg_catalog.pg_stat_progress_create_index
WHERE datname = pg_catalog.current_database() AND relid = %(table)s::oid;

-- sample_vectors --
-- Some vectors of the table, as text: only those that are chosen are read.
SELECT chosen.embedding::{vector}::text AS vector
FROM (
    SELECT e.embedding FROM {table} AS e TABLESAMPLE {method} ({percent})
    WHERE e.embedding IS NOT NULL ORDER BY pg_catalog.random() LIMIT %(count)s
) AS chosen;

-- search_distances --
-- The distances of a search, to compare what the index finds with an exact one.
SELECT distance FROM qwen_embed.search_in(%(vectorizer)s, %(vector)s::{vector}, %(k)s, NULL, %(exact)s);
