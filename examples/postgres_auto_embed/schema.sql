-- A table of the application's own, and the one statement that has it embed itself.
CREATE TABLE articles (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    language text NOT NULL,
    title text NOT NULL,
    body text NOT NULL
);

SELECT qwen_embed.create_vectorizer(
    'articles',
    columns => ARRAY['title', 'body'],
    model => 'qwen3-embedding-0.6b',
    dimensions => 1024);
