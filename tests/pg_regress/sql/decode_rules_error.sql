-- Expressions that fail on a row: error rows, with the key that the target has, and never a value.
SET client_min_messages = error;
\set SHOW_CONTEXT never
CREATE SCHEMA decode_error;
SET search_path = decode_error;
CREATE DOMAIN small AS int CHECK (VALUE < 100);
CREATE TABLE plain (id int PRIMARY KEY, a text, n int);
CREATE TABLE filtered (id int PRIMARY KEY, a text, n int);
CREATE TABLE keyed (id text PRIMARY KEY, n int);
CREATE TABLE keyless (a text, n int);
ALTER TABLE keyless REPLICA IDENTITY FULL;
CREATE TABLE full_key (id int PRIMARY KEY, a text, n int);
ALTER TABLE full_key REPLICA IDENTITY FULL;
SELECT trem.create_endpoint('decode_source', 'source', dbname => current_database(),
    username => current_user);
SELECT trem.create_endpoint('decode_target', 'target', dbname => 'elsewhere');
SELECT trem.create_task('decode_error', 'decode_source', 'decode_target',
    ARRAY['decode_error.*'], mode => 'cdc') IS NOT NULL AS created;
SELECT trem.change_type('decode_error', 'decode_error.plain', 'a', 'int') > 0 AS made;
SELECT trem.add_column('decode_error', 'decode_error.plain', 'd', 'numeric', '1.0 / n') > 0 AS made;
SELECT trem.add_column('decode_error', 'decode_error.plain', 's', 'decode_error.small', 'n') > 0 AS made;
SELECT trem.add_column('decode_error', 'decode_error.plain', 'l', 'text', 'repeat(''xxxxxxxxxx'', n * 1000000)') > 0 AS made;
SELECT trem.set_filter('decode_error', 'decode_error.filtered', '10 / n > 0 AND a::int > 0') > 0 AS made;
SELECT trem.change_type('decode_error', 'decode_error.keyed', 'id', 'int', 'nullif(id, ''no'')::int') > 0 AS made;
SELECT trem.set_value('decode_error', 'decode_error.keyless', 'a', 'a::int::text') > 0 AS made;
SELECT trem.set_filter('decode_error', 'decode_error.full_key', 'a::int > 0') > 0 AS made;
SELECT trem.start_task('decode_error');
SELECT slot_name FROM pg_create_logical_replication_slot('trem_decode_error', 'trem');
CREATE VIEW shown AS
SELECT operation, table_name,
    regexp_replace(replace(data::text, repeat('x', 1000), 'x'), '"rule_id": \d+', '"rule_id": n') AS data
FROM trem.peek_changes('decode_error') WHERE operation NOT IN ('begin', 'commit', 'relation');
CREATE PROCEDURE done() LANGUAGE sql AS
$$SELECT pg_replication_slot_advance('trem_decode_error', pg_current_wal_lsn())$$;

INSERT INTO plain VALUES (1, '7', 1), (2, 'secret', 1), (3, '8', 0), (4, '99999999999', 1), (5, '9', 101), (6, NULL, NULL), (7, '1', -1);
UPDATE plain SET a = 'hidden' WHERE id = 1;
UPDATE plain SET id = 10 WHERE id = 2;
UPDATE plain SET a = '11' WHERE id = 10;
DELETE FROM plain;
SELECT operation, table_name, left(data, 120) FROM shown;
CALL done();

INSERT INTO filtered VALUES (1, '1', 0), (2, 'x', 2), (3, '1', 100), (4, '3', 3);
UPDATE filtered SET n = 0 WHERE id = 4;
DELETE FROM filtered;
SELECT * FROM shown;
CALL done();

INSERT INTO keyed VALUES ('1', 1), ('x', 1), ('no', 1);
UPDATE keyed SET n = 2;
UPDATE keyed SET id = '3' WHERE id = 'x';
UPDATE keyed SET id = 'y' WHERE id = '1';
DELETE FROM keyed;
SELECT * FROM shown;
CALL done();

INSERT INTO keyless VALUES ('1', 1), ('x', 1);
UPDATE keyless SET a = 'y' WHERE a = '1';
DELETE FROM keyless;
SELECT * FROM shown;
CALL done();

-- Of the old row a filter that fails says nothing.
INSERT INTO full_key VALUES (1, 'x', 1), (2, '-1', 1), (3, '3', 1);
UPDATE full_key SET a = '5' WHERE id = 1;
UPDATE full_key SET a = 'x' WHERE id = 2;
UPDATE full_key SET n = 2;
DELETE FROM full_key;
SELECT * FROM shown;

-- The same of what a table has, for a load: a frame of the relation (R), an error row (E) for
-- each row that fails and inserts (I) between them; no value of a row that fails.
INSERT INTO plain VALUES (1, '7', 1), (2, 'secret', 1), (3, '8', 0), (4, '9', 1);
SELECT definition_version AS version FROM trem.task WHERE name = 'decode_error' \gset
SELECT substr(frame, 2, 1) AS first, position('secret'::bytea IN frame) AS leak,
    position('22P02'::bytea IN frame) > 0 AND position('22012'::bytea IN frame) > 0 AS both_errors
FROM trem.applier_rows('decode_error', :version, 'plain'::regclass) AS frame;
SELECT count(*) FROM trem.applier_rows('decode_error', :version, 'keyless'::regclass);
SELECT trem.applier_rows('decode_error', :version, 'pg_class'::regclass);
-- Only by the rules that are current.
SELECT trem.applier_rows('decode_error', :version - 1, 'plain'::regclass);

SELECT pg_drop_replication_slot('trem_decode_error');
SELECT trem.stop_task('decode_error');
SELECT trem.drop_task('decode_error');
SELECT trem.drop_endpoint('decode_source'), trem.drop_endpoint('decode_target');
DROP SCHEMA decode_error CASCADE;
