-- Rules that are refused, each with what to do; everything wrong with one at once.
SET client_min_messages = warning;
CREATE SCHEMA app;
-- What is said of a filter, or that it is made.
CREATE FUNCTION trem_error(expression text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    made bigint;
BEGIN
    made := trem.set_filter('t', 'app.t', expression);
    PERFORM trem.set_filter('t', 'app.t', NULL);
    RETURN 'made';
EXCEPTION WHEN OTHERS THEN RETURN SQLERRM;
END
$$;
CREATE FUNCTION app.mine(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE OPERATOR app.### (FUNCTION = app.mine, RIGHTARG = int);
CREATE TYPE app.mood AS ENUM ('good', 'bad');
CREATE DOMAIN app.code AS text;
CREATE TYPE app.pair AS (one app.code, two app.mood);
CREATE TABLE app.made (id int PRIMARY KEY, m app.mood, c app.code, cs app.code[], p app.pair, r int4range, t text, j jsonb);
CREATE COLLATION app.other FROM "C";
CREATE TABLE app.t (id int, part int, name text NOT NULL, n int, d date, j jsonb, PRIMARY KEY (id, part));
CREATE TABLE app.loose (a int, b text COLLATE "C", c text COLLATE "POSIX");
ALTER TABLE app.loose REPLICA IDENTITY FULL;
SELECT trem.create_endpoint('src', 'source');
SELECT trem.create_endpoint('dst', 'target', dbname => 'x');
SELECT trem.create_task('t', 'src', 'dst', '{app.*}') IS NOT NULL AS made;

-- No expression, or more than one.
SELECT trem.set_value('t', 'app.t', 'name', NULL);
SELECT trem.set_value('t', 'app.t', 'name', '');
SELECT trem.set_value('t', 'app.t', 'name', '-- nothing');
SELECT trem.set_value('t', 'app.t', 'name', 'lower(name');
SELECT trem.set_value('t', 'app.t', 'name', 'name, n');
SELECT trem.set_value('t', 'app.t', 'name', 'name AS other');
SELECT trem.set_value('t', 'app.t', 'name', 'name FROM app.t');
SELECT trem.set_value('t', 'app.t', 'name', '*');
SELECT trem.set_value('t', 'app.t', 'name', 'name; DROP TABLE app.t');
SELECT trem.set_value('t', 'app.t', 'name', 'name) || (name');
SELECT trem.set_value('t', 'app.t', 'name', 'name AS text), CAST((n');
SELECT trem.set_value('t', 'app.t', 'name', 'name /* open');
SELECT trem.set_value('t', 'app.t', 'name', '$1');
SELECT trem.set_filter('t', 'app.t', 'true) OR (true');
SELECT trem.set_filter('t', 'app.t', 'true UNION SELECT true');
SELECT trem.set_filter('t', 'app.t', 'true ORDER BY 1');
SELECT trem.set_value('t', 'app.t', 'name', '''' || repeat('é', 9999) || '''');
SELECT trem.add_column('t', 'app.t', 'longest', 'text', '''' || repeat('é', 9998) || '''') > 0 AS made;
SELECT trem.drop_transformation(id) FROM trem.transformation WHERE column_name = 'longest';

-- What cannot run while changes are decoded.
SELECT trem.set_value('t', 'app.t', 'name', 'random()::text');
SELECT trem.set_value('t', 'app.t', 'name', 'now()::text');
SELECT trem.set_value('t', 'app.t', 'name', 'current_user::text');
SELECT trem.set_value('t', 'app.t', 'd', '''today''::date');
SELECT expression, trem_error(expression) FROM unnest(ARRAY[
    $$d < E'\x6eow'$$, $$d < U&'\006eow'$$, $x$d < $q$Now$q$$x$, $$d < 'to'
    'day'$$, $$date 'tomorrow' > d$$, $$d = ANY ('{2020-01-01,"yesterday"}')$$,
    $$'[2020-01-01,now)'::daterange @> d$$, $$'{[2020-01-01,today]}'::datemultirange @> d$$,
    $$'now'::text::timestamptz > '2020-01-01'$$, $$('n' || 'ow')::timestamp > '2020-01-01'$$,
    $$(string_to_array('now', ',')::date[])[1] > d$$, $$('{"a": "now"}'::jsonb ->> 'a')::date > d$$,
    $$d < '2020-01-01' AND name <> 'now'$$, $$name = ANY ('{now,today}')$$
]) AS expression;
-- With a schema a name would mean another table in a partition's view.
SELECT trem.set_filter('t', 'app.t', 'app.t.n < 100');
SELECT trem.set_filter('t', 'app.t', 't.n < 100') > 0 AS made;
SELECT trem.set_filter('t', 'app.t', NULL);
SELECT trem.set_value('t', 'app.t', 'name', '(SELECT max(name) FROM app.t)');
SELECT trem.set_filter('t', 'app.t', 'EXISTS (SELECT FROM app.t)');
SELECT trem.set_value('t', 'app.t', 'n', 'max(n)');
SELECT trem.set_value('t', 'app.t', 'n', 'row_number() OVER ()');
SELECT trem.set_value('t', 'app.t', 'n', 'generate_series(1, n)');
SELECT trem.set_value('t', 'app.t', 'n', 'app.mine(n)');
SELECT trem.set_value('t', 'app.t', 'n', 'mine(n)');
SELECT trem.set_value('t', 'app.t', 'n', 'OPERATOR(app.###) n');
SELECT trem.set_value('t', 'app.t', 'n', 'length(n::text::app.mood::text)');

-- Code of others that would run behind a built-in function: checks of domains, casts to json.
SELECT trem.set_value('t', 'app.made', 'cs', 't::app.code[]');
SELECT trem.set_value('t', 'app.made', 'cs', 'array_replace(cs, ''x'', c)') > 0 AS made;
SELECT trem.set_value('t', 'app.made', 'c', 't::app.code') > 0 AS made;
SELECT trem.set_value('t', 'app.made', 'p', 't::app.pair');
SELECT trem.set_value('t', 'app.made', 't', 'array_to_string(array_in(textout(t), 25, -1), '''')');
SELECT trem.set_value('t', 'app.made', 'j', 'jsonb_build_array(m, p, row(m))') > 0 AS made;
SELECT trem.drop_transformation(id) FROM trem.transformation WHERE column_name = 'j';
CREATE FUNCTION app.told(app.mood) RETURNS json LANGUAGE sql IMMUTABLE AS 'SELECT to_json(1)';
CREATE CAST (app.mood AS json) WITH FUNCTION app.told(app.mood);
SELECT trem.set_value('t', 'app.made', 'j', 'to_jsonb(m)');
SELECT trem.set_value('t', 'app.made', 'j', 'to_jsonb(p)');
SELECT trem.set_value('t', 'app.made', 'j', 'jsonb_build_object(''m'', m)');
SELECT trem.set_value('t', 'app.made', 'j', 'to_jsonb(row(id, array[m]))');
SELECT trem.set_value('t', 'app.made', 'j', 'to_jsonb(coalesce(row(id, m)))');
SELECT trem.set_value('t', 'app.made', 'j', 'jsonb_build_object(''m'', m::text, ''c'', c, ''r'', r)') > 0 AS made;
SELECT trem.remove_table('t', 'app.made');
SELECT trem.set_value('t', 'app.t', 'name', 'name COLLATE app.other');
SELECT trem.set_value('t', 'app.loose', 'b', 'b || c');
SELECT trem.set_value('t', 'app.t', 'name', 'obj_description(id::oid, ''pg_class'')');
SELECT trem.set_value('t', 'app.t', 'name', 'pg_read_file(name)');
SELECT trem.set_value('t', 'app.t', 'name', 'set_config(''search_path'', name, false)');
SELECT trem.set_value('t', 'app.t', 'name', 'trem.applier_definition(name)::text');
SELECT trem.set_value('t', 'app.t', 'name', 't::text');
SELECT trem.set_value('t', 'app.t', 'name', 'to_jsonb(t.*)::text');
SELECT trem.set_value('t', 'app.t', 'name', 'ctid::text');
SELECT trem.set_value('t', 'app.t', 'name', 'tableoid::text');
SELECT trem.set_value('t', 'app.t', 'name', 'xmin::text');
SELECT trem.set_value('t', 'app.t', 'name', 'nope');
SELECT trem.set_value('t', 'app.t', 'name', '"NAME"');

-- Types.
SELECT trem.set_filter('t', 'app.t', 'n');
SELECT trem.set_filter('t', 'app.t', '''true''');
SELECT trem.set_value('t', 'app.t', 'd', 'n');
SELECT trem.set_value('t', 'app.t', 'n', '''many''');
SELECT trem.change_type('t', 'app.t', 'd', 'int');
SELECT trem.change_type('t', 'app.t', 'd', 'nope');
SELECT trem.change_type('t', 'app.t', 'd', 'mood');
SELECT trem.change_type('t', 'app.t', 'd', '');
SELECT trem.change_type('t', 'app.t', 'd', 'text; DROP TABLE app.t');
SELECT trem.change_type('t', 'app.t', 'd', 'text) AS x, (n');
SELECT trem.change_type('t', 'app.t', 'd', 'setof text');
SELECT trem.change_type('t', 'app.t', 'd', 'anyelement');
SELECT trem.change_type('t', 'app.t', 'd', 'record');
SELECT trem.change_type('t', 'app.t', 'd', 'numeric(-5)');
SELECT trem.change_type('t', 'app.t', 'd', 'serial');
SELECT trem.change_type('t', 'app.t', 'd', NULL);

-- Keys.
SELECT trem.exclude_column('t', 'app.t', 'id');
SELECT trem.set_value('t', 'app.t', 'id', 'id + n + length(name)');
SELECT trem.set_value('t', 'app.t', 'id', 'id + part') > 0 AS made;
SELECT trem.change_type('t', 'app.t', 'part', 'json', 'to_json(part)');
SELECT trem.change_type('t', 'app.t', 'part', 'point', 'point(n, part)');

-- Names.
SELECT trem.add_column('t', 'app.t', 'name', 'text', 'name');
SELECT trem.add_column('t', 'app.t', '', 'text', 'name');
SELECT trem.add_column('t', 'app.t', 'ctid', 'text', 'name');
SELECT trem.add_column('t', 'app.t', repeat('é', 32), 'text', 'name');
SELECT trem.add_column('t', 'app.t', NULL, 'text', 'name');
SELECT trem.rename_column('t', 'app.t', 'name', 'label') > 0 AS made;
SELECT trem.add_column('t', 'app.t', 'label', 'text', 'name');
SELECT trem.add_column('t', 'app.t', 'x", (SELECT 1) AS "y', 'text', 'name') > 0 AS made;
SELECT select_statement FROM trem.explain_task('t') WHERE source_table = 'app.t';
SELECT trem.set_value('t', 'app.t', 'label', '1');
SELECT trem.set_value('t', 'app.t', 'name" = 1; --', '1');
SELECT trem.set_value('t', 'app.nope', 'name', '1');
SELECT trem.set_value('t', 'app.*', 'name', '1');
SELECT trem.set_value('nope', 'app.t', 'name', '1');
SELECT trem.set_filter(NULL, 'app.t', 'true');
SELECT trem.set_filter('t', 'app.t; DROP TABLE app.t', 'true');

-- Names are names, whatever they contain.
SELECT trem.rename_schema('t', 'app.loose', 'x"; DROP TABLE app.t; --') AS id1,
    trem.rename_table('t', 'app.loose', 'y" (a int); DROP TABLE app.t; --') AS id2,
    trem.rename_column('t', 'app.loose', 'b', 'z" int, "''; DROP TABLE app.t; --') AS id3 \gset
SELECT target_table, select_statement, create_statements FROM trem.explain_task('t') WHERE source_table = 'app.loose' \gx
SELECT trem.drop_transformation(:id1), trem.drop_transformation(:id2), trem.drop_transformation(:id3);
SELECT trem.rename_schema('t"; DROP TABLE app.t; --', 'app.t', 'x');
SELECT trem.rename_table('t', 'app.t"; DROP TABLE app.t; --', 'x');
SELECT trem.rename_column('t', 'app.t', 'name"; DROP TABLE app.t; --', 'x');
SELECT trem.exclude_column('t', 'app.t', 'name"; DROP TABLE app.t; --');

-- Clashes.
SELECT trem.set_value('t', 'app.t', 'n', 'n + 1') AS id \gset
SELECT regexp_replace(:'id', '\d+', 'an id') AS made;
DO $$
DECLARE
    attempt text;
    said text;
    hinted text;
BEGIN
    FOREACH attempt IN ARRAY ARRAY[
        $q$trem.set_value('t', 'app.t', 'n', 'n + 2')$q$,
        $q$trem.change_type('t', 'app.t', 'n', 'bigint', 'n * 2')$q$,
        $q$trem.exclude_column('t', 'app.t', 'n')$q$,
        $q$trem.change_type('t', 'app.t', 'n', 'bigint')$q$,
        $q$trem.change_type('t', 'app.t', 'n', 'text')$q$,
        $q$trem.exclude_column('t', 'app.t', 'd')$q$,
        $q$trem.set_value('t', 'app.t', 'd', 'd + 1')$q$,
        $q$trem.change_type('t', 'app.t', 'j', 'text', 'j #>> ''{}''')$q$,
        $q$trem.set_value('t', 'app.t', 'j', '''1''')$q$,
        $q$trem.add_column('t', 'app.t', 'new', 'text', 'name')$q$,
        $q$trem.add_column('t', 'app.t', 'new', 'int', 'n')$q$,
        $q$trem.rename_column('t', 'app.t', 'j', 'new')$q$
    ] LOOP
        BEGIN
            EXECUTE 'SELECT ' || attempt;
            RAISE WARNING '%: made', attempt;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS said = MESSAGE_TEXT, hinted = PG_EXCEPTION_HINT;
            RAISE WARNING '%: % / %', attempt, regexp_replace(said, 'rule \d+', 'rule N'),
                regexp_replace(hinted, '\d+', 'N');
        END;
    END LOOP;
END $$;

-- Everything at once.
SELECT trem.set_value('t', 'app.t', 'name', 'random()::text || app.mine(n) || now()');
SELECT trem.add_column('t', 'app.t', 'label', 'nope', 'app.mine(n)');

-- The draft as a whole.
SELECT table_name, check_name, message FROM trem.check_task('t') WHERE severity = 'error';
SELECT trem.start_task('t');
SELECT count(*) FROM trem.transformation WHERE kind ~ 'filter|value|type|add';
SELECT trem.drop_task('t');
SELECT trem.drop_endpoint('src'), trem.drop_endpoint('dst');
SELECT count(*) FROM app.t;
DROP SCHEMA app CASCADE;
DROP FUNCTION trem_error;
