-- Names and types: what is called how, and where it lives.

CREATE OR REPLACE FUNCTION qwen_embed.extension_schema() RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT quote_ident(n.nspname)
    FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
    WHERE e.extname = 'vector';
END;
COMMENT ON FUNCTION qwen_embed.extension_schema() IS
    'The schema of pgvector, quoted. It may be any: nothing here relies on the search path.';

CREATE OR REPLACE FUNCTION qwen_embed.nearest(word text, candidates text[]) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    WITH pairs AS (
        SELECT c, substr(' ' || lower(c) || ' ', i, 2) AS pair
        FROM unnest(candidates) c, generate_series(1, length(c) + 1) i
    ), wanted AS (
        SELECT DISTINCT substr(' ' || lower(word) || ' ', i, 2) AS pair
        FROM generate_series(1, length(word) + 1) i
    )
    SELECT c FROM pairs LEFT JOIN wanted USING (pair)
    GROUP BY c
    HAVING count(wanted.pair) > 0
    ORDER BY 2.0 * count(wanted.pair) / (length(c) + length(word) + 2) DESC, c
    LIMIT 1;
END;
COMMENT ON FUNCTION qwen_embed.nearest(text, text[]) IS
    'The candidate that shares the most letter pairs with the word, for messages; null if none does.';

CREATE OR REPLACE FUNCTION qwen_embed.derived_name(base text, suffix text) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    room int := 63 - octet_length(suffix);
    shortened text := base;
BEGIN
    IF octet_length(base) <= room THEN
        RETURN base || suffix;
    END IF;
    WHILE octet_length(shortened) > room - 9 LOOP
        shortened := left(shortened, -1);
    END LOOP;
    RETURN shortened || '_' || left(md5(base), 8) || suffix;
END $$;
COMMENT ON FUNCTION qwen_embed.derived_name(text, text) IS
    'base || suffix within the 63 bytes of an identifier; a cut base carries a hash of the whole.';

CREATE OR REPLACE FUNCTION qwen_embed.base_type(type oid, modifier int) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    WITH RECURSIVE layer(type, modifier) AS (
        SELECT base_type.type, base_type.modifier
        UNION ALL
        SELECT t.typbasetype, t.typtypmod
        FROM layer JOIN pg_type t ON t.oid = layer.type WHERE t.typtype = 'd'
    )
    SELECT format_type(layer.type, layer.modifier)
    FROM layer JOIN pg_type t ON t.oid = layer.type WHERE t.typtype <> 'd';
END;
COMMENT ON FUNCTION qwen_embed.base_type(oid, int) IS
    'A type by its full name, domains resolved: a domain that forbids null could not stand in the log.';

CREATE OR REPLACE FUNCTION qwen_embed.comparison(type oid, strategy int) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    WITH RECURSIVE layer(type) AS (
        SELECT comparison.type
        UNION ALL
        SELECT t.typbasetype FROM layer JOIN pg_type t ON t.oid = layer.type WHERE t.typtype = 'd'
    )
    SELECT coalesce((
        SELECT format('OPERATOR(%I.%s)', n.nspname, o.oprname)
        FROM layer
        JOIN pg_opclass c ON c.opcintype = layer.type AND c.opcdefault
        JOIN pg_am a ON a.oid = c.opcmethod AND a.amname = 'btree'
        JOIN pg_amop m ON m.amopfamily = c.opcfamily AND m.amopstrategy = comparison.strategy
            AND m.amoplefttype = layer.type AND m.amoprighttype = layer.type
        JOIN pg_operator o ON o.oid = m.amopopr
        JOIN pg_namespace n ON n.oid = o.oprnamespace
        LIMIT 1
    ), CASE comparison.strategy WHEN 3 THEN 'OPERATOR(pg_catalog.=)' ELSE 'OPERATOR(pg_catalog.>)' END);
END;
COMMENT ON FUNCTION qwen_embed.comparison(oid, int) IS
    'The operator by which a unique index of this type calls two values equal (3) or one greater (5), '
    'qualified. citext, for one, lives outside pg_catalog, and text''s own "=" would compare it otherwise.';

CREATE OR REPLACE FUNCTION qwen_embed.equality(type oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT qwen_embed.comparison(type, 3);
END;
COMMENT ON FUNCTION qwen_embed.equality(oid) IS 'The equality of a type''s unique index, qualified.';

CREATE OR REPLACE FUNCTION qwen_embed.key_attributes(vectorizer int, source regclass)
RETURNS TABLE (place int, attnum smallint)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT n.place, d.refobjsubid::smallint
    FROM generate_series(1, 32) AS n(place)
    JOIN pg_depend d ON d.classid = 'pg_proc'::regclass
        AND d.objid = to_regproc(format('qwen_embed.key_%s_%s', key_attributes.vectorizer, n.place))
        AND d.refclassid = 'pg_class'::regclass AND d.refobjid = key_attributes.source AND d.refobjsubid > 0;
END;
COMMENT ON FUNCTION qwen_embed.key_attributes(int, regclass) IS
    'The columns that a vectorizer''s key functions read. They are parsed, so renames are followed.';

CREATE OR REPLACE FUNCTION qwen_embed.unique_keys(source regclass)
RETURNS TABLE (index oid, is_primary boolean, is_identity boolean, attnums smallint[])
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT i.indexrelid, i.indisprimary, i.indisreplident, key.attnums
    FROM pg_index i
    CROSS JOIN LATERAL (SELECT (i.indkey::int2[])[0:i.indnkeyatts - 1] AS attnums) AS key
    WHERE i.indrelid = unique_keys.source AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
        AND NOT EXISTS (
            SELECT FROM unnest(key.attnums) AS k(attnum)
            LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum AND a.attnotnull
            WHERE a.attnum IS NULL);
END;
COMMENT ON FUNCTION qwen_embed.unique_keys(regclass) IS
    'The unique indexes of a table that can tell its rows apart: whole, without expressions, nothing null.';

CREATE OR REPLACE FUNCTION qwen_embed.row_key(source regclass, vectorizer int DEFAULT NULL)
RETURNS TABLE (place int, attnum smallint, name text, type text, collate_clause text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    WITH recorded AS (
        SELECT array_agg(k.attnum ORDER BY k.place) AS attnums, array_agg(k.attnum ORDER BY k.attnum) AS ordered
        FROM qwen_embed.key_attributes(row_key.vectorizer, row_key.source) k
    ), chosen AS (
        SELECT CASE WHEN same.key THEN recorded.attnums ELSE u.attnums END AS attnums
        FROM qwen_embed.unique_keys(row_key.source) u CROSS JOIN recorded
        CROSS JOIN LATERAL (
            SELECT ARRAY(SELECT unnest(u.attnums) ORDER BY 1) = recorded.ordered AS key) AS same
        ORDER BY same.key DESC NULLS LAST, u.is_primary DESC, u.is_identity DESC, cardinality(u.attnums), u.index
        LIMIT 1
    )
    SELECT k.place::int, a.attnum, a.attname::text,
        qwen_embed.base_type(a.atttypid, a.atttypmod),
        CASE WHEN a.attcollation = 0 THEN ''
             ELSE format(' COLLATE %I.%I', n.nspname, c.collname) END
    FROM chosen
    CROSS JOIN unnest(chosen.attnums) WITH ORDINALITY AS k(attnum, place)
    JOIN pg_attribute a ON a.attrelid = row_key.source AND a.attnum = k.attnum
    LEFT JOIN pg_collation c ON c.oid = a.attcollation
    LEFT JOIN pg_namespace n ON n.oid = c.collnamespace
    ORDER BY k.place;
END;
COMMENT ON FUNCTION qwen_embed.row_key(regclass, int) IS
    'The columns that tell a table''s rows apart, in order, with type and collation as SQL: those that the '
    'vectorizer was made with while an index keeps them unique, else the primary key, else another unique '
    'index without nulls.';

CREATE OR REPLACE FUNCTION qwen_embed.key_of(v qwen_embed.vectorizer)
RETURNS TABLE (place int, attnum smallint, name text, type text, collate_clause text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT k.* FROM qwen_embed.row_key(v.source, CASE
        WHEN EXISTS (SELECT FROM qwen_embed.key_attributes(v.id, v.source)) THEN v.id ELSE v.replaces END) k;
END;
COMMENT ON FUNCTION qwen_embed.key_of(qwen_embed.vectorizer) IS
    'The key that a vectorizer has, or is to have: one that replaces another takes the other''s.';

CREATE OR REPLACE FUNCTION qwen_embed.key_columns(vectorizer int)
RETURNS TABLE (place int, source_column text, target_column text, type text, equality text, greater text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT k.place, s.attname::text, t.attname::text,
        qwen_embed.base_type(s.atttypid, s.atttypmod),
        qwen_embed.equality(s.atttypid), qwen_embed.comparison(s.atttypid, 5)
    FROM qwen_embed.vectorizer v
    CROSS JOIN LATERAL qwen_embed.key_attributes(v.id, v.source) k
    JOIN pg_attribute s ON s.attrelid = v.source AND s.attnum = k.attnum
    LEFT JOIN pg_index i ON i.indrelid = v.target_table AND i.indisprimary AND k.place < i.indnkeyatts
    LEFT JOIN pg_attribute t ON t.attrelid = i.indrelid AND t.attnum = (i.indkey::int2[])[k.place - 1]
    WHERE v.id = key_columns.vectorizer
    ORDER BY k.place;
END;
COMMENT ON FUNCTION qwen_embed.key_columns(int) IS
    'The key of a vectorizer as its columns are called today: the source''s through the parsed key '
    'functions, which follow renames, the side table''s through its primary key (all but chunk; null '
    'without a side table).';
