-- What there is to replicate: schemas, tables with their key and whether they can be replicated,
-- columns, row counts.
SET datestyle = 'ISO, MDY';
CREATE SCHEMA shop;
CREATE SCHEMA "Ordem de Serviço";
CREATE TABLE shop.customer (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    gone text,
    "E-Mail" varchar(80) NOT NULL,
    joined date DEFAULT '2020-01-01',
    initial text GENERATED ALWAYS AS (left("E-Mail", 1)) STORED
);
ALTER TABLE shop.customer DROP COLUMN gone;
CREATE TABLE shop.no_key (a int, b int);
CREATE TABLE shop.full_rows (a int, b int);
ALTER TABLE shop.full_rows REPLICA IDENTITY FULL;
CREATE TABLE shop.by_index (code text NOT NULL, b int);
CREATE UNIQUE INDEX by_code ON shop.by_index (code);
ALTER TABLE shop.by_index REPLICA IDENTITY USING INDEX by_code;
CREATE TABLE shop.deferrable_key (a int PRIMARY KEY DEFERRABLE);
CREATE TABLE shop.nothing (a int PRIMARY KEY);
ALTER TABLE shop.nothing REPLICA IDENTITY NOTHING;
CREATE UNLOGGED TABLE shop.unlogged (a int PRIMARY KEY);
CREATE VIEW shop.a_view AS SELECT 1 AS a;
CREATE MATERIALIZED VIEW shop.a_matview AS SELECT 1 AS a;
CREATE TABLE shop.measurement (at date, value int, PRIMARY KEY (at)) PARTITION BY RANGE (at);
CREATE TABLE shop.measurement_1 PARTITION OF shop.measurement
    FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE TABLE "Ordem de Serviço"."it's" (nº int PRIMARY KEY);
INSERT INTO shop.no_key VALUES (1, 1), (2, 2);
INSERT INTO shop.measurement VALUES ('2020-05-05', 1);

SELECT schema_name, tables FROM trem.list_schemas() WHERE schema_name IN ('shop', 'Ordem de Serviço');
SELECT table_name, kind, key_columns, replica_identity, replicable, reason
FROM trem.list_tables('shop') ORDER BY table_name COLLATE "C";
SELECT schema_name, table_name, key_columns, replicable FROM trem.list_tables('Ordem de Serviço');
SELECT bool_and(bytes > 0) FROM trem.list_tables('shop') WHERE table_name IN ('customer', 'measurement');

SELECT * FROM trem.table_schema('shop.customer');
SELECT column_name, key FROM trem.table_schema('"Ordem de Serviço"."it''s"');
SELECT column_name FROM trem.table_schema('SHOP.No_Key');
SELECT trem.table_schema('shop.nope');
SELECT trem.table_schema('nope');
SELECT trem.table_schema('shop.*');
SELECT trem.table_schema('shop..x');

SELECT * FROM trem.table_counts('shop', exact => true) ORDER BY table_name COLLATE "C";
SELECT row_count FROM trem.table_counts('shop') WHERE table_name = 'no_key';
ANALYZE shop.no_key;
SELECT row_count FROM trem.table_counts('shop') WHERE table_name = 'no_key';

SET client_min_messages = warning;
DROP SCHEMA shop, "Ordem de Serviço" CASCADE;
