-- Every function for people says so when an argument is null that means nothing then: one that did
-- nothing would leave a column bare whose mask somebody believes to have set.
SET client_min_messages = error;
\set SHOW_CONTEXT never
CREATE SCHEMA nulls;
CREATE TABLE nulls.t (id int PRIMARY KEY, v text);
SELECT trem.create_endpoint('src', 'source'), trem.create_endpoint('dst', 'target', dbname => 'x');
SELECT trem.create_task('t', 'src', 'dst', '{nulls.t}') IS NOT NULL AS made;
-- Values for arguments, by their names.
CREATE FUNCTION nulls.value(function text, argument text, type regtype) RETURNS text LANGUAGE sql AS $$
    SELECT CASE
        WHEN function = 'create_endpoint' AND argument = 'name' THEN '''other'''
        WHEN function = 'create_endpoint' AND argument = 'role' THEN '''target'''
        WHEN function LIKE '%endpoint' AND argument = 'name' THEN '''dst'''
        WHEN argument = 'kind' THEN '''postgresql'''
        WHEN argument IN ('task', 'name') THEN '''t'''
        WHEN argument = 'source' THEN '''src'''
        WHEN argument = 'target' THEN '''dst'''
        WHEN argument = 'table_name' THEN '''nulls.t'''
        WHEN argument = 'tables' THEN '''{nulls.t}'''
        WHEN argument = 'column_name' AND function <> 'add_column' THEN '''v'''
        WHEN argument IN ('column_type', 'new_type') THEN '''text'''
        WHEN argument = 'mode' THEN '''cdc'''
        WHEN argument = 'operator' THEN '''pg_monitor'''
        WHEN argument = 'table_oid' THEN '''nulls.t''::regclass::oid'
        WHEN argument = 'expression' THEN '''upper(v)'''
        WHEN argument = 'using_expression' THEN '''upper(v)'''
        WHEN argument = 'schema_name' THEN '''nulls'''
        WHEN argument IN ('options', 'settings', 'report') THEN '''{}''::jsonb'
        WHEN argument = 'keys' THEN '''{}''::bytea[]'
        WHEN argument = 'exceptions' THEN '''[]''::jsonb'
        WHEN type IN ('text'::regtype, 'name') THEN '''x'''
        WHEN type = 'boolean'::regtype THEN 'false'
        ELSE '1'
    END
$$;
-- Each call with one null is rolled back.
CREATE FUNCTION nulls.says(call text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    BEGIN
        EXECUTE 'SELECT ' || call;
        RAISE EXCEPTION 'accepted' USING ERRCODE = 'ZZZZZ';
    EXCEPTION WHEN OTHERS THEN
        RETURN SQLERRM;
    END;
END
$$;
CREATE VIEW nulls.call AS
SELECT p.proname, args.name,
       nulls.says(format('trem.%I(%s)', p.proname, (
           SELECT string_agg(format('%I => %s', a.name, CASE WHEN a.at = args.at
                      THEN 'NULL::' || format_type(a.type, NULL)
                      ELSE nulls.value(p.proname, a.name, a.type) END), ', ' ORDER BY a.at)
           FROM unnest(p.proargnames[1:p.pronargs], p.proargtypes::oid[])
               WITH ORDINALITY AS a (name, type, at)))) AS says
FROM pg_proc AS p
CROSS JOIN unnest(p.proargnames[1:p.pronargs]) WITH ORDINALITY AS args (name, at)
WHERE p.pronamespace = 'trem'::regnamespace
  AND p.proname NOT IN ('computed', 'store_report', 'store_exceptions')
  AND NOT has_function_privilege('pg_monitor', p.oid, 'EXECUTE');
SELECT count(*) > 60 AS many, count(*) FILTER (WHERE says = name || ' is null') > 50 AS refused FROM nulls.call;
-- What a null means in these is documented: all schemas, a default, nothing to change, no filter, a
-- plain cast, no value.
SELECT proname, name, says FROM nulls.call WHERE says <> name || ' is null'
ORDER BY proname COLLATE "C", name COLLATE "C";
SELECT trem.create_task('u', 'src', 'dst', '{nulls.t,NULL}');
SELECT trem.create_endpoint(NULL, 'source');
SELECT trem.alter_endpoint(NULL, port => 1);
SELECT * FROM trem.transformation;
-- The functions for expressions give null for null.
SELECT proname FROM pg_proc
WHERE pronamespace = 'trem'::regnamespace AND has_function_privilege('pg_monitor', oid, 'EXECUTE')
  AND pronargs > 0 AND NOT proisstrict AND proname <> 'previewed';
SELECT trem.drop_task('t'), trem.drop_endpoint('src'), trem.drop_endpoint('dst');
DROP SCHEMA nulls CASCADE;
