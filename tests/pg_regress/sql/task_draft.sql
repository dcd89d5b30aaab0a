-- Drafting a task: its tables and patterns, and what cannot be in it.
SET client_min_messages = warning;
CREATE SCHEMA app;
CREATE SCHEMA "Vide";
CREATE TABLE app.a (id int PRIMARY KEY);
CREATE TABLE app."B c" (id int PRIMARY KEY);
CREATE TABLE app.p (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE app.p1 PARTITION OF app.p FOR VALUES FROM (0) TO (10);
CREATE VIEW app.v AS SELECT 1 AS x;
CREATE UNLOGGED TABLE app.u (id int PRIMARY KEY);
SELECT trem.create_endpoint('src', 'source');
SELECT trem.create_endpoint('dst', 'target', dbname => 'x');

SELECT trem.create_task('A task', 'src', 'dst', '{app.a}');
SELECT trem.create_task('t', 'nope', 'dst', '{app.a}');
SELECT trem.create_task('t', 'dst', 'src', '{app.a}');
SELECT trem.create_task('t', 'src', 'dst', '{app.a}', mode => 'all');
SELECT trem.create_task('t', 'src', 'dst', '{app.a}', options => '{"jobs": 3}');
SELECT trem.create_task('t', 'src', 'dst', '{app.a}', options => '{"on_error": "ignore"}');
SELECT trem.create_task('t', 'src', 'dst', '{app.a}', options => '{"full_load_jobs": 0}');
SELECT trem.create_task('t', 'src', 'dst', '{app.nope}');
SELECT trem.create_task('t', 'src', 'dst', '{a}');
SELECT trem.create_task('t', 'src', 'dst', '{nope.*}');
SELECT trem.create_task('t', 'src', 'dst', '{*}');
SELECT trem.create_task('t', 'src', 'dst', '{app.v}');
SELECT trem.create_task('t', 'src', 'dst', '{app.u}');
SELECT trem.create_task('t', 'src', 'dst', '{app.p1}');
SELECT trem.create_task('t', 'src', 'dst', '{pg_catalog.pg_class}');
SELECT trem.create_task('t', 'src', 'dst', '{pg_catalog.*}');
SELECT trem.create_task('t', 'src', 'dst', '{trem.task}');
SELECT count(*) FROM trem.task;

SELECT trem.create_task('t', 'src', 'dst', '{APP.A}') IS NOT NULL AS made;
SELECT trem.create_task('t', 'src', 'dst', '{}');
SELECT trem.alter_task('t', '{"indexes": "key", "full_load_jobs": 2}');
SELECT trem.alter_task('t', '{"full_load_jobs": null}');
SELECT trem.alter_task('t', '{"indexes": 1}');
SELECT trem.alter_task('nope', '{}');
SELECT options FROM trem.task;

SELECT trem.add_table('t', 'app."B c"');
SELECT trem.add_table('t', 'app.a');
SELECT source_table FROM trem.explain_task('t');
SELECT trem.remove_table('t', 'app."B c"');
SELECT trem.remove_table('t', 'app."B c"');
SELECT trem.remove_table('t', 'app.*');
SELECT severity, table_name, check_name, message FROM trem.check_task('t') WHERE severity = 'error';

-- A pattern: the root stands for its partitions, a view is told, an unlogged table refused.
SELECT trem.add_table('t', 'app.*');
SELECT source_table FROM trem.explain_task('t');
SELECT severity, table_name, check_name, message, hint FROM trem.check_task('t')
WHERE check_name = 'not_replicable' ORDER BY table_name;
-- Left out, and back.
SELECT trem.remove_table('t', 'app.u');
SELECT trem.remove_table('t', 'app.a');
SELECT source_table FROM trem.explain_task('t');
SELECT trem.add_table('t', 'app.a');
SELECT source_table FROM trem.explain_task('t');
SELECT trem.remove_table('t', 'app.*');
SELECT source_table FROM trem.explain_task('t');
-- A pattern that matches nothing; a partition whose root is elsewhere.
SELECT trem.add_table('t', '"Vide".*');
SELECT severity, table_name, check_name, message, hint FROM trem.check_task('t')
WHERE severity = 'error';
ALTER TABLE app.p1 SET SCHEMA "Vide";
SELECT severity, table_name, check_name, message, hint FROM trem.check_task('t')
WHERE severity = 'error';

SELECT trem.drop_task('t');
SELECT trem.drop_task('t');
SELECT trem.drop_endpoint('src'), trem.drop_endpoint('dst');
DROP SCHEMA app, "Vide" CASCADE;
