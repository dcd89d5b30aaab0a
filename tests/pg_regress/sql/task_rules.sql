-- Rules: renames and excluded columns, what they make of a table, and how they can clash.
SET client_min_messages = warning;
CREATE SCHEMA app;
CREATE SCHEMA crm;
CREATE TABLE app.orders (id int PRIMARY KEY, gone int, amount numeric(10,2), note text);
ALTER TABLE app.orders DROP COLUMN gone;
CREATE TABLE app.lines (order_id int, n int, PRIMARY KEY (order_id, n));
CREATE TABLE crm.orders (id int PRIMARY KEY);
CREATE TABLE crm.other (id int PRIMARY KEY);
SELECT trem.create_endpoint('src', 'source');
SELECT trem.create_endpoint('dst', 'target', dbname => 'x');
SELECT trem.create_task('t', 'src', 'dst', '{app.*, crm.orders}') IS NOT NULL AS made;

SELECT trem.rename_table('nope', 'app.orders', 'x');
SELECT trem.rename_table('t', 'app.nope', 'x');
SELECT trem.rename_table('t', 'crm.other', 'x');
SELECT trem.rename_table('t', 'app.*', 'x');
SELECT trem.rename_table('t', 'app.orders', '');
SELECT trem.rename_table('t', 'app.orders', repeat('é', 32));
SELECT trem.rename_column('t', 'app.orders', 'nope', 'x');
SELECT trem.rename_column('t', 'app.orders', 'note', 'ctid');
SELECT trem.exclude_column('t', 'app.orders', 'nope');
SELECT trem.exclude_column('t', 'app.lines', 'n');
SELECT trem.rename_schema('t', 'nope.*', 'x');
SELECT trem.drop_transformation(0);
SELECT count(*) FROM trem.rule;

SELECT trem.rename_schema('t', 'app.*', 'Depósito') > 0 AS made;
SELECT trem.rename_table('t', 'app.orders', 'it''s') > 0 AS made;
SELECT trem.rename_column('t', 'app.orders', 'amount', 'Valor "R$"') > 0 AS made;
SELECT trem.exclude_column('t', 'app.orders', 'note') > 0 AS made;
SELECT trem.rename_schema('t', 'app.lines', 'elsewhere') > 0 AS made;
SELECT kind, table_name, column_name, arguments FROM trem.transformation ORDER BY id;
SELECT source_table, target_table, select_statement, create_statements FROM trem.explain_task('t');
INSERT INTO app.orders VALUES (1, 12345678.90, 'secret');
SELECT trem.preview('t', 'app.orders');
SELECT trem.preview('t', 'app.orders', 0);

-- The same rule again replaces the first.
SELECT trem.rename_table('t', 'app.orders', 'orders') > 0 AS made;
SELECT arguments FROM trem.transformation WHERE kind = 'rename_table';

-- Clashes.
SELECT trem.rename_schema('t', 'crm.*', 'Depósito') > 0 AS made;
SELECT trem.rename_column('t', 'app.orders', 'amount', 'id') > 0 AS made;
SELECT trem.rename_schema('t', 'app.lines', 'pg_lines') > 0 AS made;
SELECT trem.rename_schema('t', 'app.lines', 'trem_read') > 0 AS made;
SELECT trem.rename_schema('t', 'app.*', 'information_schema') > 0 AS made;
SELECT trem.rename_schema('t', 'app.lines', '') > 0 AS made;
SELECT severity, table_name, check_name, message, hint FROM trem.check_task('t')
WHERE severity = 'error' ORDER BY table_name, check_name;
SELECT trem.drop_transformation(id) FROM trem.transformation
WHERE kind = 'rename_schema' AND table_name = 'app.lines' OR kind = 'rename_column';
SELECT severity, table_name, check_name, message FROM trem.check_task('t') WHERE severity = 'error';
SELECT trem.rename_table('t', 'crm.orders', 'crm_orders') > 0 AS made;
SELECT severity, table_name, check_name, message FROM trem.check_task('t') WHERE severity = 'error';
SELECT source_table, target_table FROM trem.explain_task('t');

-- Two tables from different schemas that meet in one: their indexes may not share a name.
SELECT regexp_replace(statement, '_\d+"', '_<oid>"') AS statement
FROM trem.explain_task('t'), unnest(create_statements) AS statement WHERE statement LIKE 'ALTER%';

-- A rule outlives neither its table nor its column silently.
ALTER TABLE app.orders DROP COLUMN note;
SELECT table_name, check_name, regexp_replace(message, '\d+', 'N') AS message
FROM trem.check_task('t') WHERE severity = 'error';
SELECT trem.add_table('t', 'app.lines');
SELECT trem.rename_table('t', 'app.lines', 'l') > 0 AS made;
DROP TABLE app.lines;
SELECT table_name, check_name, regexp_replace(message, '\d+', 'N') AS message,
       regexp_replace(hint, '\d+', 'N') AS hint
FROM trem.check_task('t') WHERE severity = 'error' ORDER BY 1, 2, 3;
SELECT trem.remove_table('t', 'app.lines');
SELECT table_name, check_name FROM trem.check_task('t') WHERE severity = 'error';

SELECT trem.drop_task('t');
SELECT count(*) FROM trem.rule;
SELECT trem.drop_endpoint('src'), trem.drop_endpoint('dst');
DROP SCHEMA app, crm CASCADE;
