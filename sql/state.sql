-- The tables of a state that processes on many machines share: `state = "postgresql://…"`.
--
-- The first process makes them by itself if its role may (CREATE on the database). Else run this
-- file as an owner, once, and let the role in:
--
--     grant usage on schema qwen_embed_state to ROLE;
--     grant select, insert, update, delete on all tables in schema qwen_embed_state to ROLE;
--
-- Nothing here stores a text, a vector of yours or a key. Running it again changes nothing.

create schema if not exists qwen_embed_state;

create table if not exists qwen_embed_state.version (
    sole boolean primary key default true check (sole),
    number integer not null
);

create table if not exists qwen_embed_state.capability (
    endpoint text collate "C" not null,
    name text collate "C" not null,
    value text not null,
    learnt_at double precision not null,
    primary key (endpoint, name)
);

-- `rowid` keeps the order of the first meetings, as SQLite's own column of that name does.
create table if not exists qwen_embed_state.probe (
    endpoint text collate "C" primary key,
    vectors bytea not null,
    met_at double precision not null,
    rowid bigint generated always as identity
);

create table if not exists qwen_embed_state.verdict (
    endpoint text collate "C" not null,
    model text collate "C" not null,
    content text not null,
    primary key (endpoint, model)
);

-- What was used, by meter. Money is in units of 1e-12 US dollars. A period is what its meter's
-- window says: mostly a day counted from 1970-01-01, 0 for what is never forgotten.
-- Rows of both tables are few and rewritten often: room in the page spares the index.
create table if not exists qwen_embed_state.tally (
    kind text collate "C" not null,
    account text collate "C" not null,
    offer text collate "C" not null,
    period bigint not null,
    requests bigint not null,
    tokens bigint not null,
    money bigint not null,
    primary key (kind, account, offer, period)
) with (fillfactor = 50);

-- What processes have taken in advance. A block whose deadline (the database's clock, in seconds
-- since the epoch) has passed belonged to a process that died.
create table if not exists qwen_embed_state.block (
    holder text collate "C" not null,
    kind text collate "C" not null,
    account text collate "C" not null,
    offer text collate "C" not null,
    period bigint not null,
    requests bigint not null,
    tokens bigint not null,
    money bigint not null,
    deadline double precision not null,
    primary key (holder, kind, account, offer, period)
) with (fillfactor = 50);

insert into qwen_embed_state.version (number) values (1) on conflict do nothing;
