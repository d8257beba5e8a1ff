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

CREATE OR REPLACE FUNCTION qwen_embed.serving(name text, model text, dimensions int) RETURNS int
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT s.id
    FROM qwen_embed.vectorizer v
    JOIN qwen_embed.vectorizer s ON s.id = v.id OR (s.id = v.replaces AND s.retired_at IS NOT NULL)
    WHERE v.name = serving.name AND s.dimensions = serving.dimensions AND s.model = coalesce(serving.model, s.model)
    ORDER BY s.id DESC LIMIT 1;
END;
COMMENT ON FUNCTION qwen_embed.serving(text, text, int) IS
    'Who serves a space (of any model, if null) under a name: the vectorizer itself, or the one that it replaced and '
    'whose vectors are kept. A query that was embedded just before a move ended finds the vectors it was made for.';

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

CREATE OR REPLACE FUNCTION qwen_embed.filter_type(type oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    -- Without length or precision, and not a type that cuts: 'abcdef'::varchar(3) is 'abc', and would
    -- find rows that were not asked for.
    WITH RECURSIVE layer(type) AS (
        SELECT filter_type.type
        UNION ALL
        SELECT t.typbasetype FROM layer JOIN pg_type t ON t.oid = layer.type WHERE t.typtype = 'd'
    )
    SELECT CASE WHEN t.oid IN ('name'::regtype, '"char"'::regtype) THEN 'text' ELSE format_type(t.oid, -1) END
    FROM layer JOIN pg_type t ON t.oid = layer.type WHERE t.typtype <> 'd';
END;
COMMENT ON FUNCTION qwen_embed.filter_type(oid) IS
    'The type that a filter''s value is read as, for a column of this type; domains resolved.';

CREATE OR REPLACE FUNCTION qwen_embed.in_one_line(value text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT regexp_replace(left(value, 80), '[\u0001-\u001f\u007f-\u009f\u2028\u2029]+', ' ', 'g');
END;
COMMENT ON FUNCTION qwen_embed.in_one_line(text) IS 'The beginning of a text without line ends, for messages.';

CREATE OR REPLACE FUNCTION qwen_embed.filter_literal(value jsonb, type text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Typed literals, not parameters: the planner then knows how many rows a value selects.
    IF type = 'jsonb' THEN
        RETURN format('%L::jsonb', value::text);
    ELSIF jsonb_typeof(value) IN ('object', 'array') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'a value, not JSON, is needed';
    END IF;
    RETURN format('%L::%s', value #>> '{}', type);
END $$;
COMMENT ON FUNCTION qwen_embed.filter_literal(jsonb, text) IS 'One value of a filter as SQL of this type.';

CREATE OR REPLACE FUNCTION qwen_embed.filter_term(
    subject text, equality text, type text, is_array boolean, value jsonb) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    literals text[];
    term text;
BEGIN
    IF jsonb_typeof(value) = 'null' THEN
        RETURN format('%s IS NULL', subject);
    ELSIF jsonb_typeof(value) <> 'array' THEN
        RETURN format('%s %s %s', subject, equality, qwen_embed.filter_literal(value, type));
    END IF;
    literals := ARRAY(SELECT qwen_embed.filter_literal(e, type) FROM jsonb_array_elements(value) e WHERE jsonb_typeof(e) <> 'null');
    -- ANY would look into the elements of a column that is an array itself.
    term := CASE
        WHEN cardinality(literals) = 0 THEN 'false'
        WHEN is_array THEN (SELECT string_agg(format('%s %s %s', subject, equality, l), ' OR ') FROM unnest(literals) l)
        ELSE format('%s %s ANY (ARRAY[%s])', subject, equality, array_to_string(literals, ', ')) END;
    IF jsonb_path_exists(value, 'strict $[*] ? (@ == null)') THEN
        term := format('%s OR %s IS NULL', term, subject);
    END IF;
    RETURN term;
END $$;
COMMENT ON FUNCTION qwen_embed.filter_term(text, text, text, boolean, jsonb) IS
    'That subject equals a value, one of a list of values, or is null, as SQL.';

CREATE OR REPLACE FUNCTION qwen_embed.filter_condition(source regclass, filter jsonb) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wanted record;
    equality text;
    type text;
    is_array boolean;
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
        SELECT qwen_embed.filter_type(a.atttypid), qwen_embed.equality(a.atttypid),
            qwen_embed.filter_type(a.atttypid) LIKE '%[]'
        INTO type, equality, is_array
        FROM pg_attribute a
        WHERE a.attrelid = source AND a.attname = wanted.key AND a.attnum > 0 AND NOT a.attisdropped;
        IF type IS NULL THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
                MESSAGE = format('filter names %s, which is no column of %s', quote_ident(qwen_embed.in_one_line(wanted.key)), source),
                HINT = coalesce(
                    'The nearest is ' || quote_ident(qwen_embed.nearest(wanted.key, known)) || '.',
                    format('It has: %s.', array_to_string(known, ', ')));
        END IF;
        -- Tried on nothing first: what Postgres says of a value that it cannot read names no column.
        BEGIN
            EXECUTE format('SELECT %s',
                qwen_embed.filter_term(format('NULL::%s', type), equality, type, is_array, wanted.value));
        EXCEPTION WHEN OTHERS THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
                MESSAGE = format('filter cannot compare %I, which is %s, with %s',
                    wanted.key, type, qwen_embed.in_one_line(wanted.value::text)),
                HINT = CASE WHEN SQLSTATE = '42883' THEN 'Its type has no equality; filter by another column.'
                    ELSE format('Give a value of that type, a list of such values, or null (%s).', qwen_embed.in_one_line(SQLERRM)) END;
        END;
        condition := format('%s AND (%s)', condition, qwen_embed.filter_term(
            format(CASE type WHEN 'text' THEN 's.%I::text' ELSE 's.%I' END, wanted.key),
            equality, type, is_array, wanted.value));
    END LOOP;
    RETURN condition;
END $$;
COMMENT ON FUNCTION qwen_embed.filter_condition(regclass, jsonb) IS
    'A filter {column: value or list of values} as SQL over the source s; unknown columns are refused.';

CREATE OR REPLACE FUNCTION qwen_embed.search_statement(
    vectorizer int, condition text, exact boolean) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    pgvector text := qwen_embed.extension_schema();
    key_object text;
    same_row text;
    vectors text := 'e.embedding';
    chunk_and_text text := 'e.chunk, e.text';
    found_in text;
BEGIN
    SELECT string_agg(format('%L, s.%I', source_column, source_column), ', ' ORDER BY place),
        string_agg(CASE WHEN target_column IS NOT NULL THEN format('s.%I %s e.%I', source_column, equality, target_column) END,
            ' AND ' ORDER BY place)
    INTO key_object, same_row
    FROM qwen_embed.key_columns(search_statement.vectorizer);
    SELECT format('%s AS e JOIN %s AS s ON %s', v.target_table, v.source, same_row) INTO found_in
    FROM qwen_embed.vectorizer v WHERE v.id = search_statement.vectorizer;
    IF same_row IS NULL THEN  -- the vectors are in the source itself
        SELECT format('s.%I', qwen_embed.vector_column(v.id, v.source)), format('0, qwen_embed.content_%s(s)', v.id),
            format('%s AS s', v.source)
        INTO vectors, chunk_and_text, found_in
        FROM qwen_embed.vectorizer v WHERE v.id = search_statement.vectorizer;
        search_statement.condition := format(' AND %s IS NOT NULL%s', vectors, search_statement.condition);
    END IF;
    -- Join, filter, order and limit on one level: ordering in a sub-select that is joined afterwards
    -- was planned as a full sort (190 ms against 2). What the index finds is put in order by the whole
    -- vectors outside, where the candidates are few. Adding 0 keeps the index out of an exact search.
    RETURN (
        SELECT format(
            'SELECT found.key, found.chunk, found.text, found.distance FROM ('
            'SELECT jsonb_build_object(%s) AS key, %s, '
            '(%s::%s.vector OPERATOR(%s.<=>) $1)::float8 AS distance '
            'FROM %s WHERE true%s ORDER BY %s LIMIT $3) AS found(key, chunk, text, distance) '
            'ORDER BY found.distance, found.key, found.chunk LIMIT $2',
            key_object, chunk_and_text, vectors, pgvector, pgvector, found_in, search_statement.condition,
            CASE WHEN exact THEN format('(%s OPERATOR(%s.<=>) %s) + 0', vectors, pgvector, probe.probe)
                ELSE format('%s %s %s',
                    qwen_embed.index_expression(v.storage, v.index_kind, v.dimensions, vectors), o.operator,
                    qwen_embed.index_expression(v.storage, v.index_kind, v.dimensions, probe.probe)) END)
        FROM qwen_embed.vectorizer v,
            LATERAL (SELECT format('($1::%s.%I(%s))', pgvector, v.storage, v.dimensions) AS probe) AS probe,
            LATERAL qwen_embed.index_operators(v.storage, v.index_kind) AS o
        WHERE v.id = search_statement.vectorizer);
END $$;
COMMENT ON FUNCTION qwen_embed.search_statement(int, text, boolean) IS
    'The query of a search: $1 the query''s vector, $2 how many rows, $3 how many candidates the index gives.';

CREATE OR REPLACE FUNCTION qwen_embed.reads_less(
    source regclass, target regclass, condition text, candidates bigint) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- As the planner does: the last count, stretched to the pages there are now. About 60 rows fill a
    -- page, whatever the vectors' length is: long ones are stored elsewhere.
    total float8 := (
        SELECT CASE WHEN c.relpages > 0 THEN c.reltuples / c.relpages ELSE 60 END
            * pg_relation_size(c.oid) / current_setting('block_size')::int
        FROM pg_class c WHERE c.oid = target);
    passing float8 := total;
    plan json;
BEGIN
    IF condition <> '' OR row_security_active(source) THEN
        EXECUTE format('EXPLAIN (FORMAT JSON) SELECT FROM %s AS s WHERE true%s', source, condition) INTO plan;
        passing := least(total, (plan #>> '{0,Plan,Plan Rows}')::float8);
    END IF;
    -- Through the index a row costs about four times as much as in order, and total / passing rows are
    -- looked at for each candidate. Postgres itself does not know what it costs to read long vectors:
    -- for k = 200 of 20,000 rows it sorted them all, 220 ms against 21.
    RETURN passing * passing <= 4.0 * candidates * total;
END $$;
COMMENT ON FUNCTION qwen_embed.reads_less(regclass, regclass, text, bigint) IS
    'Whether an exact search over the rows that pass the filter and the policies is the cheaper one, by what '
    'Postgres expects of them.';

CREATE OR REPLACE FUNCTION qwen_embed.search_in(
    vectorizer int, query @vector_schema@.vector, k int, filter jsonb, exact boolean)
RETURNS TABLE (key jsonb, chunk int, text text, distance float8)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v record;
    given int;
    norm float8;
    condition text := '';
    candidates bigint := greatest(100, 4 * k::bigint);
    saved_ef text := current_setting('hnsw.ef_search', true);
    saved_scan text := current_setting('hnsw.iterative_scan', true);
    saved_sort text := current_setting('enable_sort');
    saved_jit text := current_setting('jit');
    keys jsonb[];
    chunks int[];
    texts text[];
    distances float8[];
BEGIN
    SELECT d.id, d.name, d.source, d.model, d.dimensions, coalesce(d.target_table, d.source) AS target_table,
        d.index_kind
    INTO v
    FROM qwen_embed.vectorizer d WHERE d.id = search_in.vectorizer;
    IF v.id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object',
            MESSAGE = 'the vectorizer was dropped while it was searched', HINT = 'Search again, by its name.';
    ELSIF has_table_privilege(v.source, 'SELECT') IS NULL OR has_table_privilege(v.target_table, 'SELECT') IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_table',
            MESSAGE = format('a table of the vectorizer %L was dropped', v.name),
            HINT = format('SELECT qwen_embed.drop_vectorizer(%L);', v.name);
    END IF;
    EXECUTE format('SELECT %1$s.vector_dims($1), %1$s.vector_norm($1)', qwen_embed.extension_schema())
        INTO given, norm USING query;
    IF given IS DISTINCT FROM v.dimensions THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('the query has %s dimensions, %L holds vectors of %s', coalesce(given::text, 'no'), v.name, v.dimensions),
            HINT = format('Embed it with %s at %s dimensions.', v.model, v.dimensions);
    ELSIF norm = 0 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'the query''s vector is zero',
            HINT = 'It has no direction, so nothing is near it; embed a text.';
    ELSIF k IS NULL OR k < 1 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('k is %s', coalesce(k::text, 'null')),
            HINT = 'Ask for at least one row.';
    END IF;
    IF filter IS NOT NULL THEN
        condition := qwen_embed.filter_condition(v.source, filter);
    END IF;

    IF exact IS NOT TRUE AND NOT qwen_embed.reads_less(v.source, v.target_table, condition, candidates) THEN
        -- Local settings would outlive this call to the end of the caller's transaction: put back below.
        -- Without iterating, an index gives up after ef_search rows, however few of them pass the filter.
        -- Without sorting, the planner takes the index where there is one; before Postgres 18 it counts
        -- the last, small sort as so dear that it would have the query compiled.
        PERFORM set_config('hnsw.ef_search', least(1000, candidates)::text, true),
                set_config('hnsw.iterative_scan', 'relaxed_order', true),
                set_config('enable_sort', 'off', true),
                set_config('jit', 'off', true);
        EXECUTE format(
            'SELECT array_agg(f.key), array_agg(f.chunk), array_agg(f.text), array_agg(f.distance) FROM (%s) AS f',
            qwen_embed.search_statement(v.id, condition, false))
            INTO keys, chunks, texts, distances
            USING query, k, CASE WHEN v.index_kind IN ('binary', 'prefix') THEN candidates ELSE k END;
        PERFORM set_config('hnsw.ef_search', coalesce(nullif(saved_ef, ''), '40'), true),
                set_config('hnsw.iterative_scan', coalesce(nullif(saved_scan, ''), 'off'), true),
                set_config('enable_sort', saved_sort, true),
                set_config('jit', saved_jit, true);
        IF cardinality(keys) = k THEN
            RETURN QUERY SELECT * FROM unnest(keys, chunks, texts, distances);
            RETURN;
        END IF;
        -- The index stops after hnsw.max_scan_tuples. Either there are no more rows, or those that pass
        -- are further away than it looked, and rarer than Postgres thought.
    END IF;
    RETURN QUERY EXECUTE qwen_embed.search_statement(v.id, condition, true) USING query, k, k;
END $$;
COMMENT ON FUNCTION qwen_embed.search_in(int, @vector_schema@.vector, int, jsonb, boolean) IS
    'search() in one vectorizer, whatever it is called by now: who embeds a query for it must search it, '
    'and not the one that a move has put in its place meanwhile.';

CREATE OR REPLACE FUNCTION qwen_embed.search(
    name text, query @vector_schema@.vector, k int DEFAULT 10, filter jsonb DEFAULT NULL, exact boolean DEFAULT false)
RETURNS TABLE (key jsonb, chunk int, text text, distance float8)
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT * FROM qwen_embed.search_in(
        coalesce(qwen_embed.serving(name, NULL, @vector_schema@.vector_dims(query)), (qwen_embed.definition(name)).id),
        query, k, filter, exact);
$$;
COMMENT ON FUNCTION qwen_embed.search(text, @vector_schema@.vector, int, jsonb, boolean) IS
    'The k rows nearest to a query''s vector, by cosine distance, nearest first. filter: {source column: value or '
    'list of values}. exact: read every vector, not the index. Rows the caller may not see are not found.';
