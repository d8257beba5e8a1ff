-- What owners of a table call.

CREATE OR REPLACE FUNCTION qwen_embed.named(name text) RETURNS qwen_embed.vectorizer
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_one qwen_embed.vectorizer;
BEGIN
    SELECT v.* INTO found_one FROM qwen_embed.vectorizer v WHERE v.name = named.name;
    IF found_one.id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object',
            MESSAGE = format('there is no vectorizer %L', named.name),
            HINT = coalesce(
                'Did you mean ' || quote_literal(qwen_embed.nearest(named.name, ARRAY(SELECT v.name FROM qwen_embed.vectorizer v))) || '?',
                'SELECT name FROM qwen_embed.vectorizer; lists them.');
    END IF;
    RETURN found_one;
END $$;
COMMENT ON FUNCTION qwen_embed.named(text) IS
    'The vectorizer of that name, or an error that suggests the nearest.';

CREATE OR REPLACE FUNCTION qwen_embed.refuse(message text, hint text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = message, HINT = hint;
END $$;
COMMENT ON FUNCTION qwen_embed.refuse(text, text) IS 'Raises: what was asked is not supported.';

CREATE OR REPLACE FUNCTION qwen_embed.check_source(source regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c pg_class := (SELECT t FROM pg_class t WHERE t.oid = check_source.source);
BEGIN
    IF c.oid IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_table', MESSAGE = 'the source table does not exist';
    ELSIF EXISTS (SELECT FROM qwen_embed.leaves(source) AS leaf JOIN pg_class f ON f.oid = leaf WHERE f.relkind <> 'r') THEN
        PERFORM qwen_embed.refuse(format('%s has a partition that is a foreign table', source),
            'Its rows change elsewhere, without a trigger; detach it, or embed them where they are.');
    ELSIF c.relkind NOT IN ('r', 'p') THEN
        PERFORM qwen_embed.refuse(
            format('%s is not a table but a %s', source, CASE c.relkind WHEN 'v' THEN 'view'
                WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table' ELSE 'relation of another kind' END),
            'A trigger must see each change of a row: name the table that the rows are written to.');
    ELSIF c.relpersistence <> 'p' THEN
        PERFORM qwen_embed.refuse(format('%s is temporary or unlogged', source),
            'Its rows vanish without a trigger; use a permanent table.');
    ELSIF c.relnamespace IN ('pg_catalog'::regnamespace, 'qwen_embed'::regnamespace) THEN
        PERFORM qwen_embed.refuse(format('%s is a system table', source), 'Name a table of your own.');
    ELSIF c.relkind = 'r' AND NOT c.relispartition
        AND EXISTS (SELECT FROM pg_inherits WHERE inhrelid = c.oid OR inhparent = c.oid) THEN
        PERFORM qwen_embed.refuse(format('%s inherits or is inherited from', source),
            'Only plain and partitioned tables can be a source.');
    ELSIF NOT EXISTS (SELECT FROM qwen_embed.row_key(source)) THEN
        PERFORM qwen_embed.refuse(
            format('%s has no primary key, nor another unique index whose columns are all NOT NULL', source),
            format('A vector must know its row: ALTER TABLE %s ADD PRIMARY KEY (…);', source));
    ELSIF NOT pg_has_role(c.relowner, 'USAGE') THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = format('you do not own %s', source),
            HINT = format('Triggers are made by its owner: SET ROLE %I first, or ask them.', pg_get_userbyid(c.relowner));
    ELSIF NOT has_schema_privilege(c.relnamespace, 'CREATE') THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = format('you may not create tables in schema %s', c.relnamespace::regnamespace),
            HINT = format('GRANT CREATE ON SCHEMA %s TO %I;', c.relnamespace::regnamespace, current_user);
    ELSIF NOT has_table_privilege('qwen_embed.vectorizer', 'INSERT') THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = 'you may not create vectorizers',
            HINT = format('As %I: SELECT qwen_embed.grant_to(%L, ''owner'');', qwen_embed.keeper(), current_user);
    ELSIF NOT has_schema_privilege(qwen_embed.keeper()::name, c.relnamespace, 'USAGE') THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = format('%I, which installed qwen_embed, may not look into schema %s',
                qwen_embed.keeper(), c.relnamespace::regnamespace),
            HINT = format('GRANT USAGE ON SCHEMA %s TO %I;', c.relnamespace::regnamespace, qwen_embed.keeper());
    END IF;
    IF NOT has_schema_privilege('qwen_embed', 'CREATE') THEN
        PERFORM qwen_embed.open_schema(current_user::text);
    END IF;
END $$;
COMMENT ON FUNCTION qwen_embed.check_source(regclass) IS
    'Raises, with what to do, unless the table can be a source and the caller may make it one.';

CREATE OR REPLACE FUNCTION qwen_embed.check_either(columns text[], template text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (coalesce(cardinality(columns), 0) > 0) = (coalesce(template, '') <> '') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'give either columns or template',
            HINT = 'For example columns => ARRAY[''title'', ''body''] or template => ''{title}: {body}''.';
    END IF;
END $$;
COMMENT ON FUNCTION qwen_embed.check_either(text[], text) IS 'Raises unless one of the two is given.';

CREATE OR REPLACE FUNCTION qwen_embed.check_text(source regclass, columns text[], template text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM qwen_embed.check_either(columns, template);
    PERFORM qwen_embed.content_columns(source, columns, template);
    IF template IS NOT NULL AND NOT EXISTS (
        SELECT FROM qwen_embed.template_parts(template) p WHERE p.name IS NOT NULL) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'template names no column', HINT = 'Name a column as {column}.';
    END IF;
END $$;
COMMENT ON FUNCTION qwen_embed.check_text(regclass, text[], text) IS
    'Raises unless columns or a template make a text of a row.';

CREATE OR REPLACE FUNCTION qwen_embed.check_space(model text, dimensions int) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    longest int := CASE model WHEN 'qwen3-embedding-8b' THEN 4096 WHEN 'qwen3-embedding-4b' THEN 2560
        WHEN 'qwen3-embedding-0.6b' THEN 1024 ELSE 16000 END;
    shortest int := CASE WHEN model LIKE 'qwen3-embedding-%' THEN 32 ELSE 1 END;
BEGIN
    IF dimensions NOT BETWEEN shortest AND longest THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('%s has no vectors of %s dimensions', model, dimensions),
            HINT = format('Ask for %s to %s.', shortest, longest);
    END IF;
END $$;
COMMENT ON FUNCTION qwen_embed.check_space(text, int) IS
    'Raises if a model whose lengths are known here has no vectors of this length.';

CREATE OR REPLACE FUNCTION qwen_embed.lock_tables(tables regclass[], mode text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before text := current_setting('lock_timeout');
    there regclass[] := ARRAY(
        SELECT given.oid FROM unnest(tables) WITH ORDINALITY AS given(oid, place) JOIN pg_class c ON c.oid = given.oid
        ORDER BY given.place);
BEGIN
    IF there = '{}' THEN
        RETURN;
    END IF;
    -- A waiting lock queues every writer behind it: so wait little, let them pass, and try again. All
    -- in one attempt: whoever held the source and waited for a reader of another would stop everyone.
    PERFORM set_config('lock_timeout', '300ms', true);
    FOR attempt IN 1..20 LOOP
        BEGIN
            EXECUTE format('LOCK TABLE %s IN %s MODE', array_to_string(there, ', '), mode);
            PERFORM set_config('lock_timeout', before, true);
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_sleep(0.1 + random() * 0.3);
        END;
    END LOOP;
    RAISE EXCEPTION USING ERRCODE = 'lock_not_available',
        MESSAGE = format('%s is in use by a long transaction', array_to_string(there, ' or ')),
        HINT = 'Try again when it has ended; pg_stat_activity shows it.';
END $$;
COMMENT ON FUNCTION qwen_embed.lock_tables(regclass[], text) IS
    'Locks those of the tables that exist, in this order, for their triggers to change, in short attempts that hardly delay writers.';

CREATE OR REPLACE FUNCTION qwen_embed.blank_vectorizer() RETURNS qwen_embed.vectorizer
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v qwen_embed.vectorizer;
BEGIN
    v.target := 'table';
    v.paused := false;
    v.notify := false;
    v.capture := 'statement';
    v.created_at := now();
    RETURN v;
END $$;
COMMENT ON FUNCTION qwen_embed.blank_vectorizer() IS 'A definition in which nothing but the defaults is said yet.';

CREATE OR REPLACE FUNCTION qwen_embed.make_vectorizer(v qwen_embed.vectorizer, target_name text, backfill boolean)
RETURNS qwen_embed.vectorizer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    place record;
BEGIN
    SELECT c.relname AS table_name, n.nspname AS schema_name INTO place
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = v.source;
    PERFORM qwen_embed.lock_tables(ARRAY[v.source], 'SHARE ROW EXCLUSIVE');
    v.id := nextval(pg_get_serial_sequence('qwen_embed.vectorizer', 'id'));
    IF v.target = 'column' THEN
        PERFORM qwen_embed.make_column(v, target_name);
    ELSE
        v.target_table := qwen_embed.make_target(v, place.schema_name, target_name);
    END IF;
    INSERT INTO qwen_embed.vectorizer OVERRIDING SYSTEM VALUE SELECT (v).*;
    PERFORM qwen_embed.make_queue(v);
    PERFORM qwen_embed.make_row_functions(v);
    PERFORM qwen_embed.make_capture(v);
    -- One that is to replace another serves nobody yet: the view is the other's.
    IF v.target = 'column' THEN
        PERFORM qwen_embed.make_mark(v, target_name);
    ELSIF v.replaces IS NULL THEN
        v.target_view := qwen_embed.make_view(v, place.schema_name,
            qwen_embed.view_name(place.schema_name, place.table_name, target_name));
    END IF;
    UPDATE qwen_embed.vectorizer AS made
    SET target_view = v.target_view, capture_mark = qwen_embed.capture_mark(v),
        partitions = qwen_embed.partition_marks(v)
    WHERE made.id = v.id;
    -- Only recorded here: rows that others committed since this transaction's snapshot are not visible
    -- to it, yet not in the log either. A worker walks over the table later, with a snapshot of its own.
    IF backfill THEN
        INSERT INTO qwen_embed.task (vectorizer, kind) VALUES (v.id, 'backfill');
    END IF;
    RETURN v;
END $$;
COMMENT ON FUNCTION qwen_embed.make_vectorizer(qwen_embed.vectorizer, text, boolean) IS
    'Makes the tables, functions and triggers of a definition, and keeps it.';

CREATE OR REPLACE FUNCTION qwen_embed.check_name(v qwen_embed.vectorizer) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    other qwen_embed.vectorizer := (SELECT e FROM qwen_embed.vectorizer e WHERE e.name = v.name);
    -- What move() would refuse is not advised.
    moves boolean := other.source = v.source AND other.target = 'table' AND v.target = 'table'
        AND other.retired_at IS NULL AND other.replaces IS NULL AND (qwen_embed.successor(other)).id IS NULL
        AND (other.model, other.dimensions) <> (v.model, v.dimensions)
        AND (other.columns, other.template, other.condition, other.chunk_tokens, other.chunk_overlap)
            IS NOT DISTINCT FROM (v.columns, v.template, v.condition, v.chunk_tokens, v.chunk_overlap);
BEGIN
    IF other.id IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'duplicate_object',
            MESSAGE = format('there is already a vectorizer %L, of %s in the space %s/%s',
                v.name, other.source, other.model, other.dimensions),
            HINT = CASE WHEN moves
                THEN format('To change its space: SELECT qwen_embed.move(%L, model => %L, dimensions => %s); or give another name => ….',
                    v.name, v.model, v.dimensions)
                ELSE format('Give another name => …, or end that one first: SELECT qwen_embed.drop_vectorizer(%L);', v.name) END;
    END IF;
END $$;
COMMENT ON FUNCTION qwen_embed.check_name(qwen_embed.vectorizer) IS
    'Raises, with the ways on, if there is a vectorizer of that name.';

CREATE OR REPLACE FUNCTION qwen_embed.check_target_name(schema_name text, target_name text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    called text := format('%I.%I', schema_name, target_name);
    there pg_class := (SELECT c FROM pg_class c WHERE c.oid = to_regclass(called));
    serves text := (SELECT e.name FROM qwen_embed.vectorizer e WHERE there.oid IN (e.target_table, e.target_view) LIMIT 1);
    -- drop_vectorizer() says so of what it leaves.
    left_over boolean := there.relkind = 'r' AND obj_description(there.oid, 'pg_class') LIKE 'Vectors of %, when their vectorizer % was dropped.';
BEGIN
    IF serves IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'duplicate_table',
            MESSAGE = format('%s belongs to the vectorizer %L', called, serves),
            HINT = 'Give another target_name => ….';
    ELSIF there.oid IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'duplicate_table',
            MESSAGE = format('%s exists already', CASE WHEN there.relkind IN ('r', 'p') THEN 'table ' ELSE '' END || called),
            HINT = CASE WHEN left_over
                THEN format('Give another target_name => …, or drop what an earlier vectorizer left: DROP TABLE %s;', called)
                ELSE 'Give another target_name => ….' END;
    END IF;
END $$;
COMMENT ON FUNCTION qwen_embed.check_target_name(text, text) IS
    'Raises if the name for a side table is taken, and says by whom.';

CREATE OR REPLACE FUNCTION qwen_embed.create_vectorizer(
    source regclass,
    columns text[] DEFAULT NULL,
    template text DEFAULT NULL,
    name text DEFAULT NULL,
    model text DEFAULT NULL,
    dimensions int DEFAULT NULL,
    target text DEFAULT 'table',
    target_name text DEFAULT NULL,
    storage text DEFAULT NULL,
    index_kind text DEFAULT NULL,
    chunk_tokens int DEFAULT NULL,
    chunk_overlap int DEFAULT NULL,
    condition text DEFAULT NULL,
    backfill boolean DEFAULT true
) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    table_name text;
    schema_name text;
    v qwen_embed.vectorizer := qwen_embed.blank_vectorizer();
BEGIN
    IF target IS NULL OR target NOT IN ('table', 'column') THEN
        PERFORM qwen_embed.refuse(format('target => %L is not supported', target), 'Use table or column.');
    ELSIF target = 'column' AND chunk_tokens IS NOT NULL THEN
        PERFORM qwen_embed.refuse('a column holds one vector a row, and chunk_tokens makes several',
            'Leave target out: the vectors then stand in a side table.');
    END IF;
    v.target := target;
    PERFORM qwen_embed.check_either(columns, template);
    PERFORM qwen_embed.check_source(source);
    PERFORM qwen_embed.check_text(source, columns, template);
    PERFORM qwen_embed.check_chunks(chunk_tokens, chunk_overlap);

    SELECT c.relname, n.nspname INTO table_name, schema_name
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = source;
    v.name := coalesce(name, table_name);
    v.source := source;
    v.columns := CASE WHEN template IS NULL THEN columns END;
    v.template := template;
    v.condition := condition;
    v.chunk_tokens := chunk_tokens;
    v.chunk_overlap := chunk_overlap;
    IF condition IS NOT NULL THEN
        PERFORM qwen_embed.condition_columns(source, condition);
    END IF;
    v.model := coalesce(model, (SELECT i.model FROM qwen_embed.installation i), 'qwen3-embedding-8b');
    v.dimensions := coalesce(dimensions, (SELECT i.dimensions FROM qwen_embed.installation i), 1024);
    PERFORM qwen_embed.check_space(v.model, v.dimensions);
    v.storage := qwen_embed.choose_storage(storage, v.dimensions);
    v.index_kind := qwen_embed.choose_index(v.storage, index_kind, v.dimensions);
    IF target = 'column' AND (SELECT c.relkind = 'p' FROM pg_class c WHERE c.oid = source) THEN
        IF coalesce(index_kind, 'none') <> 'none' THEN
            PERFORM qwen_embed.refuse(format('%s is partitioned: no index of it is built without stopping writers', source),
                'Leave index_kind out and index its partitions yourself, or leave target out.');
        END IF;
        v.index_kind := 'none';
    END IF;
    PERFORM qwen_embed.check_name(v);

    target_name := coalesce(target_name,
        CASE target WHEN 'column' THEN 'embedding' ELSE qwen_embed.derived_name(table_name, '_embedding') END);
    IF octet_length(target_name) > 63 THEN
        RAISE EXCEPTION USING ERRCODE = 'name_too_long', MESSAGE = 'target_name is longer than 63 bytes',
            HINT = 'Give a shorter one.';
    ELSIF target = 'table' THEN
        PERFORM qwen_embed.check_target_name(schema_name, target_name);
    END IF;

    v := qwen_embed.make_vectorizer(v, target_name, backfill);
    IF target = 'column' THEN
        RAISE NOTICE USING MESSAGE = format('workers will update %s itself, 50 rows at a time: its UPDATE triggers fire, its '
            'indexes grow, and transactions at REPEATABLE READ or above may have to be tried again', source);
    END IF;
    RETURN v.name;
END $$;
COMMENT ON FUNCTION qwen_embed.create_vectorizer(
    regclass, text[], text, text, text, int, text, text, text, text, int, int, text, boolean) IS
    'Makes the rows of a table embed themselves: side table, view and triggers at once, vectors by a '
    'worker later. columns are joined by newlines; a template reads ''{title}: {body}''. Rows for which condition, SQL '
    'over their columns, is not true have no vector. model and dimensions: as installed, unless given. target: ''table'', '
    'beside the source, or ''column'' in it, called target_name. storage: ''vector'' or ''halfvec''; index_kind: ''hnsw'', '
    '''binary'', ''prefix'' or ''none''; the dimensions decide, unless given. chunk_tokens and chunk_overlap split long '
    'texts. backfill: whether rows that are there are embedded too. Returns the name, by default the table''s.';

CREATE OR REPLACE FUNCTION qwen_embed.view_name(schema_name text, table_name text, target_name text)
RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT CASE WHEN to_regclass(format('%I.%I', schema_name, qwen_embed.derived_name(table_name, '_embedded'))) IS NULL
        THEN qwen_embed.derived_name(table_name, '_embedded')
        ELSE qwen_embed.derived_name(target_name, '_view') END;
END;
COMMENT ON FUNCTION qwen_embed.view_name(text, text, text) IS
    '<source>_embedded, or <target>_view where that name is taken.';

CREATE OR REPLACE FUNCTION qwen_embed.record_sweep(v qwen_embed.vectorizer) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    -- A walk that has not begun serves a later request as well. One that another session has locked
    -- may be under way, with a snapshot from before.
    INSERT INTO qwen_embed.task (vectorizer, kind)
    SELECT v.id, wanted.walk FROM unnest(ARRAY['backfill', 'orphans']) AS wanted(walk)
    WHERE NOT EXISTS (SELECT FROM qwen_embed.task t
        WHERE t.vectorizer = v.id AND t.kind = wanted.walk AND t.part IS NULL AND t.reached IS NULL
        FOR UPDATE SKIP LOCKED);
END;
COMMENT ON FUNCTION qwen_embed.record_sweep(qwen_embed.vectorizer) IS
    'Has workers compare every row with its vector, by hash, and every vector with its row.';

CREATE OR REPLACE FUNCTION qwen_embed.enqueue(name text) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT qwen_embed.record_sweep(qwen_embed.named(name));
END;
COMMENT ON FUNCTION qwen_embed.enqueue(text) IS
    'Has every row looked at again. A text that did not change is not paid for again.';

CREATE OR REPLACE FUNCTION qwen_embed.retry(name text) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v qwen_embed.vectorizer := qwen_embed.named(name);
    keys text := qwen_embed.numbered(v, 'k#');
    appended bigint;
BEGIN
    EXECUTE format('INSERT INTO qwen_embed.log_%s (op, %s) SELECT ''c'', %s FROM qwen_embed.dead_%s', v.id, keys, keys, v.id);
    GET DIAGNOSTICS appended = ROW_COUNT;
    RETURN appended;
END $$;
COMMENT ON FUNCTION qwen_embed.retry(text) IS
    'Has the dead letters tried again; returns how many. One that succeeds leaves the list.';

CREATE OR REPLACE FUNCTION qwen_embed.pause(name text) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    UPDATE qwen_embed.vectorizer SET paused = true WHERE id = (qwen_embed.named(pause.name)).id;
END;
COMMENT ON FUNCTION qwen_embed.pause(text) IS
    'Stops the spending. Changes are still recorded and wait for resume().';

CREATE OR REPLACE FUNCTION qwen_embed.resume(name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v qwen_embed.vectorizer := qwen_embed.named(name);
BEGIN
    IF v.suspended IS NOT NULL THEN
        PERFORM qwen_embed.check_source(v.source);
        PERFORM qwen_embed.lock_tables(ARRAY[v.source, v.target_view], 'ACCESS EXCLUSIVE');
        PERFORM qwen_embed.take_hold(v, v.suspended ->> 'content', v.suspended ->> 'view');
    END IF;
    UPDATE qwen_embed.vectorizer AS kept
    SET paused = false, trouble = NULL, last_error = NULL, last_error_at = NULL WHERE kept.id = v.id;
END $$;
COMMENT ON FUNCTION qwen_embed.resume(text) IS 'Undoes pause() and suspend(), and clears what held the work.';

CREATE OR REPLACE FUNCTION qwen_embed.repair(name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v qwen_embed.vectorizer := qwen_embed.named(name);
    table_name text;
    column_name text := coalesce(qwen_embed.vector_column(v.id, v.source), 'embedding');
    schema_name text;
BEGIN
    IF v.suspended IS NOT NULL THEN
        PERFORM qwen_embed.refuse(format('%L is suspended', v.name), format('SELECT qwen_embed.resume(%L);', v.name));
    END IF;
    PERFORM qwen_embed.check_source(v.source);
    PERFORM qwen_embed.lock_tables(ARRAY[v.source], 'SHARE ROW EXCLUSIVE');
    PERFORM qwen_embed.require_key(v);
    SELECT c.relname, n.nspname INTO table_name, schema_name
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = v.source;
    IF v.target = 'column' THEN
        PERFORM qwen_embed.make_column(v, column_name);
    ELSIF NOT EXISTS (SELECT FROM pg_class WHERE oid = v.target_table) THEN
        v.target_table := qwen_embed.make_target(v, schema_name, qwen_embed.derived_name(table_name, '_embedding'));
        UPDATE qwen_embed.vectorizer AS kept SET target_table = v.target_table WHERE kept.id = v.id;
    END IF;
    PERFORM qwen_embed.make_queue(v);
    PERFORM qwen_embed.make_row_functions(v);
    PERFORM qwen_embed.make_capture(v);
    IF v.target = 'column' THEN
        PERFORM qwen_embed.make_mark(v, column_name);
    ELSIF NOT EXISTS (SELECT FROM pg_class WHERE oid = v.target_view) THEN
        v.target_view := qwen_embed.make_view(v, schema_name, qwen_embed.view_name(
            schema_name, table_name, (SELECT relname FROM pg_class WHERE oid = v.target_table)));
    END IF;
    UPDATE qwen_embed.vectorizer AS kept
    SET target_view = v.target_view, capture_mark = qwen_embed.capture_mark(v),
        partitions = qwen_embed.partition_marks(v), trouble = NULL, last_error = NULL, last_error_at = NULL
    WHERE kept.id = v.id;
    PERFORM qwen_embed.record_sweep(v);
END $$;
COMMENT ON FUNCTION qwen_embed.repair(text) IS
    'Makes again what is missing of a vectorizer and has every row compared with its vector.';

CREATE OR REPLACE FUNCTION qwen_embed.drop_capture(v qwen_embed.vectorizer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
DECLARE
    part text;
    held regclass;
BEGIN
    IF EXISTS (SELECT FROM pg_class WHERE oid = v.source) THEN
        FOREACH part IN ARRAY ARRAY['insert', 'delete', 'update', 'truncate'] LOOP
            EXECUTE format('DROP TRIGGER IF EXISTS qwen_embed_%s_%s ON %s', v.id, part, v.source);
        END LOOP;
    END IF;
    -- On partitions, also on those that were detached since.
    FOR held IN SELECT t.tgrelid::regclass FROM pg_trigger t
        WHERE t.tgname = 'qwen_embed_' || v.id || '_truncate'
            AND t.tgfoid = to_regproc(format('qwen_embed.capture_%s_truncate', v.id))
    LOOP
        EXECUTE format('DROP TRIGGER qwen_embed_%s_truncate ON %s', v.id, held);
    END LOOP;
END $$;
COMMENT ON FUNCTION qwen_embed.drop_capture(qwen_embed.vectorizer) IS
    'Drops the triggers of a vectorizer. What they append to goes when its row is deleted or retired: end_parts().';

CREATE OR REPLACE FUNCTION qwen_embed.holds_nothing(side_table regclass) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    size bigint := pg_relation_size(side_table);
    nothing boolean;
BEGIN
    IF size IS NULL OR NOT (SELECT pg_has_role(c.relowner, 'USAGE') FROM pg_class c WHERE c.oid = side_table) THEN
        RETURN false;
    ELSIF size = 0 THEN
        RETURN true;
    -- Rows may be there and not be seen: by an older snapshot, or under a policy. And a large table is
    -- not read while writers wait.
    ELSIF size > 10000000 OR current_setting('transaction_isolation') <> 'read committed'
        OR row_security_active(side_table) OR NOT has_table_privilege(side_table, 'SELECT') THEN
        RETURN false;
    END IF;
    EXECUTE format('SELECT NOT EXISTS (SELECT FROM %s)', side_table) INTO nothing;
    RETURN nothing;
END $$;
COMMENT ON FUNCTION qwen_embed.holds_nothing(regclass) IS
    'Whether a side table is the caller''s to drop and has certainly no row.';

CREATE OR REPLACE FUNCTION qwen_embed.try_drop(side_table regclass) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
BEGIN
    EXECUTE format('DROP TABLE %s', side_table);
    RETURN true;
EXCEPTION WHEN dependent_objects_still_exist THEN
    RETURN false;
END $$;
COMMENT ON FUNCTION qwen_embed.try_drop(regclass) IS
    'Drops a side table unless something of the user''s depends on it, such as a view or a foreign key; says whether it did.';

CREATE OR REPLACE FUNCTION qwen_embed.drop_vectorizer(name text, drop_target boolean DEFAULT false)
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
DECLARE
    v qwen_embed.vectorizer := qwen_embed.named(name);
    moved qwen_embed.vectorizer := (SELECT s FROM qwen_embed.vectorizer s WHERE s.replaces = v.id);
    before qwen_embed.vectorizer := (
        SELECT o FROM qwen_embed.vectorizer o WHERE o.id = v.replaces AND o.retired_at IS NOT NULL);
    ours boolean := (SELECT pg_has_role(c.relowner, 'USAGE') FROM pg_class c WHERE c.oid = v.target_table);
    empty boolean;
BEGIN
    IF moved.id IS NOT NULL AND v.retired_at IS NULL THEN
        PERFORM qwen_embed.refuse(format('%L is being moved to %s', v.name, moved.name),
            format('SELECT qwen_embed.cancel_move(%L); first.', v.name));
    END IF;
    -- The source first. A writer holds the source and wants the log: the other order could deadlock
    -- with it, and Postgres might choose the writer.
    PERFORM qwen_embed.lock_tables(
        ARRAY[v.source, to_regclass('qwen_embed.log_' || v.id), to_regclass('qwen_embed.work_' || v.id),
            to_regclass('qwen_embed.dead_' || v.id), CASE WHEN drop_target OR ours THEN v.target_table END, v.target_view],
        'ACCESS EXCLUSIVE');
    -- An empty side table is worth nothing, and would be in the way of the same vectorizer made again.
    empty := NOT drop_target AND qwen_embed.holds_nothing(v.target_table);
    PERFORM qwen_embed.drop_capture(v);
    PERFORM qwen_embed.drop_mark(v, drop_target);
    DELETE FROM qwen_embed.vectorizer kept WHERE kept.id = v.id;
    IF EXISTS (SELECT FROM pg_class WHERE oid = v.target_view AND relkind = 'v') THEN
        EXECUTE format('DROP VIEW %s', v.target_view);
    END IF;
    IF drop_target AND EXISTS (SELECT FROM pg_class WHERE oid = v.target_table) THEN
        EXECUTE format('DROP TABLE %s', v.target_table);
    ELSIF EXISTS (SELECT FROM pg_class WHERE oid = v.target_table) AND NOT (empty AND qwen_embed.try_drop(v.target_table)) THEN
        EXECUTE format('COMMENT ON TABLE %s IS %L', v.target_table, format(
            'Vectors of %s (%s, %s dimensions) as they were on %s, when their vectorizer %L was dropped.',
            v.source, v.model, v.dimensions, current_date, v.name));
    END IF;
    -- What the last move left behind goes the same way.
    IF before.id IS NOT NULL THEN
        PERFORM qwen_embed.drop_vectorizer(before.name, drop_target);
    END IF;
END $$;
COMMENT ON FUNCTION qwen_embed.drop_vectorizer(text, boolean) IS
    'Ends a vectorizer: triggers, log and view go. The vectors stay unless drop_target is true. A side table without '
    'any goes too, unless something depends on it.';
