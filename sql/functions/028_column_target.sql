-- Vectors in a column of the source itself. What else is known of each vector stands in mark_N, beside
-- its row's key; the view vectors_N joins the two and reads like a side table.

CREATE OR REPLACE FUNCTION qwen_embed.vector_column(vectorizer int, source regclass) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT a.attname::text
    FROM pg_depend d
    JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
    WHERE d.classid = 'pg_proc'::regclass AND d.objid = to_regproc('qwen_embed.vector_' || vector_column.vectorizer)
        AND d.refclassid = 'pg_class'::regclass AND d.refobjid = vector_column.source AND d.refobjsubid > 0;
END;
COMMENT ON FUNCTION qwen_embed.vector_column(int, regclass) IS
    'The column of the source that holds a vectorizer''s vectors, as it is called today: vector_N is parsed and '
    'follows renames. Null where they are in a side table.';

CREATE OR REPLACE FUNCTION qwen_embed.make_column(v qwen_embed.vectorizer, column_name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wanted text := format('%s.%s(%s)', qwen_embed.extension_schema(), v.storage, v.dimensions);
    there pg_attribute;
    other text := (
        SELECT e.name FROM qwen_embed.vectorizer e
        WHERE e.source = v.source AND e.id IS DISTINCT FROM v.id
            AND qwen_embed.vector_column(e.id, e.source) = column_name);
BEGIN
    SELECT a.* INTO there FROM pg_attribute a
    WHERE a.attrelid = v.source AND a.attname = column_name AND a.attnum > 0 AND NOT a.attisdropped;
    IF NOT pg_has_role(qwen_embed.keeper()::name, 'USAGE') THEN
        PERFORM qwen_embed.refuse('target => ''column'' is for the role that installed qwen_embed, which must own the source too',
            format('Leave target out, or create it as %I.', qwen_embed.keeper()));
    ELSIF other IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'duplicate_column',
            MESSAGE = format('column %I of %s holds the vectors of %L', column_name, v.source, other),
            HINT = 'Give another target_name => ….';
    ELSIF column_name = ANY (qwen_embed.content_columns(v.source, v.columns, v.template)) THEN
        PERFORM qwen_embed.refuse(format('column %I would hold the vector of a text that it is part of', column_name),
            'Give another target_name => ….');
    ELSIF there.attrelid IS NULL THEN
        PERFORM qwen_embed.lock_tables(ARRAY[v.source], 'ACCESS EXCLUSIVE');
        EXECUTE format('ALTER TABLE %s ADD COLUMN %I %s', v.source, column_name, wanted);
    ELSIF there.atttypid <> to_regtype(format('%s.%s', qwen_embed.extension_schema(), v.storage))
        OR there.atttypmod <> v.dimensions THEN
        RAISE EXCEPTION USING ERRCODE = 'datatype_mismatch',
            MESSAGE = format('column %I of %s is %s, not %s', column_name, v.source,
                format_type(there.atttypid, there.atttypmod), wanted),
            HINT = 'Give another target_name => …, or the storage and dimensions that it has.';
    ELSIF there.attnotnull OR there.attgenerated <> '' THEN
        PERFORM qwen_embed.refuse(format('column %I of %s is %s', column_name, v.source,
                CASE WHEN there.attnotnull THEN 'NOT NULL' ELSE 'generated' END),
            'A row has no vector at first, and workers write it later. Give another target_name => ….');
    END IF;
END $$;
COMMENT ON FUNCTION qwen_embed.make_column(qwen_embed.vectorizer, text) IS
    'Adds the column for the vectors, or raises if one of that name cannot hold them.';

CREATE OR REPLACE FUNCTION qwen_embed.make_mark(v qwen_embed.vectorizer, column_name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
DECLARE
    made text;
BEGIN
    IF NOT pg_has_role(qwen_embed.keeper()::name, 'USAGE') THEN
        PERFORM qwen_embed.refuse('target => ''column'' is for the role that installed qwen_embed',
            format('Leave it out for a side table, or ask %I to create the vectorizer.', qwen_embed.keeper()));
    END IF;
    IF to_regproc(format('qwen_embed.vector_%s', v.id)) IS NULL THEN
        EXECUTE format(
            'CREATE FUNCTION qwen_embed.vector_%s(%s) RETURNS %s.%s LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT ($1).%I; END',
            v.id, v.source, qwen_embed.extension_schema(), v.storage, column_name);
    END IF;
    EXECUTE format('REVOKE ALL ON FUNCTION qwen_embed.vector_%s FROM PUBLIC', v.id);
    EXECUTE format('GRANT ALL ON FUNCTION qwen_embed.vector_%s TO %I', v.id, qwen_embed.keeper());
    EXECUTE format(
        'CREATE TABLE IF NOT EXISTS qwen_embed.mark_%s (%s, content_hash bytea NOT NULL, vector_hash bytea, '
        'space text NOT NULL, offer text, embedded_at timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (%s))',
        v.id, qwen_embed.key_definition(v, 'k', ' NOT NULL'), qwen_embed.numbered(v, 'k#'));
    EXECUTE format('COMMENT ON TABLE qwen_embed.mark_%s IS %L', v.id,
        format('Of which text each vector in %s is, and who made it when.', v.source));
    IF to_regclass(format('qwen_embed.vectors_%s', v.id)) IS NULL THEN
        EXECUTE format(
            'CREATE VIEW qwen_embed.vectors_%1$s AS SELECT %2$s, 0 AS chunk, source.%3$I AS embedding, '
            -- A row that takes the key of one that is gone may bring another vector along.
            'CASE WHEN mark.vector_hash = sha256(%6$s.%7$I(source.%3$I)) THEN mark.content_hash END AS content_hash, '
            'mark.space, mark.offer, mark.embedded_at '
            'FROM qwen_embed.mark_%1$s AS mark JOIN %4$s AS source ON %5$s WHERE source.%3$I IS NOT NULL',
            v.id, qwen_embed.numbered(v, 'mark.k#'), qwen_embed.vector_column(v.id, v.source), v.source,
            (SELECT string_agg(format('source.%I %s mark.k%s', k.name, qwen_embed.equality(a.atttypid), k.place), ' AND ')
             FROM qwen_embed.key_of(v) k JOIN pg_attribute a ON a.attrelid = v.source AND a.attnum = k.attnum),
            qwen_embed.extension_schema(), v.storage || '_send');
        EXECUTE format('COMMENT ON VIEW qwen_embed.vectors_%s IS %L', v.id,
            format('The vectors in %s as workers and audits read them: a row without one is not here; '
                'content_hash is null beside a vector that no worker put there.', v.source));
    END IF;
    FOREACH made IN ARRAY ARRAY['mark', 'vectors'] LOOP
        EXECUTE format('REVOKE ALL ON qwen_embed.%s_%s FROM PUBLIC', made, v.id);
        EXECUTE format('GRANT ALL ON qwen_embed.%s_%s TO %I', made, v.id, qwen_embed.keeper());
    END LOOP;
END $$;
COMMENT ON FUNCTION qwen_embed.make_mark(qwen_embed.vectorizer, text) IS
    'mark_N, vector_N and vectors_N, of a vectorizer whose vectors are in a column of its source.';

CREATE OR REPLACE FUNCTION qwen_embed.drop_mark(v qwen_embed.vectorizer, drop_column boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
DECLARE
    column_name text := qwen_embed.vector_column(v.id, v.source);
BEGIN
    EXECUTE format('DROP VIEW IF EXISTS qwen_embed.vectors_%s', v.id);
    EXECUTE format('DROP TABLE IF EXISTS qwen_embed.mark_%s', v.id);
    IF to_regproc(format('qwen_embed.vector_%s', v.id)) IS NOT NULL THEN
        EXECUTE format('DROP FUNCTION qwen_embed.vector_%s', v.id);
    END IF;
    IF drop_column AND column_name IS NOT NULL THEN
        EXECUTE format('ALTER TABLE %s DROP COLUMN %I', v.source, column_name);
    END IF;
END $$;
COMMENT ON FUNCTION qwen_embed.drop_mark(qwen_embed.vectorizer, boolean) IS
    'Undoes make_mark(); on request it also drops the column with the vectors. The source is locked already.';

CREATE OR REPLACE FUNCTION qwen_embed.pause_because(vectorizer int, reason text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    UPDATE qwen_embed.vectorizer AS v
    SET paused = true, trouble = 'blocked', last_error = reason, last_error_at = clock_timestamp()
    WHERE v.id = pause_because.vectorizer AND v.target = 'column';
END;
COMMENT ON FUNCTION qwen_embed.pause_because(int, text) IS
    'What a worker calls, which may change no definition, when its own writes would make it pay for ever.';

CREATE OR REPLACE FUNCTION qwen_embed.show_texts() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    content regprocedure;
BEGIN
    FOR content IN
        SELECT p.oid FROM qwen_embed.vectorizer v
        JOIN pg_proc p ON p.oid = to_regproc('qwen_embed.content_' || v.id)
        WHERE v.target = 'column' AND pg_has_role(p.proowner, 'USAGE')
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO PUBLIC', content);
    END LOOP;
END $$;
COMMENT ON FUNCTION qwen_embed.show_texts() IS
    'Where no text is stored beside the vector, search() computes it from a row that its caller may read.';
