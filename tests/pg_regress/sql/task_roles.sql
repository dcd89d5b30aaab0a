-- Nothing is open to PUBLIC; the operator defines; the applier reads its views and reports.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE ROLE regress_operator LOGIN;
CREATE ROLE regress_applier LOGIN REPLICATION;
CREATE ROLE regress_nobody LOGIN;
CREATE SCHEMA app AUTHORIZATION regress_operator;
SET ROLE regress_operator;
CREATE TABLE app.t (id int PRIMARY KEY, secret text);
INSERT INTO app.t VALUES (1, 'hidden');
SELECT count(*) FROM trem.task;
SELECT trem.list_tables();
RESET ROLE;
SELECT trem.grant_operator('regress_operator');
CREATE TABLE app.of_another (id int PRIMARY KEY);

SET SESSION AUTHORIZATION regress_operator;
SELECT trem.create_endpoint('src', 'source', username => 'regress_applier');
SELECT trem.create_endpoint('dst', 'target', dbname => 'x', password => 'secret');
-- The endpoint's role can ask at once, and is told that there is nothing yet.
SET SESSION AUTHORIZATION regress_applier;
SELECT count(*) FROM trem.applier_tasks();
SET SESSION AUTHORIZATION regress_operator;
SELECT password FROM trem.endpoint;
SELECT name, role, owner FROM trem.endpoint ORDER BY name;
SELECT trem.create_task('t', 'src', 'dst', '{app.*}') IS NOT NULL AS made;
SELECT trem.exclude_column('t', 'app.t', 'secret') > 0 AS made;
SELECT severity, table_name, check_name, message FROM trem.check_task('t');
SELECT trem.remove_table('t', 'app.of_another');
SELECT trem.start_task('t');
SELECT trem.preview('t', 'app.t');
SELECT task, state, phase FROM trem.task_status;

SET SESSION AUTHORIZATION regress_applier;
SELECT name, state, target->>'password' AS password FROM trem.applier_tasks();
SELECT trem.applier_endpoint('src')->>'role' AS role;
SELECT trem.applier_endpoint('dst')->>'role' AS role;
SELECT trem.applier_definition('t')->>'task' AS task;
SELECT * FROM trem.applier_check('t');
SELECT trem.applier_report('t', '{"phase": "full_load", "applied_lsn": "0/10", "tables": null}');
SELECT trem.applier_report('t', jsonb_build_object('phase', 'failed', 'last_error', 'it broke',
    'tables', jsonb_build_array(jsonb_build_object('rows_loaded', 1, 'state', 'live', 'oid', d->'oid'))))
FROM jsonb_array_elements(trem.applier_definition('t')->'tables') AS d;
SELECT trem.applier_definition('nope');
SELECT * FROM app.t;
SELECT trem.create_task('mine', 'src', 'dst', '{app.t}');
SELECT * FROM trem.endpoint;
DO $$
DECLARE
    shown jsonb;
BEGIN
    EXECUTE format('SELECT to_jsonb(v) - ''trem_ctid'' FROM trem_read.%I AS v',
                   trem.applier_definition('t')->'tables'->0->'leaves'->0->>'view') INTO shown;
    RAISE WARNING 'through the view: %', shown;
END $$;

RESET SESSION AUTHORIZATION;
SELECT task, phase, applied_lsn, last_error, tables, tables_live, rows_loaded FROM trem.task_status;
SELECT task, table_name, target_table, state, rows_loaded FROM trem.table_status;
-- Somebody who can reach the functions and serves nothing.
GRANT USAGE ON SCHEMA trem TO regress_nobody;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA trem TO regress_nobody;
SET SESSION AUTHORIZATION regress_nobody;
SELECT count(*) FROM trem.applier_tasks();
SELECT trem.applier_definition('t');
SELECT trem.applier_endpoint('dst');
SELECT trem.applier_report('t', '{"phase": "cdc"}');
RESET SESSION AUTHORIZATION;
-- What expressions may call; trem.pseudonym answers to nobody else.
SELECT p.oid::regprocedure AS open_to_public
FROM pg_proc AS p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS acl
WHERE p.pronamespace = 'trem'::regnamespace AND acl.grantee = 0 ORDER BY p.proname COLLATE "C";
SELECT proname FROM pg_proc WHERE pronamespace = 'trem'::regnamespace AND prosecdef;

SELECT trem.stop_task('t'), trem.drop_task('t');
SELECT trem.drop_endpoint('src'), trem.drop_endpoint('dst');
DROP OWNED BY regress_operator, regress_applier, regress_nobody CASCADE;
DROP ROLE regress_operator, regress_applier, regress_nobody;
