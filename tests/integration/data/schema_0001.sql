-- A database as version 0001 of the schema left it: two sources, vectors, a dead letter, a key that waits for
-- another try, and changes that no worker has taken. A plain dump of one that the code of that time had
-- made and worked on, without owners and comments of pg_dump.
SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;
CREATE SCHEMA qwen_embed;
COMMENT ON SCHEMA qwen_embed IS 'Tables that embed themselves. What is public: sql/README.md.';
CREATE EXTENSION IF NOT EXISTS vector WITH SCHEMA public;
COMMENT ON EXTENSION vector IS 'vector data type and ivfflat and hnsw access methods';
CREATE FUNCTION qwen_embed.base_type(type oid, modifier integer) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    BEGIN ATOMIC
 WITH RECURSIVE layer(type, modifier) AS (
          SELECT base_type.type AS type,
             base_type.modifier AS modifier
         UNION ALL
          SELECT t_1.typbasetype,
             t_1.typtypmod
            FROM (layer layer_1
              JOIN pg_type t_1 ON ((t_1.oid = layer_1.type)))
           WHERE (t_1.typtype = 'd'::"char")
         )
  SELECT format_type(layer.type, layer.modifier) AS format_type
    FROM (layer
      JOIN pg_type t ON ((t.oid = layer.type)))
   WHERE (t.typtype <> 'd'::"char");
END;
COMMENT ON FUNCTION qwen_embed.base_type(type oid, modifier integer) IS 'A type by its full name, domains resolved: a domain that forbids null could not stand in the log.';
CREATE FUNCTION qwen_embed.capture_1_delete() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$BEGIN
    IF (has_schema_privilege(to_regnamespace('qwen_embed')::oid, 'USAGE') AND has_table_privilege(to_regclass('qwen_embed.log_1')::oid, 'INSERT') AND has_function_privilege(to_regproc('qwen_embed.key_1_1')::oid, 'EXECUTE')) IS NOT TRUE THEN
        RAISE WARNING USING MESSAGE = 'the vectorizer ''docs'' could not record this change of public.docs: SELECT qwen_embed.repair(''docs'');';
        RETURN NULL;
    END IF;
    INSERT INTO qwen_embed.log_1 (op, k1) SELECT 'c', qwen_embed.key_1_1(changed) FROM changed;
    RETURN NULL;
END$$;
COMMENT ON FUNCTION qwen_embed.capture_1_delete() IS 'Appends to log_1, as its owner: the writer needs no right here.';
CREATE FUNCTION qwen_embed.capture_1_insert() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$BEGIN
    IF (has_schema_privilege(to_regnamespace('qwen_embed')::oid, 'USAGE') AND has_table_privilege(to_regclass('qwen_embed.log_1')::oid, 'INSERT') AND has_function_privilege(to_regproc('qwen_embed.key_1_1')::oid, 'EXECUTE')) IS NOT TRUE THEN
        RAISE WARNING USING MESSAGE = 'the vectorizer ''docs'' could not record this change of public.docs: SELECT qwen_embed.repair(''docs'');';
        RETURN NULL;
    END IF;
    INSERT INTO qwen_embed.log_1 (op, k1) SELECT 'c', qwen_embed.key_1_1(changed) FROM changed;
    RETURN NULL;
END$$;
COMMENT ON FUNCTION qwen_embed.capture_1_insert() IS 'Appends to log_1, as its owner: the writer needs no right here.';
CREATE FUNCTION qwen_embed.capture_1_truncate() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$BEGIN
    IF (has_schema_privilege(to_regnamespace('qwen_embed')::oid, 'USAGE') AND has_table_privilege(to_regclass('qwen_embed.log_1')::oid, 'INSERT') AND has_function_privilege(to_regproc('qwen_embed.key_1_1')::oid, 'EXECUTE')) IS NOT TRUE THEN
        RAISE WARNING USING MESSAGE = 'the vectorizer ''docs'' could not record this change of public.docs: SELECT qwen_embed.repair(''docs'');';
        RETURN NULL;
    END IF;
    INSERT INTO qwen_embed.log_1 (op) VALUES ('t');
    RETURN NULL;
END$$;
COMMENT ON FUNCTION qwen_embed.capture_1_truncate() IS 'Appends to log_1, as its owner: the writer needs no right here.';
CREATE FUNCTION qwen_embed.capture_1_update() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$BEGIN
    IF (has_schema_privilege(to_regnamespace('qwen_embed')::oid, 'USAGE') AND has_table_privilege(to_regclass('qwen_embed.log_1')::oid, 'INSERT') AND has_function_privilege(to_regproc('qwen_embed.key_1_1')::oid, 'EXECUTE')) IS NOT TRUE THEN
        RAISE WARNING USING MESSAGE = 'the vectorizer ''docs'' could not record this change of public.docs: SELECT qwen_embed.repair(''docs'');';
        RETURN NULL;
    END IF;
    INSERT INTO qwen_embed.log_1 (op, k1) VALUES ('c', qwen_embed.key_1_1(new));
    IF record_image_ne(ROW(qwen_embed.key_1_1(old)), ROW(qwen_embed.key_1_1(new))) THEN
        INSERT INTO qwen_embed.log_1 (op, k1) VALUES ('c', qwen_embed.key_1_1(old));
    END IF;
    RETURN NULL;
END$$;
COMMENT ON FUNCTION qwen_embed.capture_1_update() IS 'Appends to log_1, as its owner: the writer needs no right here.';
CREATE FUNCTION qwen_embed.capture_2_delete() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$BEGIN
    IF (has_schema_privilege(to_regnamespace('qwen_embed')::oid, 'USAGE') AND has_table_privilege(to_regclass('qwen_embed.log_2')::oid, 'INSERT') AND has_function_privilege(to_regproc('qwen_embed.key_2_1')::oid, 'EXECUTE') AND has_function_privilege(to_regproc('qwen_embed.key_2_2')::oid, 'EXECUTE')) IS NOT TRUE THEN
        RAISE WARNING USING MESSAGE = 'the vectorizer ''odd name'' could not record this change of public.pairs: SELECT qwen_embed.repair(''odd name'');';
        RETURN NULL;
    END IF;
    INSERT INTO qwen_embed.log_2 (op, k1, k2) SELECT 'c', qwen_embed.key_2_1(changed), qwen_embed.key_2_2(changed) FROM changed;
    RETURN NULL;
END$$;
COMMENT ON FUNCTION qwen_embed.capture_2_delete() IS 'Appends to log_2, as its owner: the writer needs no right here.';
CREATE FUNCTION qwen_embed.capture_2_insert() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$BEGIN
    IF (has_schema_privilege(to_regnamespace('qwen_embed')::oid, 'USAGE') AND has_table_privilege(to_regclass('qwen_embed.log_2')::oid, 'INSERT') AND has_function_privilege(to_regproc('qwen_embed.key_2_1')::oid, 'EXECUTE') AND has_function_privilege(to_regproc('qwen_embed.key_2_2')::oid, 'EXECUTE')) IS NOT TRUE THEN
        RAISE WARNING USING MESSAGE = 'the vectorizer ''odd name'' could not record this change of public.pairs: SELECT qwen_embed.repair(''odd name'');';
        RETURN NULL;
    END IF;
    INSERT INTO qwen_embed.log_2 (op, k1, k2) SELECT 'c', qwen_embed.key_2_1(changed), qwen_embed.key_2_2(changed) FROM changed;
    RETURN NULL;
END$$;
COMMENT ON FUNCTION qwen_embed.capture_2_insert() IS 'Appends to log_2, as its owner: the writer needs no right here.';
CREATE FUNCTION qwen_embed.capture_2_truncate() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$BEGIN
    IF (has_schema_privilege(to_regnamespace('qwen_embed')::oid, 'USAGE') AND has_table_privilege(to_regclass('qwen_embed.log_2')::oid, 'INSERT') AND has_function_privilege(to_regproc('qwen_embed.key_2_1')::oid, 'EXECUTE') AND has_function_privilege(to_regproc('qwen_embed.key_2_2')::oid, 'EXECUTE')) IS NOT TRUE THEN
        RAISE WARNING USING MESSAGE = 'the vectorizer ''odd name'' could not record this change of public.pairs: SELECT qwen_embed.repair(''odd name'');';
        RETURN NULL;
    END IF;
    INSERT INTO qwen_embed.log_2 (op) VALUES ('t');
    RETURN NULL;
END$$;
COMMENT ON FUNCTION qwen_embed.capture_2_truncate() IS 'Appends to log_2, as its owner: the writer needs no right here.';
CREATE FUNCTION qwen_embed.capture_2_update() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$BEGIN
    IF (has_schema_privilege(to_regnamespace('qwen_embed')::oid, 'USAGE') AND has_table_privilege(to_regclass('qwen_embed.log_2')::oid, 'INSERT') AND has_function_privilege(to_regproc('qwen_embed.key_2_1')::oid, 'EXECUTE') AND has_function_privilege(to_regproc('qwen_embed.key_2_2')::oid, 'EXECUTE')) IS NOT TRUE THEN
        RAISE WARNING USING MESSAGE = 'the vectorizer ''odd name'' could not record this change of public.pairs: SELECT qwen_embed.repair(''odd name'');';
        RETURN NULL;
    END IF;
    INSERT INTO qwen_embed.log_2 (op, k1, k2) VALUES ('c', qwen_embed.key_2_1(new), qwen_embed.key_2_2(new));
    IF record_image_ne(ROW(qwen_embed.key_2_1(old), qwen_embed.key_2_2(old)), ROW(qwen_embed.key_2_1(new), qwen_embed.key_2_2(new))) THEN
        INSERT INTO qwen_embed.log_2 (op, k1, k2) VALUES ('c', qwen_embed.key_2_1(old), qwen_embed.key_2_2(old));
    END IF;
    RETURN NULL;
END$$;
COMMENT ON FUNCTION qwen_embed.capture_2_update() IS 'Appends to log_2, as its owner: the writer needs no right here.';
SET default_tablespace = '';
SET default_table_access_method = heap;
CREATE TABLE qwen_embed.vectorizer (
    id integer NOT NULL,
    name text NOT NULL,
    source regclass NOT NULL,
    columns text[],
    template text,
    model text NOT NULL,
    dimensions integer NOT NULL,
    instruction text,
    target text NOT NULL,
    target_table regclass NOT NULL,
    target_view regclass,
    storage text NOT NULL,
    index_kind text NOT NULL,
    paused boolean DEFAULT false NOT NULL,
    trouble text,
    last_error text,
    last_error_at timestamp with time zone,
    capture_mark text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT vectorizer_check CHECK (((columns IS NULL) <> (template IS NULL))),
    CONSTRAINT vectorizer_check1 CHECK (((trouble IS NULL) OR (last_error IS NOT NULL))),
    CONSTRAINT vectorizer_check2 CHECK (((last_error IS NULL) = (last_error_at IS NULL))),
    CONSTRAINT vectorizer_dimensions_check CHECK (((dimensions >= 1) AND (dimensions <= 16000))),
    CONSTRAINT vectorizer_index_kind_check CHECK ((index_kind = ANY (ARRAY['hnsw'::text, 'none'::text]))),
    CONSTRAINT vectorizer_name_check CHECK ((name <> ''::text)),
    CONSTRAINT vectorizer_storage_check CHECK ((storage = ANY (ARRAY['vector'::text, 'halfvec'::text]))),
    CONSTRAINT vectorizer_target_check CHECK ((target = 'table'::text)),
    CONSTRAINT vectorizer_trouble_check CHECK ((trouble = ANY (ARRAY['held'::text, 'blocked'::text])))
);
COMMENT ON TABLE qwen_embed.vectorizer IS 'One row per vectorizer: which table''s rows become vectors of which space, and where they go.';
COMMENT ON COLUMN qwen_embed.vectorizer.id IS 'N in the names of its private tables, functions and triggers; never used twice.';
COMMENT ON COLUMN qwen_embed.vectorizer.columns IS 'As given at creation. content_N is what counts: it follows renames, these names do not.';
COMMENT ON COLUMN qwen_embed.vectorizer.instruction IS 'The task put before a query; null means the default of the model.';
COMMENT ON COLUMN qwen_embed.vectorizer.trouble IS 'held: no offer can serve now, the work waits. blocked: someone must change something first.';
COMMENT ON COLUMN qwen_embed.vectorizer.capture_mark IS 'The triggers as a worker last saw them. If they changed since, rows may have been missed.';
CREATE FUNCTION qwen_embed.capture_mark(v qwen_embed.vectorizer) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    BEGIN ATOMIC
 SELECT string_agg(concat_ws(':'::text, t.oid, t.xmin, t.tgenabled), ' '::text ORDER BY t.tgname) AS string_agg
    FROM pg_trigger t
   WHERE ((t.tgrelid = ((capture_mark.v).source)::oid) AND (t.tgname ~~ (('qwen\_embed\_'::text || (capture_mark.v).id) || '\_%'::text)));
END;
COMMENT ON FUNCTION qwen_embed.capture_mark(v qwen_embed.vectorizer) IS 'Changes whenever a trigger of ours is made, disabled or enabled, even if that was undone since.';
CREATE FUNCTION qwen_embed.capture_problem(v qwen_embed.vectorizer) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    BEGIN ATOMIC
 WITH key AS (
          SELECT p.prosrc,
             d.refobjsubid AS attnum,
             p.proname
            FROM ((pg_proc p
              JOIN pg_namespace n ON (((n.oid = p.pronamespace) AND (n.nspname = 'qwen_embed'::name))))
              JOIN pg_depend d ON (((d.classid = ('pg_proc'::regclass)::oid) AND (d.objid = p.oid) AND (d.refclassid = ('pg_class'::regclass)::oid) AND (d.refobjid = ((capture_problem.v).source)::oid) AND (d.refobjsubid > 0))))
           WHERE (p.proname ~ (('^key_'::text || (capture_problem.v).id) || '_\d+$'::text))
         ), unique_key AS (
          SELECT
            FROM pg_index i
           WHERE ((i.indrelid = ((capture_problem.v).source)::oid) AND i.indisunique AND i.indisvalid AND (i.indpred IS NULL) AND (ARRAY( SELECT unnest(((i.indkey)::smallint[])[0:(i.indnkeyatts - 1)]) AS unnest
                   ORDER BY (unnest(((i.indkey)::smallint[])[0:(i.indnkeyatts - 1)]))) = ARRAY( SELECT (key.attnum)::smallint AS attnum
                    FROM key
                   ORDER BY ((key.attnum)::smallint))))
         ), found AS (
          SELECT 1 AS rank,
             'the source table was dropped'::text AS problem
           WHERE (NOT (EXISTS ( SELECT
                    FROM pg_class
                   WHERE (pg_class.oid = ((capture_problem.v).source)::oid))))
         UNION ALL
          SELECT 2,
             (('table '::text || named.t) || ' is missing'::text)
            FROM unnest(ARRAY['qwen_embed.log_'::text, 'qwen_embed.work_'::text, 'qwen_embed.dead_'::text]) kind(kind),
             LATERAL ( SELECT (kind.kind || (capture_problem.v).id) AS t) named
           WHERE (to_regclass(named.t) IS NULL)
         UNION ALL
          SELECT 3,
             'its target table was dropped'::text
           WHERE (NOT (EXISTS ( SELECT
                    FROM pg_class
                   WHERE (pg_class.oid = ((capture_problem.v).target_table)::oid))))
         UNION ALL
          SELECT 4,
             (('function qwen_embed.content_'::text || (capture_problem.v).id) || ' is missing'::text)
           WHERE (to_regproc(('qwen_embed.content_'::text || (capture_problem.v).id)) IS NULL)
         UNION ALL
          SELECT 5,
             'a function that reads the key is missing, or its primary key is no longer the one it had'::text
           WHERE (NOT (EXISTS ( SELECT
                    FROM unique_key)))
         UNION ALL
          SELECT 6,
             (((('trigger qwen_embed_'::text || (capture_problem.v).id) || '_'::text) || event.event) ||
                 CASE
                     WHEN (t.oid IS NULL) THEN ' is missing'::text
                     ELSE ' is disabled'::text
                 END)
            FROM (unnest(ARRAY['insert'::text, 'delete'::text, 'update'::text, 'truncate'::text]) event(event)
              LEFT JOIN pg_trigger t ON (((t.tgrelid = ((capture_problem.v).source)::oid) AND (t.tgname = ((('qwen_embed_'::text || (capture_problem.v).id) || '_'::text) || event.event)))))
           WHERE ((t.oid IS NULL) OR (t.tgenabled <> ALL (ARRAY['O'::"char", 'A'::"char"])))
         )
  SELECT (('changes are not captured: '::text || found.problem) ||
         CASE found.rank
             WHEN 1 THEN format('. SELECT qwen_embed.drop_vectorizer(%L);'::text, (capture_problem.v).name)
             ELSE format('. SELECT qwen_embed.repair(%L);'::text, (capture_problem.v).name)
         END)
    FROM found
   ORDER BY found.rank, found.problem
  LIMIT 1;
END;
COMMENT ON FUNCTION qwen_embed.capture_problem(v qwen_embed.vectorizer) IS 'What keeps changes of the source from being recorded, and the statement that mends it; null if nothing.';
CREATE FUNCTION qwen_embed.check_source(source regclass) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    c pg_class := (SELECT t FROM pg_class t WHERE t.oid = check_source.source);
BEGIN
    IF c.oid IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_table', MESSAGE = 'the source table does not exist';
    ELSIF c.relkind = 'p' OR c.relispartition THEN
        PERFORM qwen_embed.refuse(format('%s is partitioned or a partition', source),
            'Only plain tables can be a source for now.');
    ELSIF c.relkind <> 'r' THEN
        PERFORM qwen_embed.refuse(
            format('%s is not a table but a %s', source, CASE c.relkind WHEN 'v' THEN 'view'
                WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table' ELSE 'relation of another kind' END),
            'Name the table that the rows are written to.');
    ELSIF c.relpersistence <> 'p' THEN
        PERFORM qwen_embed.refuse(format('%s is temporary or unlogged', source),
            'Its rows vanish without a trigger; use a permanent table.');
    ELSIF c.relnamespace IN ('pg_catalog'::regnamespace, 'qwen_embed'::regnamespace) THEN
        PERFORM qwen_embed.refuse(format('%s is a system table', source), 'Name a table of your own.');
    ELSIF EXISTS (SELECT FROM pg_inherits WHERE inhrelid = c.oid OR inhparent = c.oid) THEN
        PERFORM qwen_embed.refuse(format('%s inherits or is inherited from', source),
            'Only plain tables can be a source for now.');
    ELSIF NOT EXISTS (SELECT FROM qwen_embed.primary_key(source)) THEN
        PERFORM qwen_embed.refuse(format('%s has no primary key', source),
            format('A vector must know its row: ALTER TABLE %s ADD PRIMARY KEY (…);', source));
    ELSIF NOT pg_has_role(c.relowner, 'USAGE') THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = format('you do not own %s', source),
            HINT = format('Triggers are made by its owner: SET ROLE %I first, or ask them.', pg_get_userbyid(c.relowner));
    ELSIF NOT has_schema_privilege(c.relnamespace, 'CREATE') THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = format('you may not create tables in schema %s', c.relnamespace::regnamespace),
            HINT = format('GRANT CREATE ON SCHEMA %s TO %I;', c.relnamespace::regnamespace, current_user);
    ELSIF NOT has_schema_privilege('qwen_embed', 'CREATE')
        OR NOT has_table_privilege('qwen_embed.vectorizer', 'INSERT') THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = 'you may not create vectorizers',
            HINT = 'Run it as the role that installed qwen_embed, which then must own the source too.';
    END IF;
END $$;
COMMENT ON FUNCTION qwen_embed.check_source(source regclass) IS 'Raises, with what to do, unless the table can be a source and the caller may make it one.';
CREATE FUNCTION qwen_embed.check_space(model text, dimensions integer) RETURNS void
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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
COMMENT ON FUNCTION qwen_embed.check_space(model text, dimensions integer) IS 'Raises if a model whose lengths are known here has no vectors of this length.';
CREATE FUNCTION qwen_embed.comparison(type oid, strategy integer) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    BEGIN ATOMIC
 WITH RECURSIVE layer(type) AS (
          SELECT comparison.type AS type
         UNION ALL
          SELECT t.typbasetype
            FROM (layer
              JOIN pg_type t ON ((t.oid = layer.type)))
           WHERE (t.typtype = 'd'::"char")
         )
  SELECT COALESCE(( SELECT format('OPERATOR(%I.%s)'::text, n.nspname, o.oprname) AS format
            FROM (((((layer
              JOIN pg_opclass c ON (((c.opcintype = layer.type) AND c.opcdefault)))
              JOIN pg_am a ON (((a.oid = c.opcmethod) AND (a.amname = 'btree'::name))))
              JOIN pg_amop m ON (((m.amopfamily = c.opcfamily) AND (m.amopstrategy = comparison.strategy) AND (m.amoplefttype = layer.type) AND (m.amoprighttype = layer.type))))
              JOIN pg_operator o ON ((o.oid = m.amopopr)))
              JOIN pg_namespace n ON ((n.oid = o.oprnamespace)))
          LIMIT 1),
         CASE strategy
             WHEN 3 THEN 'OPERATOR(pg_catalog.=)'::text
             ELSE 'OPERATOR(pg_catalog.>)'::text
         END) AS "coalesce";
END;
COMMENT ON FUNCTION qwen_embed.comparison(type oid, strategy integer) IS 'The operator by which a unique index of this type calls two values equal (3) or one greater (5), qualified. citext, for one, lives outside pg_catalog, and text''s own "=" would compare it otherwise.';
CREATE TABLE public.docs (
    id integer NOT NULL,
    body text,
    other integer DEFAULT 0
);
CREATE FUNCTION qwen_embed.content_1(public.docs) RETURNS text
    LANGUAGE sql STABLE
    BEGIN ATOMIC
 SELECT NULLIF(concat_ws(chr(10), NULLIF(($1).body, ''::text)), ''::text) AS "nullif";
END;
CREATE TABLE public.pairs (
    a text NOT NULL,
    b integer NOT NULL,
    title text,
    body text
);
CREATE FUNCTION qwen_embed.content_2(public.pairs) RETURNS text
    LANGUAGE sql STABLE
    BEGIN ATOMIC
 SELECT
         CASE
             WHEN (COALESCE(NULLIF(($1).title, ''::text), NULLIF(($1).body, ''::text)) IS NOT NULL) THEN concat(($1).title, ': ', ($1).body)
             ELSE NULL::text
         END AS "case";
END;
CREATE FUNCTION qwen_embed.require_column(source regclass, name text) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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
COMMENT ON FUNCTION qwen_embed.require_column(source regclass, name text) IS 'The name itself if the table has such a column, else an error that names the nearest one.';
CREATE FUNCTION qwen_embed.template_parts(template text) RETURNS TABLE(literal text, name text)
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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
COMMENT ON FUNCTION qwen_embed.template_parts(template text) IS 'A template as literals and column names, in order.';
CREATE FUNCTION qwen_embed.content_columns(source regclass, columns text[], template text) RETURNS text[]
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    BEGIN ATOMIC
 SELECT array_agg(qwen_embed.require_column(content_columns.source, once.c) ORDER BY once.place) AS array_agg
    FROM ( SELECT named.c,
             min(named.place) AS place
            FROM ( SELECT given.c,
                     given.place
                    FROM unnest(content_columns.columns) WITH ORDINALITY given(c, place)
                 UNION ALL
                  SELECT part.name,
                     part.place
                    FROM qwen_embed.template_parts(content_columns.template) WITH ORDINALITY part(literal, name, place)
                   WHERE (part.name IS NOT NULL)) named
           GROUP BY named.c) once;
END;
COMMENT ON FUNCTION qwen_embed.content_columns(source regclass, columns text[], template text) IS 'The columns that a text is made of, each once, each known to exist.';
CREATE FUNCTION qwen_embed.content_expression(source regclass, columns text[], template text) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
END $_$;
COMMENT ON FUNCTION qwen_embed.content_expression(source regclass, columns text[], template text) IS 'The SQL expression of a row''s text; $1 is the row. Null or empty means: no vector.';
CREATE FUNCTION qwen_embed.counts(v qwen_embed.vectorizer, OUT pending bigint, OUT leased bigint, OUT dead bigint, OUT oldest timestamp with time zone) RETURNS record
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    waiting bigint := 0;
    waiting_since timestamptz;
BEGIN
    IF to_regclass(format('qwen_embed.log_%s', v.id)) IS NOT NULL THEN
        -- Counting stops at a million: a view that people watch must not read a large log each second.
        EXECUTE format('SELECT count(*), min(at) FROM (SELECT at FROM qwen_embed.log_%s LIMIT 1000000) AS first', v.id)
            INTO waiting, waiting_since;
    END IF;
    IF to_regclass(format('qwen_embed.work_%s', v.id)) IS NOT NULL THEN
        EXECUTE format('SELECT count(*) FILTER (WHERE token IS NULL), count(token) FROM qwen_embed.work_%s', v.id)
            INTO pending, leased;
    END IF;
    IF to_regclass(format('qwen_embed.dead_%s', v.id)) IS NOT NULL THEN
        EXECUTE format('SELECT count(*) FROM qwen_embed.dead_%s', v.id) INTO dead;
    END IF;
    pending := coalesce(pending, 0) + waiting;
    oldest := waiting_since;
END $$;
COMMENT ON FUNCTION qwen_embed.counts(v qwen_embed.vectorizer, OUT pending bigint, OUT leased bigint, OUT dead bigint, OUT oldest timestamp with time zone) IS 'Changes that wait (counted to a million), keys that workers hold, dead letters, age of the oldest wait.';
CREATE FUNCTION qwen_embed.create_vectorizer(source regclass, columns text[] DEFAULT NULL::text[], template text DEFAULT NULL::text, name text DEFAULT NULL::text, model text DEFAULT NULL::text, dimensions integer DEFAULT NULL::integer, target text DEFAULT 'table'::text, target_name text DEFAULT NULL::text, storage text DEFAULT NULL::text, index_kind text DEFAULT NULL::text, chunk_tokens integer DEFAULT NULL::integer, chunk_overlap integer DEFAULT NULL::integer, condition text DEFAULT NULL::text, backfill boolean DEFAULT true) RETURNS text
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
#variable_conflict use_variable
DECLARE
    table_name text;
    schema_name text;
    v qwen_embed.vectorizer;
    longest_indexed int;
BEGIN
    IF target IS DISTINCT FROM 'table' THEN
        PERFORM qwen_embed.refuse(format('target => %L is not supported', target), 'Only target => ''table'' is, for now.');
    ELSIF chunk_tokens IS NOT NULL OR chunk_overlap IS NOT NULL THEN
        PERFORM qwen_embed.refuse('chunk_tokens and chunk_overlap are not supported yet', 'Leave them out: each row gets one vector.');
    ELSIF condition IS NOT NULL THEN
        PERFORM qwen_embed.refuse('condition is not supported yet', 'Leave it out: every row with a text gets a vector.');
    ELSIF coalesce(storage, 'vector') NOT IN ('vector', 'halfvec') THEN
        PERFORM qwen_embed.refuse(format('storage => %L is not supported', storage), 'Use vector or halfvec.');
    ELSIF coalesce(index_kind, 'hnsw') NOT IN ('hnsw', 'none') THEN
        PERFORM qwen_embed.refuse(format('index_kind => %L is not supported yet', index_kind), 'Use hnsw or none.');
    ELSIF (coalesce(cardinality(columns), 0) > 0) = (coalesce(template, '') <> '') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'give either columns or template',
            HINT = 'For example columns => ARRAY[''title'', ''body''] or template => ''{title}: {body}''.';
    END IF;
    PERFORM qwen_embed.check_source(source);
    PERFORM qwen_embed.content_columns(source, columns, template);
    IF template IS NOT NULL AND NOT EXISTS (
        SELECT FROM qwen_embed.template_parts(template) p WHERE p.name IS NOT NULL) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'template names no column', HINT = 'Name a column as {column}.';
    END IF;

    SELECT c.relname, n.nspname INTO table_name, schema_name
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = source;
    v.name := coalesce(name, table_name);
    v.source := source;
    v.columns := CASE WHEN template IS NULL THEN columns END;
    v.template := template;
    v.model := coalesce(model, (SELECT i.model FROM qwen_embed.installation i), 'qwen3-embedding-8b');
    v.dimensions := coalesce(dimensions, (SELECT i.dimensions FROM qwen_embed.installation i), 1024);
    v.storage := coalesce(storage, CASE WHEN v.dimensions <= 2000 THEN 'vector' ELSE 'halfvec' END);
    PERFORM qwen_embed.check_space(v.model, v.dimensions);
    longest_indexed := CASE v.storage WHEN 'vector' THEN 2000 ELSE 4000 END;
    IF index_kind = 'hnsw' AND v.dimensions > longest_indexed THEN
        PERFORM qwen_embed.refuse(
            format('an HNSW index on %s holds at most %s dimensions, not %s', v.storage, longest_indexed, v.dimensions),
            'Ask for fewer dimensions, or index_kind => ''none'' for exact search.');
    END IF;
    v.index_kind := CASE WHEN v.dimensions > longest_indexed THEN 'none' ELSE coalesce(index_kind, 'hnsw') END;
    IF EXISTS (SELECT FROM qwen_embed.vectorizer e WHERE e.name = v.name) THEN
        RAISE EXCEPTION USING ERRCODE = 'duplicate_object',
            MESSAGE = format('there is already a vectorizer %L', v.name),
            HINT = format('Give another name => …, or SELECT qwen_embed.drop_vectorizer(%L);', v.name);
    END IF;

    target_name := coalesce(target_name, qwen_embed.derived_name(table_name, '_embedding'));
    IF octet_length(target_name) > 63 THEN
        RAISE EXCEPTION USING ERRCODE = 'name_too_long', MESSAGE = 'target_name is longer than 63 bytes',
            HINT = 'Give a shorter one.';
    ELSIF to_regclass(format('%I.%I', schema_name, target_name)) IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'duplicate_table',
            MESSAGE = format('table %I.%I exists already', schema_name, target_name),
            HINT = 'Give another target_name => …, or drop that table if it is left from an earlier vectorizer.';
    END IF;

    PERFORM qwen_embed.lock_tables(ARRAY[source], 'SHARE ROW EXCLUSIVE');
    v.target_table := qwen_embed.make_target(v, schema_name, target_name);
    INSERT INTO qwen_embed.vectorizer AS made
        (name, source, columns, template, model, dimensions, target, target_table, storage, index_kind)
    VALUES (v.name, v.source, v.columns, v.template, v.model, v.dimensions, 'table', v.target_table, v.storage, v.index_kind)
    RETURNING made.* INTO v;
    PERFORM qwen_embed.make_queue(v);
    PERFORM qwen_embed.make_row_functions(v);
    PERFORM qwen_embed.make_capture(v);
    UPDATE qwen_embed.vectorizer AS made
    SET target_view = qwen_embed.make_view(v, schema_name, qwen_embed.view_name(schema_name, table_name, target_name)),
        capture_mark = qwen_embed.capture_mark(v)
    WHERE made.id = v.id;
    -- Only recorded here: rows that others committed since this transaction's snapshot are not visible
    -- to it, yet not in the log either. A worker walks over the table later, with a snapshot of its own.
    IF backfill THEN
        INSERT INTO qwen_embed.task (vectorizer, kind) VALUES (v.id, 'backfill');
    END IF;
    IF index_kind IS NULL AND v.index_kind = 'none' THEN
        RAISE NOTICE 'no index: HNSW on % holds at most % dimensions, these vectors have %; searches are exact scans',
            v.storage, longest_indexed, v.dimensions;
    END IF;
    RETURN v.name;
END $$;
COMMENT ON FUNCTION qwen_embed.create_vectorizer(source regclass, columns text[], template text, name text, model text, dimensions integer, target text, target_name text, storage text, index_kind text, chunk_tokens integer, chunk_overlap integer, condition text, backfill boolean) IS 'Makes the rows of a table embed themselves: side table, view and triggers at once, vectors by a worker later. columns are joined by newlines; a template reads ''{title}: {body}''. Returns the name.';
CREATE FUNCTION qwen_embed.dead_rows(v qwen_embed.vectorizer) RETURNS TABLE(key jsonb, kind text, message text, attempts integer, died_at timestamp with time zone)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    named text := (SELECT string_agg(format('%L, k%s', source_column, place), ', ' ORDER BY place)
        FROM qwen_embed.key_columns(v.id));
BEGIN
    IF to_regclass(format('qwen_embed.dead_%s', v.id)) IS NOT NULL THEN
        RETURN QUERY EXECUTE format(
            'SELECT jsonb_build_object(%s), kind, message, attempts, died_at FROM qwen_embed.dead_%s', named, v.id);
    END IF;
END $$;
COMMENT ON FUNCTION qwen_embed.dead_rows(v qwen_embed.vectorizer) IS 'The dead letters of one vectorizer, keys by the names that the source''s columns have today.';
CREATE FUNCTION qwen_embed.definition(INOUT name text, OUT id integer, OUT source regclass, OUT model text, OUT dimensions integer, OUT instruction text, OUT target_table regclass, OUT storage text) RETURNS record
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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
COMMENT ON FUNCTION qwen_embed.definition(INOUT name text, OUT id integer, OUT source regclass, OUT model text, OUT dimensions integer, OUT instruction text, OUT target_table regclass, OUT storage text) IS 'The part of a vectorizer that everybody may read, or an error that suggests the nearest name.';
CREATE FUNCTION qwen_embed.derived_name(base text, suffix text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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
COMMENT ON FUNCTION qwen_embed.derived_name(base text, suffix text) IS 'base || suffix within the 63 bytes of an identifier; a cut base carries a hash of the whole.';
CREATE FUNCTION qwen_embed.drop_vectorizer(name text, drop_target boolean DEFAULT false) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET client_min_messages TO 'warning'
    AS $_$
DECLARE
    v qwen_embed.vectorizer := qwen_embed.named(name);
    part text;
    doomed regclass[];
    dropped regprocedure;
BEGIN
    -- The source first. A writer holds the source and wants the log: the other order could deadlock
    -- with it, and Postgres might choose the writer.
    SELECT array_agg(c.oid::regclass ORDER BY place) INTO doomed
    FROM unnest(ARRAY[v.source, to_regclass('qwen_embed.log_' || v.id), to_regclass('qwen_embed.work_' || v.id),
            to_regclass('qwen_embed.dead_' || v.id), CASE WHEN drop_target THEN v.target_table END, v.target_view])
        WITH ORDINALITY AS part_of(oid, place)
    JOIN pg_class c USING (oid);
    IF doomed IS NOT NULL THEN
        PERFORM qwen_embed.lock_tables(doomed, 'ACCESS EXCLUSIVE');
    END IF;
    IF EXISTS (SELECT FROM pg_class WHERE oid = v.source) THEN
        FOREACH part IN ARRAY ARRAY['insert', 'delete', 'update', 'truncate'] LOOP
            EXECUTE format('DROP TRIGGER IF EXISTS qwen_embed_%s_%s ON %s', v.id, part, v.source);
        END LOOP;
    END IF;
    FOREACH part IN ARRAY ARRAY['log', 'work', 'dead'] LOOP
        EXECUTE format('DROP TABLE IF EXISTS qwen_embed.%s_%s', part, v.id);
    END LOOP;
    FOR dropped IN
        SELECT p.oid FROM pg_proc p
        WHERE p.pronamespace = 'qwen_embed'::regnamespace
            AND p.proname ~ format('^(capture_%s_[a-z]+|key_%s_\d+|content_%s)$', v.id, v.id, v.id)
    LOOP
        EXECUTE format('DROP FUNCTION %s', dropped);
    END LOOP;
    DELETE FROM qwen_embed.lease l WHERE l.vectorizer = v.id;
    DELETE FROM qwen_embed.vectorizer kept WHERE kept.id = v.id;
    IF EXISTS (SELECT FROM pg_class WHERE oid = v.target_view AND relkind = 'v') THEN
        EXECUTE format('DROP VIEW %s', v.target_view);
    END IF;
    IF drop_target AND EXISTS (SELECT FROM pg_class WHERE oid = v.target_table) THEN
        EXECUTE format('DROP TABLE %s', v.target_table);
    END IF;
END $_$;
COMMENT ON FUNCTION qwen_embed.drop_vectorizer(name text, drop_target boolean) IS 'Ends a vectorizer: triggers, log and view go. The vectors stay unless drop_target is true.';
CREATE FUNCTION qwen_embed.named(name text) RETURNS qwen_embed.vectorizer
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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
COMMENT ON FUNCTION qwen_embed.named(name text) IS 'The vectorizer of that name, or an error that suggests the nearest.';
CREATE TABLE qwen_embed.task (
    id bigint NOT NULL,
    vectorizer integer NOT NULL,
    kind text NOT NULL,
    reached text[],
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT task_kind_check CHECK ((kind = ANY (ARRAY['backfill'::text, 'orphans'::text])))
);
COMMENT ON TABLE qwen_embed.task IS 'Long walks that workers make in portions. They only append keys to the log.';
COMMENT ON COLUMN qwen_embed.task.kind IS 'backfill: rows of the source whose vector is missing or of another text. orphans: vectors whose row is gone.';
COMMENT ON COLUMN qwen_embed.task.reached IS 'The last key walked over, each part as text; null before the first portion.';
CREATE FUNCTION qwen_embed.record_sweep(v qwen_embed.vectorizer) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    BEGIN ATOMIC
 INSERT INTO qwen_embed.task (vectorizer, kind)  SELECT (record_sweep.v).id AS id,
             wanted.walk
            FROM unnest(ARRAY['backfill'::text, 'orphans'::text]) wanted(walk)
           WHERE (NOT (EXISTS ( SELECT
                    FROM qwen_embed.task t
                   WHERE ((t.vectorizer = (record_sweep.v).id) AND (t.kind = wanted.walk) AND (t.reached IS NULL))
                  FOR UPDATE OF t SKIP LOCKED)));
END;
COMMENT ON FUNCTION qwen_embed.record_sweep(v qwen_embed.vectorizer) IS 'Has workers compare every row with its vector, by hash, and every vector with its row.';
CREATE FUNCTION qwen_embed.enqueue(name text) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    BEGIN ATOMIC
 SELECT qwen_embed.record_sweep(qwen_embed.named(name)) AS record_sweep;
END;
COMMENT ON FUNCTION qwen_embed.enqueue(name text) IS 'Has every row looked at again. A text that did not change is not paid for again.';
CREATE FUNCTION qwen_embed.equality(type oid) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    BEGIN ATOMIC
 SELECT qwen_embed.comparison(type, 3) AS comparison;
END;
COMMENT ON FUNCTION qwen_embed.equality(type oid) IS 'The equality of a type''s unique index, qualified.';
CREATE FUNCTION qwen_embed.extension_schema() RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    BEGIN ATOMIC
 SELECT quote_ident((n.nspname)::text) AS quote_ident
    FROM (pg_extension e
      JOIN pg_namespace n ON ((n.oid = e.extnamespace)))
   WHERE (e.extname = 'vector'::name);
END;
COMMENT ON FUNCTION qwen_embed.extension_schema() IS 'The schema of pgvector, quoted. It may be any: nothing here relies on the search path.';
CREATE FUNCTION qwen_embed.filter_condition(source regclass, filter jsonb) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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
COMMENT ON FUNCTION qwen_embed.filter_condition(source regclass, filter jsonb) IS 'A filter {column: value or list of values} as SQL over the source s; unknown columns are refused.';
CREATE FUNCTION qwen_embed.keeper() RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    BEGIN ATOMIC
 SELECT (pg_get_userbyid(pg_namespace.nspowner))::text AS pg_get_userbyid
    FROM pg_namespace
   WHERE (pg_namespace.nspname = 'qwen_embed'::name);
END;
COMMENT ON FUNCTION qwen_embed.keeper() IS 'The role that installed qwen_embed. Whoever makes a vectorizer gives it the rights to watch it.';
CREATE FUNCTION qwen_embed.key_1_1(public.docs) RETURNS integer
    LANGUAGE sql IMMUTABLE
    BEGIN ATOMIC
 SELECT ($1).id AS id;
END;
CREATE FUNCTION qwen_embed.key_2_1(public.pairs) RETURNS text
    LANGUAGE sql IMMUTABLE
    BEGIN ATOMIC
 SELECT ($1).a AS a;
END;
CREATE FUNCTION qwen_embed.key_2_2(public.pairs) RETURNS integer
    LANGUAGE sql IMMUTABLE
    BEGIN ATOMIC
 SELECT ($1).b AS b;
END;
CREATE FUNCTION qwen_embed.key_columns(vectorizer integer) RETURNS TABLE(place integer, source_column text, target_column text, type text, equality text, greater text)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    BEGIN ATOMIC
 SELECT (k.place)::integer AS place,
     (s.attname)::text AS attname,
     (t.attname)::text AS attname,
     qwen_embed.base_type(t.atttypid, t.atttypmod) AS base_type,
     qwen_embed.equality(t.atttypid) AS equality,
     qwen_embed.comparison(t.atttypid, 5) AS comparison
    FROM (((((qwen_embed.vectorizer v
      JOIN pg_index i ON (((i.indrelid = (v.target_table)::oid) AND i.indisprimary)))
      CROSS JOIN LATERAL unnest(((i.indkey)::smallint[])[0:(i.indnkeyatts - 2)]) WITH ORDINALITY k(attnum, place))
      JOIN pg_attribute t ON (((t.attrelid = (v.target_table)::oid) AND (t.attnum = k.attnum))))
      JOIN pg_depend d ON (((d.classid = ('pg_proc'::regclass)::oid) AND (d.objid = (to_regproc(format('qwen_embed.key_%s_%s'::text, v.id, k.place)))::oid) AND (d.refclassid = ('pg_class'::regclass)::oid) AND (d.refobjid = (v.source)::oid) AND (d.refobjsubid > 0))))
      JOIN pg_attribute s ON (((s.attrelid = (v.source)::oid) AND (s.attnum = d.refobjsubid))))
   WHERE (v.id = key_columns.vectorizer)
   ORDER BY k.place;
END;
COMMENT ON FUNCTION qwen_embed.key_columns(vectorizer integer) IS 'The key of a vectorizer as its columns are called today: the source''s through the parsed key functions, which follow renames, the target''s through its primary key (all but chunk).';
CREATE FUNCTION qwen_embed.primary_key(source regclass) RETURNS TABLE(place integer, attnum smallint, name text, type text, collate_clause text)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    BEGIN ATOMIC
 SELECT (k.place)::integer AS place,
     a.attnum,
     (a.attname)::text AS attname,
     qwen_embed.base_type(a.atttypid, a.atttypmod) AS base_type,
         CASE
             WHEN (a.attcollation = (0)::oid) THEN ''::text
             ELSE format(' COLLATE %I.%I'::text, n.nspname, c.collname)
         END AS format
    FROM ((((pg_constraint p
      CROSS JOIN LATERAL unnest(p.conkey) WITH ORDINALITY k(attnum, place))
      JOIN pg_attribute a ON (((a.attrelid = p.conrelid) AND (a.attnum = k.attnum))))
      LEFT JOIN pg_collation c ON ((c.oid = a.attcollation)))
      LEFT JOIN pg_namespace n ON ((n.oid = c.collnamespace)))
   WHERE ((p.conrelid = (primary_key.source)::oid) AND (p.contype = 'p'::"char"))
   ORDER BY k.place;
END;
COMMENT ON FUNCTION qwen_embed.primary_key(source regclass) IS 'The columns of a table''s primary key, in order, with type and collation as SQL.';
CREATE FUNCTION qwen_embed.key_definition(source regclass, prefix text, suffix text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    BEGIN ATOMIC
 SELECT string_agg((((((key_definition.prefix || primary_key.place) || ' '::text) || primary_key.type) || primary_key.collate_clause) || key_definition.suffix), ', '::text ORDER BY primary_key.place) AS string_agg
    FROM qwen_embed.primary_key(key_definition.source) primary_key(place, attnum, name, type, collate_clause);
END;
COMMENT ON FUNCTION qwen_embed.key_definition(source regclass, prefix text, suffix text) IS 'The key as column definitions k1, k2, … with the source''s types and collations.';
CREATE FUNCTION qwen_embed.key_join(vectorizer integer, source_alias text, target_alias text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    BEGIN ATOMIC
 SELECT string_agg(format('%I.%I %s %I.%I'::text, key_join.source_alias, key_columns.source_column, key_columns.equality, key_join.target_alias, key_columns.target_column), ' AND '::text ORDER BY key_columns.place) AS string_agg
    FROM qwen_embed.key_columns(key_join.vectorizer) key_columns(place, source_column, target_column, type, equality, greater);
END;
COMMENT ON FUNCTION qwen_embed.key_join(vectorizer integer, source_alias text, target_alias text) IS 'The condition that joins a source row to its vectors.';
CREATE FUNCTION qwen_embed.lock_tables(tables regclass[], mode text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    before text := current_setting('lock_timeout');
BEGIN
    -- A waiting lock queues every writer behind it: so wait little, let them pass, and try again. All
    -- in one attempt: whoever held the source and waited for a reader of another would stop everyone.
    PERFORM set_config('lock_timeout', '300ms', true);
    FOR attempt IN 1..20 LOOP
        BEGIN
            EXECUTE format('LOCK TABLE %s IN %s MODE', array_to_string(tables, ', '), mode);
            PERFORM set_config('lock_timeout', before, true);
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_sleep(0.1 + random() * 0.3);
        END;
    END LOOP;
    RAISE EXCEPTION USING ERRCODE = 'lock_not_available',
        MESSAGE = format('%s is in use by a long transaction', array_to_string(tables, ' or ')),
        HINT = 'Try again when it has ended; pg_stat_activity shows it.';
END $$;
COMMENT ON FUNCTION qwen_embed.lock_tables(tables regclass[], mode text) IS 'Locks tables, in this order, for their triggers to change, in short attempts that hardly delay writers.';
CREATE FUNCTION qwen_embed.make_capture(v qwen_embed.vectorizer) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET client_min_messages TO 'warning'
    AS $$
DECLARE
    keys text := qwen_embed.numbered(v.source, 'k#');
    watched text[] := qwen_embed.watched_columns(v);
    appended text := format('    INSERT INTO qwen_embed.log_%s (op, %s) ', v.id, keys);
    key_of text := format('qwen_embed.key_%s_#(%%s)', v.id);
    old_key text := qwen_embed.numbered(v.source, format(key_of, 'old'));
    new_key text := qwen_embed.numbered(v.source, format(key_of, 'new'));
    every_key text := qwen_embed.numbered(v.source, format(key_of, 'changed'));
    event text;
BEGIN
    PERFORM qwen_embed.make_capture_function(v, 'insert',
        appended || format('SELECT ''c'', %s FROM changed;', every_key));
    PERFORM qwen_embed.make_capture_function(v, 'delete',
        appended || format('SELECT ''c'', %s FROM changed;', every_key));
    PERFORM qwen_embed.make_capture_function(v, 'update',
        appended || format(E'VALUES (''c'', %s);\n', new_key)
        || format(E'    IF record_image_ne(ROW(%s), ROW(%s)) THEN\n', old_key, new_key)
        || '    ' || appended || format(E'VALUES (''c'', %s);\n    END IF;', old_key));
    PERFORM qwen_embed.make_capture_function(v, 'truncate',
        format('    INSERT INTO qwen_embed.log_%s (op) VALUES (''t'');', v.id));

    -- OR REPLACE, not dropped first: a drop locks readers out as well, hence waits for them, while
    -- the lock that is held already lets no writer through.
    EXECUTE format(
        'CREATE OR REPLACE TRIGGER qwen_embed_%s_insert AFTER INSERT ON %s REFERENCING NEW TABLE AS changed '
        'FOR EACH STATEMENT EXECUTE FUNCTION qwen_embed.capture_%s_insert()', v.id, v.source, v.id);
    EXECUTE format(
        'CREATE OR REPLACE TRIGGER qwen_embed_%s_delete AFTER DELETE ON %s REFERENCING OLD TABLE AS changed '
        'FOR EACH STATEMENT EXECUTE FUNCTION qwen_embed.capture_%s_delete()', v.id, v.source, v.id);
    -- Images, not "IS DISTINCT FROM": json has no equality, and equal values may read differently
    -- (1.0 and 1.00). No UPDATE OF: it would miss what a BEFORE trigger changes.
    EXECUTE format(
        'CREATE OR REPLACE TRIGGER qwen_embed_%s_update AFTER UPDATE ON %s FOR EACH ROW '
        'WHEN (pg_catalog.record_image_ne(ROW(%s), ROW(%s))) EXECUTE FUNCTION qwen_embed.capture_%s_update()',
        v.id, v.source,
        (SELECT string_agg(format('old.%I', c), ', ' ORDER BY c) FROM unnest(watched) c),
        (SELECT string_agg(format('new.%I', c), ', ' ORDER BY c) FROM unnest(watched) c), v.id);
    EXECUTE format(
        'CREATE OR REPLACE TRIGGER qwen_embed_%s_truncate AFTER TRUNCATE ON %s '
        'FOR EACH STATEMENT EXECUTE FUNCTION qwen_embed.capture_%s_truncate()', v.id, v.source, v.id);
    -- ALWAYS: restores and repairs under session_replication_role = replica are changes too.
    FOREACH event IN ARRAY ARRAY['insert', 'delete', 'update', 'truncate'] LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER qwen_embed_%s_%s', v.source, v.id, event);
    END LOOP;
END $$;
COMMENT ON FUNCTION qwen_embed.make_capture(v qwen_embed.vectorizer) IS 'The four triggers on the source, made anew.';
CREATE FUNCTION qwen_embed.make_capture_function(v qwen_embed.vectorizer, event text, body text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    -- What can be missing is looked for first, since an error here would undo the user's write. An
    -- exception block would catch more, at the price of a subtransaction in each statement.
    guard text := format(
        'has_schema_privilege(to_regnamespace(''qwen_embed'')::oid, ''USAGE'')'
        ' AND has_table_privilege(to_regclass(''qwen_embed.log_%s'')::oid, ''INSERT'')', v.id)
        || (SELECT string_agg(format(
                ' AND has_function_privilege(to_regproc(''qwen_embed.key_%s_%s'')::oid, ''EXECUTE'')',
                v.id, place), '')
            FROM qwen_embed.primary_key(v.source));
    complaint text := format(
        'the vectorizer %L could not record this change of %s: SELECT qwen_embed.repair(%L);',
        v.name, v.source, v.name);
    called text := format('qwen_embed.capture_%s_%s', v.id, event);
BEGIN
    EXECUTE format(
        'CREATE OR REPLACE FUNCTION %s() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER '
        'SET search_path = pg_catalog, pg_temp AS %L',
        called,
        format(E'BEGIN\n    IF (%s) IS NOT TRUE THEN\n        RAISE WARNING USING MESSAGE = %L;\n'
               '        RETURN NULL;\n    END IF;\n%s\n    RETURN NULL;\nEND', guard, complaint, body));
    EXECUTE format('REVOKE ALL ON FUNCTION %s() FROM PUBLIC', called);
    EXECUTE format('COMMENT ON FUNCTION %s() IS %L', called,
        format('Appends to log_%s, as its owner: the writer needs no right here.', v.id));
END $$;
COMMENT ON FUNCTION qwen_embed.make_capture_function(v qwen_embed.vectorizer, event text, body text) IS 'One trigger function. It appends to the log and does nothing else; it never fails for a missing part of ours, it warns.';
CREATE FUNCTION qwen_embed.make_queue(v qwen_embed.vectorizer) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET client_min_messages TO 'warning'
    AS $$
DECLARE
    made text;
BEGIN
    -- No index and no key: appends of concurrent writers can then neither conflict nor wait.
    -- FULL: in a database that publishes all its tables a delete needs to identify its row.
    -- No truncation by vacuum: it would lock writers out for a moment.
    EXECUTE format(
        'CREATE TABLE IF NOT EXISTS qwen_embed.log_%s (op "char" NOT NULL, %s, '
        'at timestamptz NOT NULL DEFAULT clock_timestamp()) WITH (vacuum_truncate = off, '
        'autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000)',
        v.id, qwen_embed.key_definition(v.source, 'k', ''));
    -- Only where it is not yet so: repair() holds the source, and must not wait here for a reader.
    IF NOT EXISTS (SELECT FROM pg_class
        WHERE oid = to_regclass(format('qwen_embed.log_%s', v.id)) AND relreplident = 'f') THEN
        EXECUTE format('ALTER TABLE qwen_embed.log_%s REPLICA IDENTITY FULL', v.id);
    END IF;
    EXECUTE format(
        'CREATE TABLE IF NOT EXISTS qwen_embed.work_%s (%s, id bigint GENERATED ALWAYS AS IDENTITY UNIQUE, '
        'token bigint, dirty boolean NOT NULL DEFAULT false, attempts int NOT NULL DEFAULT 0, '
        'due_at timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (%s), '
        'CHECK (token IS NOT NULL OR NOT dirty)) WITH (autovacuum_vacuum_scale_factor = 0, '
        'autovacuum_vacuum_threshold = 5000)',
        v.id, qwen_embed.key_definition(v.source, 'k', ' NOT NULL'), qwen_embed.numbered(v.source, 'k#'));
    EXECUTE format(
        'CREATE INDEX IF NOT EXISTS work_%s_due ON qwen_embed.work_%s (due_at) WHERE token IS NULL', v.id, v.id);
    EXECUTE format(
        'CREATE TABLE IF NOT EXISTS qwen_embed.dead_%s (%s, kind text NOT NULL, message text NOT NULL, '
        'attempts int NOT NULL, died_at timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (%s))',
        v.id, qwen_embed.key_definition(v.source, 'k', ' NOT NULL'), qwen_embed.numbered(v.source, 'k#'));
    EXECUTE format('COMMENT ON TABLE qwen_embed.log_%s IS %L', v.id,
        'Keys of changed rows of ' || v.source || ', appended by its triggers, deleted by workers.');
    EXECUTE format('COMMENT ON TABLE qwen_embed.work_%s IS %L', v.id,
        'Keys that a worker holds (token) or that wait for another try (due_at).');
    EXECUTE format('COMMENT ON TABLE qwen_embed.dead_%s IS %L', v.id,
        'Keys whose text no provider takes, until the text changes or retry() is called.');
    FOREACH made IN ARRAY ARRAY['log', 'work', 'dead'] LOOP
        EXECUTE format('REVOKE ALL ON qwen_embed.%s_%s FROM PUBLIC', made, v.id);
        EXECUTE format('GRANT ALL ON qwen_embed.%s_%s TO %I', made, v.id, qwen_embed.keeper());
    END LOOP;
END $$;
COMMENT ON FUNCTION qwen_embed.make_queue(v qwen_embed.vectorizer) IS 'The log, work and dead-letter tables of one vectorizer.';
CREATE FUNCTION qwen_embed.make_row_functions(v qwen_embed.vectorizer) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
DECLARE
    key record;
    made regprocedure;
BEGIN
    -- Parsed bodies (BEGIN ATOMIC) follow a rename of the column or the table; names in a text do not.
    FOR key IN SELECT * FROM qwen_embed.primary_key(v.source) LOOP
        CONTINUE WHEN to_regproc(format('qwen_embed.key_%s_%s', v.id, key.place)) IS NOT NULL;
        EXECUTE format(
            'CREATE FUNCTION qwen_embed.key_%s_%s(%s) RETURNS %s LANGUAGE sql IMMUTABLE '
            'BEGIN ATOMIC SELECT ($1).%I; END',
            v.id, key.place, v.source, key.type, key.name);
    END LOOP;
    IF to_regproc(format('qwen_embed.content_%s', v.id)) IS NULL THEN
        EXECUTE format(
            'CREATE FUNCTION qwen_embed.content_%s(%s) RETURNS text LANGUAGE sql STABLE '
            'BEGIN ATOMIC SELECT %s; END',
            v.id, v.source, qwen_embed.content_expression(v.source, v.columns, v.template));
    END IF;
    FOR made IN
        SELECT p.oid FROM pg_proc p
        WHERE p.pronamespace = 'qwen_embed'::regnamespace
            AND p.proname ~ format('^(key_%s_\d+|content_%s)$', v.id, v.id)
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', made);
        EXECUTE format('GRANT ALL ON FUNCTION %s TO %I', made, qwen_embed.keeper());
    END LOOP;
END $_$;
COMMENT ON FUNCTION qwen_embed.make_row_functions(v qwen_embed.vectorizer) IS 'key_N_1, key_N_2, … and content_N: what a row is called and what its text is.';
CREATE FUNCTION qwen_embed.make_target(v qwen_embed.vectorizer, target_schema text, target_name text) RETURNS regclass
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    called text := format('%I.%I', target_schema, target_name);
    names text[] := ARRAY(SELECT qwen_embed.target_key_name(name) FROM qwen_embed.primary_key(v.source));
    grant_to text;
BEGIN
    -- No foreign key to the source: it would make a TRUNCATE there fail and lock rows that we write.
    EXECUTE format(
        'CREATE TABLE %s (%s, chunk int NOT NULL DEFAULT 0, text text NOT NULL, embedding %s.%I(%s) NOT NULL, '
        'content_hash bytea NOT NULL, offer text, embedded_at timestamptz NOT NULL DEFAULT clock_timestamp(), '
        'PRIMARY KEY (%s, chunk))',
        called,
        (SELECT string_agg(format('%I %s%s NOT NULL', names[place], type, collate_clause), ', ' ORDER BY place)
         FROM qwen_embed.primary_key(v.source)),
        qwen_embed.extension_schema(), v.storage, v.dimensions,
        (SELECT string_agg(quote_ident(n), ', ' ORDER BY place) FROM unnest(names) WITH ORDINALITY AS t(n, place)));
    EXECUTE format('COMMENT ON TABLE %s IS %L', called,
        format('Vectors of %s, kept by the vectorizer %L (%s, %s dimensions).', v.source, v.name, v.model, v.dimensions));
    -- Whoever may read the source may read its vectors, but only of rows that its policies show them.
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', called);
    EXECUTE format('CREATE POLICY row_is_visible ON %s FOR SELECT USING (EXISTS (SELECT FROM %s AS source WHERE %s))',
        called, v.source,
        (SELECT string_agg(format('source.%I %s %I.%I', k.name, qwen_embed.equality(a.atttypid), target_name, names[k.place]), ' AND ')
         FROM qwen_embed.primary_key(v.source) k
         JOIN pg_attribute a ON a.attrelid = v.source AND a.attnum = k.attnum));
    FOR grant_to IN SELECT * FROM qwen_embed.readers(v.source) LOOP
        EXECUTE format('GRANT SELECT ON %s TO %s', called, grant_to);
    END LOOP;
    RETURN called::regclass;
END $$;
COMMENT ON FUNCTION qwen_embed.make_target(v qwen_embed.vectorizer, target_schema text, target_name text) IS 'The side table that holds the vectors.';
CREATE FUNCTION qwen_embed.make_view(v qwen_embed.vectorizer, view_schema text, view_name text) RETURNS regclass
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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
COMMENT ON FUNCTION qwen_embed.make_view(v qwen_embed.vectorizer, view_schema text, view_name text) IS 'The view that joins source and side table, with the rights and policies of whoever reads it.';
CREATE FUNCTION qwen_embed.nearest(word text, candidates text[]) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    BEGIN ATOMIC
 WITH pairs AS (
          SELECT c.c,
             substr(((' '::text || lower(c.c)) || ' '::text), i.i, 2) AS pair
            FROM unnest(nearest.candidates) c(c),
             LATERAL generate_series(1, (length(c.c) + 1)) i(i)
         ), wanted AS (
          SELECT DISTINCT substr(((' '::text || lower(nearest.word)) || ' '::text), i.i, 2) AS pair
            FROM generate_series(1, (length(nearest.word) + 1)) i(i)
         )
  SELECT pairs.c
    FROM (pairs
      LEFT JOIN wanted USING (pair))
   GROUP BY pairs.c
  HAVING (count(wanted.pair) > 0)
   ORDER BY ((2.0 * (count(wanted.pair))::numeric) / (((length(pairs.c) + length(nearest.word)) + 2))::numeric) DESC, pairs.c
  LIMIT 1;
END;
COMMENT ON FUNCTION qwen_embed.nearest(word text, candidates text[]) IS 'The candidate that shares the most letter pairs with the word, for messages; null if none does.';
CREATE FUNCTION qwen_embed.numbered(source regclass, pattern text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    BEGIN ATOMIC
 SELECT string_agg(replace(numbered.pattern, '#'::text, (primary_key.place)::text), ', '::text ORDER BY primary_key.place) AS string_agg
    FROM qwen_embed.primary_key(numbered.source) primary_key(place, attnum, name, type, collate_clause);
END;
COMMENT ON FUNCTION qwen_embed.numbered(source regclass, pattern text) IS 'The pattern once for each key column, # being its place.';
CREATE FUNCTION qwen_embed.pause(name text) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    BEGIN ATOMIC
 UPDATE qwen_embed.vectorizer SET paused = true
   WHERE (vectorizer.id = (qwen_embed.named(pause.name)).id);
END;
COMMENT ON FUNCTION qwen_embed.pause(name text) IS 'Stops the spending. Changes are still recorded and wait for resume().';
CREATE FUNCTION qwen_embed.query_text(name text, text text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    BEGIN ATOMIC
 SELECT
         CASE
             WHEN (v.model ~~ 'qwen3-embedding-%'::text) THEN concat('Instruct: ', COALESCE(v.instruction, 'Given a web search query, retrieve relevant passages that answer the query'::text), chr(10), 'Query:', query_text.text)
             WHEN (v.model ~~ 'nomic-embed-text-%'::text) THEN concat('search_query: ', query_text.text)
             ELSE query_text.text
         END AS text
    FROM qwen_embed.definition(query_text.name) v(name, id, source, model, dimensions, instruction, target_table, storage);
END;
COMMENT ON FUNCTION qwen_embed.query_text(name text, text text) IS 'The exact text whose embedding searches this vectorizer: with the instruction or prefix that its model wants.';
CREATE FUNCTION qwen_embed.readers(source regclass) RETURNS SETOF text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    BEGIN ATOMIC
 SELECT DISTINCT
         CASE granted.grantee
             WHEN 0 THEN 'PUBLIC'::text
             ELSE quote_ident((pg_get_userbyid(granted.grantee))::text)
         END AS quote_ident
    FROM pg_class c,
     LATERAL aclexplode(c.relacl) granted(grantor, grantee, privilege_type, is_grantable)
   WHERE ((c.oid = (readers.source)::oid) AND (granted.privilege_type = 'SELECT'::text) AND (granted.grantee <> c.relowner));
END;
COMMENT ON FUNCTION qwen_embed.readers(source regclass) IS 'The roles that were granted SELECT on a table, quoted, besides its owner.';
CREATE FUNCTION qwen_embed.refuse(message text, hint text) RETURNS void
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = message, HINT = hint;
END $$;
COMMENT ON FUNCTION qwen_embed.refuse(message text, hint text) IS 'Raises: what was asked is not supported.';
CREATE FUNCTION qwen_embed.refuse_key(v qwen_embed.vectorizer) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
        MESSAGE = format('the primary key of %s is no longer the one that vectorizer %L was made for', v.source, v.name),
        HINT = format('Make it anew: SELECT qwen_embed.drop_vectorizer(%L, drop_target => true); then create it.', v.name);
END $$;
COMMENT ON FUNCTION qwen_embed.refuse_key(v qwen_embed.vectorizer) IS 'Raises: the key is another.';
CREATE FUNCTION qwen_embed.repair(name text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v qwen_embed.vectorizer := qwen_embed.named(name);
    table_name text;
    schema_name text;
BEGIN
    PERFORM qwen_embed.check_source(v.source);
    PERFORM qwen_embed.lock_tables(ARRAY[v.source], 'SHARE ROW EXCLUSIVE');
    PERFORM qwen_embed.require_key(v);
    SELECT c.relname, n.nspname INTO table_name, schema_name
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = v.source;
    IF NOT EXISTS (SELECT FROM pg_class WHERE oid = v.target_table) THEN
        v.target_table := qwen_embed.make_target(v, schema_name, qwen_embed.derived_name(table_name, '_embedding'));
        UPDATE qwen_embed.vectorizer AS kept SET target_table = v.target_table WHERE kept.id = v.id;
    END IF;
    PERFORM qwen_embed.make_queue(v);
    PERFORM qwen_embed.make_row_functions(v);
    PERFORM qwen_embed.make_capture(v);
    IF NOT EXISTS (SELECT FROM pg_class WHERE oid = v.target_view) THEN
        v.target_view := qwen_embed.make_view(v, schema_name, qwen_embed.view_name(
            schema_name, table_name, (SELECT relname FROM pg_class WHERE oid = v.target_table)));
    END IF;
    UPDATE qwen_embed.vectorizer AS kept
    SET target_view = v.target_view, capture_mark = qwen_embed.capture_mark(v),
        trouble = NULL, last_error = NULL, last_error_at = NULL
    WHERE kept.id = v.id;
    PERFORM qwen_embed.record_sweep(v);
END $$;
COMMENT ON FUNCTION qwen_embed.repair(name text) IS 'Makes again what is missing of a vectorizer and has every row compared with its vector.';
CREATE FUNCTION qwen_embed.require_key(v qwen_embed.vectorizer) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
DECLARE
    kept text;
BEGIN
    -- A table or a function that is missing may be made again; one that is there must fit.
    FOREACH kept IN ARRAY ARRAY['log', 'work', 'dead'] LOOP
        CONTINUE WHEN to_regclass(format('qwen_embed.%s_%s', kept, v.id)) IS NULL;
        IF (SELECT string_agg(format('k%s %s', place, type), ', ' ORDER BY place) FROM qwen_embed.primary_key(v.source))
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
        SELECT FROM qwen_embed.primary_key(v.source) k
        JOIN pg_depend d ON d.classid = 'pg_proc'::regclass
            AND d.objid = to_regproc(format('qwen_embed.key_%s_%s', v.id, k.place))
            AND d.refclassid = 'pg_class'::regclass AND d.refobjid = v.source AND d.refobjsubid > 0
        WHERE d.refobjsubid <> k.attnum)
    THEN
        PERFORM qwen_embed.refuse_key(v);
    END IF;
END $_$;
COMMENT ON FUNCTION qwen_embed.require_key(v qwen_embed.vectorizer) IS 'Raises unless the source''s primary key is the one that the vectorizer was made for: triggers for another would fail in the user''s writes.';
CREATE FUNCTION qwen_embed.resume(name text) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    BEGIN ATOMIC
 UPDATE qwen_embed.vectorizer SET paused = false, trouble = NULL::text, last_error = NULL::text, last_error_at = NULL::timestamp with time zone
   WHERE (vectorizer.id = (qwen_embed.named(resume.name)).id);
END;
COMMENT ON FUNCTION qwen_embed.resume(name text) IS 'Undoes pause() and clears what held the work.';
CREATE FUNCTION qwen_embed.retry(name text) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    v qwen_embed.vectorizer := qwen_embed.named(name);
    keys text := qwen_embed.numbered(v.source, 'k#');
    appended bigint;
BEGIN
    EXECUTE format('INSERT INTO qwen_embed.log_%s (op, %s) SELECT ''c'', %s FROM qwen_embed.dead_%s', v.id, keys, keys, v.id);
    GET DIAGNOSTICS appended = ROW_COUNT;
    RETURN appended;
END $$;
COMMENT ON FUNCTION qwen_embed.retry(name text) IS 'Has the dead letters tried again; returns how many. One that succeeds leaves the list.';
CREATE FUNCTION qwen_embed.search(name text, query public.vector, k integer DEFAULT 10, filter jsonb DEFAULT NULL::jsonb, exact boolean DEFAULT false) RETURNS TABLE(key jsonb, chunk integer, text text, distance double precision)
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
END $_$;
COMMENT ON FUNCTION qwen_embed.search(name text, query public.vector, k integer, filter jsonb, exact boolean) IS 'The k rows nearest to a query''s vector, by cosine distance, nearest first. filter: {source column: value or list of values}. exact: read every vector, not the index. Rows the caller may not see are not found.';
CREATE FUNCTION qwen_embed.target_key_name(name text) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    BEGIN ATOMIC
 SELECT
         CASE
             WHEN (name = ANY (ARRAY['chunk'::text, 'text'::text, 'embedding'::text, 'content_hash'::text, 'offer'::text, 'embedded_at'::text])) THEN ('key_'::text || name)
             ELSE name
         END AS name;
END;
COMMENT ON FUNCTION qwen_embed.target_key_name(name text) IS 'A key column''s name in the side table: its own, unless the side table has a column of that name.';
CREATE FUNCTION qwen_embed.view_name(schema_name text, table_name text, target_name text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    BEGIN ATOMIC
 SELECT
         CASE
             WHEN (to_regclass(format('%I.%I'::text, schema_name, qwen_embed.derived_name(table_name, '_embedded'::text))) IS NULL) THEN qwen_embed.derived_name(table_name, '_embedded'::text)
             ELSE qwen_embed.derived_name(target_name, '_view'::text)
         END AS derived_name;
END;
COMMENT ON FUNCTION qwen_embed.view_name(schema_name text, table_name text, target_name text) IS '<source>_embedded, or <target>_view where that name is taken.';
CREATE FUNCTION qwen_embed.watched_columns(v qwen_embed.vectorizer) RETURNS text[]
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    BEGIN ATOMIC
 SELECT array_agg(DISTINCT (a.attname)::text) AS array_agg
    FROM (((pg_proc p
      JOIN pg_namespace n ON (((n.oid = p.pronamespace) AND (n.nspname = 'qwen_embed'::name))))
      JOIN pg_depend d ON (((d.classid = ('pg_proc'::regclass)::oid) AND (d.objid = p.oid) AND (d.refclassid = ('pg_class'::regclass)::oid) AND (d.refobjid = ((watched_columns.v).source)::oid) AND (d.refobjsubid > 0))))
      JOIN pg_attribute a ON (((a.attrelid = ((watched_columns.v).source)::oid) AND (a.attnum = d.refobjsubid))))
   WHERE (p.proname ~ (((('^(key_'::text || (watched_columns.v).id) || '_\d+|content_'::text) || (watched_columns.v).id) || ')$'::text));
END;
COMMENT ON FUNCTION qwen_embed.watched_columns(v qwen_embed.vectorizer) IS 'The columns that a row''s key and text are read from, by the names they have today.';
CREATE TABLE public.docs_embedding (
    id integer NOT NULL,
    chunk integer DEFAULT 0 NOT NULL,
    text text NOT NULL,
    embedding public.vector(32) NOT NULL,
    content_hash bytea NOT NULL,
    offer text,
    embedded_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);
COMMENT ON TABLE public.docs_embedding IS 'Vectors of public.docs, kept by the vectorizer ''docs'' (qwen3-embedding-0.6b, 32 dimensions).';
CREATE VIEW public.docs_embedded WITH (security_invoker='true') AS
 SELECT source.id,
    source.body,
    source.other,
    target.chunk,
    target.text,
    target.embedding,
    target.offer,
    target.embedded_at
   FROM (public.docs source
     JOIN public.docs_embedding target ON ((source.id = target.id)));
COMMENT ON VIEW public.docs_embedded IS 'Rows of public.docs beside their vectors. A row without one, or waiting for its first, is not here.';
CREATE TABLE public.pairs_embedding (
    a text NOT NULL,
    b integer NOT NULL,
    chunk integer DEFAULT 0 NOT NULL,
    text text NOT NULL,
    embedding public.halfvec(32) NOT NULL,
    content_hash bytea NOT NULL,
    offer text,
    embedded_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);
COMMENT ON TABLE public.pairs_embedding IS 'Vectors of public.pairs, kept by the vectorizer ''odd name'' (qwen3-embedding-0.6b, 32 dimensions).';
CREATE VIEW public.pairs_embedded WITH (security_invoker='true') AS
 SELECT source.a,
    source.b,
    source.title,
    source.body,
    target.chunk,
    target.text,
    target.embedding,
    target.offer,
    target.embedded_at
   FROM (public.pairs source
     JOIN public.pairs_embedding target ON (((source.a = target.a) AND (source.b = target.b))));
COMMENT ON VIEW public.pairs_embedded IS 'Rows of public.pairs beside their vectors. A row without one, or waiting for its first, is not here.';
CREATE TABLE qwen_embed.dead_1 (
    k1 integer NOT NULL,
    kind text NOT NULL,
    message text NOT NULL,
    attempts integer NOT NULL,
    died_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);
COMMENT ON TABLE qwen_embed.dead_1 IS 'Keys whose text no provider takes, until the text changes or retry() is called.';
CREATE TABLE qwen_embed.dead_2 (
    k1 text NOT NULL,
    k2 integer NOT NULL,
    kind text NOT NULL,
    message text NOT NULL,
    attempts integer NOT NULL,
    died_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);
COMMENT ON TABLE qwen_embed.dead_2 IS 'Keys whose text no provider takes, until the text changes or retry() is called.';
CREATE VIEW qwen_embed.dead_letters AS
 SELECT v.name,
    d.key,
    d.kind,
    d.message,
    d.attempts,
    d.died_at
   FROM (qwen_embed.vectorizer v
     CROSS JOIN LATERAL qwen_embed.dead_rows(v.*) d(key, kind, message, attempts, died_at));
COMMENT ON VIEW qwen_embed.dead_letters IS 'Rows without a vector because their text was refused for good. They are tried again when the text changes or by retry().';
CREATE TABLE qwen_embed.installation (
    only_row boolean DEFAULT true NOT NULL,
    model text NOT NULL,
    dimensions integer NOT NULL,
    CONSTRAINT installation_dimensions_check CHECK (((dimensions >= 1) AND (dimensions <= 16000))),
    CONSTRAINT installation_only_row_check CHECK (only_row)
);
COMMENT ON TABLE qwen_embed.installation IS 'What a vectorizer gets that names no model or dimensions of its own; at most one row.';
CREATE TABLE qwen_embed.lease (
    token bigint NOT NULL,
    vectorizer integer NOT NULL,
    worker text NOT NULL,
    expires_at timestamp with time zone NOT NULL
);
COMMENT ON TABLE qwen_embed.lease IS 'One row per batch that a worker holds. Its token is the fence: whoever lost it writes nothing.';
ALTER TABLE qwen_embed.lease ALTER COLUMN token ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME qwen_embed.lease_token_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE qwen_embed.log_1 (
    op "char" NOT NULL,
    k1 integer,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
)
WITH (vacuum_truncate=off, autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='5000');
ALTER TABLE ONLY qwen_embed.log_1 REPLICA IDENTITY FULL;
COMMENT ON TABLE qwen_embed.log_1 IS 'Keys of changed rows of public.docs, appended by its triggers, deleted by workers.';
CREATE TABLE qwen_embed.log_2 (
    op "char" NOT NULL,
    k1 text,
    k2 integer,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
)
WITH (vacuum_truncate=off, autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='5000');
ALTER TABLE ONLY qwen_embed.log_2 REPLICA IDENTITY FULL;
COMMENT ON TABLE qwen_embed.log_2 IS 'Keys of changed rows of public.pairs, appended by its triggers, deleted by workers.';
CREATE TABLE qwen_embed.migration (
    number integer NOT NULL,
    name text NOT NULL,
    digest text NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL
);
COMMENT ON TABLE qwen_embed.migration IS 'The numbered files that ran here, each once.';
CREATE VIEW qwen_embed.status AS
 SELECT v.name,
    v.source,
    v.target_table AS target,
    v.model,
    v.dimensions,
        CASE
            WHEN (problem.problem IS NOT NULL) THEN 'broken'::text
            WHEN v.paused THEN 'paused'::text
            WHEN (v.trouble IS NOT NULL) THEN v.trouble
            WHEN (EXISTS ( SELECT
               FROM qwen_embed.task t
              WHERE (t.vectorizer = v.id))) THEN 'backfill'::text
            ELSE 'active'::text
        END AS state,
    c.pending,
    c.leased,
    c.dead,
    (clock_timestamp() - c.oldest) AS lag,
    COALESCE(problem.problem, v.last_error) AS last_error
   FROM ((qwen_embed.vectorizer v
     CROSS JOIN LATERAL qwen_embed.counts(v.*) c(pending, leased, dead, oldest))
     CROSS JOIN LATERAL ( SELECT qwen_embed.capture_problem(v.*) AS problem) problem);
COMMENT ON VIEW qwen_embed.status IS 'One row per vectorizer. state: active; backfill (rows are still being walked over); paused; held (no offer can serve now, the work waits and is tried again by itself); blocked (someone must change something); broken (changes are not captured). last_error says why and what to do.';
COMMENT ON COLUMN qwen_embed.status.pending IS 'Recorded changes that no worker holds; counted to a million. Rows a backfill has yet to reach are not in it.';
COMMENT ON COLUMN qwen_embed.status.lag IS 'Age of the oldest recorded change that no worker has taken.';
ALTER TABLE qwen_embed.task ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME qwen_embed.task_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
ALTER TABLE qwen_embed.vectorizer ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME qwen_embed.vectorizer_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE qwen_embed.work_1 (
    k1 integer NOT NULL,
    id bigint NOT NULL,
    token bigint,
    dirty boolean DEFAULT false NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    due_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT work_1_check CHECK (((token IS NOT NULL) OR (NOT dirty)))
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='5000');
COMMENT ON TABLE qwen_embed.work_1 IS 'Keys that a worker holds (token) or that wait for another try (due_at).';
ALTER TABLE qwen_embed.work_1 ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME qwen_embed.work_1_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE qwen_embed.work_2 (
    k1 text NOT NULL,
    k2 integer NOT NULL,
    id bigint NOT NULL,
    token bigint,
    dirty boolean DEFAULT false NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    due_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT work_2_check CHECK (((token IS NOT NULL) OR (NOT dirty)))
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='5000');
COMMENT ON TABLE qwen_embed.work_2 IS 'Keys that a worker holds (token) or that wait for another try (due_at).';
ALTER TABLE qwen_embed.work_2 ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME qwen_embed.work_2_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
INSERT INTO public.docs VALUES (3, '', 0);
INSERT INTO public.docs VALUES (4, 'refused', 0);
INSERT INTO public.docs VALUES (5, 'again', 0);
INSERT INTO public.docs VALUES (6, 'six', 0);
INSERT INTO public.docs VALUES (1, 'uno', 0);
INSERT INTO public.docs VALUES (7, 'seven', 0);
INSERT INTO public.docs_embedding VALUES (1, 0, 'one', '[-0.24144864,-0.1745529,0.0859258,0.06658961,0.29531422,0.3016975,-0.10755978,0.059388507,-0.14902782,0.12243815,0.08659052,-0.06909874,-0.0037980701,-0.1075194,-0.26037726,0.10281826,-0.36153743,0.057856876,0.1395295,0.089391686,-0.014397219,-0.026856031,-0.021010961,0.46880665,-0.16757765,-0.23093061,-0.07364467,-0.020783158,0.04294374,-0.1571996,0.25158456,0.083003774]', '\x7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed', 'stub', '2026-11-26 00:14:48.973269+00');
INSERT INTO public.docs_embedding VALUES (2, 0, 'two', '[-0.19884677,-0.19758557,-0.16086538,-0.06458242,-0.18933561,0.034426864,0.08689047,0.21914032,0.077058956,0.14679559,0.3844612,0.303974,-0.08566231,-0.13873744,0.08921791,-0.32763755,0.14972754,0.014321695,-0.19629084,0.022597563,-0.20616363,0.152093,0.041765902,0.057356063,0.28093815,0.04006739,-0.077590264,-0.030555477,0.122641295,0.31859326,-0.0384301,0.22657627]', '\x3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3', 'stub', '2026-11-26 00:14:48.973365+00');
INSERT INTO public.docs_embedding VALUES (6, 0, 'six', '[-0.061672077,0.35299358,0.117584616,0.072593525,0.19583772,-0.2157672,0.018401776,-0.24776645,0.00073447987,-0.29292586,-0.12928951,-0.031016389,-0.0063411775,-0.08241469,0.07788001,-0.05145184,0.037562747,-0.012235097,0.24713996,0.177143,-0.30457982,-0.20453428,-0.21116282,0.024263158,0.083052486,-0.10369539,-0.05975341,-0.034167413,0.07948712,-0.2886689,-0.41357034,-0.17307739]', '\x44778d82365e4af681c40d5f0eef5cf6f5899d3f0ac335050a7ed6779cf3f674', 'stub', '2026-11-26 00:14:48.973375+00');
INSERT INTO public.pairs VALUES ('x', 1, 't', 'one');
INSERT INTO public.pairs VALUES ('y', 2, 'u', 'two');
INSERT INTO public.pairs_embedding VALUES ('x', 1, 0, 't: one', '[-0.101257324,-0.046936035,-0.06286621,0.12042236,-0.12237549,-0.027236938,0.1821289,0.16040039,0.05303955,0.19165039,0.16333008,-0.0692749,0.1694336,0.18066406,0.10058594,-0.40820312,-0.06945801,0.075927734,-0.060150146,0.27783203,-0.3840332,-0.08099365,-0.13317871,-0.01171875,0.23901367,0.21276855,-0.064819336,-0.006290436,-0.09197998,-0.41088867,0.10131836,-0.1665039]', '\xd8c340a5cbc7c83c55b60742e53731e9f92dd9e89d573efe8e5356a78017d567', 'stub', '2026-11-26 00:14:48.983934+00');
INSERT INTO public.pairs_embedding VALUES ('y', 2, 0, 'u: two', '[-0.0362854,0.16516113,-0.05154419,-0.01763916,0.03173828,-0.15466309,0.12158203,0.1652832,-0.023345947,-0.085876465,-0.07220459,-0.014198303,0.4868164,-0.025131226,0.26660156,0.30200195,-0.016784668,-0.03970337,-0.2355957,0.13659668,0.16064453,0.054992676,0.119506836,0.25097656,-0.36694336,-0.24243164,-0.11053467,-0.15441895,-0.059265137,0.0048713684,-0.106933594,-0.24865723]', '\xdbf46207d09cc5168849160ef6f4dd381f1c6295a7b2a14e9b8e6390719a5304', 'stub', '2026-11-26 00:14:48.984001+00');
INSERT INTO qwen_embed.dead_1 VALUES (4, 'bad_input', 'content filter', 1, '2026-11-26 00:14:48.976123+00');
INSERT INTO qwen_embed.log_1 VALUES ('c', 1, '2026-11-26 00:14:49.059734+00');
INSERT INTO qwen_embed.log_1 VALUES ('c', 2, '2026-11-26 00:14:49.061351+00');
INSERT INTO qwen_embed.log_1 VALUES ('c', 7, '2026-11-26 00:14:49.062409+00');
INSERT INTO qwen_embed.migration VALUES (1, '0001_vectorizers', 'e4944f6549c39e3523155c88f875b9a9f44e2ffe5f1f7cf4293fa21c11e7cafc', '2026-11-26 00:14:48.619251+00');
INSERT INTO qwen_embed.vectorizer OVERRIDING SYSTEM VALUE VALUES (1, 'docs', 'public.docs', '{body}', NULL, 'qwen3-embedding-0.6b', 32, NULL, 'table', 'public.docs_embedding', 'public.docs_embedded', 'vector', 'none', false, NULL, NULL, NULL, '16925:736:A 16924:736:A 16927:736:A 16926:736:A', '2026-11-26 00:14:48.697879+00');
INSERT INTO qwen_embed.vectorizer OVERRIDING SYSTEM VALUE VALUES (2, 'odd name', 'public.pairs', NULL, '{title}: {body}', 'qwen3-embedding-0.6b', 32, NULL, 'table', 'public.pairs_embedding', 'public.pairs_embedded', 'halfvec', 'none', true, NULL, NULL, NULL, '16979:737:A 16978:737:A 16981:737:A 16980:737:A', '2026-11-26 00:14:48.762568+00');
INSERT INTO qwen_embed.work_1 OVERRIDING SYSTEM VALUE VALUES (5, 4, NULL, false, 1, '2026-11-26 00:14:50.979962+00');
SELECT pg_catalog.setval('qwen_embed.lease_token_seq', 2, true);
SELECT pg_catalog.setval('qwen_embed.task_id_seq', 2, true);
SELECT pg_catalog.setval('qwen_embed.vectorizer_id_seq', 2, true);
SELECT pg_catalog.setval('qwen_embed.work_1_id_seq', 5, true);
SELECT pg_catalog.setval('qwen_embed.work_2_id_seq', 2, true);
ALTER TABLE ONLY public.docs_embedding
    ADD CONSTRAINT docs_embedding_pkey PRIMARY KEY (id, chunk);
ALTER TABLE ONLY public.docs
    ADD CONSTRAINT docs_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.pairs_embedding
    ADD CONSTRAINT pairs_embedding_pkey PRIMARY KEY (a, b, chunk);
ALTER TABLE ONLY public.pairs
    ADD CONSTRAINT pairs_pkey PRIMARY KEY (a, b);
ALTER TABLE ONLY qwen_embed.dead_1
    ADD CONSTRAINT dead_1_pkey PRIMARY KEY (k1);
ALTER TABLE ONLY qwen_embed.dead_2
    ADD CONSTRAINT dead_2_pkey PRIMARY KEY (k1, k2);
ALTER TABLE ONLY qwen_embed.installation
    ADD CONSTRAINT installation_pkey PRIMARY KEY (only_row);
ALTER TABLE ONLY qwen_embed.lease
    ADD CONSTRAINT lease_pkey PRIMARY KEY (token);
ALTER TABLE ONLY qwen_embed.migration
    ADD CONSTRAINT migration_pkey PRIMARY KEY (number);
ALTER TABLE ONLY qwen_embed.task
    ADD CONSTRAINT task_pkey PRIMARY KEY (id);
ALTER TABLE ONLY qwen_embed.vectorizer
    ADD CONSTRAINT vectorizer_name_key UNIQUE (name);
ALTER TABLE ONLY qwen_embed.vectorizer
    ADD CONSTRAINT vectorizer_pkey PRIMARY KEY (id);
ALTER TABLE ONLY qwen_embed.work_1
    ADD CONSTRAINT work_1_id_key UNIQUE (id);
ALTER TABLE ONLY qwen_embed.work_1
    ADD CONSTRAINT work_1_pkey PRIMARY KEY (k1);
ALTER TABLE ONLY qwen_embed.work_2
    ADD CONSTRAINT work_2_id_key UNIQUE (id);
ALTER TABLE ONLY qwen_embed.work_2
    ADD CONSTRAINT work_2_pkey PRIMARY KEY (k1, k2);
CREATE INDEX work_1_due ON qwen_embed.work_1 USING btree (due_at) WHERE (token IS NULL);
CREATE INDEX work_2_due ON qwen_embed.work_2 USING btree (due_at) WHERE (token IS NULL);
CREATE TRIGGER qwen_embed_1_delete AFTER DELETE ON public.docs REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION qwen_embed.capture_1_delete();
ALTER TABLE public.docs ENABLE ALWAYS TRIGGER qwen_embed_1_delete;
CREATE TRIGGER qwen_embed_1_insert AFTER INSERT ON public.docs REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION qwen_embed.capture_1_insert();
ALTER TABLE public.docs ENABLE ALWAYS TRIGGER qwen_embed_1_insert;
CREATE TRIGGER qwen_embed_1_truncate AFTER TRUNCATE ON public.docs FOR EACH STATEMENT EXECUTE FUNCTION qwen_embed.capture_1_truncate();
ALTER TABLE public.docs ENABLE ALWAYS TRIGGER qwen_embed_1_truncate;
CREATE TRIGGER qwen_embed_1_update AFTER UPDATE ON public.docs FOR EACH ROW WHEN (record_image_ne(ROW(old.body, old.id), ROW(new.body, new.id))) EXECUTE FUNCTION qwen_embed.capture_1_update();
ALTER TABLE public.docs ENABLE ALWAYS TRIGGER qwen_embed_1_update;
CREATE TRIGGER qwen_embed_2_delete AFTER DELETE ON public.pairs REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION qwen_embed.capture_2_delete();
ALTER TABLE public.pairs ENABLE ALWAYS TRIGGER qwen_embed_2_delete;
CREATE TRIGGER qwen_embed_2_insert AFTER INSERT ON public.pairs REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION qwen_embed.capture_2_insert();
ALTER TABLE public.pairs ENABLE ALWAYS TRIGGER qwen_embed_2_insert;
CREATE TRIGGER qwen_embed_2_truncate AFTER TRUNCATE ON public.pairs FOR EACH STATEMENT EXECUTE FUNCTION qwen_embed.capture_2_truncate();
ALTER TABLE public.pairs ENABLE ALWAYS TRIGGER qwen_embed_2_truncate;
CREATE TRIGGER qwen_embed_2_update AFTER UPDATE ON public.pairs FOR EACH ROW WHEN (record_image_ne(ROW(old.a, old.b, old.body, old.title), ROW(new.a, new.b, new.body, new.title))) EXECUTE FUNCTION qwen_embed.capture_2_update();
ALTER TABLE public.pairs ENABLE ALWAYS TRIGGER qwen_embed_2_update;
ALTER TABLE ONLY qwen_embed.task
    ADD CONSTRAINT task_vectorizer_fkey FOREIGN KEY (vectorizer) REFERENCES qwen_embed.vectorizer(id) ON DELETE CASCADE;
ALTER TABLE public.docs_embedding ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.pairs_embedding ENABLE ROW LEVEL SECURITY;
CREATE POLICY row_is_visible ON public.docs_embedding FOR SELECT USING ((EXISTS ( SELECT
   FROM public.docs source
  WHERE (source.id = docs_embedding.id))));
CREATE POLICY row_is_visible ON public.pairs_embedding FOR SELECT USING ((EXISTS ( SELECT
   FROM public.pairs source
  WHERE ((source.a = pairs_embedding.a) AND (source.b = pairs_embedding.b)))));
GRANT USAGE ON SCHEMA qwen_embed TO PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.capture_1_delete() FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.capture_1_insert() FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.capture_1_truncate() FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.capture_1_update() FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.capture_2_delete() FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.capture_2_insert() FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.capture_2_truncate() FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.capture_2_update() FROM PUBLIC;
GRANT SELECT(id) ON TABLE qwen_embed.vectorizer TO PUBLIC;
GRANT SELECT(name) ON TABLE qwen_embed.vectorizer TO PUBLIC;
GRANT SELECT(source) ON TABLE qwen_embed.vectorizer TO PUBLIC;
GRANT SELECT(model) ON TABLE qwen_embed.vectorizer TO PUBLIC;
GRANT SELECT(dimensions) ON TABLE qwen_embed.vectorizer TO PUBLIC;
GRANT SELECT(instruction) ON TABLE qwen_embed.vectorizer TO PUBLIC;
GRANT SELECT(target_table) ON TABLE qwen_embed.vectorizer TO PUBLIC;
GRANT SELECT(storage) ON TABLE qwen_embed.vectorizer TO PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.capture_mark(v qwen_embed.vectorizer) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.capture_problem(v qwen_embed.vectorizer) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.check_source(source regclass) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.check_space(model text, dimensions integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.content_1(public.docs) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.content_2(public.pairs) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.require_column(source regclass, name text) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.template_parts(template text) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.content_columns(source regclass, columns text[], template text) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.content_expression(source regclass, columns text[], template text) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.counts(v qwen_embed.vectorizer, OUT pending bigint, OUT leased bigint, OUT dead bigint, OUT oldest timestamp with time zone) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.create_vectorizer(source regclass, columns text[], template text, name text, model text, dimensions integer, target text, target_name text, storage text, index_kind text, chunk_tokens integer, chunk_overlap integer, condition text, backfill boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.dead_rows(v qwen_embed.vectorizer) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.derived_name(base text, suffix text) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.drop_vectorizer(name text, drop_target boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.named(name text) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.record_sweep(v qwen_embed.vectorizer) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.enqueue(name text) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.keeper() FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.key_1_1(public.docs) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.key_2_1(public.pairs) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.key_2_2(public.pairs) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.primary_key(source regclass) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.key_definition(source regclass, prefix text, suffix text) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.key_join(vectorizer integer, source_alias text, target_alias text) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.lock_tables(tables regclass[], mode text) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.make_capture(v qwen_embed.vectorizer) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.make_capture_function(v qwen_embed.vectorizer, event text, body text) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.make_queue(v qwen_embed.vectorizer) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.make_row_functions(v qwen_embed.vectorizer) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.make_target(v qwen_embed.vectorizer, target_schema text, target_name text) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.make_view(v qwen_embed.vectorizer, view_schema text, view_name text) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.numbered(source regclass, pattern text) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.pause(name text) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.readers(source regclass) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.refuse(message text, hint text) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.refuse_key(v qwen_embed.vectorizer) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.repair(name text) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.require_key(v qwen_embed.vectorizer) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.resume(name text) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.retry(name text) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.target_key_name(name text) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.view_name(schema_name text, table_name text, target_name text) FROM PUBLIC;
REVOKE ALL ON FUNCTION qwen_embed.watched_columns(v qwen_embed.vectorizer) FROM PUBLIC;
