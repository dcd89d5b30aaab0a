-- Rules that filter and compute: what they make of a table, in statements, rows and the definition.
SET client_min_messages = warning;
CREATE SCHEMA app;
CREATE TYPE app.mood AS ENUM ('good', 'bad');
CREATE DOMAIN app.positive AS int CHECK (VALUE > 0);
CREATE TABLE app.people (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    email text COLLATE "C" NOT NULL UNIQUE,
    born date NOT NULL,
    salary numeric(10,2) NOT NULL,
    visits int NOT NULL UNIQUE,
    mood app.mood,
    tags text[],
    bio text
);
CREATE INDEX by_tags ON app.people USING gin (tags);
CREATE INDEX by_mood ON app.people (mood);
INSERT INTO app.people (email, born, salary, visits, mood, tags, bio) VALUES
    ('Ana@Example.com', '1990-02-03', 1234.56, 7, 'good', '{a,b}', 'x'),
    ('bo@example.com', '2001-12-31', 99.99, 8, NULL, NULL, NULL),
    ('cy@example.com', '1970-01-01', 0, 9, 'bad', '{}', 'y');
SELECT trem.create_endpoint('src', 'source');
SELECT trem.create_endpoint('dst', 'target', dbname => 'x');
SELECT trem.create_task('t', 'src', 'dst', '{app.people}') IS NOT NULL AS made;

-- Each rule alone.
SELECT trem.set_filter('t', 'app.people', 'salary > 0') > 0 AS made;
SELECT trem.set_value('t', 'app.people', 'email', 'lower(email)') > 0 AS made;
SELECT trem.change_type('t', 'app.people', 'visits', 'bigint') > 0 AS made;
SELECT trem.change_type('t', 'app.people', 'born', 'varchar(4)', 'to_char(born, ''YYYY'')') > 0 AS made;
SELECT trem.add_column('t', 'app.people', 'Full "name"', 'app.positive', 'visits + 1 -- note') > 0 AS made;
SELECT kind, table_name, column_name, arguments FROM trem.transformation ORDER BY id;
\pset format unaligned
SELECT select_statement FROM trem.explain_task('t');
SELECT s FROM trem.explain_task('t'), unnest(create_statements) AS s WHERE s !~ 'DOMAIN|ENUM';
SELECT i FROM trem.explain_task('t'), unnest(not_carried_over) AS i;
SELECT trem.preview('t', 'app.people');
SELECT severity, check_name, message, hint FROM trem.check_task('t') WHERE table_name = 'app.people';

-- Value and type on one column; names of types of users; what the indexes become.
SELECT trem.set_value('t', 'app.people', 'visits', 'visits * 1000000000::bigint') > 0 AS made;
SELECT trem.change_type('t', 'app.people', 'mood', 'text') > 0 AS made;
SELECT trem.change_type('t', 'app.people', 'tags', 'app.mood', '''good''::app.mood') > 0 AS made;
SELECT trem.set_value('t', 'app.people', 'salary', 'NULL') > 0 AS made;
SELECT trem.rename_column('t', 'app.people', 'email', 'mail') > 0 AS made;
SELECT trem.exclude_column('t', 'app.people', 'bio') > 0 AS made;
SELECT trem.set_filter('t', 'app.people', 'people.bio IS NOT NULL AND born < ''2000-01-01''') > 0 AS made;
SELECT select_statement FROM trem.explain_task('t');
SELECT s FROM trem.explain_task('t'), unnest(create_statements) AS s WHERE s !~ 'DOMAIN|ENUM';
SELECT i FROM trem.explain_task('t'), unnest(not_carried_over) AS i WHERE i LIKE '%index%';
SELECT trem.preview('t', 'app.people');
SELECT severity, check_name, message, hint FROM trem.check_task('t') WHERE table_name = 'app.people';

-- The definition, and the views.
SELECT trem.start_task('t');
CREATE TEMPORARY TABLE defined AS
SELECT content, content->'tables'->0 AS d FROM trem.definition ORDER BY definition_version DESC LIMIT 1;
SELECT regexp_replace(d->>'filter', '"rule_id": \d+', '"rule_id": N') AS filter, d->>'row_format' AS format,
       content->'options'->>'ddl' AS ddl FROM defined;
SELECT c->>'attnum' AS attnum, c->>'source_name' AS source_name, c->>'name' AS name, c->>'type_name' AS type,
       c->>'type_modifier' AS modifier, c->>'not_null' AS not_null, c->'expression'->>'sql' AS sql,
       c->'expression'->>'rule_id' = (SELECT max(id)::text FROM trem.rule
                                      WHERE column_name IN (c->>'source_name', c->>'name')
                                        AND kind ~ 'value|type|add') AS rule_is_named
FROM defined, jsonb_array_elements(d->'columns') AS c;
\pset format aligned
SELECT format('SELECT * FROM trem_read.%I', d->'leaves'->0->>'view') AS read FROM defined \gset
:read;
-- A task that passes everything follows DDL.
SELECT trem.create_task('plain', 'src', 'dst', '{app.people}') IS NOT NULL AS made;
SELECT trem.set_filter('plain', 'app.people', 'id > 1') > 0 AS made;
SELECT trem.change_type('plain', 'app.people', 'salary', 'numeric') > 0 AS made;
SELECT trem.start_task('plain');
SELECT content->'options'->>'ddl' AS ddl FROM trem.definition JOIN trem.task USING (task_id) WHERE name = 'plain';
SELECT trem.stop_task('plain'), trem.drop_task('plain');

-- A changed rule of a loaded table wants a reload; a filter is replaced, and removed by null.
SELECT trem.set_filter('t', 'app.people', 'true') > 0 AS made;
SELECT count(*) FROM trem.transformation WHERE kind = 'set_filter';
SELECT trem.start_task('t');
SELECT trem.reload_table('t', 'app.people');
SELECT trem.set_filter('t', 'app.people', NULL);
SELECT trem.set_filter('t', 'app.people', NULL);
SELECT count(*) FROM trem.transformation WHERE kind = 'set_filter';
SELECT trem.start_task('t');
SELECT content->'tables'->0->>'filter' AS filter FROM trem.definition ORDER BY definition_version DESC LIMIT 1;

-- What was right when the rule was made may be wrong later. The column that rules compute from the
-- old name says so; the draft's fault does not stop what runs.
ALTER TABLE app.people RENAME born TO birth;
SELECT severity, regexp_replace(message, '\d+', 'N') AS message, regexp_replace(hint, '\d+', 'N') AS hint
FROM trem.check_task('t') WHERE severity = 'error';
SELECT count(*) FROM trem.applier_check('t') WHERE severity = 'error';
SELECT trem.drop_transformation(id) FROM trem.transformation WHERE column_name = 'born';
SELECT trem.change_type('t', 'app.people', 'birth', 'varchar(4)', 'to_char(birth, ''YYYY'')') > 0 AS made;
SELECT count(*) FROM trem.check_task('t') WHERE severity = 'error';

SELECT trem.stop_task('t'), trem.drop_task('t');

-- Keys: computed from the key; and partitions, whose names are not the root's.
CREATE TABLE app.parts (a int, b text, v text, PRIMARY KEY (a, b)) PARTITION BY RANGE (a);
CREATE TABLE app.parts_1 (v text, b text NOT NULL, a int NOT NULL);
ALTER TABLE app.parts ATTACH PARTITION app.parts_1 FOR VALUES FROM (0) TO (10);
INSERT INTO app.parts VALUES (1, 'x', 'v'), (2, 'y', 'w');
SELECT trem.create_task('t', 'src', 'dst', '{app.parts}') IS NOT NULL AS made;
SELECT trem.set_value('t', 'app.parts', 'b', 'b || parts.a') > 0 AS made;
SELECT trem.set_filter('t', 'app.parts', 'parts.v = ''v''') > 0 AS made;
SELECT trem.preview('t', 'app.parts');
SELECT trem.start_task('t');
SELECT format('SELECT * FROM trem_read.%I', d->'leaves'->0->>'view') AS read
FROM trem.definition, jsonb_array_elements(content->'tables') AS d \gset
:read;
SELECT trem.stop_task('t'), trem.drop_task('t');
SELECT trem.drop_endpoint('src'), trem.drop_endpoint('dst');
DROP SCHEMA app CASCADE;
