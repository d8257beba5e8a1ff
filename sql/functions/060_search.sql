-- From a query's vector to the nearest rows. Any role may call these: they read what it may read.

CREATE OR REPLACE FUNCTION qwen_embed.definition(
    INOUT name text, OUT id int, OUT source regclass, OUT model text, OUT dimensions int,
    OUT instruction text, OUT target_table regclass, OUT storage text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wanted text := name;
BEGIN
    SELECT v.name, v.id, v.source, v.model, v.dimensions, v.instruction, v.target_table, v.storage
    INTO name, id, source, model, dimensions, instruction, target_table, storage
    FROM qwen_embed.vectorizer v WHERE v.name = wanted;
    IF id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object',
            MESSAGE = format('there is no vectorizer %L', wanted),
            HINT = coalesce(
                'Did you mean ' || quote_literal(qwen_embed.nearest(wanted, ARRAY(SELECT v.name FROM qwen_embed.vectorizer v))) || '?',
                'SELECT name FROM qwen_embed.vectorizer; lists them.');
    END IF;
END $$;
COMMENT ON FUNCTION qwen_embed.definition(text) IS
    'The part of a vectorizer that everybody may read, or an error that suggests the nearest name.';

CREATE OR REPLACE FUNCTION qwen_embed.query_text(name text, text text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    -- As the models were trained to read it: no space after "Query:".
    SELECT CASE WHEN v.model LIKE 'qwen3-embedding-%' THEN concat(
        'Instruct: ', coalesce(v.instruction,
            'Given a web search query, retrieve relevant passages that answer the query'),
        chr(10), 'Query:', query_text.text)
        WHEN v.model LIKE 'nomic-embed-text-%' THEN concat('search_query: ', query_text.text)
        ELSE query_text.text END
    FROM qwen_embed.definition(query_text.name) AS v;
END;
COMMENT ON FUNCTION qwen_embed.query_text(text, text) IS
    'The exact text whose embedding searches this vectorizer: with the instruction or prefix that its model wants.';

CREATE OR REPLACE FUNCTION qwen_embed.filter_condition(source regclass, filter jsonb) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wanted record;
    type text;
    equality text;
    condition text := '';
    known text[] := ARRAY(SELECT a.attname::text FROM pg_attribute a
        WHERE a.attrelid = source AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum);
BEGIN
    IF jsonb_typeof(filter) <> 'object' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('filter is a JSON %s, not an object', jsonb_typeof(filter)),
            HINT = 'For example {"language": "en", "year": [2025, 2026]}.';
    END IF;
    FOR wanted IN SELECT f.key, f.value FROM jsonb_each(filter) f ORDER BY f.key LOOP
        SELECT format_type(a.atttypid, a.atttypmod), qwen_embed.equality(a.atttypid) INTO type, equality
        FROM pg_attribute a
        WHERE a.attrelid = source AND a.attname = wanted.key AND a.attnum > 0 AND NOT a.attisdropped;
        IF type IS NULL THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
                MESSAGE = format('filter names %I, which is no column of %s', wanted.key, source),
                HINT = coalesce(
                    'The nearest is ' || quote_ident(qwen_embed.nearest(wanted.key, known)) || '.',
                    format('It has: %s.', array_to_string(known, ', ')));
        END IF;
        -- Typed literals, not parameters: the planner then knows how many rows a value selects.
        condition := condition || ' AND ' || CASE jsonb_typeof(wanted.value)
            WHEN 'null' THEN format('s.%I IS NULL', wanted.key)
            WHEN 'array' THEN format('s.%I %s ANY (ARRAY[%s]::%s[])', wanted.key, equality,
                (SELECT string_agg(format('%L::%s', e, type), ', ') FROM jsonb_array_elements_text(wanted.value) e), type)
            ELSE format('s.%I %s %L::%s', wanted.key, equality, wanted.value #>> '{}', type) END;
    END LOOP;
    RETURN condition;
END $$;
COMMENT ON FUNCTION qwen_embed.filter_condition(regclass, jsonb) IS
    'A filter {column: value or list of values} as SQL over the source s; unknown columns are refused.';

CREATE OR REPLACE FUNCTION qwen_embed.search(
    name text, query @vector_schema@.vector, k int DEFAULT 10, filter jsonb DEFAULT NULL, exact boolean DEFAULT false)
RETURNS TABLE (key jsonb, chunk int, text text, distance float8)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v record;
    pgvector text := qwen_embed.extension_schema();
    probe text;
    distance_to text;
    key_object text;
    same_row text;
    given int;
    saved_ef text := current_setting('hnsw.ef_search', true);
    saved_scan text := current_setting('hnsw.iterative_scan', true);
BEGIN
    SELECT * INTO v FROM qwen_embed.definition(search.name);
    IF NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = v.source)
        OR NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = v.target_table) THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_table',
            MESSAGE = format('a table of the vectorizer %L was dropped', v.name),
            HINT = format('SELECT qwen_embed.drop_vectorizer(%L);', v.name);
    END IF;
    EXECUTE format('SELECT %s.vector_dims($1)', pgvector) INTO given USING query;
    IF given IS DISTINCT FROM v.dimensions THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('the query has %s dimensions, %L holds vectors of %s', coalesce(given::text, 'no'), v.name, v.dimensions),
            HINT = format('Embed it with %s at %s dimensions.', v.model, v.dimensions);
    ELSIF k IS NULL OR k < 1 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('k is %s', coalesce(k::text, 'null')),
            HINT = 'Ask for at least one row.';
    END IF;
    probe := format('$1::%s.%I(%s)', pgvector, v.storage, v.dimensions);
    distance_to := format('e.embedding OPERATOR(%s.<=>) %s', pgvector, probe);
    SELECT string_agg(format('%L, s.%I', source_column, source_column), ', ' ORDER BY place),
        string_agg(format('s.%I %s e.%I', source_column, equality, target_column), ' AND ' ORDER BY place)
    INTO key_object, same_row
    FROM qwen_embed.key_columns(v.id);

    -- Local settings would outlive this call to the end of the caller's transaction: put back below.
    PERFORM set_config('hnsw.ef_search', least(1000, greatest(100, 4 * k::bigint))::text, true),
            set_config('hnsw.iterative_scan', 'relaxed_order', true);
    -- Join, filter, order and limit on one level: ordering in a sub-select that is joined afterwards
    -- was planned as a full sort (190 ms against 2). Adding 0 keeps the index out of an exact search.
    RETURN QUERY EXECUTE format(
        'SELECT found.key, found.chunk, found.text, found.distance FROM ('
        'SELECT jsonb_build_object(%s) AS key, e.chunk, e.text, '
        '(e.embedding::%s.vector OPERATOR(%s.<=>) $1)::float8 AS distance '
        'FROM %s AS e JOIN %s AS s ON %s WHERE true%s ORDER BY (%s)%s LIMIT $2) AS found '
        'ORDER BY found.distance, found.key, found.chunk',
        key_object, pgvector, pgvector, v.target_table, v.source, same_row,
        CASE WHEN filter IS NULL THEN '' ELSE qwen_embed.filter_condition(v.source, filter) END,
        distance_to, CASE WHEN exact THEN ' + 0' ELSE '' END)
        USING query, k;
    PERFORM set_config('hnsw.ef_search', coalesce(nullif(saved_ef, ''), '40'), true),
            set_config('hnsw.iterative_scan', coalesce(nullif(saved_scan, ''), 'off'), true);
END $$;
COMMENT ON FUNCTION qwen_embed.search(text, @vector_schema@.vector, int, jsonb, boolean) IS
    'The k rows nearest to a query''s vector, by cosine distance, nearest first. filter: {source column: value or '
    'list of values}. exact: read every vector, not the index. Rows the caller may not see are not found.';
