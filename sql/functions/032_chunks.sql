-- Long texts in chunks, each with a vector of its own.

CREATE OR REPLACE FUNCTION qwen_embed.check_chunks(chunk_tokens int, chunk_overlap int) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Less could not hold every character: one of four bytes may be four tokens, and texts end with one.
    IF chunk_tokens < 8 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('chunk_tokens is %s', chunk_tokens), HINT = 'Ask for 8 or more; 500 is usual.';
    ELSIF chunk_overlap IS NOT NULL AND chunk_tokens IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'chunk_overlap is given without chunk_tokens',
            HINT = 'Say how long a chunk may be, for example chunk_tokens => 500.';
    ELSIF chunk_overlap NOT BETWEEN 0 AND chunk_tokens - 1 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('chunk_overlap is %s, chunk_tokens %s', chunk_overlap, chunk_tokens),
            HINT = 'Neighbours can share less than a chunk; a tenth of it is usual.';
    END IF;
END $$;
COMMENT ON FUNCTION qwen_embed.check_chunks(int, int) IS 'Raises unless texts can be split so.';

CREATE OR REPLACE FUNCTION qwen_embed.set_chunker(name text, chunker text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v qwen_embed.vectorizer := qwen_embed.named(name);
BEGIN
    IF v.chunk_tokens IS NULL THEN
        PERFORM qwen_embed.refuse(format('the vectorizer %L splits no texts', v.name),
            'Create it with chunk_tokens.');
    -- Later a worker might have split texts by another, and nothing beside a vector tells by which.
    ELSIF v.created_at <> transaction_timestamp() THEN
        PERFORM qwen_embed.refuse(format('the vectorizer %L exists already', v.name),
            'Its chunker is chosen in the transaction that creates it: BEGIN; SELECT create_vectorizer(…); '
            'SELECT set_chunker(…); COMMIT;');
    END IF;
    UPDATE qwen_embed.vectorizer AS made SET chunker = set_chunker.chunker WHERE made.id = v.id;
END $$;
COMMENT ON FUNCTION qwen_embed.set_chunker(text, text) IS
    'Names the chunker, one that a plugin of the workers brings, in the transaction that creates the vectorizer.';
