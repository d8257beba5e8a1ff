-- More kinds of vectorizers, and what each vector needs to know of itself.

ALTER TABLE qwen_embed.vectorizer
    DROP CONSTRAINT vectorizer_target_check,
    DROP CONSTRAINT vectorizer_index_kind_check,
    ALTER COLUMN target_table DROP NOT NULL,
    ADD COLUMN condition text,
    ADD COLUMN chunk_tokens int CHECK (chunk_tokens > 0),
    ADD COLUMN chunk_overlap int CHECK (chunk_overlap >= 0 AND chunk_overlap < chunk_tokens),
    ADD COLUMN chunker text,
    ADD COLUMN notify boolean NOT NULL DEFAULT false,
    ADD COLUMN suspended jsonb,
    ADD COLUMN capture text NOT NULL DEFAULT 'statement' CHECK (capture IN ('statement', 'row')),
    ADD COLUMN partitions text[],
    ADD COLUMN replaces int UNIQUE REFERENCES qwen_embed.vectorizer ON DELETE SET NULL,
    ADD COLUMN retired_at timestamptz,
    ADD CHECK (target IN ('table', 'column')),
    ADD CHECK ((target = 'table') = (target_table IS NOT NULL)),
    ADD CHECK (index_kind IN ('hnsw', 'binary', 'prefix', 'none')),
    ADD CHECK (target = 'table' OR chunk_tokens IS NULL),
    ADD CHECK (chunk_overlap IS NULL OR chunk_tokens IS NOT NULL);
COMMENT ON COLUMN qwen_embed.vectorizer.condition IS
    'As given at creation: rows for which it is not true have no vector. content_N is what counts.';
COMMENT ON COLUMN qwen_embed.vectorizer.chunk_tokens IS
    'Longest chunk of a text, in tokens; null means one vector for a whole text.';
COMMENT ON COLUMN qwen_embed.vectorizer.chunker IS
    'Name of the chunker that splits texts; null means the built-in one.';
COMMENT ON COLUMN qwen_embed.vectorizer.notify IS
    'Whether triggers also NOTIFY. It wakes workers at once and slows concurrent writers several times over.';
COMMENT ON COLUMN qwen_embed.vectorizer.suspended IS
    'Not null while updates are not captured, so that columns may change: the body that content_N had, and '
    'the view''s name. resume() makes them again and has every row compared.';
COMMENT ON COLUMN qwen_embed.vectorizer.capture IS
    'Whether inserts and deletes are recorded by one trigger call for a statement, or one for each row: '
    'rows that come through a parent table or a subscription fire no trigger for a statement.';
COMMENT ON COLUMN qwen_embed.vectorizer.partitions IS
    'The partitions and their triggers as a worker last saw them. Attaching and detaching fires no trigger.';
COMMENT ON COLUMN qwen_embed.vectorizer.replaces IS
    'The vectorizer that this one is to replace, while a move is under way.';
COMMENT ON COLUMN qwen_embed.vectorizer.retired_at IS
    'Since when another one serves in its place. It has no triggers; its vectors are kept as they were.';

ALTER TABLE qwen_embed.task ADD COLUMN part regclass;
COMMENT ON COLUMN qwen_embed.task.part IS
    'The partition that a backfill walks over; null means the whole source.';

-- Side tables from before: their vectors are of their vectorizer's space, each of a whole text.
DO $$
DECLARE
    old record;
BEGIN
    FOR old IN SELECT v.target_table, v.model || '/' || v.dimensions AS space
        FROM qwen_embed.vectorizer v JOIN pg_catalog.pg_class c ON c.oid = v.target_table
    LOOP
        EXECUTE pg_catalog.format('ALTER TABLE %s ADD COLUMN start_char int NOT NULL DEFAULT 0, '
            'ADD COLUMN space text NOT NULL DEFAULT %L', old.target_table, old.space);
        EXECUTE pg_catalog.format('ALTER TABLE %s ALTER COLUMN space DROP DEFAULT', old.target_table);
    END LOOP;
END $$;

-- Work that is to be done again although the text did not change: its vector is doubted.
DO $$
DECLARE
    old int;
BEGIN
    FOR old IN SELECT v.id FROM qwen_embed.vectorizer v
        WHERE pg_catalog.to_regclass('qwen_embed.work_' || v.id) IS NOT NULL
    LOOP
        EXECUTE pg_catalog.format(
            'ALTER TABLE qwen_embed.work_%s ADD COLUMN again boolean NOT NULL DEFAULT false', old);
    END LOOP;
END $$;

GRANT SELECT (index_kind, target, replaces, retired_at) ON qwen_embed.vectorizer TO PUBLIC;
