-- Roles beside the one that installed: who was let in, and for how long.

CREATE TABLE qwen_embed.grantee (
    role text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('app', 'worker', 'owner')),
    PRIMARY KEY (role, kind)
);
COMMENT ON TABLE qwen_embed.grantee IS
    'Roles that grant_to() named: they get their rights on each vectorizer that is made later, too.';

CREATE TABLE qwen_embed.visit (role text NOT NULL);
COMMENT ON TABLE qwen_embed.visit IS
    'Empty but within a transaction in which a role makes its content_N: see open_schema().';

REVOKE ALL ON qwen_embed.grantee, qwen_embed.visit FROM PUBLIC;

-- Who works, and how fast.

CREATE TABLE qwen_embed.worker (
    run text PRIMARY KEY,
    name text NOT NULL,
    version text NOT NULL,
    since timestamptz NOT NULL DEFAULT clock_timestamp(),
    beat_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
COMMENT ON TABLE qwen_embed.worker IS
    'One row per worker that runs; it writes beat_at every few seconds and takes the row with it when it ends. What a '
    'killed one leaves behind is removed within the hours that follow.';
COMMENT ON COLUMN qwen_embed.worker.run IS 'A random word: host and number of a process come again.';

CREATE TABLE qwen_embed.tally (
    run text NOT NULL REFERENCES qwen_embed.worker ON DELETE CASCADE,
    vectorizer int NOT NULL,
    rows bigint NOT NULL,
    tokens bigint NOT NULL,
    cost numeric NOT NULL,
    rows_per_second real NOT NULL,
    tokens_per_second real NOT NULL,
    PRIMARY KEY (run, vectorizer)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
COMMENT ON TABLE qwen_embed.tally IS
    'What a worker did for a vectorizer since it started, and how fast it was in the last minute. cost is in US dollars.';

ALTER TABLE qwen_embed.task ADD COLUMN walked bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN qwen_embed.task.walked IS 'How many rows or vectors it has gone through.';

-- A key in work keeps the time of its oldest change.
DO $$
DECLARE
    old int;
BEGIN
    FOR old IN SELECT v.id FROM qwen_embed.vectorizer v
        WHERE pg_catalog.to_regclass('qwen_embed.work_' || v.id) IS NOT NULL
    LOOP
        EXECUTE pg_catalog.format('ALTER TABLE qwen_embed.work_%s '
            'ADD COLUMN since timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()', old);
    END LOOP;
END $$;

REVOKE ALL ON qwen_embed.worker, qwen_embed.tally FROM PUBLIC;
