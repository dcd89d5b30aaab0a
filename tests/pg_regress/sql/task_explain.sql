-- What the target gets: statements for types, tables and indexes; and what it does not get.
SET client_min_messages = warning;
CREATE SCHEMA app;

CREATE FUNCTION app.ok(int) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true';
CREATE TYPE app.mood AS ENUM ('ok', 'it''s', 'back\slash');
CREATE DOMAIN app.positive AS int NOT NULL CONSTRAINT is_positive CHECK (VALUE > 0);
CREATE DOMAIN app.positives AS app.positive[];
CREATE DOMAIN app.recent AS date CHECK (VALUE > '2020-12-31');
CREATE DOMAIN app.checked AS int CHECK (app.ok(VALUE));
CREATE TYPE app.point3 AS (x numeric(5,2), y app.positive, "z Z" app.mood[]);
CREATE TYPE app.span AS RANGE (SUBTYPE = numeric);
CREATE TABLE app.wide (
    id bigint GENERATED ALWAYS AS IDENTITY,
    serial serial,
    name text COLLATE "C" NOT NULL DEFAULT 'x',
    code char(3),
    mood app.mood,
    list app.positives,
    checked app.checked,
    point app.point3,
    span app.span,
    doubled int GENERATED ALWAYS AS (2) STORED,
    tags text[],
    day app.recent,
    PRIMARY KEY (id) INCLUDE (code),
    CHECK (name <> ''),
    EXCLUDE USING btree (code WITH =)
);
CREATE INDEX by_name ON app.wide (name COLLATE "POSIX" text_pattern_ops DESC, code NULLS FIRST) INCLUDE (mood);
CREATE UNIQUE INDEX by_code ON app.wide (code DESC NULLS LAST);
CREATE INDEX by_tags ON app.wide USING gin (tags);
CREATE INDEX by_lower ON app.wide (lower(name));
CREATE INDEX some_rows ON app.wide (id) WHERE code IS NOT NULL;
CREATE INDEX by_doubled ON app.wide (doubled);
ALTER TABLE app.wide ADD CONSTRAINT later UNIQUE (name) DEFERRABLE;
CREATE TABLE app.detail (id int PRIMARY KEY, wide bigint REFERENCES app.wide, code text NOT NULL UNIQUE);
CREATE UNIQUE INDEX detail_identity ON app.detail (code, id);
ALTER TABLE app.detail REPLICA IDENTITY USING INDEX detail_identity;
ALTER TABLE app.detail ENABLE ROW LEVEL SECURITY;
CREATE POLICY everybody ON app.detail USING (true);
COMMENT ON TABLE app.detail IS 'details';
-- What is printed does not depend on the session.
SET datestyle = 'SQL, DMY';
SELECT trem.create_endpoint('src', 'source');
SELECT trem.create_endpoint('dst', 'target', dbname => 'x');
SELECT trem.create_task('t', 'src', 'dst', '{app.*}') IS NOT NULL AS made;
SELECT trem.exclude_column('t', 'app.wide', 'doubled') > 0 AS made;
SELECT trem.rename_column('t', 'app.wide', 'code', 'Code "1"') > 0 AS made;

\pset format unaligned
SELECT source_table, statement FROM trem.explain_task('t'), unnest(create_statements) AS statement;
SELECT source_table, item FROM trem.explain_task('t'), unnest(not_carried_over) AS item;
SELECT severity, table_name, check_name, message FROM trem.check_task('t')
WHERE table_name IS NOT NULL ORDER BY table_name, message;
SELECT trem.alter_task('t', '{"indexes": "key"}');
SELECT statement FROM trem.explain_task('t'), unnest(create_statements) AS statement
WHERE statement ~ 'INDEX|PRIMARY';
SELECT trem.alter_task('t', '{"indexes": null}');
\pset format aligned

-- The statements run, in order and with an empty search_path, in a database without the types.
SELECT trem.start_task('t', keep => true) > 0 AS started;
CREATE TEMPORARY TABLE published AS SELECT trem.applier_definition('t') AS content;
SELECT trem.stop_task('t');
SELECT trem.drop_task('t');
DROP SCHEMA app CASCADE;
CREATE SCHEMA app;
SET search_path = '';
DO $$
DECLARE
    statement text;
BEGIN
    FOR statement IN
        SELECT s FROM (
            SELECT 1 AS part, o, y->>'create_statement' AS s
            FROM pg_temp.published, jsonb_array_elements(content->'types') WITH ORDINALITY AS ty (y, o)
            UNION ALL
            SELECT 2, o, t->>'create_statement'
            FROM pg_temp.published, jsonb_array_elements(content->'tables') WITH ORDINALITY AS ta (t, o)
            UNION ALL
            SELECT 3, o, i->>'create_statement'
            FROM pg_temp.published, jsonb_array_elements(content->'tables') AS t,
                 jsonb_array_elements(t->'index_statements') WITH ORDINALITY AS ix (i, o)
        ) AS q ORDER BY part, o
    LOOP
        EXECUTE statement;
    END LOOP;
END $$;
RESET search_path;
\d app.wide
\d app.detail
SELECT trem.drop_endpoint('src'), trem.drop_endpoint('dst');
DROP SCHEMA app CASCADE;
