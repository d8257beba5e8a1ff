-- Functions of earlier versions that nothing calls any more.

DROP FUNCTION IF EXISTS
    qwen_embed.primary_key(regclass),
    qwen_embed.key_definition(regclass, text, text),
    qwen_embed.numbered(regclass, text),
    qwen_embed.read_within(text, bigint, bigint[], bigint, int);
