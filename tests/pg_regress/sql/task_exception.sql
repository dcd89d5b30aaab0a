-- Rows that could not be computed: reported by the applier, once; and the keys of pseudonyms, which
-- nobody sees.
SET client_min_messages = error;
CREATE ROLE trem_x_operator LOGIN;
CREATE ROLE trem_x_applier LOGIN REPLICATION;
CREATE ROLE trem_x_nobody LOGIN;
GRANT USAGE ON SCHEMA trem TO trem_x_nobody;
CREATE SCHEMA app;
CREATE TABLE app.t (id int PRIMARY KEY, n text);
SELECT trem.grant_operator('trem_x_operator');
-- Whose tasks an operator defines, it sees.
ALTER TABLE app.t OWNER TO trem_x_operator;
GRANT USAGE ON SCHEMA app TO trem_x_operator;
SET SESSION AUTHORIZATION trem_x_operator;
SELECT trem.create_endpoint('src', 'source', username => 'trem_x_applier');
SELECT trem.create_endpoint('dst', 'target', dbname => 'x');
SELECT trem.create_task('t', 'src', 'dst', '{app.t}', options => '{"on_error": "skip_row"}') IS NOT NULL AS made;
SELECT trem.change_type('t', 'app.t', 'n', 'int') AS id \gset
SELECT trem.start_task('t');
RESET SESSION AUTHORIZATION;
SELECT jsonb_build_array(
    jsonb_build_object('table', 'app.t', 'operation', 'insert', 'rule_id', :id, 'sqlstate', '22P02',
                       'commit_lsn', '0/10', 'key', '(1)'),
    jsonb_build_object('table', 'app.t', 'operation', 'load', 'rule_id', :id, 'sqlstate', '22P02',
                       'commit_lsn', NULL, 'key', '(2)')) AS reported \gset
SET SESSION AUTHORIZATION trem_x_applier;
SELECT trem.applier_exception('t', :'reported');
SELECT trem.applier_exception('t', :'reported');
SELECT trem.applier_exception('t', '[]');
SELECT trem.applier_exception('nope', '[]');
SELECT * FROM trem.exception;
SELECT * FROM trem.exception_report;
SELECT * FROM trem.mask_key;
SELECT trem.make_mask_key('mine');
SET SESSION AUTHORIZATION trem_x_nobody;
SELECT trem.applier_exception('t', '[]');
RESET SESSION AUTHORIZATION;
SET ROLE trem_x_operator;
SELECT task, table_name, operation, key, sqlstate, rule_id = :id AS rule_is_known, rule, column_name, commit_lsn
FROM trem.exception ORDER BY key;
SELECT trem.make_mask_key('customers');
SELECT trem.make_mask_key('customers');
SELECT * FROM trem.mask_key;
UPDATE trem.mask_key SET key = '';
RESET ROLE;
SELECT name, length(key) FROM trem.mask_key WHERE name = 'customers';
DELETE FROM trem.mask_key WHERE name = 'customers';
-- What a view computes, its reader need not be able to read.
INSERT INTO app.t VALUES (1, '12');
SELECT format('SELECT * FROM trem_read.%I', d->'leaves'->0->>'view') AS read
FROM trem.definition, jsonb_array_elements(content->'tables') AS d \gset
SET SESSION AUTHORIZATION trem_x_applier;
:read;
SELECT * FROM app.t;
RESET SESSION AUTHORIZATION;
SELECT trem.stop_task('t'), trem.drop_task('t');
SELECT count(*) FROM trem.exception;
SELECT trem.drop_endpoint('src'), trem.drop_endpoint('dst');
DROP SCHEMA app CASCADE;
DROP OWNED BY trem_x_operator, trem_x_applier, trem_x_nobody;
DROP ROLE trem_x_operator, trem_x_applier, trem_x_nobody;
