-- The rows nearest to the vector in the server's answer. A list of numbers in JSON is written as
-- pgvector writes a vector, so no program has to take it apart: pass the answer, or the list, as a
-- parameter (here psql's :'answer').
SELECT articles.title, articles.body, round(found.distance::numeric, 3) AS distance
FROM qwen_embed.search(
        'articles',
        (:'answer'::jsonb #>> '{data,0,embedding}')::vector,
        k => 2,
        filter => '{"language": "en"}') AS found
    JOIN articles ON articles.id = (found.key ->> 'id')::bigint
ORDER BY found.distance;
