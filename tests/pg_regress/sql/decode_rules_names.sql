-- Rules are bound to columns, not to what has their names later: columns that swap their names are
-- masked and filtered as before, in an ordinary table and in a partition with numbers of its own.
SET client_min_messages = error;
\set SHOW_CONTEXT never
CREATE SCHEMA decode_names;
SET search_path = decode_names;
CREATE TABLE plain (id int PRIMARY KEY, note text, secret text, v int);
CREATE TABLE parts (id int, note text, secret text, v int, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE parts_1 (v int, gone int, secret text, note text, id int NOT NULL);
ALTER TABLE parts_1 DROP gone;
ALTER TABLE parts ATTACH PARTITION parts_1 FOR VALUES FROM (0) TO (100);
SELECT trem.create_endpoint('decode_source', 'source', dbname => current_database(),
    username => current_user);
SELECT trem.create_endpoint('decode_target', 'target', dbname => 'elsewhere');
SELECT trem.create_task('decode_names', 'decode_source', 'decode_target', '{decode_names.*}')
    IS NOT NULL AS created;
DO $$
DECLARE
    relation text;
BEGIN
    FOREACH relation IN ARRAY ARRAY['plain', 'parts'] LOOP
        relation := 'decode_names.' || relation;
        PERFORM trem.set_value('decode_names', relation, 'secret', 'mask_partial(secret, 1, 0)');
        PERFORM trem.add_column('decode_names', relation, 'label', 'text', 'upper(note) || v');
        PERFORM trem.set_filter('decode_names', relation, 'v::text > ''5''');
    END LOOP;
END
$$;
SELECT trem.start_task('decode_names');
SELECT slot_name FROM pg_create_logical_replication_slot('trem_decode_names', 'trem');
CREATE VIEW shown AS
SELECT operation, table_name, data
FROM trem.peek_changes('decode_names') WHERE operation NOT IN ('begin', 'commit', 'relation');

INSERT INTO plain VALUES (1, 'note', 'raw', 6), (2, 'note', 'raw', 5);
INSERT INTO parts VALUES (1, 'note', 'raw', 6), (2, 'note', 'raw', 5);
DO $$
DECLARE
    relation text;
BEGIN
    FOREACH relation IN ARRAY ARRAY['plain', 'parts'] LOOP
        EXECUTE format('ALTER TABLE %s RENAME secret TO x', relation);
        EXECUTE format('ALTER TABLE %s RENAME note TO secret', relation);
        EXECUTE format('ALTER TABLE %s RENAME x TO note', relation);
    END LOOP;
END
$$;
INSERT INTO plain (id, secret, note, v) VALUES (3, 'note', 'raw', 7);
INSERT INTO parts (id, secret, note, v) VALUES (3, 'note', 'raw', 7);
SELECT * FROM shown;
-- The views too.
SELECT max(format('trem_read.%I', leaf->>'view')) FILTER (WHERE leaf->>'name' = 'plain') AS plain_view,
    max(format('trem_read.%I', leaf->>'view')) FILTER (WHERE leaf->>'name' = 'parts_1') AS parts_view
FROM trem.definition, jsonb_path_query(content, '$.tables[*].leaves[*]') AS leaf \gset
TABLE :plain_view;
TABLE :parts_view;

-- What the rules mean now, only their author knows.
SELECT table_name, regexp_replace(message, 'rule \d+', 'rule N') AS message FROM trem.check_task('decode_names')
WHERE severity = 'error';

SELECT pg_drop_replication_slot('trem_decode_names');
SELECT trem.stop_task('decode_names');
SELECT trem.drop_task('decode_names');
SELECT trem.drop_endpoint('decode_source'), trem.drop_endpoint('decode_target');
DROP SCHEMA decode_names CASCADE;
