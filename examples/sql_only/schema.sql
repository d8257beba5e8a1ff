-- A table of the application's own, the one statement that has it embed itself, and three rows.
CREATE TABLE articles (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    language text NOT NULL,
    title text NOT NULL,
    body text NOT NULL
);

-- Model and length are those that `qwen-embed pg install` was given.
SELECT qwen_embed.create_vectorizer('articles', columns => ARRAY['title', 'body']);

INSERT INTO articles (language, title, body) VALUES
    ('en', 'Bread at home', 'Let the dough rise for an hour before you bake it.'),
    ('en', 'Night trains', 'The night train to the coast leaves at nine.'),
    ('ru', 'Ночной поезд', 'Ночной поезд к морю отправляется в девять.');
