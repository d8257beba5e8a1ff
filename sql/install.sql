-- How an installation begins: one at a time, on a server that will do, as the role that installed before.

SET LOCAL client_min_messages = warning;
SET LOCAL lock_timeout = '30s';
SELECT pg_catalog.pg_advisory_xact_lock(x'7177656E'::bigint);

DO $begin$
DECLARE
    keeper text := (SELECT pg_catalog.pg_get_userbyid(nspowner)
        FROM pg_catalog.pg_namespace WHERE nspname = 'qwen_embed');
    pgvector text;
BEGIN
    IF pg_catalog.current_setting('server_version_num')::int < 150000 THEN
        RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
            MESSAGE = pg_catalog.format('this server is Postgres %s', pg_catalog.current_setting('server_version')),
            HINT = 'Postgres 15 or newer is needed.';
    END IF;
    -- Functions and tables of one owner: some run with its rights.
    PERFORM pg_catalog.set_config('qwen_embed.role', pg_catalog.current_setting('role'), true);
    IF keeper <> current_user THEN
        BEGIN
            EXECUTE pg_catalog.format('SET LOCAL ROLE %I', keeper);
        EXCEPTION WHEN insufficient_privilege THEN
            RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
                MESSAGE = pg_catalog.format('%I installed qwen_embed here, not %I', keeper, current_user),
                HINT = pg_catalog.format('Run it as %I, or a role that may SET ROLE to it.', keeper);
        END;
    END IF;
    SELECT e.extversion INTO pgvector FROM pg_catalog.pg_extension e WHERE e.extname = 'vector';
    IF pgvector IS NULL THEN
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_available_extensions WHERE name = 'vector') THEN
            RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
                MESSAGE = 'the extension pgvector is not on this server',
                HINT = 'Install its package there (see https://github.com/pgvector/pgvector), then: CREATE EXTENSION vector;';
        END IF;
        BEGIN
            CREATE EXTENSION IF NOT EXISTS vector;
        EXCEPTION WHEN insufficient_privilege THEN
            RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
                MESSAGE = 'this role may not create the extension `vector`',
                HINT = 'Ask a superuser (or, where it is a trusted extension, the database''s owner) for: '
                    'CREATE EXTENSION vector;';
        END;
        SELECT e.extversion INTO pgvector FROM pg_catalog.pg_extension e WHERE e.extname = 'vector';
    END IF;
    IF (pg_catalog.regexp_match(pgvector, '^(\d+)\.(\d+)'))::int[] < ARRAY[0, 8] THEN
        RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
            MESSAGE = pg_catalog.format('pgvector %s is too old, 0.8 is needed', pgvector),
            HINT = 'Install it on the server, then: ALTER EXTENSION vector UPDATE;';
    END IF;
    IF keeper IS NULL AND NOT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE') THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = pg_catalog.format('role %I may not create a schema here', current_user),
            HINT = pg_catalog.format('Ask the database''s owner for: GRANT CREATE ON DATABASE %I TO %I;',
                pg_catalog.current_database(), current_user);
    END IF;
END $begin$;

CREATE SCHEMA IF NOT EXISTS qwen_embed;
CREATE TABLE IF NOT EXISTS qwen_embed.migration (
    number int PRIMARY KEY,
    name text NOT NULL,
    digest text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
DO $needs$
BEGIN
    -- Only where it is missing: the lock would hold up workers until the installation has ended.
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_attribute
        WHERE attrelid = 'qwen_embed.migration'::pg_catalog.regclass AND attname = 'needs') THEN
        ALTER TABLE qwen_embed.migration ADD COLUMN needs int;
    END IF;
END $needs$;
COMMENT ON COLUMN qwen_embed.migration.needs IS
    'The oldest schema that a worker must be made for to go on beside this one; null: this one.';
COMMENT ON SCHEMA qwen_embed IS 'Tables that embed themselves. What is public: sql/README.md.';
COMMENT ON TABLE qwen_embed.migration IS 'The numbered files that ran here, each once.';
