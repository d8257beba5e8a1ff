-- From a row to its text.

CREATE OR REPLACE FUNCTION qwen_embed.require_column(source regclass, name text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known text[] := ARRAY(SELECT a.attname::text FROM pg_attribute a
        WHERE a.attrelid = source AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum);
BEGIN
    IF require_column.name = ANY (known) THEN
        RETURN require_column.name;
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'undefined_column',
        MESSAGE = format('table %s has no column %s', source, coalesce(quote_ident(name), 'NULL')),
        HINT = coalesce(
            'Did you mean ' || quote_ident(qwen_embed.nearest(name, known)) || '?',
            format('It has: %s.', array_to_string(known, ', ')));
END $$;
COMMENT ON FUNCTION qwen_embed.require_column(regclass, text) IS
    'The name itself if the table has such a column, else an error that names the nearest one.';

CREATE OR REPLACE FUNCTION qwen_embed.template_parts(template text)
RETURNS TABLE (literal text, name text)
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    piece text;
BEGIN
    FOR piece IN SELECT m[1] FROM regexp_matches(template, '(\{\{|\}\}|\{[^{}]*\}|[^{}]+|.)', 'g') m
    LOOP
        IF piece IN ('{{', '}}') THEN
            literal := left(piece, 1); name := NULL;
        ELSIF piece LIKE '{%}' THEN
            literal := NULL; name := substr(piece, 2, length(piece) - 2);
        ELSIF piece IN ('{', '}') THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
                MESSAGE = format('template has a single %s', piece),
                HINT = 'Name a column as {column}; write {{ or }} for a brace itself.';
        ELSE
            literal := piece; name := NULL;
        END IF;
        RETURN NEXT;
    END LOOP;
END $$;
COMMENT ON FUNCTION qwen_embed.template_parts(text) IS
    'A template as literals and column names, in order.';

CREATE OR REPLACE FUNCTION qwen_embed.content_columns(source regclass, columns text[], template text)
RETURNS text[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT array_agg(qwen_embed.require_column(source, c) ORDER BY place)
    FROM (
        SELECT c, min(place) AS place FROM (
            SELECT c, place FROM unnest(columns) WITH ORDINALITY AS given(c, place)
            UNION ALL
            SELECT name, place
            FROM qwen_embed.template_parts(template) WITH ORDINALITY AS part(literal, name, place)
            WHERE name IS NOT NULL
        ) AS named GROUP BY c
    ) AS once;
END;
COMMENT ON FUNCTION qwen_embed.content_columns(regclass, text[], text) IS
    'The columns that a text is made of, each once, each known to exist.';

CREATE OR REPLACE FUNCTION qwen_embed.content_expression(source regclass, columns text[], template text)
RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    filled text := (
        SELECT string_agg(format('nullif((($1).%I)::text, '''')', c), ', ' ORDER BY place)
        FROM unnest(qwen_embed.content_columns(source, columns, template))
            WITH ORDINALITY AS named(c, place));
BEGIN
    IF template IS NULL THEN
        RETURN format('nullif(concat_ws(chr(10), %s), '''')', filled);
    END IF;
    -- A template whose columns are all empty makes no text, whatever stands between them.
    RETURN (
        SELECT format('CASE WHEN coalesce(%s) IS NOT NULL THEN concat(%s) END', filled,
            string_agg(coalesce(quote_literal(literal), format('(($1).%I)::text', name)), ', ' ORDER BY place))
        FROM qwen_embed.template_parts(template) WITH ORDINALITY AS part(literal, name, place));
END $$;
COMMENT ON FUNCTION qwen_embed.content_expression(regclass, text[], text) IS
    'The SQL expression of a row''s text; $1 is the row. Null or empty means: no vector.';
