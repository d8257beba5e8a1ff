-- What every vectorizer needs. The tables of one vectorizer (log_N, work_N, dead_N) are made with it.

CREATE TABLE qwen_embed.installation (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    model text NOT NULL,
    dimensions int NOT NULL CHECK (dimensions BETWEEN 1 AND 16000)
);
COMMENT ON TABLE qwen_embed.installation IS
    'What a vectorizer gets that names no model or dimensions of its own; at most one row.';

CREATE TABLE qwen_embed.vectorizer (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE CHECK (name <> ''),
    source regclass NOT NULL,
    columns text[],
    template text,
    model text NOT NULL,
    dimensions int NOT NULL CHECK (dimensions BETWEEN 1 AND 16000),
    instruction text,
    target text NOT NULL CHECK (target = 'table'),
    target_table regclass NOT NULL,
    target_view regclass,
    storage text NOT NULL CHECK (storage IN ('vector', 'halfvec')),
    index_kind text NOT NULL CHECK (index_kind IN ('hnsw', 'none')),
    paused boolean NOT NULL DEFAULT false,
    trouble text CHECK (trouble IN ('held', 'blocked')),
    last_error text,
    last_error_at timestamptz,
    capture_mark text,
    created_at timestamptz NOT NULL DEFAULT now(),
    CHECK ((columns IS NULL) <> (template IS NULL)),
    CHECK (trouble IS NULL OR last_error IS NOT NULL),
    CHECK ((last_error IS NULL) = (last_error_at IS NULL))
);
COMMENT ON TABLE qwen_embed.vectorizer IS
    'One row per vectorizer: which table''s rows become vectors of which space, and where they go.';
COMMENT ON COLUMN qwen_embed.vectorizer.id IS
    'N in the names of its private tables, functions and triggers; never used twice.';
COMMENT ON COLUMN qwen_embed.vectorizer.columns IS
    'As given at creation. content_N is what counts: it follows renames, these names do not.';
COMMENT ON COLUMN qwen_embed.vectorizer.instruction IS
    'The task put before a query; null means the default of the model.';
COMMENT ON COLUMN qwen_embed.vectorizer.trouble IS
    'held: no offer can serve now, the work waits. blocked: someone must change something first.';
COMMENT ON COLUMN qwen_embed.vectorizer.capture_mark IS
    'The triggers as a worker last saw them. If they changed since, rows may have been missed.';

CREATE TABLE qwen_embed.lease (
    token bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    vectorizer int NOT NULL,
    worker text NOT NULL,
    expires_at timestamptz NOT NULL
);
COMMENT ON TABLE qwen_embed.lease IS
    'One row per batch that a worker holds. Its token is the fence: whoever lost it writes nothing.';

CREATE TABLE qwen_embed.task (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    vectorizer int NOT NULL REFERENCES qwen_embed.vectorizer ON DELETE CASCADE,
    kind text NOT NULL CHECK (kind IN ('backfill', 'orphans')),
    reached text[],
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE qwen_embed.task IS
    'Long walks that workers make in portions. They only append keys to the log.';
COMMENT ON COLUMN qwen_embed.task.kind IS
    'backfill: rows of the source whose vector is missing or of another text. '
    'orphans: vectors whose row is gone.';
COMMENT ON COLUMN qwen_embed.task.reached IS
    'The last key walked over, each part as text; null before the first portion.';

REVOKE ALL ON ALL TABLES IN SCHEMA qwen_embed FROM PUBLIC;
-- What search() needs of a definition when an ordinary role calls it. None of it is secret.
GRANT SELECT (id, name, source, model, dimensions, instruction, target_table, storage)
    ON qwen_embed.vectorizer TO PUBLIC;
