-- How far the work has come, and who does it.

CREATE OR REPLACE FUNCTION qwen_embed.is_alive(beat_at timestamptz) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    -- An idle worker writes every 15 seconds.
    SELECT beat_at > clock_timestamp() - interval '50 seconds';
END;
COMMENT ON FUNCTION qwen_embed.is_alive(timestamptz) IS 'Whether a worker that wrote then is taken to run now.';

CREATE OR REPLACE FUNCTION qwen_embed.about_rows(relation regclass) RETURNS bigint
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    -- What the last ANALYZE found, or what was inserted since if that is more. No table is read.
    SELECT coalesce(sum(greatest(c.reltuples::bigint, pg_stat_get_live_tuples(c.oid), 0)), 0)::bigint
    FROM pg_class c
    WHERE c.oid IN (SELECT about_rows.relation UNION ALL SELECT qwen_embed.leaves(about_rows.relation)) AND c.relkind = 'r';
END;
COMMENT ON FUNCTION qwen_embed.about_rows(regclass) IS 'About how many rows a table has, from statistics.';

CREATE OR REPLACE VIEW qwen_embed.progress AS
SELECT v.name, running.workers, running.rows_per_second, running.tokens_per_second,
    running.rows, running.tokens, running.cost, walk.walked, walk.to_walk,
    CASE
        WHEN c.pending + c.leased + walk.to_walk = 0 THEN interval '0'
        WHEN running.rows_per_second > 0
            THEN make_interval(secs => (c.pending + c.leased + walk.to_walk) / running.rows_per_second)
    END AS time_left
FROM qwen_embed.vectorizer v
CROSS JOIN LATERAL qwen_embed.counts(v) AS c
CROSS JOIN LATERAL (
    SELECT count(*)::int AS workers, coalesce(sum(t.rows_per_second), 0)::float8 AS rows_per_second,
        coalesce(sum(t.tokens_per_second), 0)::float8 AS tokens_per_second, coalesce(sum(t.rows), 0)::bigint AS rows,
        coalesce(sum(t.tokens), 0)::bigint AS tokens, coalesce(sum(t.cost), 0) AS cost
    FROM qwen_embed.tally t JOIN qwen_embed.worker w USING (run)
    WHERE t.vectorizer = v.id AND qwen_embed.is_alive(w.beat_at)
) AS running
CROSS JOIN LATERAL (
    SELECT coalesce(sum(k.walked), 0)::bigint AS walked,
        coalesce(sum(greatest(0, qwen_embed.about_rows(
            CASE k.kind WHEN 'orphans' THEN v.target_table ELSE coalesce(k.part, v.source) END) - k.walked)), 0)::bigint
            AS to_walk
    FROM qwen_embed.task k WHERE k.vectorizer = v.id
) AS walk;
COMMENT ON VIEW qwen_embed.progress IS
    'One row per vectorizer: how many workers run that serve it, how fast they were in the last minute, what they did '
    'since they started (cost in US dollars), how many rows walks went through and about how many are ahead of them, and how '
    'long all that will take at this speed; null where no speed is known.';
COMMENT ON COLUMN qwen_embed.progress.name IS 'The vectorizer.';
COMMENT ON COLUMN qwen_embed.progress.workers IS 'Workers that run and have served it.';
COMMENT ON COLUMN qwen_embed.progress.rows_per_second IS 'Of all of them together, in the last minute.';
COMMENT ON COLUMN qwen_embed.progress.tokens_per_second IS 'Of all of them together, in the last minute.';
COMMENT ON COLUMN qwen_embed.progress.rows IS 'Rows that they have done since they started.';
COMMENT ON COLUMN qwen_embed.progress.tokens IS 'Tokens that this took.';
COMMENT ON COLUMN qwen_embed.progress.cost IS 'US dollars that this cost.';
COMMENT ON COLUMN qwen_embed.progress.walked IS 'Rows that walks over the whole table, such as a backfill, went through.';
COMMENT ON COLUMN qwen_embed.progress.to_walk IS 'About how many are ahead of them.';
COMMENT ON COLUMN qwen_embed.progress.time_left IS 'How long all that waits will take at this speed; null where none is known.';

CREATE OR REPLACE VIEW qwen_embed.workers AS
SELECT w.name, w.version, w.since, w.beat_at, qwen_embed.is_alive(w.beat_at) AS alive,
    ARRAY(SELECT v.name FROM qwen_embed.tally t JOIN qwen_embed.vectorizer v ON v.id = t.vectorizer
        WHERE t.run = w.run ORDER BY v.name) AS vectorizers
FROM qwen_embed.worker w;
COMMENT ON VIEW qwen_embed.workers IS
    'The workers that run (alive), and what is left of some that were killed: host and process, since when, when they '
    'last gave a sign, what they serve.';
COMMENT ON COLUMN qwen_embed.workers.name IS 'Host and process.';
COMMENT ON COLUMN qwen_embed.workers.version IS 'Version of its package.';
COMMENT ON COLUMN qwen_embed.workers.since IS 'When it started.';
COMMENT ON COLUMN qwen_embed.workers.beat_at IS 'When it last gave a sign of life.';
COMMENT ON COLUMN qwen_embed.workers.alive IS 'Whether it is taken to run now.';
COMMENT ON COLUMN qwen_embed.workers.vectorizers IS 'The vectorizers that it has served.';
