-- Changing what a vectorizer reads, and the way out where Postgres refuses to change a column.

CREATE OR REPLACE FUNCTION qwen_embed.suspend(name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
DECLARE
    v qwen_embed.vectorizer := qwen_embed.named(name);
    view_name text := (SELECT relname FROM pg_class WHERE oid = v.target_view);
BEGIN
    IF v.suspended IS NOT NULL THEN
        RETURN;
    END IF;
    PERFORM qwen_embed.check_source(v.source);
    PERFORM qwen_embed.lock_tables(ARRAY[v.source, v.target_view], 'ACCESS EXCLUSIVE');
    IF to_regproc(format('qwen_embed.content_%s', v.id)) IS NULL THEN
        PERFORM qwen_embed.refuse(format('the content function of %L is missing', v.name),
            format('SELECT qwen_embed.redefine(%L, columns => …); makes another.', v.name));
    END IF;
    -- The body as Postgres writes it now, since the names at creation may be old ones.
    UPDATE qwen_embed.vectorizer AS kept
    SET suspended = jsonb_build_object(
        'content', pg_get_function_sqlbody(to_regproc(format('qwen_embed.content_%s', v.id))), 'view', view_name)
    WHERE kept.id = v.id;
    PERFORM qwen_embed.let_go(v);
END $$;
COMMENT ON FUNCTION qwen_embed.suspend(text) IS
    'Lets go of the source''s columns, so that ALTER TABLE may change or drop them: the view and the capture of '
    'updates go until resume(). In one transaction with the change and resume() nobody notices.';

CREATE OR REPLACE FUNCTION qwen_embed.let_go(v qwen_embed.vectorizer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
BEGIN
    EXECUTE format('DROP TRIGGER IF EXISTS qwen_embed_%s_update ON %s', v.id, v.source);
    IF to_regproc(format('qwen_embed.content_%s', v.id)) IS NOT NULL THEN
        EXECUTE format('DROP FUNCTION qwen_embed.content_%s(%s)', v.id, v.source);
    END IF;
    IF EXISTS (SELECT FROM pg_class WHERE oid = v.target_view AND relkind = 'v') THEN
        EXECUTE format('DROP VIEW %s', v.target_view);
    END IF;
END $$;
COMMENT ON FUNCTION qwen_embed.let_go(qwen_embed.vectorizer) IS
    'Drops what depends on the source''s columns, besides its key: the trigger for updates, content_N, the view.';

CREATE OR REPLACE FUNCTION qwen_embed.take_hold(v qwen_embed.vectorizer, content text, view_name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
DECLARE
    place record;
BEGIN
    BEGIN
        EXECUTE format('CREATE FUNCTION qwen_embed.content_%s(%s) RETURNS text LANGUAGE sql STABLE %s',
            v.id, v.source, content);
    EXCEPTION WHEN undefined_column OR undefined_function OR datatype_mismatch THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_column',
            MESSAGE = format('the text of %L can no longer be made: %s', v.name, SQLERRM),
            HINT = format('Say what to embed now: SELECT qwen_embed.redefine(%L, columns => …);', v.name);
    END;
    PERFORM qwen_embed.make_row_functions(v);
    PERFORM qwen_embed.make_capture(v);
    SELECT n.nspname, c.relname INTO place
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = v.source;
    IF v.target = 'table' AND NOT EXISTS (SELECT FROM pg_class WHERE oid = v.target_view) THEN
        v.target_view := qwen_embed.make_view(v, place.nspname, coalesce(view_name, qwen_embed.view_name(
            place.nspname, place.relname, (SELECT relname FROM pg_class WHERE oid = v.target_table))));
    END IF;
    UPDATE qwen_embed.vectorizer AS kept
    SET suspended = NULL, target_view = v.target_view, capture_mark = qwen_embed.capture_mark(v)
    WHERE kept.id = v.id;
    PERFORM qwen_embed.record_sweep(v);
END $$;
COMMENT ON FUNCTION qwen_embed.take_hold(qwen_embed.vectorizer, text, text) IS
    'Makes again what let_go() dropped, with this body of content_N, and has every row compared.';

CREATE OR REPLACE FUNCTION qwen_embed.redefine(
    name text, columns text[] DEFAULT NULL, template text DEFAULT NULL, condition text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
#variable_conflict use_variable
DECLARE
    v qwen_embed.vectorizer := qwen_embed.named(name);
    view_name text := coalesce(v.suspended ->> 'view', (SELECT relname FROM pg_class WHERE oid = v.target_view));
BEGIN
    PERFORM qwen_embed.check_text(v.source, columns, template);
    PERFORM qwen_embed.check_source(v.source);
    v.columns := CASE WHEN template IS NULL THEN columns END;
    v.template := template;
    v.condition := condition;
    PERFORM qwen_embed.lock_tables(ARRAY[v.source, v.target_view], 'ACCESS EXCLUSIVE');
    PERFORM qwen_embed.let_go(v);
    UPDATE qwen_embed.vectorizer AS kept
    SET columns = v.columns, template = v.template, condition = v.condition WHERE kept.id = v.id;
    PERFORM qwen_embed.take_hold(v, format('BEGIN ATOMIC %s; END',
        qwen_embed.content_body(v.source, v.columns, v.template, v.condition)), view_name);
END $$;
COMMENT ON FUNCTION qwen_embed.redefine(text, text[], text, text) IS
    'Changes which columns or template, and which condition, make the text; as in create_vectorizer(). Rows whose '
    'text is another now are embedded anew.';

CREATE OR REPLACE FUNCTION qwen_embed.capture_by(name text, unit text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
DECLARE
    v qwen_embed.vectorizer := qwen_embed.named(name);
BEGIN
    IF unit IS NULL OR unit NOT IN ('statement', 'row') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('capture by %s is unknown', coalesce(quote_literal(unit), 'null')),
            HINT = 'Give ''statement'' or ''row''.';
    END IF;
    v.capture := unit;
    UPDATE qwen_embed.vectorizer AS kept SET capture = unit WHERE kept.id = v.id;
    PERFORM qwen_embed.remake_capture(v);
END $$;
COMMENT ON FUNCTION qwen_embed.capture_by(text, text) IS
    '''statement'' (the default) records inserts and deletes by one call for a statement, ''row'' by one for each row: '
    'faster for single rows under load, slower in bulk, and what a table needs that a subscription writes to. '
    'Partitioned tables always use rows.';

CREATE OR REPLACE FUNCTION qwen_embed.notify_workers(name text, wanted boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
DECLARE
    v qwen_embed.vectorizer := qwen_embed.named(name);
BEGIN
    v.notify := wanted;
    UPDATE qwen_embed.vectorizer AS kept SET notify = wanted WHERE kept.id = v.id;
    PERFORM qwen_embed.remake_capture(v);
END $$;
COMMENT ON FUNCTION qwen_embed.notify_workers(text, boolean) IS
    'Whether a change wakes workers at once by NOTIFY, instead of at their next look. Concurrent writers then '
    'commit one after the other: several times slower under load. Off by default.';

CREATE OR REPLACE FUNCTION qwen_embed.remake_capture(v qwen_embed.vectorizer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
BEGIN
    IF v.suspended IS NOT NULL THEN
        PERFORM qwen_embed.refuse(format('%L is suspended', v.name), format('SELECT qwen_embed.resume(%L);', v.name));
    END IF;
    PERFORM qwen_embed.check_source(v.source);
    PERFORM qwen_embed.lock_tables(ARRAY[v.source], 'SHARE ROW EXCLUSIVE');
    PERFORM qwen_embed.make_capture(v);
    -- Under the lock no write was missed: nothing has to be compared.
    UPDATE qwen_embed.vectorizer AS kept
    SET capture_mark = qwen_embed.capture_mark(v), partitions = qwen_embed.partition_marks(v) WHERE kept.id = v.id;
END $$;
COMMENT ON FUNCTION qwen_embed.remake_capture(qwen_embed.vectorizer) IS
    'Makes the triggers anew while nobody can write.';
