-- Everything wrong on the source side, found at once; start_task refuses before it changes anything.
SET client_min_messages = error;
CREATE SCHEMA app;
CREATE TABLE app.fine (id int PRIMARY KEY);
CREATE TABLE app.no_key (a int);
CREATE TABLE app.full_rows (a int);
ALTER TABLE app.full_rows REPLICA IDENTITY FULL;
CREATE TABLE app.nothing (a int PRIMARY KEY);
ALTER TABLE app.nothing REPLICA IDENTITY NOTHING;
CREATE TABLE app.deferrable_key (a int PRIMARY KEY DEFERRABLE);
CREATE TABLE app.by_index (a int NOT NULL);
CREATE UNIQUE INDEX i ON app.by_index (a);
ALTER TABLE app.by_index REPLICA IDENTITY USING INDEX i;
DROP INDEX app.i;
CREATE TABLE app.secured (a int PRIMARY KEY);
ALTER TABLE app.secured ENABLE ROW LEVEL SECURITY;
CREATE ROLE regress_owner;
CREATE TABLE app.forced (a int PRIMARY KEY);
ALTER TABLE app.forced ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE app.forced OWNER TO regress_owner;
CREATE TABLE app.row_typed (a int PRIMARY KEY, f app.fine, o oid, r regclass);
CREATE TABLE app.p (a int PRIMARY KEY) PARTITION BY RANGE (a);
CREATE TABLE app.p1 PARTITION OF app.p FOR VALUES FROM (0) TO (1);
ALTER TABLE app.p1 REPLICA IDENTITY FULL;
CREATE TABLE app.unlogged_leaf (a int PRIMARY KEY) PARTITION BY RANGE (a);
CREATE UNLOGGED TABLE app.unlogged_leaf_1 PARTITION OF app.unlogged_leaf FOR VALUES FROM (0) TO (1);
SELECT trem.create_endpoint('src', 'source', username => 'regress_missing');
SELECT trem.create_endpoint('dst', 'target', dbname => 'x');
SELECT trem.create_task('t', 'src', 'dst', '{app.*}') IS NOT NULL AS made;
\pset format unaligned
SELECT * FROM trem.check_task('t') ORDER BY severity, table_name COLLATE "C", check_name;
\pset format aligned
SELECT trem.start_task('t');
SELECT state, definition_version FROM trem.task;
SELECT count(*) FROM pg_views WHERE schemaname = 'trem_read';
SELECT trem.drop_task('t');

-- The role of the applier, and the plugin as that role gets it.
CREATE ROLE regress_missing;
SELECT trem.create_task('t', 'src', 'dst', '{app.fine}') IS NOT NULL AS made;
SELECT check_name, message, hint FROM trem.check_task('t');
ALTER ROLE regress_missing LOGIN REPLICATION;
SELECT check_name, message, hint FROM trem.check_task('t');

SELECT * FROM trem.check_task('nope');
SELECT trem.drop_task('t');
SELECT trem.drop_endpoint('src'), trem.drop_endpoint('dst');
DROP SCHEMA app CASCADE;
DROP ROLE regress_missing, regress_owner;
