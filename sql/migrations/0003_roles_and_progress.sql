-- Roles beside the one that installed: who was let in, and for how long.

CREATE TABLE qwen_embed.grantee (
    role text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('app', 'worker', 'owner')),
    PRIMARY KEY (role, kind)
);
COMMENT ON TABLE qwen_embed.grantee IS
    'Roles that grant_to() named: they get their rights on each vectorizer that is made later, too.';

CREATE TABLE qwen_embed.visit (role text NOT NULL);
COMMENT ON TABLE qwen_embed.visit IS
    'Empty but within a transaction in which a role makes its content_N: see open_schema().';

REVOKE ALL ON qwen_embed.grantee, qwen_embed.visit FROM PUBLIC;
