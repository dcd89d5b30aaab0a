-- What the views of trem_read call for an expression that may fail: it shows no value, and whoever
-- calls it with other arguments gets nothing.
SET client_min_messages = error;
\set SHOW_CONTEXT never
CREATE SCHEMA computed;
CREATE DOMAIN computed.short AS text CHECK (length(VALUE) < 9);
CREATE TABLE computed.t (id int PRIMARY KEY, a text COLLATE "C", b text COLLATE "POSIX", n numeric);
INSERT INTO computed.t VALUES (1, '17', 'x', 0), (2, 'a raw value', 'y', 2), (3, NULL, 'z', NULL);
CREATE FUNCTION computed.says(id int, expression text, example anyelement) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    value text;
    code text;
    message text;
    detail text;
    hint text;
BEGIN
    EXECUTE format('SELECT trem.computed($1, 7, ''computed.t''::regclass, ''{1,2,3,4}'',
                        ARRAY[''t'', ''id'', ''first'', ''b'', ''n''], %L, id, a, b, n)::text
                    FROM computed.t WHERE id = $2', expression)
    USING example, id INTO value;
    RETURN value;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
        detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(' ', code, message, detail, hint);
END
$$;
SELECT id, computed.says(id, 'CAST(first AS int)', 0), computed.says(id, '10 / n', 0::numeric),
    computed.says(id, 'first::computed.short', 'x'::computed.short),
    computed.says(id, '(t.first || b) COLLATE "C"', 'x'::text),
    computed.says(id, 'regexp_replace(b, (first || ''('') COLLATE "C", '''')', 'x'::text)
FROM generate_series(1, 3) AS id;

-- Values of other types than the columns have.
SELECT trem.computed(NULL::text, 7, 'computed.t'::regclass, '{2}', '{t,a}', 'lower(a)', 17);
SELECT trem.computed(NULL::text, 7, 'computed.t'::regclass, '{2}', '{t,a}', 'lower(a)', NULL::varchar);
SELECT trem.computed(NULL::text, 7, 'computed.t'::regclass, '{2,1}', '{t,a,id}', 'a || id', 'A'::text);
SELECT trem.computed(NULL::text, 7, 'computed.t'::regclass, '{9}', '{t,a}', 'lower(a)', 'A'::text);
SELECT trem.computed(NULL::text, 7, 'computed.t'::regclass, '{-1}', '{t,a}', 'lower(a)', 'A'::text);
SELECT trem.computed(NULL::text, 7, 'computed.t'::regclass, '{2}', '{}', 'lower(a)', 'A'::text);
SELECT trem.computed(NULL::text, 7, 'computed.t'::regclass, '{2}', NULL, 'lower(a)', 'A'::text);
SELECT trem.computed(NULL::text, 7, 0::regclass, '{2}', '{t,a}', 'lower(a)', 'A'::text);
-- What a rule could not have.
SELECT trem.computed(NULL::text, 7, 'computed.t'::regclass, '{2}', '{t,a}', '(SELECT max(a) FROM computed.t)', 'A'::text);
SELECT trem.computed(NULL::text, 7, 'computed.t'::regclass, '{2}', '{t,a}', 'b', 'A'::text);
SELECT trem.computed(NULL::int, 7, 'computed.t'::regclass, '{2}', '{t,a}', 'lower(a)', 'A'::text);
-- Another expression for each row.
SELECT trem.computed(NULL::text, 7, 'computed.t'::regclass, '{2}', '{t,a}', a, a) FROM computed.t;
SELECT trem.computed(NULL::text, 7, 'computed.t'::regclass, '{2}', '{t,a}', 'lower(a)', 'A'::text);

-- A view whose columns' collations differ; and without anything that may fail there is no call.
SELECT trem.create_endpoint('src', 'source'), trem.create_endpoint('dst', 'target', dbname => 'x');
SELECT trem.create_task('t', 'src', 'dst', '{computed.t}') IS NOT NULL AS made;
-- Views name rules.
SELECT setval('trem.rule_id_seq', 8000);
SELECT trem.add_column('t', 'computed.t', 'both', 'text', '(a || b) COLLATE "C"') > 0 AS made;
SELECT trem.add_column('t', 'computed.t', 'bare', 'bool', 'id > 1 AND a IS NOT NULL') > 0 AS made;
SELECT trem.set_filter('t', 'computed.t', 'id < 3') > 0 AS made;
SELECT trem.start_task('t');
\pset format unaligned
SELECT pg_get_viewdef(oid, true), reloptions FROM pg_class WHERE relnamespace = 'trem_read'::regnamespace;
\pset format aligned
-- Parallel plans, names that need quotes.
CREATE TABLE computed."it's ""x" (id numeric PRIMARY KEY, "a'b""c" text, secret text);
INSERT INTO computed."it's ""x" SELECT n, n::text, n::text FROM generate_series(1, 1000) AS n;
ANALYZE computed."it's ""x";
SELECT trem.add_table('t', 'computed."it''s ""x"');
SELECT trem.set_filter('t', 'computed."it''s ""x"', '"it''s ""x"."a''b""c"::int > 5') > 0 AS made;
SELECT trem.set_value('t', 'computed."it''s ""x"', 'secret', 'pseudonym(secret, ''rules_computed'')') > 0 AS made;
SELECT message FROM trem.check_task('t') WHERE check_name = 'reread';
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
