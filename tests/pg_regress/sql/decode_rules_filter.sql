-- Filters while decoding: what each change becomes, by replica identity.
SET client_min_messages = error;
\set SHOW_CONTEXT never
CREATE SCHEMA decode_filter;
SET search_path = decode_filter;
CREATE TABLE by_key (id int PRIMARY KEY, n int, t text);
CREATE TABLE by_full (id int PRIMARY KEY, n int, t text);
ALTER TABLE by_full REPLICA IDENTITY FULL;
CREATE TABLE keyless (n int, t text);
ALTER TABLE keyless REPLICA IDENTITY FULL;
CREATE TABLE key_only (id int PRIMARY KEY, t text);
CREATE TABLE parts (id int, n int, t text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE parts_1 (t text, extra int, n int, id int NOT NULL);
ALTER TABLE parts_1 DROP extra;
ALTER TABLE parts ATTACH PARTITION parts_1 FOR VALUES FROM (0) TO (100);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (100) TO (200);
SELECT trem.create_endpoint('decode_source', 'source', dbname => current_database(),
    username => current_user);
SELECT trem.create_endpoint('decode_target', 'target', dbname => 'elsewhere');
SELECT trem.create_task('decode_filter', 'decode_source', 'decode_target',
    ARRAY['decode_filter.*'], mode => 'cdc') IS NOT NULL AS created;
SELECT count(trem.set_filter('decode_filter', 'decode_filter.' || name, 'n > 10'))
FROM unnest(ARRAY['by_key', 'by_full', 'keyless', 'parts']) AS name;
SELECT trem.set_filter('decode_filter', 'decode_filter.key_only', 'id < 100') > 0 AS made;
SELECT trem.start_task('decode_filter');
SELECT slot_name FROM pg_create_logical_replication_slot('trem_decode_filter', 'trem');
CREATE VIEW shown AS
SELECT operation, table_name, data
FROM trem.peek_changes('decode_filter') WHERE operation NOT IN ('begin', 'commit', 'relation');
CREATE PROCEDURE done() LANGUAGE sql AS
$$SELECT pg_replication_slot_advance('trem_decode_filter', pg_current_wal_lsn())$$;

-- A transaction outside of every filter says nothing at all.
INSERT INTO by_key VALUES (1, 10, 'out'), (2, NULL, 'null');
SELECT operation, table_name FROM trem.peek_changes('decode_filter');

-- In, out, in again, staying in, staying out (which the key alone cannot tell), NULL.
CREATE PROCEDURE histories(relation regclass) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('INSERT INTO %s VALUES (3, 11, ''in'')', relation);
    EXECUTE format('UPDATE %s SET n = 5 WHERE id = 3', relation);
    EXECUTE format('UPDATE %s SET t = ''out'' WHERE id = 3', relation);
    EXECUTE format('UPDATE %s SET n = 12 WHERE id = 3', relation);
    EXECUTE format('UPDATE %s SET t = ''stays'' WHERE id = 3', relation);
    EXECUTE format('UPDATE %s SET n = NULL WHERE id = 3', relation);
    EXECUTE format('DELETE FROM %s WHERE id = 3', relation);
    -- The key changes: within, on the way out, outside, on the way in.
    EXECUTE format('INSERT INTO %s VALUES (4, 11, ''in'')', relation);
    EXECUTE format('UPDATE %s SET id = 5 WHERE id = 4', relation);
    EXECUTE format('UPDATE %s SET id = 6, n = 1 WHERE id = 5', relation);
    EXECUTE format('UPDATE %s SET id = 7 WHERE id = 6', relation);
    EXECUTE format('UPDATE %s SET id = 8, n = 20 WHERE id = 7', relation);
    EXECUTE format('DELETE FROM %s WHERE id = 8', relation);
END
$$;
CALL histories('by_key');
SELECT * FROM shown;
CALL done();
INSERT INTO by_full VALUES (1, 10, 'out'), (2, NULL, 'null');
CALL histories('by_full');
SELECT * FROM shown;
CALL done();

-- Without a key: a row that comes in is an insert.
INSERT INTO keyless VALUES (1, 'a'), (11, 'b'), (NULL, 'c');
UPDATE keyless SET n = 12 WHERE t = 'a';
UPDATE keyless SET t = 'd' WHERE t = 'b';
UPDATE keyless SET n = 3 WHERE t = 'd';
DELETE FROM keyless;
SELECT * FROM shown;
CALL done();

-- A filter on the key is known of deleted rows, and of old keys.
INSERT INTO key_only VALUES (1, 'in'), (101, 'out');
UPDATE key_only SET t = 'new';
UPDATE key_only SET id = id + 99 WHERE id = 1;
UPDATE key_only SET id = id - 99 WHERE id = 101;
DELETE FROM key_only;
SELECT * FROM shown;
CALL done();

-- Partitions, one of them with its columns in another order; a row that moves.
INSERT INTO parts VALUES (1, 11, 'a'), (2, 1, 'b'), (101, 12, 'c'), (102, 2, 'd');
UPDATE parts SET n = n + 5;
UPDATE parts SET id = id + 105 WHERE id = 1;
SELECT * FROM shown;
TRUNCATE parts, by_key;
SELECT * FROM shown WHERE operation = 'truncate';

SELECT pg_drop_replication_slot('trem_decode_filter');
SELECT trem.stop_task('decode_filter');
SELECT trem.drop_task('decode_filter');
SELECT trem.drop_endpoint('decode_source'), trem.drop_endpoint('decode_target');
DROP SCHEMA decode_filter CASCADE;
