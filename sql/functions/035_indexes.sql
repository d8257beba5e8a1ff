-- Which index vectors get, and what exactly is indexed. The builder of indexes and search() both read
-- it here: an index serves only queries that say the very expression it was made of.

CREATE OR REPLACE FUNCTION qwen_embed.longest_indexed(storage text) RETURNS int
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT CASE storage WHEN 'vector' THEN 2000 ELSE 4000 END;
END;
COMMENT ON FUNCTION qwen_embed.longest_indexed(text) IS
    'How many dimensions a plain HNSW index takes: HNSW_MAX_DIM of pgvector 0.8, twice that for halfvec.';

CREATE OR REPLACE FUNCTION qwen_embed.choose_storage(storage text, dimensions int) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF storage NOT IN ('vector', 'halfvec') THEN
        PERFORM qwen_embed.refuse(format('storage => %L is not supported', storage), 'Use vector or halfvec.');
    END IF;
    RETURN coalesce(storage, CASE WHEN dimensions <= qwen_embed.longest_indexed('vector') THEN 'vector' ELSE 'halfvec' END);
END $$;
COMMENT ON FUNCTION qwen_embed.choose_storage(text, int) IS
    'The storage that was asked for, else the most exact one that a plain index can hold; raises for others.';

CREATE OR REPLACE FUNCTION qwen_embed.choose_index(storage text, index_kind text, dimensions int) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    longest int := qwen_embed.longest_indexed(storage);
BEGIN
    IF index_kind NOT IN ('hnsw', 'binary', 'prefix', 'none') THEN
        PERFORM qwen_embed.refuse(format('index_kind => %L is not supported', index_kind),
            'Use hnsw, binary, prefix or none.');
    ELSIF index_kind = 'hnsw' AND dimensions > longest THEN
        PERFORM qwen_embed.refuse(
            format('an HNSW index on %s holds at most %s dimensions, not %s', storage, longest, dimensions),
            CASE WHEN dimensions <= qwen_embed.longest_indexed('halfvec') THEN 'Ask for storage => ''halfvec'', or '
                ELSE 'Ask for ' END || 'index_kind => ''binary'' or ''prefix'', which fit any length.');
    END IF;
    RETURN coalesce(index_kind, CASE WHEN dimensions <= longest THEN 'hnsw' ELSE 'binary' END);
END $$;
COMMENT ON FUNCTION qwen_embed.choose_index(text, text, int) IS
    'The kind of index that was asked for, else hnsw where it fits and binary where it does not; raises for '
    'one that cannot be.';

CREATE OR REPLACE FUNCTION qwen_embed.index_expression(
    storage text, index_kind text, dimensions int, vectors text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    -- Written as Postgres prints it, so that an index can be recognized by its definition.
    SELECT CASE index_kind
        WHEN 'binary' THEN format('((%s.binary_quantize(%s))::bit(%s))',
            qwen_embed.extension_schema(), vectors, dimensions)
        WHEN 'prefix' THEN format('((%1$s.subvector(%2$s, 1, %3$s))::%1$s.halfvec(%3$s))',
            qwen_embed.extension_schema(), vectors, least(dimensions, 1024))
        ELSE vectors END;
END;
COMMENT ON FUNCTION qwen_embed.index_expression(text, text, int, text) IS
    'What is indexed of vectors (a column or a value, as SQL). binary: one bit of each number. prefix: the '
    'first 1,024 numbers. Both only find candidates, which the whole vectors then put in order.';

CREATE OR REPLACE FUNCTION qwen_embed.index_operators(
    storage text, index_kind text, OUT operator_class text, OUT operator text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT CASE index_kind WHEN 'binary' THEN 'bit_hamming_ops' WHEN 'prefix' THEN 'halfvec_cosine_ops'
            ELSE storage || '_cosine_ops' END,
        format('OPERATOR(%s.%s)', qwen_embed.extension_schema(),
            CASE index_kind WHEN 'binary' THEN '<~>' ELSE '<=>' END);
END;
COMMENT ON FUNCTION qwen_embed.index_operators(text, text) IS
    'The operator class of an index on index_expression(), and the operator that it orders by, qualified.';

CREATE OR REPLACE FUNCTION qwen_embed.indexed_table(v qwen_embed.vectorizer) RETURNS regclass
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT coalesce(v.target_table, v.source);
END;
COMMENT ON FUNCTION qwen_embed.indexed_table(qwen_embed.vectorizer) IS 'The table that holds the vectors.';

CREATE OR REPLACE FUNCTION qwen_embed.indexed_column(v qwen_embed.vectorizer) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT CASE v.target WHEN 'table' THEN 'embedding' ELSE quote_ident(qwen_embed.vector_column(v.id, v.source)) END;
END;
COMMENT ON FUNCTION qwen_embed.indexed_column(qwen_embed.vectorizer) IS 'The column that holds them, quoted.';

CREATE OR REPLACE FUNCTION qwen_embed.index_name(v qwen_embed.vectorizer) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT qwen_embed.derived_name(c.relname::text, '_' || v.index_kind)
    FROM pg_class c WHERE c.oid = qwen_embed.indexed_table(v);
END;
COMMENT ON FUNCTION qwen_embed.index_name(qwen_embed.vectorizer) IS
    'What the index is called: <target>_hnsw, _binary or _prefix.';

CREATE OR REPLACE FUNCTION qwen_embed.index_statement(v qwen_embed.vectorizer) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT format('CREATE INDEX CONCURRENTLY %I ON %I.%I USING hnsw (%s %s.%I)',
        qwen_embed.index_name(v), n.nspname, c.relname,
        qwen_embed.index_expression(v.storage, v.index_kind, v.dimensions, qwen_embed.indexed_column(v)),
        qwen_embed.extension_schema(), o.operator_class)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace,
        LATERAL qwen_embed.index_operators(v.storage, v.index_kind) AS o
    WHERE c.oid = qwen_embed.indexed_table(v) AND v.index_kind <> 'none';
END;
COMMENT ON FUNCTION qwen_embed.index_statement(qwen_embed.vectorizer) IS
    'The statement that builds the index without stopping writers; null where none is wanted.';

CREATE OR REPLACE FUNCTION qwen_embed.standing_index(v qwen_embed.vectorizer) RETURNS regclass
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT i.indexrelid::regclass
    FROM pg_index i
    JOIN pg_class c ON c.oid = i.indexrelid
    JOIN pg_am a ON a.oid = c.relam AND a.amname = 'hnsw'
    JOIN pg_opclass o ON o.oid = i.indclass[0]
    WHERE i.indrelid = qwen_embed.indexed_table(v) AND i.indisvalid AND i.indpred IS NULL
        AND o.opcname = (qwen_embed.index_operators(v.storage, v.index_kind)).operator_class
        AND pg_get_indexdef(i.indexrelid, 1, false)
            = qwen_embed.index_expression(v.storage, v.index_kind, v.dimensions, qwen_embed.indexed_column(v))
    ORDER BY i.indexrelid LIMIT 1;
END;
COMMENT ON FUNCTION qwen_embed.standing_index(qwen_embed.vectorizer) IS
    'The finished index that searches of this vectorizer use, whoever made it; null if there is none.';
