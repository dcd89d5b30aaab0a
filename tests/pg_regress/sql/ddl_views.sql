-- The views of trem_read never keep a table's owner from changing the table: what is in a command's
-- way is dropped with it, and nothing else.
\set SHOW_CONTEXT never
\set VERBOSITY terse
SET client_min_messages = notice;
CREATE ROLE regress_owner LOGIN;
CREATE ROLE regress_stranger LOGIN;
CREATE SCHEMA ddl_views AUTHORIZATION regress_owner;
GRANT USAGE ON SCHEMA ddl_views TO regress_stranger;
SET SESSION AUTHORIZATION regress_owner;
SET search_path = ddl_views;
CREATE TABLE "it's" (id int PRIMARY KEY, note text, kind varchar(5), secret text);
CREATE TABLE other (id int PRIMARY KEY, note text);
CREATE TABLE parent (id int PRIMARY KEY, note text, kind int);
CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent);
-- It declares the column itself.
CREATE TABLE own (note text, PRIMARY KEY (id)) INHERITS (parent);
CREATE TABLE p (id int, note text, kind int, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE p1 (kind int, gone text, note text, id int NOT NULL);
ALTER TABLE p1 DROP gone;
ALTER TABLE p ATTACH PARTITION p1 FOR VALUES FROM (0) TO (10);
CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (id);
CREATE TABLE p2a PARTITION OF p2 FOR VALUES FROM (10) TO (15);

RESET SESSION AUTHORIZATION;
SELECT trem.create_endpoint('src', 'source', username => current_user);
SELECT trem.create_endpoint('dst', 'target', dbname => 'x');
-- Two tasks have the first table; one of them without a column.
SELECT trem.create_task('t_1', 'src', 'dst', '{"ddl_views.\"it''s\"", ddl_views.other,
    ddl_views.parent, ddl_views.child, ddl_views.own, ddl_views.p}') IS NOT NULL AS made;
SELECT trem.create_task('t_2', 'src', 'dst', '{"ddl_views.\"it''s\""}') IS NOT NULL AS made;
SELECT trem.exclude_column('t_1', 'ddl_views."it''s"', 'secret') > 0 AS made;
SELECT trem.exclude_column('t_2', 'ddl_views."it''s"', 'note') > 0 AS made;
SELECT trem.start_task('t_1'), trem.start_task('t_2');

-- The views there are, by their table.
CREATE FUNCTION pg_temp.views() RETURNS text LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_agg(format('%s %s', regexp_replace(v.relname, '_\d+$', ''), t.relname), ', '
                      ORDER BY v.relname COLLATE "C", t.relname)
    FROM pg_class AS v
    LEFT JOIN pg_class AS t ON t.oid = substring(v.relname, '\d+$')::oid
    WHERE v.relnamespace = 'trem_read'::regnamespace
$$;
-- The views that this transaction has locked.
CREATE FUNCTION pg_temp.locked() RETURNS text LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_agg(format('%s %s', regexp_replace(v.relname, '_\d+$', ''), l.mode), ', ')
    FROM pg_locks AS l JOIN pg_class AS v ON v.oid = l.relation
    WHERE v.relnamespace = 'trem_read'::regnamespace AND l.pid = pg_backend_pid()
$$;
GRANT USAGE ON SCHEMA trem_read TO regress_owner; -- the two functions name it
SET SESSION AUTHORIZATION regress_owner;
SELECT pg_temp.views();

-- What does not meet a view.
BEGIN;
ALTER TABLE "it's" ADD later int, ALTER note SET NOT NULL, ALTER kind SET DEFAULT 'x';
ALTER TABLE other RENAME note TO remark;
ALTER TABLE "it's" DROP later;
ALTER TABLE IF EXISTS nowhere.nothing DROP c;
ALTER TABLE IF EXISTS nothing DROP c;
ALTER TABLE other DROP COLUMN IF EXISTS nothing;
DROP TABLE IF EXISTS nothing;
CREATE TEMP TABLE short (id int);
ALTER TABLE short ALTER id TYPE bigint;
DROP TABLE short;
SELECT pg_temp.views(), pg_temp.locked();
ROLLBACK;
DROP TABLE nothing;
ALTER TABLE nothing DROP c;
ALTER TABLE other DROP nothing;
ALTER TABLE elsewhere.x.y.z DROP c;

-- A column that one task has and the other has not.
BEGIN;
ALTER TABLE "it's" DROP note;
SELECT pg_temp.views(), pg_temp.locked();
ROLLBACK;
SELECT pg_temp.views();
BEGIN;
ALTER TABLE "it's" DROP secret;
SELECT pg_temp.views(), pg_temp.locked();
ROLLBACK;
-- A command that fails leaves them; so does an inner transaction that is rolled back.
ALTER TABLE "it's" DROP note, DROP nothing;
SELECT pg_temp.views();
BEGIN;
SAVEPOINT s;
DROP TABLE "it's", nothing;
ROLLBACK TO s;
ALTER TABLE "it's" ALTER kind TYPE varchar(9), ALTER id SET DEFAULT 7;
ROLLBACK TO s;
COMMIT;
DO $$
BEGIN
    DROP TABLE ddl_views."it's", ddl_views.nothing;
EXCEPTION WHEN undefined_table THEN
    RAISE NOTICE '%', sqlerrm;
END $$;
SELECT pg_temp.views();

-- Through a parent, to the children that follow it.
BEGIN;
ALTER TABLE parent DROP note;
SELECT pg_temp.views();
ROLLBACK;
BEGIN;
ALTER TABLE ONLY parent DROP note;
SELECT pg_temp.views();
ROLLBACK;
BEGIN;
ALTER TABLE parent ALTER note TYPE varchar(30);
SELECT pg_temp.views();
ROLLBACK;
BEGIN;
ALTER TABLE p ALTER note TYPE varchar(30);
SELECT pg_temp.views();
ROLLBACK;
BEGIN;
DROP TABLE p1;
SELECT pg_temp.views();
DROP TABLE p;
SELECT pg_temp.views();
ROLLBACK;
-- Refused by PostgreSQL, in its words.
DROP TABLE parent;
ALTER TABLE p1 DROP note;
ALTER TABLE ONLY p DROP note;
SELECT pg_temp.views();
-- CASCADE takes the view along as any other, and says so.
BEGIN;
SET LOCAL client_min_messages = warning;
ALTER TABLE other DROP note CASCADE;
ALTER TABLE other ALTER id TYPE bigint;
ROLLBACK;

-- Under another isolation, as a replica, and by names that mean something else elsewhere.
BEGIN ISOLATION LEVEL SERIALIZABLE;
ALTER TABLE other DROP note;
ROLLBACK;
CREATE FUNCTION ddl_views.never(oid, oid) RETURNS boolean LANGUAGE plpgsql AS
    $$BEGIN RAISE EXCEPTION 'an operator of the caller was used'; END$$;
CREATE OPERATOR ddl_views.= (FUNCTION = ddl_views.never, LEFTARG = oid, RIGHTARG = oid);
SET search_path = ddl_views, pg_catalog;
BEGIN;
ALTER TABLE other DROP note;
ROLLBACK;
SET search_path = ddl_views;
DROP OPERATOR ddl_views.= (oid, oid);
DROP FUNCTION never;
RESET SESSION AUTHORIZATION;
BEGIN;
SET LOCAL session_replication_role = replica;
DROP TABLE other;
ROLLBACK;

-- A stranger is refused by PostgreSQL.
SET SESSION AUTHORIZATION regress_stranger;
ALTER TABLE other DROP note;
DROP TABLE other;
SELECT trem.give_way();
RESET SESSION AUTHORIZATION;
SELECT trem.give_way();

-- Somebody's view on one of ours stays in the way.
DO $$
BEGIN
    EXECUTE format('CREATE VIEW ddl_views.of_a_view AS SELECT note FROM trem_read.t_1_%s',
                   'ddl_views.other'::regclass::oid);
END $$;
\set VERBOSITY sqlstate
ALTER TABLE other ALTER note TYPE varchar(30);
\set VERBOSITY terse
DROP VIEW of_a_view;
SELECT pg_temp.views();

-- For good, and then the tasks go on.
SET SESSION AUTHORIZATION regress_owner;
ALTER TABLE "it's" DROP secret, ALTER kind TYPE text;
ALTER TABLE parent DROP kind;
ALTER TABLE p DROP kind;
DROP TABLE other;
SELECT pg_temp.views();
RESET SESSION AUTHORIZATION;
SELECT severity, table_name, check_name FROM trem.check_task('t_2');
SELECT trem.start_task('t_2');
SELECT trem.drop_transformation(id) FROM trem.transformation WHERE task = 't_1';
SELECT trem.remove_table('t_1', 'ddl_views.other');
SELECT trem.start_task('t_1', keep => true);
SELECT pg_temp.views();

-- It goes with the extension.
SELECT trem.stop_task('t_1'), trem.stop_task('t_2');
SELECT trem.drop_task('t_1'), trem.drop_task('t_2');
SELECT trem.drop_endpoint('src'), trem.drop_endpoint('dst');
BEGIN;
DROP EXTENSION trem;
ALTER TABLE ddl_views.p DROP note;
DROP TABLE ddl_views.p;
SELECT count(*) FROM pg_event_trigger;
ROLLBACK;
SELECT evtname, evtenabled FROM pg_event_trigger;
SET client_min_messages = warning;
RESET search_path;
DROP SCHEMA ddl_views CASCADE;
DROP OWNED BY regress_owner, regress_stranger;
DROP ROLE regress_owner, regress_stranger;
