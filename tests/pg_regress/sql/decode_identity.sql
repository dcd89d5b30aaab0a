-- How a changed row is found again: the key of each replica identity.
SET client_min_messages = error;
\set SHOW_CONTEXT never
CREATE SCHEMA decode_identity;
SET search_path = decode_identity;
CREATE TABLE by_index (a int NOT NULL, b text NOT NULL, c int, d text);
CREATE UNIQUE INDEX by_index_b_a ON by_index (b, a) INCLUDE (c);
ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_b_a;
CREATE TABLE full_with_key (id int PRIMARY KEY, name text, big text);
ALTER TABLE full_with_key ALTER big SET STORAGE EXTERNAL;
ALTER TABLE full_with_key REPLICA IDENTITY FULL;
CREATE TABLE full_without (id int, name text, big text);
ALTER TABLE full_without ALTER big SET STORAGE EXTERNAL;
ALTER TABLE full_without REPLICA IDENTITY FULL;
CREATE TABLE large_key (id text PRIMARY KEY, n int);
ALTER TABLE large_key ALTER id SET STORAGE EXTERNAL;
CREATE TABLE no_key (id int);
CREATE TABLE nothing (id int PRIMARY KEY);
ALTER TABLE nothing REPLICA IDENTITY NOTHING;
SELECT trem.create_endpoint('decode_source', 'source', dbname => current_database(),
    username => current_user);
SELECT trem.create_endpoint('decode_target', 'target', dbname => 'elsewhere');
SELECT trem.create_task('decode_identity', 'decode_source', 'decode_target',
    ARRAY['decode_identity.*'], mode => 'cdc') IS NOT NULL AS created;
SELECT trem.start_task('decode_identity');
SELECT slot_name FROM pg_create_logical_replication_slot('trem_decode_identity', 'trem');
CREATE VIEW shown AS
SELECT operation, table_name, 
    replace(replace(data::text, repeat('x', 2100), '2100 times x'), repeat('k', 2100), '2100 times k') AS data
FROM trem.peek_changes('decode_identity') WHERE operation NOT IN ('begin', 'commit', 'relation');
CREATE PROCEDURE done() LANGUAGE sql AS
$$SELECT pg_replication_slot_advance('trem_decode_identity', pg_current_wal_lsn())$$;

INSERT INTO by_index VALUES (1, 'x', 3, 'd');
UPDATE by_index SET d = 'e';
UPDATE by_index SET a = 2;
DELETE FROM by_index;
SELECT * FROM shown;
CALL done();

-- FULL with a key: the old key only where it changed; what is not in the WAL of the new row is in
-- the old one.
INSERT INTO full_with_key VALUES (1, 'a', repeat('x', 2100));
UPDATE full_with_key SET name = 'b';
UPDATE full_with_key SET id = 5;
DELETE FROM full_with_key;
SELECT * FROM shown;
CALL done();

-- FULL without a key: whole rows.
INSERT INTO full_without VALUES (1, 'a', repeat('x', 2100)), (NULL, NULL, NULL);
UPDATE full_without SET name = 'b';
DELETE FROM full_without;
SELECT * FROM shown;
CALL done();

-- A key that is itself TOASTed.
INSERT INTO large_key VALUES (repeat('k', 2100), 1);
UPDATE large_key SET n = 2;
UPDATE large_key SET id = 'short';
SELECT * FROM shown;
CALL done();

-- Without a key there are inserts, and an update or delete stops the stream.
INSERT INTO no_key VALUES (1);
INSERT INTO nothing VALUES (1);
SELECT * FROM shown;
UPDATE no_key SET id = 2;
SELECT * FROM shown;
CALL done();
DELETE FROM nothing;
SELECT * FROM shown;
CALL done();

-- A key that goes away or changes while the stream runs.
INSERT INTO large_key VALUES ('a', 1);
ALTER TABLE large_key DROP CONSTRAINT large_key_pkey;
DELETE FROM large_key;
SELECT * FROM shown;
CALL done();
INSERT INTO large_key VALUES ('b', 1);
SELECT * FROM shown;
CALL done();
ALTER TABLE large_key ADD PRIMARY KEY (n);
INSERT INTO large_key VALUES ('c', 2);
SELECT * FROM shown;

SELECT pg_drop_replication_slot('trem_decode_identity');
SELECT trem.stop_task('decode_identity');
SELECT trem.drop_task('decode_identity');
SELECT trem.drop_endpoint('decode_source'), trem.drop_endpoint('decode_target');
DROP SCHEMA decode_identity CASCADE;
