-- What the output plugin says about inserts, updates, deletes, truncates, messages and transactions.
SET client_min_messages = error;
CREATE SCHEMA decode_changes;
SET search_path = decode_changes;
CREATE TABLE item (id int PRIMARY KEY, name text, big text);
ALTER TABLE item ALTER big SET STORAGE EXTERNAL;
CREATE TABLE part (id int PRIMARY KEY, item int REFERENCES item);
CREATE TABLE foreign_to_the_task (id int PRIMARY KEY);
SELECT trem.create_endpoint('decode_source', 'source', dbname => current_database(),
    username => current_user);
SELECT trem.create_endpoint('decode_target', 'target', dbname => 'elsewhere');
SELECT trem.create_task('decode_changes', 'decode_source', 'decode_target',
    ARRAY['decode_changes.item', 'decode_changes.part'], mode => 'cdc') IS NOT NULL AS created;
SELECT trem.start_task('decode_changes');
SELECT slot_name FROM pg_create_logical_replication_slot('trem_decode_changes', 'trem');

INSERT INTO item VALUES (1, 'one', NULL), (2, 'two', repeat('x', 3000));
-- The large value is not in the WAL of these two.
UPDATE item SET name = 'zwei' WHERE id = 2;
UPDATE item SET id = 3 WHERE id = 2;
UPDATE item SET big = 'small' WHERE id = 3;
DELETE FROM item;
-- Two tables in one transaction, with what is rolled back left out.
BEGIN;
INSERT INTO item VALUES (4, 'four');
SAVEPOINT a;
INSERT INTO item VALUES (5, 'never');
ROLLBACK TO a;
INSERT INTO part VALUES (40, 4);
SAVEPOINT b;
UPDATE item SET name = 'vier' WHERE id = 4;
RELEASE b;
COMMIT;
BEGIN;
INSERT INTO item VALUES (6, 'never');
ROLLBACK;
-- Nothing of this is for the task.
INSERT INTO foreign_to_the_task VALUES (1);
TRUNCATE foreign_to_the_task;
-- A truncate is where it was, with the tables that it took along.
BEGIN;
INSERT INTO part VALUES (41, 4);
TRUNCATE item, foreign_to_the_task RESTART IDENTITY CASCADE;
INSERT INTO item VALUES (7, 'seven');
COMMIT;
-- Of the messages only those that TREM wrote.
BEGIN;
SELECT trem.applier_barrier('decode_changes', '42') IS NOT NULL AS ours,
       pg_logical_emit_message(true, 'trem', 'barrier:decode_changes:43') IS NOT NULL AS forged,
       pg_logical_emit_message(true, 'other', 'x') IS NOT NULL AS other,
       pg_logical_emit_message(false, 'trem', 'x') IS NOT NULL AS outside;
COMMIT;

SELECT operation, table_name, replace(data::text, repeat('x', 3000), '3000 times x') AS data
FROM trem.peek_changes('decode_changes');

-- The transaction is named by its 64-bit id, its changes by the commit.
SELECT count(DISTINCT xid) AS transactions, bool_and(xid < pg_current_xact_id()) AS of_the_past,
       bool_and(lsn <= pg_current_wal_lsn()) AS positions
FROM trem.peek_changes('decode_changes');

-- Frames: one for a small transaction, about 64 KiB each for a large one, packed if wanted.
SELECT pg_replication_slot_advance('trem_decode_changes', pg_current_wal_lsn()) IS NOT NULL AS moved;
INSERT INTO item VALUES (100, 'small');
INSERT INTO item SELECT g, repeat('y', 90) FROM generate_series(1001, 6000) AS g;
SELECT count(*) AS frames, max(length(data)) < 66000 AS bounded, min(get_byte(data, 0)) AS packing
FROM pg_logical_slot_peek_binary_changes('trem_decode_changes', NULL, NULL,
    'task', 'decode_changes', 'definition_version', '1');
SELECT count(*) AS frames, sum(length(data)) < 100000 AS small, min(get_byte(data, 0)) AS packing
FROM pg_logical_slot_peek_binary_changes('trem_decode_changes', NULL, NULL,
    'task', 'decode_changes', 'definition_version', '1', 'compression', 'zstd');
SELECT operation, count(*) FROM trem.peek_changes('decode_changes', NULL, NULL)
GROUP BY 1 ORDER BY 1;
-- Without a limit of one's own 1000 lines.
SELECT count(*) FROM trem.peek_changes('decode_changes');
SELECT operation FROM trem.peek_changes('decode_changes', upto_nchanges => 2);
SELECT operation FROM trem.peek_changes('decode_changes', upto_nchanges => 0);
SELECT trem.applier_barrier('decode_changes', 'no:token');

SELECT pg_drop_replication_slot('trem_decode_changes');
SELECT trem.stop_task('decode_changes');
SELECT trem.drop_task('decode_changes');
SELECT trem.drop_endpoint('decode_source'), trem.drop_endpoint('decode_target');
DROP SCHEMA decode_changes CASCADE;
