-- What the application does all day, in whatever language: plain SQL that knows of no vectors.
INSERT INTO articles (language, title, body) VALUES
    ('en', 'Bread at home', 'Let the dough rise for an hour before you bake it.'),
    ('en', 'Night trains', 'The night train to the coast leaves at nine.'),
    ('ru', 'Прокол', 'Снимите колесо и заклейте камеру.');

UPDATE articles SET body = 'The night train to the coast leaves at ten.' WHERE title = 'Night trains';
DELETE FROM articles WHERE title = 'Bread at home';
