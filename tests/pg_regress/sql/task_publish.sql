-- Draft and publish: versions, views, what a changed rule needs, reload, stop and drop.
\set SHOW_CONTEXT never
SET client_min_messages = notice;
CREATE SCHEMA app;
CREATE TABLE app.a (id int PRIMARY KEY, secret text, note text);
CREATE TABLE app.b (id int PRIMARY KEY);
CREATE TABLE app.parent (id int PRIMARY KEY);
CREATE TABLE app.child (PRIMARY KEY (id)) INHERITS (app.parent);
INSERT INTO app.parent VALUES (1);
INSERT INTO app.child VALUES (2);
CREATE TABLE app.p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE app.p1 (v text, id int NOT NULL);
ALTER TABLE app.p ATTACH PARTITION app.p1 FOR VALUES FROM (0) TO (10);
CREATE TABLE app.p2 PARTITION OF app.p FOR VALUES FROM (10) TO (20);
INSERT INTO app.a VALUES (1, 'hidden', 'seen');
INSERT INTO app.p VALUES (1, 'one'), (11, 'eleven');
CREATE ROLE regress_applier LOGIN REPLICATION;
SELECT trem.create_endpoint('src', 'source', username => 'regress_applier');
SELECT trem.create_endpoint('dst', 'target', dbname => 'x');
SELECT trem.create_task('t', 'src', 'dst', '{app.a}') IS NOT NULL AS made;
SELECT trem.exclude_column('t', 'app.a', 'secret') > 0 AS made;
SELECT trem.applier_definition('t');
SELECT count(*) FROM pg_views WHERE schemaname = 'trem_read';

SELECT trem.start_task('t');
SELECT trem.start_task('t');
SELECT state, definition_version FROM trem.task WHERE name = 't';
-- A task that hides columns ignores new ones.
SELECT trem.applier_definition('t')->'options'->>'ddl' AS ddl;
SELECT t->>'source_name' AS source_name, t->>'row_format' AS row_format, t->>'keyless' AS keyless,
       t->>'load_generation' AS load_generation, c->>'attnum' AS attnum, c->>'name' AS name,
       c->>'type_name' AS type_name, c->>'not_null' AS not_null, c->>'key' AS key
FROM jsonb_array_elements(trem.applier_definition('t')->'tables') AS t,
     jsonb_array_elements(t->'columns') AS c;

-- Drafting does not publish; publishing the table makes its view.
SELECT trem.add_table('t', 'app.*');
SELECT jsonb_array_length(trem.applier_definition('t')->'tables');
SELECT table_name, check_name, severity FROM trem.check_task('t') ORDER BY table_name;
SELECT trem.start_task('t');
SELECT source, string_agg(leaf, ', ' ORDER BY leaf) AS leaves, bool_and(view_owner = 'postgres') AS owned,
       bool_and(right_name) AS right_name
FROM (
    SELECT t->>'source_name' AS source, l->>'name' AS leaf, v.viewowner AS view_owner,
           l->>'view' = 't_' || (l->>'oid') AS right_name
    FROM jsonb_array_elements(trem.applier_definition('t')->'tables') AS t,
         jsonb_array_elements(t->'leaves') AS l,
         pg_views AS v
    WHERE v.schemaname = 'trem_read' AND v.viewname = l->>'view'
) AS q GROUP BY source ORDER BY source;

-- What the views show: no excluded column, no child's rows, the root's order of columns.
CREATE FUNCTION pg_temp.shown(leaf regclass) RETURNS SETOF jsonb LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY EXECUTE format('SELECT to_jsonb(shown) FROM trem_read.%I AS shown', 't_' || leaf::oid);
END $$;
SELECT pg_temp.shown('app.a');
SELECT pg_temp.shown('app.parent');
SELECT pg_temp.shown('app.p1');
SET ROLE regress_applier;
SELECT * FROM app.a;
SELECT name, state, definition_version FROM trem.applier_tasks();
RESET ROLE;

-- A changed rule of a loaded table needs a reload, or somebody's word.
SELECT trem.rename_column('t', 'app.a', 'note', 'remark') > 0 AS made;
SELECT trem.start_task('t');
SELECT trem.start_task('t', keep => true);
SELECT pg_temp.shown('app.a');
SELECT trem.rename_column('t', 'app.a', 'note', 'comment') > 0 AS made;
SELECT trem.reload_table('t', 'app.a');
SELECT definition_version FROM trem.task WHERE name = 't';
SELECT trem.start_task('t');
-- A reload alone is published at once.
SELECT trem.reload_table('t', 'app.b');
SELECT trem.reload_table('t', 'app.nope');
SELECT definition_version FROM trem.task WHERE name = 't';
SELECT t->>'source_name' AS name, t->>'load_generation' AS load_generation
FROM jsonb_array_elements(trem.applier_definition('t')->'tables') AS t ORDER BY 1;

-- A table that leaves takes its view along.
SELECT trem.remove_table('t', 'app.p');
SELECT trem.start_task('t');
SELECT count(*) FROM pg_views WHERE schemaname = 'trem_read';
-- It comes back with its rows of now: it is loaded again.
SELECT trem.add_table('t', 'app.p');
SELECT trem.start_task('t');
SELECT t->>'load_generation' AS load_generation
FROM jsonb_array_elements(trem.applier_definition('t')->'tables') AS t WHERE t->>'source_name' = 'p';
-- What came apart since.
ALTER TABLE app.a ADD COLUMN later int;
SELECT severity, table_name, check_name, message FROM trem.check_task('t');
DROP TABLE app.p;
DO $$ BEGIN EXECUTE format('DROP VIEW trem_read.t_%s', 'app.b'::regclass::oid); END $$;
SELECT severity, table_name, check_name, message FROM trem.check_task('t');
SELECT severity, table_name, check_name, message FROM trem.applier_check('t');
SELECT trem.start_task('t');
SELECT trem.remove_table('t', 'app.p');
SELECT trem.start_task('t');
SELECT trem.start_task('t', keep => true);
SELECT severity, table_name, check_name, message FROM trem.check_task('t');
-- In a transaction that sees one moment only the catalog could be older than its locks.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT trem.start_task('t');
ROLLBACK;
-- Another reader.
CREATE ROLE regress_other LOGIN REPLICATION;
SELECT trem.alter_endpoint('src', username => 'regress_other');
SELECT trem.start_task('t');
SELECT DISTINCT grantee::regrole FROM pg_class, aclexplode(relacl)
WHERE relnamespace = 'trem_read'::regnamespace AND grantee <> relowner;

SELECT trem.drop_task('t');
SELECT trem.stop_task('t');
SELECT state FROM trem.task;
-- An idle slot goes with the task.
SELECT slot_name FROM pg_create_logical_replication_slot('trem_t', 'pgoutput');
SELECT trem.drop_task('t');
SELECT (SELECT count(*) FROM trem.task) AS tasks, (SELECT count(*) FROM trem.definition) AS versions,
       (SELECT count(*) FROM pg_views WHERE schemaname = 'trem_read') AS views,
       (SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'trem_t') AS slots;
SELECT trem.start_task('t');
SELECT trem.stop_task('t');

SELECT trem.drop_endpoint('src'), trem.drop_endpoint('dst');
SET client_min_messages = warning;
DROP SCHEMA app CASCADE;
DROP OWNED BY regress_applier, regress_other;
DROP ROLE regress_applier, regress_other;
