-- Partitions: which there are, and what attaching and detaching leaves behind.

CREATE OR REPLACE FUNCTION qwen_embed.is_in_tree(source regclass) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT coalesce((SELECT c.relkind = 'p' OR c.relispartition FROM pg_class c WHERE c.oid = is_in_tree.source), false);
END;
COMMENT ON FUNCTION qwen_embed.is_in_tree(regclass) IS
    'Whether a table is partitioned or a partition: rows may reach it without a trigger for its statement.';

CREATE OR REPLACE FUNCTION qwen_embed.leaves(source regclass) RETURNS SETOF regclass
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT t.relid FROM pg_class c CROSS JOIN LATERAL pg_partition_tree(c.oid) t
    WHERE c.oid = leaves.source AND c.relkind = 'p' AND t.isleaf AND t.relid <> c.oid;
END;
COMMENT ON FUNCTION qwen_embed.leaves(regclass) IS
    'The partitions that hold the rows of a partitioned table; none for a plain table.';

CREATE OR REPLACE FUNCTION qwen_embed.partition_marks(v qwen_embed.vectorizer) RETURNS text[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    -- The triggers are Postgres' own copies of ours: detaching drops them, attaching makes new ones,
    -- so a partition that was away between two looks has another mark.
    SELECT array_agg(mark ORDER BY mark)
    FROM qwen_embed.leaves(v.source) AS leaf
    CROSS JOIN LATERAL (
        SELECT leaf::oid || ':' || coalesce(md5(string_agg(concat_ws(':', t.oid, t.xmin, t.tgenabled), ' ' ORDER BY t.tgname)), '') AS mark
        FROM pg_trigger t
        WHERE t.tgrelid = leaf AND t.tgname IN (
            'qwen_embed_' || v.id || '_insert', 'qwen_embed_' || v.id || '_update', 'qwen_embed_' || v.id || '_delete')
    ) AS marked;
END;
COMMENT ON FUNCTION qwen_embed.partition_marks(qwen_embed.vectorizer) IS
    'Each partition with its triggers, as one word; null for a plain table.';

CREATE OR REPLACE FUNCTION qwen_embed.unwatched_leaves(v qwen_embed.vectorizer) RETURNS SETOF regclass
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT leaf FROM qwen_embed.leaves(v.source) AS leaf
    WHERE NOT EXISTS (SELECT FROM pg_trigger t
        WHERE t.tgrelid = leaf AND t.tgname = 'qwen_embed_' || v.id || '_truncate' AND t.tgenabled IN ('O', 'A'));
END;
COMMENT ON FUNCTION qwen_embed.unwatched_leaves(qwen_embed.vectorizer) IS
    'Partitions whose own TRUNCATE would not be recorded: Postgres copies triggers for rows, not this one.';

CREATE OR REPLACE FUNCTION qwen_embed.partitions_changed(v qwen_embed.vectorizer) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT v.partitions IS DISTINCT FROM qwen_embed.partition_marks(v)
        OR EXISTS (
            SELECT FROM qwen_embed.unwatched_leaves(v) AS leaf JOIN pg_class c ON c.oid = leaf
            WHERE pg_has_role(c.relowner, 'USAGE'));
END;
COMMENT ON FUNCTION qwen_embed.partitions_changed(qwen_embed.vectorizer) IS
    'Whether notice_partitions() has something to do.';

CREATE OR REPLACE FUNCTION qwen_embed.make_truncate_trigger(v qwen_embed.vectorizer, member regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format(
        'CREATE OR REPLACE TRIGGER qwen_embed_%s_truncate AFTER TRUNCATE ON %s '
        'FOR EACH STATEMENT EXECUTE FUNCTION qwen_embed.capture_%s_truncate()', v.id, member, v.id);
    EXECUTE format('ALTER TABLE ONLY %s ENABLE ALWAYS TRIGGER qwen_embed_%s_truncate', member, v.id);
END $$;
COMMENT ON FUNCTION qwen_embed.make_truncate_trigger(qwen_embed.vectorizer, regclass) IS
    'The trigger for TRUNCATE on a source or on one of its partitions.';

CREATE OR REPLACE FUNCTION qwen_embed.notice_partitions(vectorizer int) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v qwen_embed.vectorizer;
    marks text[];
    member regclass;
BEGIN
    SELECT * INTO v FROM qwen_embed.vectorizer k WHERE k.id = notice_partitions.vectorizer FOR UPDATE SKIP LOCKED;
    IF v.id IS NULL OR NOT qwen_embed.partitions_changed(v) THEN
        RETURN;  -- another worker is at it, or was
    END IF;
    FOR member IN
        SELECT leaf FROM qwen_embed.unwatched_leaves(v) AS leaf JOIN pg_class c ON c.oid = leaf
        WHERE pg_has_role(c.relowner, 'USAGE')
    LOOP
        BEGIN
            PERFORM qwen_embed.make_truncate_trigger(v, member);
        EXCEPTION WHEN lock_not_available THEN
            NULL;  -- its writers go first; it is looked for again in the next round
        END;
    END LOOP;
    marks := qwen_embed.partition_marks(v);
    -- Rows that came with a partition were written without our triggers, rows that left with one are gone.
    INSERT INTO qwen_embed.task (vectorizer, kind, part)
    SELECT v.id, 'backfill', split_part(mark, ':', 1)::oid
    FROM unnest(marks) mark WHERE mark <> ALL (coalesce(v.partitions, '{}'));
    IF EXISTS (SELECT FROM unnest(v.partitions) mark WHERE mark <> ALL (coalesce(marks, '{}'))) THEN
        INSERT INTO qwen_embed.task (vectorizer, kind) VALUES (v.id, 'orphans');
    END IF;
    UPDATE qwen_embed.vectorizer AS k SET partitions = marks WHERE k.id = v.id;
END $$;
COMMENT ON FUNCTION qwen_embed.notice_partitions(int) IS
    'Has workers walk over partitions that came, and over the vectors once some have gone. Makes the triggers '
    'for TRUNCATE that are missing, as far as the caller owns the partitions.';
