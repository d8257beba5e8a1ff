-- A condition: an SQL expression over one row, which decides whether the row has a vector.

CREATE OR REPLACE FUNCTION qwen_embed.condition_columns(source regclass, condition text) RETURNS text[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
DECLARE
    named text := (SELECT quote_ident(c.relname) FROM pg_class c WHERE c.oid = source);
    said text;
    used text[];
    probe refcursor;
BEGIN
    -- Postgres itself says whether an expression depends on its row alone: it must be fit to be the
    -- predicate of an index. A condition that read other tables or the clock would change without a
    -- trigger. The copy has the table's name, so that columns may be written with it.
    EXECUTE format('CREATE TEMP TABLE %s (LIKE %s) ON COMMIT DROP', named, source);
    BEGIN
        -- A cursor takes one statement, where EXECUTE would run all that stand behind a semicolon.
        OPEN probe FOR EXECUTE format(E'SELECT FROM pg_temp.%s WHERE (%s\n)', named, condition);
        CLOSE probe;
        EXECUTE format(E'CREATE INDEX qwen_embed_condition ON pg_temp.%s ((1)) WHERE (%s\n)', named, condition);
    EXCEPTION WHEN OTHERS THEN
        said := CASE SQLSTATE WHEN '42P11' THEN 'it is not one expression' ELSE SQLERRM END;
        EXECUTE format('DROP TABLE pg_temp.%s', named);
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('condition cannot be used: %s', said),
            HINT = 'It is an SQL expression over columns of the row, for example published AND language = ''en''. '
                'Names outside pg_catalog are written with their schema; other tables, now() and the like are not '
                'allowed, since they change without a write to the row.';
    END;
    SELECT array_agg(a.attname::text ORDER BY a.attnum) INTO used
    FROM pg_depend d
    JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
    WHERE d.classid = 'pg_class'::regclass AND d.objid = to_regclass('pg_temp.qwen_embed_condition')
        AND d.refobjid = to_regclass('pg_temp.' || named) AND d.refobjsubid > 0;
    EXECUTE format('DROP TABLE pg_temp.%s', named);
    IF used IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'condition names no column', HINT = 'For example published AND language = ''en''.';
    END IF;
    RETURN used;
END $$;
COMMENT ON FUNCTION qwen_embed.condition_columns(regclass, text) IS
    'The columns that a condition reads. Raises unless it depends on the row alone.';

CREATE OR REPLACE FUNCTION qwen_embed.content_body(source regclass, columns text[], template text, condition text)
RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    content text := qwen_embed.content_expression(source, columns, template);
BEGIN
    IF condition IS NULL THEN
        RETURN 'SELECT ' || content;
    END IF;
    RETURN format(E'SELECT CASE WHEN (%s\n) THEN %s END FROM (SELECT %s) AS %s', condition, content,
        (SELECT string_agg(format('($1).%I AS %I', c, c), ', ')
         FROM unnest(qwen_embed.condition_columns(source, condition)) c),
        (SELECT quote_ident(relname) FROM pg_class WHERE oid = source));
END $$;
COMMENT ON FUNCTION qwen_embed.content_body(regclass, text[], text, text) IS
    'The body of content_N: the text of a row, or null where the condition is not true.';
