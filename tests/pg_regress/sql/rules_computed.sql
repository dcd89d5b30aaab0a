-- What the views of trem_read call for an expression that may fail: it shows no value, and whoever
-- calls it with other arguments gets nothing.
SET client_min_messages = error;
\set SHOW_CONTEXT never
CREATE SCHEMA computed;
CREATE DOMAIN computed.short AS text CHECK (length(VALUE) < 9);
CREATE TABLE computed.t (id int PRIMARY KEY, a text COLLATE "C", b text COLLATE "POSIX", n numeric);
INSERT INTO computed.t VALUES (1, '17', 'x', 0), (2, 'a raw value', 'y', 2), (3, NULL, 'z', NULL);
SELECT trem.create_endpoint('src', 'source'), trem.create_endpoint('dst', 'target', dbname => 'x');
SELECT trem.create_task('s', 'src', 'dst', '{computed.t}') IS NOT NULL AS made;
-- Views name rules.
SELECT setval('trem.rule_id_seq', 7000);
SELECT trem.add_column('s', 'computed.t', 'c1', 'int', 'CAST(a AS int)') > 0 AS made;
SELECT trem.add_column('s', 'computed.t', 'c2', 'numeric', '10 / n') > 0 AS made;
SELECT trem.add_column('s', 'computed.t', 'c3', 'computed.short', 'a::computed.short') > 0 AS made;
SELECT trem.add_column('s', 'computed.t', 'c4', 'text', '(t.a || b) COLLATE "C"') > 0 AS made;
SELECT trem.add_column('s', 'computed.t', 'c5', 'text', 'regexp_replace(b, (a || ''('') COLLATE "C", '''')') > 0 AS made;
SELECT trem.add_column('s', 'computed.t', 'c6', 'text', 'trem.operation() || trem.mask_number(''17'')') > 0 AS made;
SELECT trem.start_task('s');
-- A view knows its columns by number, and the rules by the names of before.
ALTER TABLE computed.t RENAME a TO first;
SELECT format('trem_read.%I', viewname) AS view FROM pg_views WHERE schemaname = 'trem_read' \gset
CREATE FUNCTION computed.says(id int, view text, name text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    value text;
    code text;
    message text;
    detail text;
    hint text;
BEGIN
    EXECUTE format('SELECT %I::text FROM %s WHERE id = $1', name, view) USING id INTO value;
    RETURN value;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
        detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(' ', code, message, detail, hint);
END
$$;
SELECT id, name, computed.says(id, :'view', name)
FROM generate_series(1, 3) AS id, unnest('{c1,c2,c3,c4,c5,c6}'::text[]) AS name ORDER BY name, id;
ALTER TABLE computed.t RENAME first TO a;

-- Nobody else calls it: not without a token, not with another call's, not with one for each row.
SELECT pg_typeof(token) AS token, count(*) FROM trem.view_token GROUP BY 1;
SELECT trem.computed(NULL, NULL::text, 7, 'computed.t'::regclass, 'text'::regtype, '{2}', '{t,a}', 'lower(a)', 'A'::text);
SELECT trem.computed(gen_random_uuid(), NULL::text, 7, 'computed.t'::regclass, 'text'::regtype, '{2}', '{t,a}', 'lower(a)', 'A'::text);
SELECT trem.computed((SELECT token FROM trem.view_token LIMIT 1), NULL::text, 7, 'computed.t'::regclass, 'text'::regtype, '{2}', '{t,a}', 'lower(a)', 'A'::text);
SELECT trem.computed(token, NULL::text, 7, 'computed.t'::regclass, 'text'::regtype, '{2}', '{t,a}', 'lower(a)', 'A'::text) FROM trem.view_token;
SELECT trem.computed(NULL, NULL::text, 7, 'computed.t'::regclass, 'text'::regtype, '{2}', NULL, 'lower(a)', 'A'::text);
SELECT trem.computed(NULL, NULL::text, 7, 0::regclass, 'text'::regtype, '{2}', '{t,a}', 'lower(a)', 'A'::text);
-- Another expression for each row.
SELECT trem.computed(NULL, NULL::text, 7, 'computed.t'::regclass, 'text'::regtype, '{2}', '{t,a}', a, a) FROM computed.t;
-- With the token of a call: values of other types than the columns have, and another type.
SELECT substring(pg_get_viewdef(:'view'::regclass, true), 'id = ''(\w+)''::text\), NULL::integer') AS id \gset
SELECT trem.computed((SELECT token FROM trem.view_token WHERE id = :'id'), NULL::int, 7001, 'computed.t'::regclass,
    'int'::regtype, '{2}', '{t,a}', 'CAST((CAST(a AS int)) AS integer)', 17);
SELECT trem.computed((SELECT token FROM trem.view_token WHERE id = :'id'), NULL::int, 7001, 'computed.t'::regclass,
    'int'::regtype, '{2}', '{t,a}', 'CAST((CAST(a AS int)) AS integer)', NULL::varchar);
SELECT trem.computed((SELECT token FROM trem.view_token WHERE id = :'id'), NULL::text, 7001, 'computed.t'::regclass,
    'int'::regtype, '{2}', '{t,a}', 'CAST((CAST(a AS int)) AS integer)', '17'::text);
SELECT trem.computed((SELECT token FROM trem.view_token WHERE id = :'id'), NULL::int, 7001, 'computed.t'::regclass,
    'int'::regtype, '{2}', '{t,a}', 'CAST((CAST(a AS int)) AS integer)', '17'::text);
SELECT trem.stop_task('s'), trem.drop_task('s');
SELECT count(*) FROM trem.view_token;

-- A view whose columns' collations differ; and without anything that may fail there is no call.
SELECT trem.create_task('t', 'src', 'dst', '{computed.t}') IS NOT NULL AS made;
-- Views name rules.
SELECT setval('trem.rule_id_seq', 8000);
SELECT trem.add_column('t', 'computed.t', 'both', 'text', '(a || b) COLLATE "C"') > 0 AS made;
SELECT trem.add_column('t', 'computed.t', 'bare', 'bool', 'id > 1 AND a IS NOT NULL') > 0 AS made;
SELECT trem.set_filter('t', 'computed.t', 'id < 3') > 0 AS made;
SELECT trem.start_task('t');
\pset format unaligned
-- A token's id is a digest of OIDs too.
SELECT regexp_replace(pg_get_viewdef(oid, true), 'id = ''\w{64}''', 'id = ''...''', 'g'), reloptions FROM pg_class WHERE relnamespace = 'trem_read'::regnamespace;
\pset format aligned
-- Parallel plans, names that need quotes.
CREATE TABLE computed."it's ""x" (id numeric PRIMARY KEY, "a'b""c" text, secret text);
INSERT INTO computed."it's ""x" SELECT n, n::text, n::text FROM generate_series(1, 1000) AS n;
ANALYZE computed."it's ""x";
SELECT trem.add_table('t', 'computed."it''s ""x"');
SELECT trem.set_filter('t', 'computed."it''s ""x"', '"it''s ""x"."a''b""c"::int > 5') > 0 AS made;
SELECT trem.set_value('t', 'computed."it''s ""x"', 'secret', 'pseudonym(secret, ''rules_computed'')') > 0 AS made;
-- The key's index finds rows to be read again; it does not find what a rule makes of the key.
SELECT message FROM trem.check_task('t') WHERE check_name = 'reread';
BEGIN;
SELECT trem.set_value('t', 'computed."it''s ""x"', 'id', 'id + 1') > 0 AS made;
SELECT message FROM trem.check_task('t') WHERE check_name = 'reread';
ROLLBACK;
SELECT trem.start_task('t');
SELECT format('trem_read.%I', leaf->>'view') AS view FROM trem.definition,
    jsonb_path_query(content, '$.tables[*].leaves[*]') AS leaf WHERE leaf->>'name' ~ 'it' \gset
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SELECT count(*), count(DISTINCT secret), min("a'b""c"::int) FROM :view;
DELETE FROM trem.mask_key WHERE name = 'rules_computed';
SELECT trem.stop_task('t'), trem.drop_task('t'), trem.drop_endpoint('src'), trem.drop_endpoint('dst');
DROP SCHEMA computed CASCADE;
