-- How a worker reads texts that may be of any length.

CREATE OR REPLACE FUNCTION qwen_embed.read_within(
    query text, token bigint, ids bigint[], room bigint, longest int, short boolean)
RETURNS TABLE (
    id bigint, attempts int, again boolean, content text, octets bigint, content_hash bytea, space text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    found_row record;
    total bigint := 0;
    portal refcursor;
BEGIN
    IF short THEN
        -- One query, three times as fast. What has no room is computed all the same, and not kept: the
        -- window holds columns of the row, not its text.
        RETURN QUERY EXECUTE format('
            SELECT id, attempts, again, CASE WHEN octets <= $4 THEN content END, octets, content_hash, space
            FROM (
                SELECT q.id, q.attempts, q.again, q.content, q.content_hash, q.space,
                    coalesce(octet_length(q.content), 0)::bigint AS octets,
                    coalesce(sum(octet_length(q.content)) FILTER (WHERE octet_length(q.content) <= $4)
                        OVER (ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS held
                FROM (%s) AS q
            ) AS r
            WHERE held < $3', rtrim(query, E' \n;'))
        USING token, ids, room, longest;
        RETURN;
    END IF;
    -- An explicit FETCH: a FOR loop would read fifty rows ahead. What is not fetched is not detoasted.
    OPEN portal NO SCROLL FOR EXECUTE query USING token, ids;
    WHILE total < room LOOP
        FETCH portal INTO found_row;
        EXIT WHEN NOT FOUND;
        id := found_row.id; attempts := found_row.attempts; again := found_row.again;
        content_hash := found_row.content_hash; space := found_row.space;
        octets := coalesce(octet_length(found_row.content), 0);
        content := CASE WHEN octets <= longest THEN found_row.content END;
        total := total + CASE WHEN octets <= longest THEN octets ELSE 0 END;
        RETURN NEXT;
    END LOOP;
    CLOSE portal;
END $$;
COMMENT ON FUNCTION qwen_embed.read_within(text, bigint, bigint[], bigint, int, boolean) IS
    'The rows of a worker''s query up to the one whose text fills the room, in bytes; a text over the longest '
    'is left out, its length given. Where all texts are short one query reads them. The query runs with the rights of the caller.';
