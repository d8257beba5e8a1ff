-- The body of the request for the vector of a query. Model and length are the vectorizer's, so that
-- a server of another space refuses it.
SELECT json_build_object(
    'model', model, 'dimensions', dimensions, 'input', :'query', 'input_type', 'query')
FROM qwen_embed.status
WHERE name = 'articles';
