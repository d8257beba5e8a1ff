-- The private tables, functions and triggers of one vectorizer. Each make_ function may be run again:
-- it makes what is missing and leaves the rest.

CREATE OR REPLACE FUNCTION qwen_embed.key_definition(v qwen_embed.vectorizer, prefix text, suffix text)
RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT string_agg(prefix || place || ' ' || type || collate_clause || suffix, ', ' ORDER BY place)
    FROM qwen_embed.key_of(v);
END;
COMMENT ON FUNCTION qwen_embed.key_definition(qwen_embed.vectorizer, text, text) IS
    'The key as column definitions k1, k2, … with the source''s types and collations.';

CREATE OR REPLACE FUNCTION qwen_embed.numbered(v qwen_embed.vectorizer, pattern text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT string_agg(replace(pattern, '#', place::text), ', ' ORDER BY place)
    FROM qwen_embed.key_of(v);
END;
COMMENT ON FUNCTION qwen_embed.numbered(qwen_embed.vectorizer, text) IS
    'The pattern once for each key column, # being its place.';

CREATE OR REPLACE FUNCTION qwen_embed.keeper() RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT pg_get_userbyid(nspowner)::text FROM pg_namespace WHERE nspname = 'qwen_embed';
END;
COMMENT ON FUNCTION qwen_embed.keeper() IS
    'The role that installed qwen_embed. What belongs to a vectorizer in this schema is its.';

-- Whoever makes a vectorizer, its tables and functions in this schema are made by the keeper. That is
-- safe because these functions do only what the vectorizer's row says: see guard_vectorizer().
CREATE OR REPLACE FUNCTION qwen_embed.as_recorded(v qwen_embed.vectorizer) RETURNS qwen_embed.vectorizer
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    recorded qwen_embed.vectorizer;
BEGIN
    SELECT k.* INTO STRICT recorded FROM qwen_embed.vectorizer k WHERE k.id = v.id;
    RETURN recorded;
END $$;
COMMENT ON FUNCTION qwen_embed.as_recorded(qwen_embed.vectorizer) IS
    'The row itself, instead of what a caller says of it.';

CREATE OR REPLACE FUNCTION qwen_embed.make_queue(v qwen_embed.vectorizer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
DECLARE
    made text;
    owner text;
BEGIN
    v := qwen_embed.as_recorded(v);
    SELECT pg_get_userbyid(c.relowner) INTO owner FROM pg_class c WHERE c.oid = v.source;
    -- No index and no key: appends of concurrent writers can then neither conflict nor wait.
    -- FULL: in a database that publishes all its tables a delete needs to identify its row.
    -- No truncation by vacuum: it would lock writers out for a moment.
    EXECUTE format(
        'CREATE TABLE IF NOT EXISTS qwen_embed.log_%s (op "char" NOT NULL, %s, '
        'at timestamptz NOT NULL DEFAULT clock_timestamp()) WITH (vacuum_truncate = off, '
        'autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000)',
        v.id, qwen_embed.key_definition(v, 'k', ''));
    -- Only where it is not yet so: repair() holds the source, and must not wait here for a reader.
    IF NOT EXISTS (SELECT FROM pg_class
        WHERE oid = to_regclass(format('qwen_embed.log_%s', v.id)) AND relreplident = 'f') THEN
        EXECUTE format('ALTER TABLE qwen_embed.log_%s REPLICA IDENTITY FULL', v.id);
    END IF;
    EXECUTE format(
        'CREATE TABLE IF NOT EXISTS qwen_embed.work_%s (%s, id bigint GENERATED ALWAYS AS IDENTITY UNIQUE, '
        'token bigint, dirty boolean NOT NULL DEFAULT false, again boolean NOT NULL DEFAULT false, attempts int NOT NULL DEFAULT 0, '
        'due_at timestamptz NOT NULL DEFAULT clock_timestamp(), '
        'since timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (%s), '
        'CHECK (token IS NOT NULL OR NOT dirty)) WITH (autovacuum_vacuum_scale_factor = 0, '
        'autovacuum_vacuum_threshold = 5000)',
        v.id, qwen_embed.key_definition(v, 'k', ' NOT NULL'), qwen_embed.numbered(v, 'k#'));
    EXECUTE format(
        'CREATE INDEX IF NOT EXISTS work_%s_due ON qwen_embed.work_%s (due_at) WHERE token IS NULL', v.id, v.id);
    EXECUTE format(
        'CREATE TABLE IF NOT EXISTS qwen_embed.dead_%s (%s, kind text NOT NULL, message text NOT NULL, '
        'attempts int NOT NULL, died_at timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (%s))',
        v.id, qwen_embed.key_definition(v, 'k', ' NOT NULL'), qwen_embed.numbered(v, 'k#'));
    EXECUTE format('COMMENT ON TABLE qwen_embed.log_%s IS %L', v.id,
        'Keys of changed rows of ' || v.source || ', appended by its triggers, deleted by workers.');
    EXECUTE format('COMMENT ON TABLE qwen_embed.work_%s IS %L', v.id,
        'Keys that a worker holds (token) or that wait for another try (due_at).');
    EXECUTE format('COMMENT ON TABLE qwen_embed.dead_%s IS %L', v.id,
        'Keys whose text no provider takes, until the text changes or retry() is called.');
    FOREACH made IN ARRAY ARRAY['log', 'work', 'dead'] LOOP
        EXECUTE format('REVOKE ALL ON qwen_embed.%s_%s FROM PUBLIC', made, v.id);
        EXECUTE format('GRANT SELECT, INSERT, DELETE ON qwen_embed.%s_%s TO %I', made, v.id, owner);
    END LOOP;
    PERFORM qwen_embed.grant_to_known(v);
END $$;
COMMENT ON FUNCTION qwen_embed.make_queue(qwen_embed.vectorizer) IS
    'The log, work and dead-letter tables of one vectorizer.';

CREATE OR REPLACE FUNCTION qwen_embed.make_key_functions(v qwen_embed.vectorizer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    key record;
BEGIN
    v := qwen_embed.as_recorded(v);
    -- Parsed bodies (BEGIN ATOMIC) follow a rename of the column or the table; names in a text do not.
    FOR key IN SELECT * FROM qwen_embed.key_of(v) LOOP
        CONTINUE WHEN to_regproc(format('qwen_embed.key_%s_%s', v.id, key.place)) IS NOT NULL;
        EXECUTE format(
            'CREATE FUNCTION qwen_embed.key_%s_%s(%s) RETURNS %s LANGUAGE sql IMMUTABLE '
            'BEGIN ATOMIC SELECT ($1).%I; END',
            v.id, key.place, v.source, key.type, key.name);
        EXECUTE format('REVOKE ALL ON FUNCTION qwen_embed.key_%s_%s(%s) FROM PUBLIC', v.id, key.place, v.source);
    END LOOP;
END $$;
COMMENT ON FUNCTION qwen_embed.make_key_functions(qwen_embed.vectorizer) IS
    'key_N_1, key_N_2, …: what a row is called.';

CREATE OR REPLACE FUNCTION qwen_embed.make_row_functions(v qwen_embed.vectorizer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $$
DECLARE
    content text := format('qwen_embed.content_%s', v.id);
BEGIN
    PERFORM qwen_embed.make_key_functions(v);
    -- Not by the keeper: it may hold an expression of the caller's.
    IF to_regproc(content) IS NULL THEN
        EXECUTE format(
            'CREATE FUNCTION %s(%s) RETURNS text LANGUAGE sql STABLE '
            '%s', content, v.source, coalesce(
                -- The names at creation may be old ones; its own body is not.
                pg_get_function_sqlbody(to_regproc(format('qwen_embed.content_%s', v.replaces))),
                format('BEGIN ATOMIC %s; END',
                    qwen_embed.content_body(v.source, v.columns, v.template, v.condition))));
    END IF;
    IF pg_has_role((SELECT p.proowner FROM pg_proc p WHERE p.oid = to_regproc(content)), 'USAGE') THEN
        EXECUTE format('REVOKE ALL ON FUNCTION %s(%s) FROM PUBLIC', content, v.source);
        EXECUTE format('GRANT ALL ON FUNCTION %s(%s) TO %I', content, v.source, qwen_embed.keeper());
    END IF;
    PERFORM qwen_embed.grant_to_known(v);
    PERFORM qwen_embed.show_texts();
END $$;
COMMENT ON FUNCTION qwen_embed.make_row_functions(qwen_embed.vectorizer) IS
    'key_N_1, key_N_2, … and content_N: what a row is called and what its text is.';

CREATE OR REPLACE FUNCTION qwen_embed.require_key(v qwen_embed.vectorizer) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    kept text;
BEGIN
    -- A table or a function that is missing may be made again; one that is there must fit.
    FOREACH kept IN ARRAY ARRAY['log', 'work', 'dead'] LOOP
        CONTINUE WHEN to_regclass(format('qwen_embed.%s_%s', kept, v.id)) IS NULL;
        IF (SELECT string_agg(format('k%s %s', place, type), ', ' ORDER BY place) FROM qwen_embed.key_of(v))
            IS DISTINCT FROM (
                SELECT string_agg(format('%s %s', attname, qwen_embed.base_type(atttypid, atttypmod)), ', ' ORDER BY attnum)
                FROM pg_attribute
                WHERE attrelid = to_regclass(format('qwen_embed.%s_%s', kept, v.id))
                    AND attnum > 0 AND NOT attisdropped AND attname ~ '^k\d+$')
        THEN
            PERFORM qwen_embed.refuse_key(v);
        END IF;
    END LOOP;
    IF EXISTS (
        SELECT FROM qwen_embed.key_of(v) k
        JOIN pg_depend d ON d.classid = 'pg_proc'::regclass
            AND d.objid = to_regproc(format('qwen_embed.key_%s_%s', v.id, k.place))
            AND d.refclassid = 'pg_class'::regclass AND d.refobjid = v.source AND d.refobjsubid > 0
        WHERE d.refobjsubid <> k.attnum)
    THEN
        PERFORM qwen_embed.refuse_key(v);
    END IF;
END $$;
COMMENT ON FUNCTION qwen_embed.require_key(qwen_embed.vectorizer) IS
    'Raises unless the source''s key is the one that the vectorizer was made for: triggers for '
    'another would fail in the user''s writes.';

CREATE OR REPLACE FUNCTION qwen_embed.refuse_key(v qwen_embed.vectorizer) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
        MESSAGE = format('the key of %s is no longer the one that vectorizer %L was made for', v.source, v.name),
        HINT = format('Make it anew: SELECT qwen_embed.drop_vectorizer(%L, drop_target => true); then create it.', v.name);
END $$;
COMMENT ON FUNCTION qwen_embed.refuse_key(qwen_embed.vectorizer) IS 'Raises: the key is another.';

CREATE OR REPLACE FUNCTION qwen_embed.watched_columns(v qwen_embed.vectorizer) RETURNS text[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT array_agg(DISTINCT a.attname::text)
    FROM pg_proc p
    JOIN pg_namespace n ON n.oid = p.pronamespace AND n.nspname = 'qwen_embed'
    JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
        AND d.refclassid = 'pg_class'::regclass AND d.refobjid = v.source AND d.refobjsubid > 0
    JOIN pg_attribute a ON a.attrelid = v.source AND a.attnum = d.refobjsubid
    WHERE p.proname ~ ('^(key_' || v.id || '_\d+|content_' || v.id || ')$');
END;
COMMENT ON FUNCTION qwen_embed.watched_columns(qwen_embed.vectorizer) IS
    'The columns that a row''s key and text are read from, by the names they have today.';

CREATE OR REPLACE FUNCTION qwen_embed.make_capture_function(
    v qwen_embed.vectorizer, event text, body text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- What can be missing is looked for first, since an error here would undo the user's write. An
    -- exception block would catch more, at the price of a subtransaction in each statement.
    guard text := format(
        'has_schema_privilege(to_regnamespace(''qwen_embed'')::oid, ''USAGE'')'
        ' AND has_table_privilege(to_regclass(''qwen_embed.log_%s'')::oid, ''INSERT'')', v.id)
        || (SELECT string_agg(format(
                ' AND has_function_privilege(to_regproc(''qwen_embed.key_%s_%s'')::oid, ''EXECUTE'')',
                v.id, place), '')
            FROM qwen_embed.key_of(v));
    complaint text := format(
        'the vectorizer %L could not record this change of %s: SELECT qwen_embed.repair(%L);',
        v.name, v.source, v.name);
    called text := format('qwen_embed.capture_%s_%s', v.id, event);
    owner text := (SELECT pg_get_userbyid(c.relowner) FROM pg_class c WHERE c.oid = v.source);
BEGIN
    EXECUTE format(
        'CREATE OR REPLACE FUNCTION %s() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER '
        'SET search_path = pg_catalog, pg_temp AS %L',
        called,
        format(E'BEGIN\n    IF (%s) IS NOT TRUE THEN\n        RAISE WARNING USING MESSAGE = %L;\n'
               '        RETURN NULL;\n    END IF;\n%s\n    RETURN NULL;\nEND', guard, complaint, body));
    EXECUTE format('REVOKE ALL ON FUNCTION %s() FROM PUBLIC', called);
    EXECUTE format('GRANT EXECUTE ON FUNCTION %s() TO %I', called, owner);
    EXECUTE format('COMMENT ON FUNCTION %s() IS %L', called,
        format('Appends to log_%s, as its owner: the writer needs no right here.', v.id));
END $$;
COMMENT ON FUNCTION qwen_embed.make_capture_function(qwen_embed.vectorizer, text, text) IS
    'One trigger function. It appends to the log and does nothing else; it never fails for a '
    'missing part of ours, it warns.';

CREATE OR REPLACE FUNCTION qwen_embed.by_row(v qwen_embed.vectorizer) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT v.capture = 'row' OR qwen_embed.is_in_tree(v.source);
END;
COMMENT ON FUNCTION qwen_embed.by_row(qwen_embed.vectorizer) IS
    'Whether inserts and deletes are recorded row by row.';

CREATE OR REPLACE FUNCTION qwen_embed.make_capture_functions(v qwen_embed.vectorizer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- Of the row, as everything below.
    recorded qwen_embed.vectorizer := qwen_embed.as_recorded(v);
    keys text := qwen_embed.numbered(recorded, 'k#');
    appended text := format('    INSERT INTO qwen_embed.log_%s (op, %s) ', recorded.id, keys);
    key_of text := format('qwen_embed.key_%s_#(%%s)', recorded.id);
    old_key text := qwen_embed.numbered(recorded, format(key_of, 'old'));
    new_key text := qwen_embed.numbered(recorded, format(key_of, 'new'));
    every_key text := qwen_embed.numbered(recorded, format(key_of, 'changed'));
    -- It ends group commit: off unless the owner asked for it.
    notified text := CASE WHEN recorded.notify THEN format(E'\n    PERFORM pg_notify(''qwen_embed'', ''%s'');', recorded.id) ELSE '' END;
    whole_statement text := format('SELECT ''c'', %s FROM changed;', every_key);
BEGIN
    PERFORM qwen_embed.make_capture_function(recorded, 'insert', appended || CASE WHEN qwen_embed.by_row(recorded)
        THEN format('VALUES (''c'', %s);', new_key) ELSE whole_statement END || notified);
    PERFORM qwen_embed.make_capture_function(recorded, 'delete', appended || CASE WHEN qwen_embed.by_row(recorded)
        THEN format('VALUES (''c'', %s);', old_key) ELSE whole_statement END || notified);
    PERFORM qwen_embed.make_capture_function(recorded, 'update',
        format(E'    IF record_image_eq(ROW(%s), ROW(%s)) THEN\n    ', old_key, new_key)
        || appended || format(E'VALUES (''c'', %s);\n    ELSE\n    ', new_key)
        || appended || format(E'VALUES (''c'', %s), (''c'', %s);\n    END IF;', new_key, old_key) || notified);
    PERFORM qwen_embed.make_capture_function(recorded, 'truncate',
        format('    INSERT INTO qwen_embed.log_%s (op) VALUES (''t'');', recorded.id) || notified);
END $$;
COMMENT ON FUNCTION qwen_embed.make_capture_functions(qwen_embed.vectorizer) IS
    'The four trigger functions, made anew.';

CREATE OR REPLACE FUNCTION qwen_embed.differs(source regclass, columns text[]) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    -- Images, not equality: json has none, and equal values may read differently (1.0 and 1.00). Where
    -- both are the same, equality is cheaper by far: no row has to be made of the values first.
    WITH watched AS (
        SELECT a.attname AS name, a.atttypid IN (
                'bool'::regtype, 'int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'oid'::regtype, 'uuid'::regtype,
                'bytea'::regtype, 'date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype)
            OR a.atttypid IN ('text'::regtype, 'varchar'::regtype)
                AND (SELECT l.collisdeterministic FROM pg_collation l WHERE l.oid = a.attcollation) AS is_plain
        FROM pg_attribute a
        WHERE a.attrelid = differs.source AND a.attname = ANY (differs.columns) AND a.attnum > 0 AND NOT a.attisdropped
    )
    SELECT concat_ws(' OR ',
        (SELECT string_agg(format('old.%1$I IS DISTINCT FROM new.%1$I', name), ' OR ' ORDER BY name)
            FROM watched WHERE is_plain),
        (SELECT format('pg_catalog.record_image_ne(ROW(%s), ROW(%s))',
                string_agg(format('old.%I', name), ', ' ORDER BY name), string_agg(format('new.%I', name), ', ' ORDER BY name))
            FROM watched WHERE NOT is_plain HAVING count(*) > 0));
END;
COMMENT ON FUNCTION qwen_embed.differs(regclass, text[]) IS
    'The condition that an update changed one of these columns in any bit.';

CREATE OR REPLACE FUNCTION qwen_embed.make_capture(v qwen_embed.vectorizer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
DECLARE
    event text;
    each text := CASE WHEN qwen_embed.by_row(v) THEN 'FOR EACH ROW'
        ELSE 'REFERENCING %s TABLE AS changed FOR EACH STATEMENT' END;
    member regclass;
BEGIN
    PERFORM qwen_embed.make_capture_functions(v);
    -- OR REPLACE, not dropped first: a drop locks readers out as well, hence waits for them, while
    -- the lock that is held already lets no writer through.
    EXECUTE format('CREATE OR REPLACE TRIGGER qwen_embed_%s_insert AFTER INSERT ON %s %s '
        'EXECUTE FUNCTION qwen_embed.capture_%s_insert()', v.id, v.source, replace(each, '%s', 'NEW'), v.id);
    EXECUTE format('CREATE OR REPLACE TRIGGER qwen_embed_%s_delete AFTER DELETE ON %s %s '
        'EXECUTE FUNCTION qwen_embed.capture_%s_delete()', v.id, v.source, replace(each, '%s', 'OLD'), v.id);
    -- No UPDATE OF: it would miss what a BEFORE trigger changes.
    EXECUTE format(
        'CREATE OR REPLACE TRIGGER qwen_embed_%s_update AFTER UPDATE ON %s FOR EACH ROW '
        'WHEN (%s) EXECUTE FUNCTION qwen_embed.capture_%s_update()',
        v.id, v.source, qwen_embed.differs(v.source, qwen_embed.watched_columns(v)), v.id);
    -- ALWAYS: restores and repairs under session_replication_role = replica are changes too.
    FOREACH event IN ARRAY ARRAY['insert', 'delete', 'update'] LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER qwen_embed_%s_%s', v.source, v.id, event);
    END LOOP;
    FOR member IN SELECT v.source UNION SELECT * FROM qwen_embed.leaves(v.source) LOOP
        PERFORM qwen_embed.make_truncate_trigger(v, member);
    END LOOP;
END $$;
COMMENT ON FUNCTION qwen_embed.make_capture(qwen_embed.vectorizer) IS
    'The trigger functions and the triggers on the source, made anew.';

CREATE OR REPLACE FUNCTION qwen_embed.make_target(v qwen_embed.vectorizer, target_schema text, target_name text)
RETURNS regclass
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    called text := format('%I.%I', target_schema, target_name);
    names text[] := ARRAY(SELECT qwen_embed.target_key_name(name) FROM qwen_embed.key_of(v));
    grant_to text;
BEGIN
    -- No foreign key to the source: it would make a TRUNCATE there fail and lock rows that we write.
    EXECUTE format(
        'CREATE TABLE %s (%s, chunk int NOT NULL DEFAULT 0, text text NOT NULL, embedding %s.%I(%s) NOT NULL, '
        'content_hash bytea NOT NULL, offer text, embedded_at timestamptz NOT NULL DEFAULT clock_timestamp(), '
        'start_char int NOT NULL DEFAULT 0, space text NOT NULL, PRIMARY KEY (%s, chunk))',
        called,
        (SELECT string_agg(format('%I %s%s NOT NULL', names[place], type, collate_clause), ', ' ORDER BY place)
         FROM qwen_embed.key_of(v)),
        qwen_embed.extension_schema(), v.storage, v.dimensions,
        (SELECT string_agg(quote_ident(n), ', ' ORDER BY place) FROM unnest(names) WITH ORDINALITY AS t(n, place)));
    EXECUTE format('COMMENT ON TABLE %s IS %L', called,
        format('Vectors of %s, kept by the vectorizer %L (%s, %s dimensions).', v.source, v.name, v.model, v.dimensions));
    -- Whoever may read the source may read its vectors, but only of rows that its policies show them.
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', called);
    -- OFFSET 0: otherwise Postgres reads the whole source first and hashes it, for each search anew.
    EXECUTE format('CREATE POLICY row_is_visible ON %s FOR SELECT USING (EXISTS (SELECT FROM %s AS source WHERE %s OFFSET 0))',
        called, v.source,
        (SELECT string_agg(format('source.%I %s %I.%I', k.name, qwen_embed.equality(a.atttypid), target_name, names[k.place]), ' AND ')
         FROM qwen_embed.key_of(v) k
         JOIN pg_attribute a ON a.attrelid = v.source AND a.attnum = k.attnum));
    FOR grant_to IN SELECT * FROM qwen_embed.readers(v.source) LOOP
        EXECUTE format('GRANT SELECT ON %s TO %s', called, grant_to);
    END LOOP;
    RETURN called::regclass;
END $$;
COMMENT ON FUNCTION qwen_embed.make_target(qwen_embed.vectorizer, text, text) IS
    'The side table that holds the vectors.';

CREATE OR REPLACE FUNCTION qwen_embed.target_key_name(name text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT CASE
        WHEN name IN ('chunk', 'text', 'embedding', 'content_hash', 'offer', 'embedded_at', 'start_char', 'space') THEN 'key_' || name
        ELSE name END;
END;
COMMENT ON FUNCTION qwen_embed.target_key_name(text) IS
    'A key column''s name in the side table: its own, unless the side table has a column of that name.';

CREATE OR REPLACE FUNCTION qwen_embed.readers(source regclass) RETURNS SETOF text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT DISTINCT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END
    FROM pg_class c, aclexplode(c.relacl) AS granted
    WHERE c.oid = readers.source AND granted.privilege_type = 'SELECT' AND granted.grantee <> c.relowner;
END;
COMMENT ON FUNCTION qwen_embed.readers(regclass) IS
    'The roles that were granted SELECT on a table, quoted, besides its owner.';

CREATE OR REPLACE FUNCTION qwen_embed.make_view(v qwen_embed.vectorizer, view_schema text, view_name text)
RETURNS regclass
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    called text := format('%I.%I', view_schema, view_name);
    taken text[] := ARRAY(SELECT attname FROM pg_attribute
        WHERE attrelid = v.source AND attnum > 0 AND NOT attisdropped);
    grant_to text;
BEGIN
    EXECUTE format(
        'CREATE VIEW %s WITH (security_invoker = true) AS SELECT source.*, %s FROM %s AS source JOIN %s AS target ON %s',
        called,
        (SELECT string_agg(format('target.%I AS %I', c, CASE WHEN c = ANY (taken) THEN 'embedded_' || c ELSE c END), ', ')
         FROM unnest(ARRAY['chunk', 'text', 'embedding', 'offer', 'embedded_at']) c),
        v.source, v.target_table, qwen_embed.key_join(v.id, 'source', 'target'));
    EXECUTE format('COMMENT ON VIEW %s IS %L', called,
        format('Rows of %s beside their vectors. A row without one, or waiting for its first, is not here.', v.source));
    FOR grant_to IN SELECT * FROM qwen_embed.readers(v.source) LOOP
        EXECUTE format('GRANT SELECT ON %s TO %s', called, grant_to);
    END LOOP;
    RETURN called::regclass;
END $$;
COMMENT ON FUNCTION qwen_embed.make_view(qwen_embed.vectorizer, text, text) IS
    'The view that joins source and side table, with the rights and policies of whoever reads it.';

CREATE OR REPLACE FUNCTION qwen_embed.key_join(vectorizer int, source_alias text, target_alias text)
RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT string_agg(format('%I.%I %s %I.%I', source_alias, source_column, equality, target_alias, target_column),
        ' AND ' ORDER BY place)
    FROM qwen_embed.key_columns(vectorizer);
END;
COMMENT ON FUNCTION qwen_embed.key_join(int, text, text) IS
    'The condition that joins a source row to its vectors.';

CREATE OR REPLACE FUNCTION qwen_embed.lost_column(v qwen_embed.vectorizer) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT named.c
    FROM (SELECT unnest(v.columns) UNION ALL SELECT p.name FROM qwen_embed.template_parts(v.template) p) AS named(c)
    -- The names are those at creation: they say nothing while content_N, which follows renames, is there.
    WHERE v.suspended IS NULL AND to_regproc('qwen_embed.content_' || v.id) IS NULL AND named.c IS NOT NULL
        AND EXISTS (SELECT FROM pg_class WHERE oid = v.source)
        AND NOT EXISTS (SELECT FROM pg_attribute a
            WHERE a.attrelid = v.source AND a.attname = named.c AND a.attnum > 0 AND NOT a.attisdropped)
    LIMIT 1;
END;
COMMENT ON FUNCTION qwen_embed.lost_column(qwen_embed.vectorizer) IS
    'A column that the text was made of and that was dropped, with content_N; null if there is none.';

CREATE OR REPLACE FUNCTION qwen_embed.capture_problem(v qwen_embed.vectorizer) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    WITH unique_key AS (
        SELECT FROM qwen_embed.unique_keys(v.source) u
        WHERE ARRAY(SELECT unnest(u.attnums) ORDER BY 1)
            = ARRAY(SELECT k.attnum FROM qwen_embed.key_attributes(v.id, v.source) k ORDER BY 1)
    ), found AS (
        SELECT -1 AS rank, format('column embedding of %s was dropped', v.target_table) AS problem
        WHERE v.target = 'table' AND EXISTS (SELECT FROM pg_class WHERE oid = v.target_table)
            AND NOT EXISTS (SELECT FROM pg_attribute a
                WHERE a.attrelid = v.target_table AND a.attname = 'embedding' AND NOT a.attisdropped)
        UNION ALL
        SELECT 0, format('column %I, which the text is made of, was dropped', qwen_embed.lost_column(v))
        WHERE qwen_embed.lost_column(v) IS NOT NULL
        UNION ALL
        SELECT 1, 'the source table was dropped'
        WHERE NOT EXISTS (SELECT FROM pg_class WHERE oid = v.source)
        UNION ALL
        SELECT 2, 'table ' || t || ' is missing'
        FROM unnest(ARRAY['qwen_embed.log_', 'qwen_embed.work_', 'qwen_embed.dead_']) AS kind,
            LATERAL (SELECT kind || v.id AS t) AS named
        WHERE to_regclass(t) IS NULL
        UNION ALL
        SELECT 3, 'its target table was dropped'
        WHERE v.target = 'table' AND NOT EXISTS (SELECT FROM pg_class WHERE oid = v.target_table)
        UNION ALL
        SELECT 3, 'the column with its vectors, or what belongs to it, was dropped'
        WHERE v.target = 'column' AND (qwen_embed.vector_column(v.id, v.source) IS NULL
            OR to_regclass('qwen_embed.mark_' || v.id) IS NULL OR to_regclass('qwen_embed.vectors_' || v.id) IS NULL)
        UNION ALL
        SELECT 4, 'function qwen_embed.content_' || v.id || ' is missing'
        WHERE to_regproc('qwen_embed.content_' || v.id) IS NULL AND v.suspended IS NULL
        UNION ALL
        SELECT 5, 'a function that reads the key is missing, or no unique index without nulls keeps that key any more'
        WHERE NOT EXISTS (SELECT FROM unique_key)
        UNION ALL
        SELECT 6, 'trigger qwen_embed_' || v.id || '_' || event
            || CASE WHEN t.oid IS NULL THEN ' is missing' ELSE ' is disabled' END
        FROM unnest(ARRAY['insert', 'delete', 'update', 'truncate']) AS event
        LEFT JOIN pg_trigger t ON t.tgrelid = v.source AND t.tgname = 'qwen_embed_' || v.id || '_' || event
        WHERE (t.oid IS NULL OR t.tgenabled NOT IN ('O', 'A')) AND (event <> 'update' OR v.suspended IS NULL)
        UNION ALL
        -- Of a partition that no worker has looked at yet, only the copies that Postgres made are asked for.
        SELECT 7, 'trigger qwen_embed_' || v.id || '_' || event || ' of partition ' || leaf
            || CASE WHEN t.oid IS NULL THEN ' is missing' ELSE ' is disabled' END
        FROM qwen_embed.leaves(v.source) AS leaf
        CROSS JOIN unnest(ARRAY['insert', 'delete', 'update', 'truncate']) AS event
        LEFT JOIN pg_trigger t ON t.tgrelid = leaf AND t.tgname = 'qwen_embed_' || v.id || '_' || event
        WHERE (t.oid IS NULL OR t.tgenabled NOT IN ('O', 'A')) AND (event <> 'update' OR v.suspended IS NULL)
            AND (event <> 'truncate' OR EXISTS (
                SELECT FROM unnest(v.partitions) mark WHERE split_part(mark, ':', 1) = leaf::oid::text))
        UNION ALL
        SELECT 8, 'it has become a partition, or has partitions: its triggers see whole statements only'
        WHERE qwen_embed.is_in_tree(v.source) AND EXISTS (
            SELECT FROM pg_trigger t WHERE t.tgrelid = v.source AND t.tgname = 'qwen_embed_' || v.id || '_insert'
                AND t.tgtype & 1 = 0)
        UNION ALL
        SELECT 9, 'a table inherits from it, whose rows fire no trigger of ours'
        FROM pg_class c WHERE c.oid = v.source AND c.relkind = 'r'
            AND EXISTS (SELECT FROM pg_inherits WHERE inhparent = c.oid)
    )
    SELECT 'changes are not captured: ' || problem || CASE rank
        WHEN -1 THEN format('. DROP TABLE %s CASCADE; SELECT qwen_embed.repair(%L);', v.target_table, v.name)
        WHEN 0 THEN format('. Say what to embed now: SELECT qwen_embed.redefine(%L, columns => …);', v.name)
        WHEN 1 THEN format('. SELECT qwen_embed.drop_vectorizer(%L);', v.name)
        WHEN 9 THEN '. End the inheritance, or make the parent partitioned.'
        ELSE format('. SELECT qwen_embed.repair(%L);', v.name) END
    FROM found WHERE v.retired_at IS NULL ORDER BY rank, problem LIMIT 1;
END;
COMMENT ON FUNCTION qwen_embed.capture_problem(qwen_embed.vectorizer) IS
    'What keeps changes of the source from being recorded, and the statement that mends it; null if nothing.';

CREATE OR REPLACE FUNCTION qwen_embed.capture_mark(v qwen_embed.vectorizer) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT string_agg(concat_ws(':', t.oid, t.xmin, t.tgenabled), ' ' ORDER BY t.tgname)
    FROM pg_trigger t
    WHERE t.tgrelid = v.source AND t.tgname LIKE 'qwen\_embed\_' || v.id || '\_%';
END;
COMMENT ON FUNCTION qwen_embed.capture_mark(qwen_embed.vectorizer) IS
    'Changes whenever a trigger of ours is made, disabled or enabled, even if that was undone since.';
