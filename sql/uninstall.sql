-- Removes the schema qwen_embed with all that is in it; @all@: the vectorizers first; @drop_data@: their
-- vectors too. Nothing else of a database carries its name.

SET LOCAL client_min_messages = warning;
SET LOCAL lock_timeout = '30s';
-- One after another, and none while an installation is under way.
SELECT pg_catalog.pg_advisory_xact_lock(x'7177656E'::bigint);

DO $uninstall$
DECLARE
    next_one text;
    left_over text;
BEGIN
    IF pg_catalog.to_regnamespace('qwen_embed') IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_schema_name', MESSAGE = 'qwen_embed is not installed here',
            HINT = 'There is nothing to remove.';
    END IF;
    -- The youngest first: one that is on its way to replace another goes before it.
    WHILE @all@ LOOP
        SELECT v.name INTO next_one FROM qwen_embed.vectorizer v ORDER BY v.id DESC LIMIT 1;
        EXIT WHEN next_one IS NULL;
        PERFORM qwen_embed.drop_vectorizer(next_one, drop_target => @drop_data@);
    END LOOP;
    -- Not while a vectorizer is being made that cannot be seen yet.
    LOCK TABLE qwen_embed.vectorizer IN ACCESS EXCLUSIVE MODE;
    SELECT pg_catalog.string_agg(v.name, ', ' ORDER BY v.name) INTO left_over FROM qwen_embed.vectorizer v;
    IF left_over IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'dependent_objects_still_exist',
            MESSAGE = pg_catalog.format('vectorizers are left: %s', left_over),
            HINT = 'Drop them first (qwen-embed pg drop), or all at once: qwen-embed pg uninstall --all';
    END IF;
    DROP SCHEMA qwen_embed CASCADE;
END $uninstall$;
