-- DDL on a task's table: the stream stops at the first row that looks different, and goes on from
-- there once the change is published.
SET client_min_messages = error;
\set SHOW_CONTEXT never
CREATE SCHEMA decode_ddl;
SET search_path = decode_ddl;
CREATE TABLE t (id int PRIMARY KEY, a int, b text);
SELECT trem.create_endpoint('decode_source', 'source', dbname => current_database(),
    username => current_user);
SELECT trem.create_endpoint('decode_target', 'target', dbname => 'elsewhere');
SELECT trem.create_task('decode_ddl', 'decode_source', 'decode_target', ARRAY['decode_ddl.t'],
    mode => 'cdc') IS NOT NULL AS created;
INSERT INTO t VALUES (0, 0, 'before the publish');
SELECT slot_name FROM pg_create_logical_replication_slot('trem_decode_ddl', 'trem');
INSERT INTO t VALUES (1, 1, 'before the publish');
SELECT trem.start_task('decode_ddl');
CREATE VIEW shown AS
SELECT operation, table_name, data FROM trem.peek_changes('decode_ddl')
WHERE operation NOT IN ('begin', 'commit');
CREATE PROCEDURE done() LANGUAGE sql AS
$$SELECT pg_replication_slot_advance('trem_decode_ddl', pg_current_wal_lsn())$$;

-- What committed before the publish is not of the task.
SELECT * FROM shown;

-- A column that is added. Once published, rows from before do not have it.
INSERT INTO t VALUES (2, 2, 'two');
ALTER TABLE t ADD c int DEFAULT 5;
INSERT INTO t VALUES (3, 3, 'three', 33);
SELECT * FROM shown;
SELECT trem.start_task('decode_ddl');
SELECT * FROM shown;
CALL done();

-- A rename; published while the old name is still to be decoded.
INSERT INTO t VALUES (4, 4, 'four');
ALTER TABLE t RENAME b TO beta;
INSERT INTO t VALUES (5, 5, 'five');
SELECT * FROM shown;
SELECT trem.start_task('decode_ddl');
SELECT * FROM shown;
CALL done();

-- A dropped column, in the middle of a transaction.
BEGIN;
INSERT INTO t VALUES (6, 6, 'six', 66);
ALTER TABLE t DROP c;
INSERT INTO t VALUES (7, 7, 'seven');
COMMIT;
SELECT * FROM shown;
SELECT trem.start_task('decode_ddl');
SELECT * FROM shown;
CALL done();

-- Another type: what is left of the old one is in the new copy.
INSERT INTO t VALUES (8, 8, 'eight');
ALTER TABLE t ALTER a TYPE bigint;
INSERT INTO t VALUES (9, 9, 'nine');
SELECT * FROM shown;
SELECT trem.reload_table('decode_ddl', 'decode_ddl.t');
SELECT trem.start_task('decode_ddl') > 0 AS published;
INSERT INTO t VALUES (10, 10, 'ten');
SELECT * FROM shown;
CALL done();

-- A task may ignore what it need not follow.
SELECT trem.alter_task('decode_ddl', '{"ddl": "ignore"}');
SELECT trem.start_task('decode_ddl') > 0 AS published;
ALTER TABLE t RENAME beta TO b;
ALTER TABLE t ADD d int;
INSERT INTO t VALUES (11, 11, 'eleven', 1);
SELECT * FROM shown;

SELECT pg_drop_replication_slot('trem_decode_ddl');
SELECT trem.stop_task('decode_ddl');
SELECT trem.drop_task('decode_ddl');
SELECT trem.drop_endpoint('decode_source'), trem.drop_endpoint('decode_target');
DROP SCHEMA decode_ddl CASCADE;
