-- Columns and names: dropped, generated, identity, renamed, left out; quoted and non-ASCII names;
-- partitions under their root's name.
SET client_min_messages = error;
\set SHOW_CONTEXT never
CREATE SCHEMA "Ordem de Serviço";
SET search_path = "Ordem de Serviço";
CREATE TABLE "it's" (gone int, id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "Nome ""x""" text,
    doubled int GENERATED ALWAYS AS (length("Nome ""x""") * 2) STORED, secret text, old_name int);
ALTER TABLE "it's" DROP gone;
ALTER TABLE "it's" ADD later int DEFAULT 7;
CREATE TABLE root (id int, k int, t text, PRIMARY KEY (id, k)) PARTITION BY RANGE (k);
CREATE TABLE leaf_a PARTITION OF root FOR VALUES FROM (0) TO (10);
-- Its columns are in another order, with a dropped one among them.
CREATE TABLE leaf_b (t text, junk int, k int NOT NULL, id int NOT NULL);
ALTER TABLE leaf_b DROP junk, ADD PRIMARY KEY (id, k);
ALTER TABLE root ATTACH PARTITION leaf_b FOR VALUES FROM (10) TO (20);
CREATE TABLE middle PARTITION OF root FOR VALUES FROM (20) TO (40) PARTITION BY RANGE (k);
CREATE TABLE leaf_c PARTITION OF middle FOR VALUES FROM (20) TO (30);
SELECT trem.create_endpoint('decode_source', 'source', dbname => current_database(),
    username => current_user);
SELECT trem.create_endpoint('decode_target', 'target', dbname => 'elsewhere');
SELECT trem.create_task('decode_shape', 'decode_source', 'decode_target',
    ARRAY['"Ordem de Serviço"."it''s"', '"Ordem de Serviço".root'], mode => 'cdc',
    options => '{"ddl": "stop"}') IS NOT NULL AS created;
SELECT trem.exclude_column('decode_shape', '"Ordem de Serviço"."it''s"', 'secret') > 0 AS ok,
       trem.rename_column('decode_shape', '"Ordem de Serviço"."it''s"', 'old_name', 'Neuer Name') > 0 AS ok,
       trem.rename_table('decode_shape', '"Ordem de Serviço"."it''s"', 'its') > 0 AS ok,
       trem.rename_schema('decode_shape', '"Ordem de Serviço".*', 'work') > 0 AS ok;
SELECT trem.start_task('decode_shape');
SELECT slot_name FROM pg_create_logical_replication_slot('trem_decode_shape', 'trem');
CREATE VIEW shown AS
SELECT operation, table_name, data FROM trem.peek_changes('decode_shape')
WHERE operation NOT IN ('begin', 'commit');
CREATE PROCEDURE done() LANGUAGE sql AS
$$SELECT pg_replication_slot_advance('trem_decode_shape', pg_current_wal_lsn())$$;

INSERT INTO "it's" ("Nome ""x""", secret, old_name) VALUES ('ã', 'hush', 1);
UPDATE "it's" SET old_name = 2;
SELECT * FROM shown;
CALL done();

INSERT INTO root VALUES (1, 1, 'a'), (2, 11, 'b'), (3, 21, 'c');
-- To another partition, and within one.
UPDATE root SET k = 12 WHERE id = 1;
UPDATE root SET t = 'z' WHERE id = 3;
DELETE FROM root WHERE id = 2;
TRUNCATE root;
SELECT * FROM shown;
CALL done();
TRUNCATE leaf_a;
SELECT * FROM shown;
CALL done();
CREATE TABLE leaf_d PARTITION OF root FOR VALUES FROM (50) TO (60);
INSERT INTO root VALUES (5, 55, 'new');
SELECT * FROM shown;
CALL done();
ALTER TABLE root DETACH PARTITION leaf_a;
INSERT INTO leaf_a VALUES (1, 1, 'alone');
SELECT * FROM shown;

SELECT pg_drop_replication_slot('trem_decode_shape');
SELECT trem.stop_task('decode_shape');
SELECT trem.drop_task('decode_shape');
SELECT trem.drop_endpoint('decode_source'), trem.drop_endpoint('decode_target');
DROP SCHEMA "Ordem de Serviço" CASCADE;
