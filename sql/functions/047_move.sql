-- Moving to another space: a second vectorizer fills up beside the first and then takes its name.

CREATE OR REPLACE FUNCTION qwen_embed.pinned_name(name text, model text, dimensions int) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT concat(name, '@', model, '/', dimensions);
END;
COMMENT ON FUNCTION qwen_embed.pinned_name(text, text, int) IS
    'A vectorizer''s name together with its space: it never means vectors of another one.';

CREATE OR REPLACE FUNCTION qwen_embed.successor(v qwen_embed.vectorizer) RETURNS qwen_embed.vectorizer
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT s.* FROM qwen_embed.vectorizer s WHERE s.replaces = v.id;
END;
COMMENT ON FUNCTION qwen_embed.successor(qwen_embed.vectorizer) IS
    'The vectorizer that is to take this one''s place, or took it; null if there is none.';

CREATE OR REPLACE FUNCTION qwen_embed.require_move(v qwen_embed.vectorizer) RETURNS qwen_embed.vectorizer
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    moving qwen_embed.vectorizer := qwen_embed.successor(v);
BEGIN
    IF moving.id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('%L is not being moved', v.name),
            HINT = format('Begin with: SELECT qwen_embed.move(%L, model => …, dimensions => …);', v.name);
    END IF;
    RETURN moving;
END $$;
COMMENT ON FUNCTION qwen_embed.require_move(qwen_embed.vectorizer) IS
    'The vectorizer that is to take this one''s place, or an error.';

CREATE OR REPLACE FUNCTION qwen_embed.move(
    name text, model text DEFAULT NULL, dimensions int DEFAULT NULL, storage text DEFAULT NULL,
    index_kind text DEFAULT NULL, target_name text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
#variable_conflict use_variable
DECLARE
    v qwen_embed.vectorizer := qwen_embed.named(name);
    moved qwen_embed.vectorizer := v;
    before qwen_embed.vectorizer := (SELECT r FROM qwen_embed.vectorizer r WHERE r.id = v.replaces);
    kept_by text;
    place record;
BEGIN
    IF (qwen_embed.successor(v)).id IS NOT NULL THEN
        PERFORM qwen_embed.refuse(format('%L is being moved already, to %s', v.name, (qwen_embed.successor(v)).name),
            format('SELECT qwen_embed.finish_move(%L); or SELECT qwen_embed.cancel_move(%L);', v.name, v.name));
    ELSIF before.retired_at IS NOT NULL THEN
        PERFORM qwen_embed.refuse(format('%s is still kept from the last move of %L', before.name, v.name),
            format('SELECT qwen_embed.drop_old(%L); frees it.', v.name));
    ELSIF before.id IS NOT NULL THEN
        PERFORM qwen_embed.refuse(format('%L is on its way to replace %L', v.name, before.name),
            format('SELECT qwen_embed.cancel_move(%L); first.', before.name));
    ELSIF v.retired_at IS NOT NULL THEN
        PERFORM qwen_embed.refuse(format('%L was replaced, it serves no more', v.name), 'Name the one in its place.');
    ELSIF v.suspended IS NOT NULL THEN
        PERFORM qwen_embed.refuse(format('%L is suspended', v.name), format('SELECT qwen_embed.resume(%L);', v.name));
    ELSIF v.target <> 'table' THEN
        PERFORM qwen_embed.refuse(format('%L keeps its vectors in a column of its source', v.name),
            'Create a second vectorizer with another target_name, search that one, then drop this one.');
    END IF;
    moved.model := coalesce(model, v.model);
    moved.dimensions := coalesce(dimensions, v.dimensions);
    IF (moved.model, moved.dimensions) = (v.model, v.dimensions) THEN
        PERFORM qwen_embed.refuse(format('%L is of %s/%s already', v.name, v.model, v.dimensions),
            'Another provider of the same space needs no move: workers and searches take any.');
    END IF;
    PERFORM qwen_embed.check_source(v.source);
    PERFORM qwen_embed.check_space(moved.model, moved.dimensions);
    SELECT string_agg(DISTINCT c.oid::regclass::text, ', ') INTO kept_by
    FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid JOIN pg_class c ON c.oid = r.ev_class
    WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass
        AND d.refobjid = v.target_view AND c.oid <> v.target_view;
    IF kept_by IS NOT NULL THEN
        PERFORM qwen_embed.refuse(format('%s depends on %s, whose vectors change their type', kept_by, v.target_view),
            'Drop it first, and make it again after the move.');
    END IF;
    moved.storage := qwen_embed.choose_storage(storage, moved.dimensions);
    moved.index_kind := qwen_embed.choose_index(moved.storage, index_kind, moved.dimensions);
    SELECT c.relname AS table_name, n.nspname AS schema_name INTO place
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = v.source;
    moved.name := qwen_embed.pinned_name(v.name, moved.model, moved.dimensions);
    moved.replaces := v.id;
    moved.target_view := NULL;
    moved.paused := false;
    moved.trouble := NULL; moved.last_error := NULL; moved.last_error_at := NULL;
    moved.created_at := now();
    moved := qwen_embed.make_vectorizer(moved,
        qwen_embed.free_name(place.schema_name, coalesce(target_name,
            qwen_embed.derived_name(place.table_name, format('_embedding_%s', moved.dimensions)))), true);
    RETURN moved.name;
END $$;
COMMENT ON FUNCTION qwen_embed.move(text, text, int, text, text, text) IS
    'Begins to move a vectorizer to another model or length: a second side table is filled by workers while the '
    'first one serves. finish_move() swaps them, cancel_move() gives up. Returns the name it has until then.';

CREATE OR REPLACE FUNCTION qwen_embed.free_name(schema_name text, wanted text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tried text := wanted;
BEGIN
    FOR number IN 2..1000 LOOP
        EXIT WHEN to_regclass(format('%I.%I', schema_name, tried)) IS NULL;
        tried := qwen_embed.derived_name(wanted, '_' || number);
    END LOOP;
    RETURN tried;
END $$;
COMMENT ON FUNCTION qwen_embed.free_name(text, text) IS
    'A name that no table of the schema has: the wanted one, or with a number behind it.';

CREATE OR REPLACE FUNCTION qwen_embed.move_waits_for(name text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    moved qwen_embed.vectorizer := qwen_embed.require_move(qwen_embed.named(name));
    c record := qwen_embed.counts(moved);
BEGIN
    RETURN CASE
        WHEN qwen_embed.capture_problem(moved) IS NOT NULL THEN qwen_embed.capture_problem(moved)
        WHEN moved.paused THEN format('%s is paused', moved.name)
        WHEN moved.trouble IS NOT NULL THEN moved.last_error
        WHEN EXISTS (SELECT FROM qwen_embed.task t WHERE t.vectorizer = moved.id AND t.kind = 'backfill')
            THEN 'rows are still being walked over'
        WHEN moved.index_kind <> 'none' AND qwen_embed.standing_index(moved) IS NULL THEN 'its index is not built yet'
        -- Writers never rest: what came in the last moments is no reason to wait.
        WHEN c.leased + c.pending > 0 AND c.oldest < now() - interval '30 seconds'
            THEN format('%s changes wait, the oldest for %s', c.pending + c.leased,
                date_trunc('second', clock_timestamp() - c.oldest))
        WHEN c.leased + c.pending > 1000 THEN format('%s changes wait', c.pending + c.leased)
    END;
END $$;
COMMENT ON FUNCTION qwen_embed.move_waits_for(text) IS
    'Why finish_move() would refuse now; null if it would not.';

CREATE OR REPLACE FUNCTION qwen_embed.finish_move(name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
DECLARE
    v qwen_embed.vectorizer := qwen_embed.named(name);
    moved qwen_embed.vectorizer := qwen_embed.require_move(v);
    waits_for text := qwen_embed.move_waits_for(name);
    place record;
BEGIN
    IF v.retired_at IS NOT NULL THEN
        PERFORM qwen_embed.refuse(format('%L was replaced already', v.name), 'Nothing is left to do.');
    ELSIF waits_for IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('%L cannot be swapped yet: %s', v.name, waits_for),
            HINT = 'Keep a worker running and try again.';
    END IF;
    PERFORM qwen_embed.check_source(v.source);
    PERFORM qwen_embed.lock_tables(
        ARRAY[v.source, v.target_view, to_regclass('qwen_embed.log_' || v.id), to_regclass('qwen_embed.work_' || v.id),
            to_regclass('qwen_embed.dead_' || v.id)], 'ACCESS EXCLUSIVE');
    SELECT view_of.relname AS view_name, n.nspname AS schema_name INTO place
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_class view_of ON view_of.oid = v.target_view WHERE c.oid = v.source;
    -- The old one keeps its vectors and what tells their keys; nothing is captured for it any more.
    PERFORM qwen_embed.drop_capture(v);
    IF place.view_name IS NOT NULL THEN
        EXECUTE format('DROP VIEW %s', v.target_view);
    END IF;
    UPDATE qwen_embed.vectorizer AS old
    SET name = qwen_embed.pinned_name(v.name, v.model, v.dimensions), retired_at = now(), target_view = NULL,
        trouble = NULL, last_error = NULL, last_error_at = NULL
    WHERE old.id = v.id;
    UPDATE qwen_embed.vectorizer AS new SET name = v.name WHERE new.id = moved.id;
    moved.name := v.name;
    IF place.view_name IS NOT NULL THEN
        moved.target_view := qwen_embed.make_view(moved, place.schema_name, place.view_name);
        UPDATE qwen_embed.vectorizer AS new SET target_view = moved.target_view WHERE new.id = moved.id;
    END IF;
END $$;
COMMENT ON FUNCTION qwen_embed.finish_move(text) IS
    'Swaps a moved vectorizer in: its name, its view and every search go to the new vectors at once. The old ones '
    'stay as they are, under a name with their space, until drop_old().';

CREATE OR REPLACE FUNCTION qwen_embed.cancel_move(name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v qwen_embed.vectorizer := qwen_embed.named(name);
BEGIN
    IF v.retired_at IS NOT NULL THEN
        PERFORM qwen_embed.refuse(format('%L was replaced already', v.name), 'A finished move is not undone: move back.');
    END IF;
    PERFORM qwen_embed.drop_vectorizer((qwen_embed.require_move(v)).name, drop_target => true);
END $$;
COMMENT ON FUNCTION qwen_embed.cancel_move(text) IS
    'Gives up a move: what was filled so far is dropped, the vectorizer goes on as before.';

CREATE OR REPLACE FUNCTION qwen_embed.drop_old(name text) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v qwen_embed.vectorizer := qwen_embed.named(name);
    old text := (SELECT o.name FROM qwen_embed.vectorizer o WHERE o.id = v.replaces AND o.retired_at IS NOT NULL);
BEGIN
    IF old IS NULL THEN
        RETURN false;
    END IF;
    PERFORM qwen_embed.drop_vectorizer(old, drop_target => true);
    RETURN true;
END $$;
COMMENT ON FUNCTION qwen_embed.drop_old(text) IS
    'Drops the vectors that a finished move left behind; says whether there were any.';

CREATE OR REPLACE FUNCTION qwen_embed.vector_count(name text) RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v qwen_embed.vectorizer := qwen_embed.named(name);
    counted bigint;
BEGIN
    EXECUTE format('SELECT count(*) FROM (SELECT FROM %s LIMIT 10000) AS first', v.target_table) INTO counted;
    IF counted < 10000 THEN
        RETURN counted;
    END IF;
    -- What was inserted and deleted since the server looked at the table last, or by its pages.
    RETURN greatest(counted, pg_stat_get_live_tuples(v.target_table));
END $$;
COMMENT ON FUNCTION qwen_embed.vector_count(text) IS
    'About how many vectors a vectorizer has; exact below ten thousand.';
