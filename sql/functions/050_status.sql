-- What can be seen from outside.

CREATE OR REPLACE FUNCTION qwen_embed.counts(
    v qwen_embed.vectorizer, OUT pending bigint, OUT leased bigint, OUT dead bigint, OUT oldest timestamptz)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    waiting bigint := 0;
    waiting_since timestamptz;
    working_since timestamptz;
BEGIN
    IF to_regclass(format('qwen_embed.log_%s', v.id)) IS NOT NULL THEN
        -- Counting stops at a million: a view that people watch must not read a large log each second.
        EXECUTE format('SELECT count(*), min(at) FROM (SELECT at FROM qwen_embed.log_%s LIMIT 1000000) AS first', v.id)
            INTO waiting, waiting_since;
    END IF;
    IF to_regclass(format('qwen_embed.work_%s', v.id)) IS NOT NULL THEN
        EXECUTE format('SELECT count(*) FILTER (WHERE token IS NULL), count(token), min(since) FROM qwen_embed.work_%s', v.id)
            INTO pending, leased, working_since;
    END IF;
    IF to_regclass(format('qwen_embed.dead_%s', v.id)) IS NOT NULL THEN
        EXECUTE format('SELECT count(*) FROM qwen_embed.dead_%s', v.id) INTO dead;
    END IF;
    -- A retired vectorizer has none of these tables, and none of this to do.
    pending := coalesce(pending, 0) + waiting;
    leased := coalesce(leased, 0);
    dead := coalesce(dead, 0);
    oldest := least(waiting_since, working_since);
END $$;
COMMENT ON FUNCTION qwen_embed.counts(qwen_embed.vectorizer) IS
    'Changes that wait (counted to a million), keys that workers hold, dead letters, time of the oldest change of them.';

CREATE OR REPLACE VIEW qwen_embed.status AS
SELECT v.name, v.source, coalesce(v.target_table, v.source) AS target, v.model, v.dimensions,
    CASE
        WHEN v.retired_at IS NOT NULL THEN 'retired'
        WHEN problem.problem IS NOT NULL THEN 'broken'
        WHEN v.suspended IS NOT NULL THEN 'suspended'
        WHEN v.paused THEN 'paused'
        WHEN v.trouble IS NOT NULL THEN v.trouble
        WHEN EXISTS (SELECT FROM qwen_embed.task t WHERE t.vectorizer = v.id) THEN 'backfill'
        ELSE 'active'
    END AS state,
    c.pending, c.leased, c.dead, clock_timestamp() - c.oldest AS lag,
    coalesce(problem.problem, v.last_error) AS last_error
FROM qwen_embed.vectorizer v
CROSS JOIN LATERAL qwen_embed.counts(v) AS c
CROSS JOIN LATERAL (SELECT qwen_embed.capture_problem(v) AS problem) AS problem;
COMMENT ON VIEW qwen_embed.status IS
    'One row per vectorizer. state: active; backfill (rows are still being walked over); paused; suspended '
    '(columns may be changed, resume() goes on); retired (another one serves in its place); held (no '
    'offer can serve now, the work waits and is tried again by itself); blocked (someone must change '
    'something); broken (changes are not captured). last_error says why and what to do.';
COMMENT ON COLUMN qwen_embed.status.name IS 'What the vectorizer is called.';
COMMENT ON COLUMN qwen_embed.status.source IS 'The table whose rows are embedded.';
COMMENT ON COLUMN qwen_embed.status.target IS 'The table that holds the vectors: the side table, or the source itself.';
COMMENT ON COLUMN qwen_embed.status.model IS 'The model that makes them.';
COMMENT ON COLUMN qwen_embed.status.dimensions IS 'Their length.';
COMMENT ON COLUMN qwen_embed.status.state IS 'Whether it goes on, and who has to do something if not.';
COMMENT ON COLUMN qwen_embed.status.pending IS
    'Recorded changes that no worker holds; counted to a million. Rows a backfill has yet to reach are not in it.';
COMMENT ON COLUMN qwen_embed.status.leased IS 'Keys that workers hold now.';
COMMENT ON COLUMN qwen_embed.status.dead IS 'Rows whose text was refused for good: see dead_letters.';
COMMENT ON COLUMN qwen_embed.status.lag IS 'Age of the oldest change whose row is not yet in step, whether it waits, is held by a worker or is tried again later.';
COMMENT ON COLUMN qwen_embed.status.last_error IS 'What was last in the way, and its remedy.';

CREATE OR REPLACE FUNCTION qwen_embed.dead_rows(v qwen_embed.vectorizer)
RETURNS TABLE (key jsonb, kind text, message text, attempts int, died_at timestamptz)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    named text := (SELECT string_agg(format('%L, k%s', source_column, place), ', ' ORDER BY place)
        FROM qwen_embed.key_columns(v.id));
BEGIN
    -- Keys are for those who may read the source: everybody else sees none.
    IF has_table_privilege(to_regclass(format('qwen_embed.dead_%s', v.id)), 'SELECT') THEN
        RETURN QUERY EXECUTE format(
            'SELECT jsonb_build_object(%s), kind, message, attempts, died_at FROM qwen_embed.dead_%s', named, v.id);
    END IF;
END $$;
COMMENT ON FUNCTION qwen_embed.dead_rows(qwen_embed.vectorizer) IS
    'The dead letters of one vectorizer, keys by the names that the source''s columns have today.';

CREATE OR REPLACE VIEW qwen_embed.dead_letters AS
SELECT v.name, d.key, d.kind, d.message, d.attempts, d.died_at
FROM qwen_embed.vectorizer v CROSS JOIN LATERAL qwen_embed.dead_rows(v) AS d;
COMMENT ON VIEW qwen_embed.dead_letters IS
    'Rows without a vector because their text was refused for good. They are tried again when the text '
    'changes or by retry().';
COMMENT ON COLUMN qwen_embed.dead_letters.name IS 'The vectorizer.';
COMMENT ON COLUMN qwen_embed.dead_letters.key IS 'The row''s key, by the names of its columns.';
COMMENT ON COLUMN qwen_embed.dead_letters.kind IS 'Why it was refused, in a word, such as too_large.';
COMMENT ON COLUMN qwen_embed.dead_letters.message IS 'Why it was refused, as the provider or the database said it.';
COMMENT ON COLUMN qwen_embed.dead_letters.attempts IS 'How often it was tried.';
COMMENT ON COLUMN qwen_embed.dead_letters.died_at IS 'When it was given up.';
