-- Rows that are near to the newest article, in SQL alone. A text needs an embedder first: see
-- `qwen-embed pg search`, or embed what qwen_embed.query_text('articles', text) gives.
SELECT found.key, left(found.text, 40) AS text, round(found.distance::numeric, 3) AS distance
FROM (SELECT embedding FROM articles_embedded ORDER BY id DESC LIMIT 1) AS newest,
    qwen_embed.search('articles', newest.embedding, k => 3) AS found;
