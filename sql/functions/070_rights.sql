-- Private unless said: the functions of this schema belong to owners of vectorizers.

DO $$
DECLARE
    made pg_catalog.regprocedure;
BEGIN
    -- Not content_N of other owners: they keep it private themselves.
    FOR made IN
        SELECT p.oid FROM pg_catalog.pg_proc p
        WHERE p.pronamespace = 'qwen_embed'::pg_catalog.regnamespace AND pg_catalog.pg_has_role(p.proowner, 'USAGE')
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', made);
    END LOOP;
END $$;
GRANT USAGE ON SCHEMA qwen_embed TO PUBLIC;
-- What a search by an ordinary role runs through. It decides nothing about what that role may read.
GRANT EXECUTE ON FUNCTION
    qwen_embed.extension_schema(),
    qwen_embed.nearest(text, text[]),
    qwen_embed.base_type(oid, int),
    qwen_embed.comparison(oid, int),
    qwen_embed.equality(oid),
    qwen_embed.key_attributes(int, regclass),
    qwen_embed.key_columns(int),
    qwen_embed.definition(text),
    qwen_embed.serving(text, text, int),
    qwen_embed.query_text(text, text),
    qwen_embed.index_expression(text, text, int, text),
    qwen_embed.index_operators(text, text),
    qwen_embed.filter_type(oid),
    qwen_embed.in_one_line(text),
    qwen_embed.filter_literal(jsonb, text),
    qwen_embed.filter_term(text, text, text, boolean, jsonb),
    qwen_embed.filter_condition(regclass, jsonb),
    qwen_embed.vector_column(int, regclass),
    qwen_embed.search_statement(int, text, boolean),
    qwen_embed.reads_less(regclass, regclass, text, bigint),
    qwen_embed.search_in(int, @vector_schema@.vector, int, jsonb, boolean),
    qwen_embed.search(text, @vector_schema@.vector, int, jsonb, boolean)
TO PUBLIC;
