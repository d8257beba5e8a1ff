-- Rights of other roles: those that search, those that work, those that own a source.
--
-- Tables and functions of a vectorizer belong to the role that installed qwen_embed (the keeper), made by
-- functions that run with its rights and do only what the row in qwen_embed.vectorizer says. What
-- may stand in that row is decided by a trigger that runs with the rights of whoever writes it. So a
-- role needs no right to make things in this schema, where a function of its own could pass for one of ours.

CREATE OR REPLACE FUNCTION qwen_embed.may_change(v qwen_embed.vectorizer) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT pg_has_role(qwen_embed.keeper()::name, 'USAGE') OR coalesce(bool_and(pg_has_role(c.relowner, 'USAGE')), false)
    FROM pg_class c WHERE c.oid IN (v.source, v.target_table, v.target_view);
END;
COMMENT ON FUNCTION qwen_embed.may_change(qwen_embed.vectorizer) IS
    'Whether the caller installed qwen_embed, or owns all that the vectorizer reads and writes.';

CREATE OR REPLACE FUNCTION qwen_embed.is_worker() RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT has_table_privilege('qwen_embed.lease', 'INSERT');
END;
COMMENT ON FUNCTION qwen_embed.is_worker() IS 'Whether the caller may take work.';

CREATE OR REPLACE FUNCTION qwen_embed.refuse_stranger(v qwen_embed.vectorizer) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT qwen_embed.may_change(v) THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = format('the vectorizer %L is not yours to change', v.name),
            HINT = format('Run it as the owner of %s and of its vectors, or as %I, which installed qwen_embed.',
                v.source, qwen_embed.keeper());
    END IF;
END $$;
COMMENT ON FUNCTION qwen_embed.refuse_stranger(qwen_embed.vectorizer) IS
    'Raises unless the caller may change the vectorizer.';

-- Strings are read in one way here, whatever the session says: a condition that is one expression to
-- this check must be the same one to whoever makes content_N of it later.
CREATE OR REPLACE FUNCTION qwen_embed.guard_vectorizer() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $$
DECLARE
    kept_by_workers text[] := ARRAY['trouble', 'last_error', 'last_error_at', 'capture_mark', 'partitions'];
BEGIN
    IF pg_has_role(qwen_embed.keeper()::name, 'USAGE') THEN
        RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
    ELSIF TG_OP = 'UPDATE' AND qwen_embed.is_worker()
        AND to_jsonb(NEW) - kept_by_workers = to_jsonb(OLD) - kept_by_workers THEN
        RETURN NEW;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        PERFORM qwen_embed.refuse_stranger(OLD);
    END IF;
    IF TG_OP = 'DELETE' THEN
        RETURN OLD;
    END IF;
    PERFORM qwen_embed.refuse_stranger(NEW);
    -- A number that was used before, or comes later, would give one vectorizer the tables of another.
    IF TG_OP = 'INSERT' AND NEW.id <> currval(pg_get_serial_sequence('qwen_embed.vectorizer', 'id')) THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = format('number %s is not this vectorizer''s', NEW.id), HINT = 'Leave numbers to create_vectorizer().';
    END IF;
    PERFORM qwen_embed.refuse_stranger(v) FROM qwen_embed.vectorizer v WHERE v.id = NEW.replaces;
    IF NEW.condition IS NOT NULL AND (TG_OP = 'INSERT' OR NEW.condition IS DISTINCT FROM OLD.condition) THEN
        PERFORM qwen_embed.condition_columns(NEW.source, NEW.condition);
    END IF;
    -- resume() runs this text.
    IF NEW.suspended IS NOT NULL AND (TG_OP = 'INSERT' OR NEW.suspended IS DISTINCT FROM OLD.suspended)
        AND NEW.suspended ->> 'content'
            IS DISTINCT FROM pg_get_function_sqlbody(to_regproc(format('qwen_embed.content_%s', NEW.id))) THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = 'suspended is written by suspend() alone', HINT = 'SELECT qwen_embed.suspend(…);';
    END IF;
    RETURN NEW;
END $$;
COMMENT ON FUNCTION qwen_embed.guard_vectorizer() IS
    'Who may write which vectorizer: the keeper any, an owner those of its own tables, a worker what it found.';

CREATE OR REPLACE FUNCTION qwen_embed.guard_task() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT (pg_has_role(qwen_embed.keeper()::name, 'USAGE') OR qwen_embed.is_worker()) THEN
        PERFORM qwen_embed.refuse_stranger(v) FROM qwen_embed.vectorizer v WHERE v.id = NEW.vectorizer;
    END IF;
    RETURN NEW;
END $$;
COMMENT ON FUNCTION qwen_embed.guard_task() IS 'An owner may have its own tables walked over, no others.';

CREATE OR REPLACE FUNCTION qwen_embed.end_parts() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
DECLARE
    part text;
    -- What tells the keys of vectors is kept with them.
    ended text := format(CASE TG_OP WHEN 'DELETE' THEN '^(capture_%1$s_[a-z]+|content_%1$s|key_%1$s_\d+)$'
        ELSE '^(capture_%1$s_[a-z]+|content_%1$s)$' END, OLD.id);
    dropped regprocedure;
BEGIN
    FOREACH part IN ARRAY ARRAY['log', 'work', 'dead'] LOOP
        EXECUTE format('DROP TABLE IF EXISTS qwen_embed.%s_%s', part, OLD.id);
    END LOOP;
    FOR dropped IN
        SELECT p.oid FROM pg_proc p WHERE p.pronamespace = 'qwen_embed'::regnamespace AND p.proname ~ ended
    LOOP
        EXECUTE format('DROP FUNCTION %s', dropped);
    END LOOP;
    DELETE FROM qwen_embed.lease l WHERE l.vectorizer = OLD.id;
    DELETE FROM qwen_embed.task t WHERE t.vectorizer = OLD.id;
    DELETE FROM qwen_embed.tally t WHERE t.vectorizer = OLD.id;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION qwen_embed.end_parts() IS
    'With a vectorizer that is deleted or retired go its tables and functions. Whoever may change its row needs no '
    'right on them.';

CREATE OR REPLACE FUNCTION qwen_embed.open_schema(role text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT has_schema_privilege(role::name, 'qwen_embed', 'CREATE') THEN
        -- One at a time: two grants on one schema at once are an error. "qwen" and no vectorizer's number.
        PERFORM pg_advisory_xact_lock(x'7177656E'::int, 0);
        EXECUTE format('GRANT CREATE ON SCHEMA qwen_embed TO %I', role);
        INSERT INTO qwen_embed.visit VALUES (role);
    END IF;
END $$;
COMMENT ON FUNCTION qwen_embed.open_schema(text) IS
    'Lets a role make its content_N, which holds an expression of its own and so must never be made with '
    'another''s rights. close_schema() takes the right back and looks at what was made, before anybody sees it.';

CREATE OR REPLACE FUNCTION qwen_embed.close_schema() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    foreign_object text;
BEGIN
    EXECUTE format('REVOKE CREATE ON SCHEMA qwen_embed FROM %I', NEW.role);
    DELETE FROM qwen_embed.visit;
    SELECT i.type || ' ' || i.identity INTO foreign_object
    FROM pg_depend d
    LEFT JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
    LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
    CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, 0) i
    WHERE d.refclassid = 'pg_namespace'::regclass AND d.refobjid = 'qwen_embed'::regnamespace AND d.deptype = 'n'
        AND NOT coalesce(pg_has_role(coalesce(p.proowner, c.relowner), qwen_embed.keeper()::name, 'USAGE'), false)
        -- A role's own content_N, of a vectorizer whose source it may act for, is what it was let in for.
        AND NOT EXISTS (
            SELECT FROM qwen_embed.vectorizer v JOIN pg_class s ON s.oid = v.source
            WHERE p.proname = 'content_' || v.id AND p.pronargs = 1 AND p.proargtypes[0] = s.reltype
                AND pg_has_role(p.proowner, s.relowner, 'USAGE'))
    LIMIT 1;
    IF foreign_object IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = format('%s does not belong into the schema qwen_embed', foreign_object),
            HINT = 'Make it in a schema of your own.';
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION qwen_embed.close_schema() IS 'At the end of a transaction in which open_schema() let somebody in.';

CREATE OR REPLACE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON qwen_embed.vectorizer
    FOR EACH ROW EXECUTE FUNCTION qwen_embed.guard_vectorizer();
CREATE OR REPLACE TRIGGER end_parts AFTER DELETE ON qwen_embed.vectorizer
    FOR EACH ROW EXECUTE FUNCTION qwen_embed.end_parts();
CREATE OR REPLACE TRIGGER retire AFTER UPDATE OF retired_at ON qwen_embed.vectorizer
    FOR EACH ROW WHEN (OLD.retired_at IS NULL AND NEW.retired_at IS NOT NULL)
    EXECUTE FUNCTION qwen_embed.end_parts();
CREATE OR REPLACE TRIGGER guard BEFORE INSERT OR UPDATE ON qwen_embed.task
    FOR EACH ROW EXECUTE FUNCTION qwen_embed.guard_task();
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger
        WHERE tgrelid = 'qwen_embed.visit'::pg_catalog.regclass AND tgname = 'close_schema') THEN
        CREATE CONSTRAINT TRIGGER close_schema AFTER INSERT ON qwen_embed.visit
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION qwen_embed.close_schema();
    END IF;
END $$;

CREATE OR REPLACE FUNCTION qwen_embed.rights_here(kind text)
RETURNS TABLE (privileges text, on_what text, object text, id oid, owner oid)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT listed.privileges, 'TABLE', 'qwen_embed.' || listed.name, c.oid, c.relowner
    FROM (VALUES
        ('app', 'SELECT', 'status'),
        ('app', 'SELECT', 'progress'),
        ('app', 'SELECT', 'workers'),
        ('worker', 'SELECT', 'status'),
        ('worker', 'SELECT', 'progress'),
        ('worker', 'SELECT', 'workers'),
        ('worker', 'SELECT, INSERT, UPDATE, DELETE', 'worker'),
        ('worker', 'SELECT, INSERT, UPDATE, DELETE', 'tally'),
        ('worker', 'SELECT', 'dead_letters'),
        ('worker', 'SELECT', 'migration'),
        ('worker', 'SELECT', 'vectorizer'),
        ('worker', 'UPDATE (trouble, last_error, last_error_at, capture_mark, partitions)', 'vectorizer'),
        ('worker', 'SELECT, INSERT, UPDATE, DELETE', 'lease'),
        ('worker', 'SELECT, INSERT, UPDATE, DELETE', 'task'),
        ('owner', 'SELECT', 'status'),
        ('owner', 'SELECT', 'progress'),
        ('owner', 'SELECT', 'workers'),
        ('owner', 'SELECT', 'dead_letters'),
        ('owner', 'SELECT', 'migration'),
        ('owner', 'SELECT', 'installation'),
        ('owner', 'SELECT', 'grantee'),
        ('owner', 'SELECT, INSERT, UPDATE, DELETE', 'vectorizer'),
        ('owner', 'SELECT, INSERT, UPDATE', 'task')
    ) AS listed(kind, privileges, name)
    JOIN pg_class c ON c.relnamespace = 'qwen_embed'::regnamespace AND c.relname = listed.name
    WHERE listed.kind = rights_here.kind
    UNION ALL
    SELECT 'USAGE', 'SEQUENCE', c.oid::regclass::text, c.oid, c.relowner
    FROM pg_class c
    WHERE rights_here.kind = 'owner' AND c.oid = pg_get_serial_sequence('qwen_embed.vectorizer', 'id')::regclass
    UNION ALL
    -- A function that runs with the caller's rights gives none; for the others see the right-hand list.
    SELECT 'EXECUTE', 'FUNCTION', p.oid::regprocedure::text, p.oid, p.proowner
    FROM pg_proc p
    WHERE p.pronamespace = 'qwen_embed'::regnamespace AND p.prorettype <> 'trigger'::regtype
        AND p.proname !~ '^(key|content|capture|vector)_\d'
        AND CASE rights_here.kind
            WHEN 'app' THEN p.proname IN ('counts', 'capture_problem', 'unique_keys', 'is_in_tree', 'leaves', 'lost_column', 'template_parts',
                'is_alive', 'about_rows')
            WHEN 'worker' THEN (NOT p.prosecdef OR p.proname IN ('counts', 'pause_because')) AND p.proname NOT IN (
                'create_vectorizer', 'drop_vectorizer', 'pause', 'resume', 'suspend', 'redefine', 'repair', 'enqueue',
                'retry', 'capture_by', 'notify_workers', 'set_chunker', 'move', 'finish_move', 'cancel_move', 'drop_old',
                'grant_to', 'revoke_from')
            ELSE NOT p.prosecdef OR p.proname IN (
                'counts', 'open_schema', 'make_queue', 'make_key_functions', 'make_capture_functions')
        END
    UNION ALL
    SELECT 'USAGE', 'SCHEMA', quote_ident(n.nspname), n.oid, n.nspowner
    FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector';
END;
COMMENT ON FUNCTION qwen_embed.rights_here(text) IS
    'What a role of a kind (app, worker, owner) needs in this schema, whichever vectorizers there are.';

CREATE OR REPLACE FUNCTION qwen_embed.rights_in(kind text, v qwen_embed.vectorizer)
RETURNS TABLE (privileges text, on_what text, object text, id oid, owner oid)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT listed.privileges, 'TABLE', format('%I.%I', n.nspname, c.relname), c.oid, c.relowner
    FROM (VALUES
        ('app', 'SELECT', v.source::oid),
        ('app', 'SELECT', v.target_table),
        ('app', 'SELECT', v.target_view),
        ('worker', CASE v.target WHEN 'column' THEN 'SELECT, UPDATE' ELSE 'SELECT' END, v.source),
        ('worker', 'SELECT, INSERT, UPDATE, DELETE', v.target_table),
        ('worker', 'SELECT, INSERT, UPDATE, DELETE', to_regclass('qwen_embed.log_' || v.id)),
        ('worker', 'SELECT, INSERT, UPDATE, DELETE', to_regclass('qwen_embed.work_' || v.id)),
        ('worker', 'SELECT, INSERT, UPDATE, DELETE', to_regclass('qwen_embed.dead_' || v.id)),
        ('worker', 'SELECT, INSERT, UPDATE, DELETE', to_regclass('qwen_embed.mark_' || v.id)),
        ('worker', 'SELECT', to_regclass('qwen_embed.vectors_' || v.id))
    ) AS listed(kind, privileges, object)
    JOIN pg_class c ON c.oid = listed.object JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE listed.kind = rights_in.kind
    UNION ALL
    SELECT 'EXECUTE', 'FUNCTION', p.oid::regprocedure::text, p.oid, p.proowner
    FROM pg_proc p
    WHERE rights_in.kind = 'worker' AND p.pronamespace = 'qwen_embed'::regnamespace AND p.proname IN ('content_' || v.id, 'vector_' || v.id)
    UNION
    SELECT 'USAGE', 'SCHEMA', quote_ident(n.nspname), n.oid, n.nspowner
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE rights_in.kind <> 'owner' AND c.oid IN (v.source, v.target_table);
END;
COMMENT ON FUNCTION qwen_embed.rights_in(text, qwen_embed.vectorizer) IS
    'What a role of a kind needs for one vectorizer.';

CREATE OR REPLACE FUNCTION qwen_embed.holds(role text, privileges text, on_what text, id oid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT privileges !~ '\(' AND bool_and(CASE on_what
        WHEN 'SCHEMA' THEN has_schema_privilege(role::name, id, each)
        WHEN 'SEQUENCE' THEN has_sequence_privilege(role::name, id, each)
        WHEN 'FUNCTION' THEN has_function_privilege(role::name, id, each)
        ELSE has_table_privilege(role::name, id, each) END)
    FROM unnest(string_to_array(privileges, ', ')) AS each;
END;
COMMENT ON FUNCTION qwen_embed.holds(text, text, text, oid) IS
    'Whether a role has all these rights on an object, by whichever way; not known for rights on columns.';

CREATE OR REPLACE FUNCTION qwen_embed.check_role(role text, kind text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF kind IS NULL OR kind NOT IN ('app', 'worker', 'owner') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('a role for %s is unknown', coalesce(quote_literal(kind), 'null')),
            HINT = 'Give app, worker or owner.';
    ELSIF NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = role) THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('there is no role %I', role),
            HINT = coalesce('Did you mean ' || quote_ident(qwen_embed.nearest(role, ARRAY(
                SELECT r.rolname::text FROM pg_roles r WHERE r.rolname !~ '^pg_'))) || '?', format('CREATE ROLE %I LOGIN;', role));
    END IF;
END $$;
COMMENT ON FUNCTION qwen_embed.check_role(text, text) IS 'Raises unless there is such a role, and such a kind.';

CREATE OR REPLACE FUNCTION qwen_embed.grant_in(role text, kind text, v qwen_embed.vectorizer) RETURNS SETOF text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    needed record;
    bypasses boolean := (SELECT r.rolbypassrls OR r.rolsuper FROM pg_roles r WHERE r.rolname = role);
BEGIN
    FOR needed IN SELECT * FROM qwen_embed.rights_in(kind, v) LOOP
        -- A schema is not ours: only what is missing.
        CONTINUE WHEN needed.on_what = 'SCHEMA' AND qwen_embed.holds(role, needed.privileges, needed.on_what, needed.id);
        IF pg_has_role(needed.owner, 'USAGE') THEN
            EXECUTE format('GRANT %s ON %s %s TO %I', needed.privileges, needed.on_what, needed.object, role);
        ELSIF NOT qwen_embed.holds(role, needed.privileges, needed.on_what, needed.id) THEN
            RETURN NEXT format('as %I: GRANT %s ON %s %s TO %I;', pg_get_userbyid(needed.owner),
                needed.privileges, needed.on_what, needed.object, role);
        END IF;
    END LOOP;
    RETURN QUERY
        SELECT format('as a superuser: ALTER ROLE %I BYPASSRLS; (or as %I: GRANT %2$I TO %1$I;)', role, pg_get_userbyid(c.relowner))
        FROM pg_class c
        WHERE kind = 'worker' AND NOT bypasses AND c.oid IN (v.source, v.target_table) AND c.relrowsecurity
            AND NOT pg_has_role(role::name, c.relowner, 'USAGE')
        LIMIT 1;
END $$;
COMMENT ON FUNCTION qwen_embed.grant_in(text, text, qwen_embed.vectorizer) IS
    'Gives a role what it needs for one vectorizer, as far as the caller may; returns what is missing then.';

CREATE OR REPLACE FUNCTION qwen_embed.grant_to(role text, kind text DEFAULT 'app', names text[] DEFAULT NULL)
RETURNS SETOF text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    needed record;
    v qwen_embed.vectorizer;
BEGIN
    PERFORM qwen_embed.check_role(role, kind), qwen_embed.named(name) FROM (SELECT unnest(names)) AS wanted(name);
    PERFORM qwen_embed.check_role(role, kind);
    FOR needed IN SELECT * FROM qwen_embed.rights_here(kind) LOOP
        IF pg_has_role(needed.owner, 'USAGE') AND (needed.on_what <> 'SCHEMA'
            OR NOT qwen_embed.holds(role, needed.privileges, needed.on_what, needed.id)) THEN
            EXECUTE format('GRANT %s ON %s %s TO %I', needed.privileges, needed.on_what, needed.object, role);
        ELSIF needed.on_what <> 'FUNCTION' AND needed.privileges !~ '\('
            AND NOT qwen_embed.holds(role, needed.privileges, needed.on_what, needed.id) THEN
            RETURN NEXT format('as %I: GRANT %s ON %s %s TO %I;', pg_get_userbyid(needed.owner),
                needed.privileges, needed.on_what, needed.object, role);
        END IF;
    END LOOP;
    FOR v IN SELECT k.* FROM qwen_embed.vectorizer k WHERE names IS NULL OR k.name = ANY (names) ORDER BY k.name LOOP
        RETURN QUERY SELECT * FROM qwen_embed.grant_in(role, kind, v);
    END LOOP;
    IF names IS NULL AND pg_has_role(qwen_embed.keeper()::name, 'USAGE') THEN
        INSERT INTO qwen_embed.grantee VALUES (role, kind) ON CONFLICT DO NOTHING;
    END IF;
END $$;
COMMENT ON FUNCTION qwen_embed.grant_to(text, text, text[]) IS
    'Gives a role the least that it needs. app: searches, and reads vectors and status. worker: takes work and writes '
    'vectors. owner: makes vectorizers of tables that it owns. names: these vectorizers; otherwise later ones are covered too. '
    'Returns a statement for each right that the caller could not give.';

CREATE OR REPLACE FUNCTION qwen_embed.revoke_from(role text, kind text DEFAULT 'app', names text[] DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    given record;
    v qwen_embed.vectorizer;
BEGIN
    PERFORM qwen_embed.named(name) FROM (SELECT unnest(names)) AS wanted(name);
    PERFORM qwen_embed.check_role(role, kind);
    FOR given IN
        SELECT r.* FROM qwen_embed.vectorizer k CROSS JOIN LATERAL qwen_embed.rights_in(kind, k) r
        WHERE (names IS NULL OR k.name = ANY (names)) AND r.on_what <> 'SCHEMA' AND r.id <> k.source
        UNION ALL
        SELECT r.* FROM qwen_embed.rights_here(kind) r WHERE names IS NULL AND r.on_what <> 'SCHEMA'
    LOOP
        -- What is a role's own nobody gave it.
        IF pg_has_role(given.owner, 'USAGE') AND pg_get_userbyid(given.owner) <> revoke_from.role THEN
            EXECUTE format('REVOKE %s ON %s %s FROM %I', given.privileges, given.on_what, given.object, role);
        END IF;
    END LOOP;
    IF names IS NULL AND pg_has_role(qwen_embed.keeper()::name, 'USAGE') THEN
        DELETE FROM qwen_embed.grantee g WHERE g.role = revoke_from.role AND g.kind = revoke_from.kind;
        -- What the role holds in another capacity was taken with it.
        PERFORM qwen_embed.grant_to(g.role, g.kind) FROM qwen_embed.grantee g WHERE g.role = revoke_from.role;
    END IF;
END $$;
COMMENT ON FUNCTION qwen_embed.revoke_from(text, text, text[]) IS
    'Takes back what grant_to() gave, but for SELECT on your own tables, which the role may have had before.';

CREATE OR REPLACE FUNCTION qwen_embed.grant_to_known(v qwen_embed.vectorizer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM qwen_embed.grant_in(g.role, g.kind, v)
    FROM qwen_embed.grantee g JOIN pg_roles r ON r.rolname = g.role;
END $$;
COMMENT ON FUNCTION qwen_embed.grant_to_known(qwen_embed.vectorizer) IS
    'What roles that grant_to() named get on a vectorizer that is made after it.';

CREATE OR REPLACE FUNCTION qwen_embed.renew_grants() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM qwen_embed.grant_to(g.role, g.kind)
    FROM qwen_embed.grantee g JOIN pg_roles r ON r.rolname = g.role;
END $$;
COMMENT ON FUNCTION qwen_embed.renew_grants() IS
    'After an upgrade: rights on what it brought, for the roles that grant_to() named.';
