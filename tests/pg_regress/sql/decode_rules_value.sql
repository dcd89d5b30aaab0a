-- Columns that rules compute while decoding: values, types, keys, masks, what is told of the change.
SET client_min_messages = error;
\set SHOW_CONTEXT never
CREATE SCHEMA decode_value;
-- Errors name rules.
SELECT setval('trem.rule_id_seq', 7000);
SET search_path = decode_value;
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TABLE people (
    id int PRIMARY KEY, email text, born timestamptz, salary numeric(10,2), n int, secret text,
    mood mood, tags text[], js jsonb
);
CREATE TABLE keyed (a int, b text, c text, PRIMARY KEY (a, b));
CREATE TABLE keyless (a int, b text);
ALTER TABLE keyless REPLICA IDENTITY FULL;
SELECT trem.create_endpoint('decode_source', 'source', dbname => current_database(),
    username => current_user);
SELECT trem.create_endpoint('decode_target', 'target', dbname => 'elsewhere');
SELECT trem.create_task('decode_value', 'decode_source', 'decode_target',
    ARRAY['decode_value.*'], mode => 'cdc') IS NOT NULL AS created;
CREATE FUNCTION rules(relation text, VARIADIC list text[]) RETURNS bigint LANGUAGE sql AS $$
SELECT count(CASE kind WHEN 'value' THEN trem.set_value('decode_value', relation, r[2], r[3])
                       WHEN 'type' THEN trem.change_type('decode_value', relation, r[2], r[3])
                       ELSE trem.add_column('decode_value', relation, r[2], r[3], r[4]) END)
FROM unnest(list) AS one, string_to_array(one, '|') AS r, LATERAL (SELECT r[1] AS kind) AS k
$$;
SELECT rules('decode_value.people',
    'value|email|trem.mask_email(email)',
    'value|salary|round(salary, -2)',
    'type|n|text',
    'type|id|bigint',
    'value|mood|CASE WHEN n > 5 THEN ''bad'' ELSE mood END',
    'add|day|date|born',
    'add|label|text|concat_ws('' '', ''Nr'', id, born, upper(secret))',
    'add|pair|jsonb|jsonb_build_object(''n'', n, ''born'', born)',
    'add|more|text[]|array_append(tags, ''x'')',
    'add|short|varchar(3)|secret',
    'add|checked|decode_value.positive|n',
    'add|phone|text|trem.mask_number(secret) || trem.mask_partial(secret, 1, 1)',
    'add|what|text|trem.operation()',
    'add|said|boolean|trem.commit_lsn() > ''0/0'' AND trem.commit_timestamp() > ''2000-01-01''',
    'add|nothing|interval|NULL');
SELECT trem.exclude_column('decode_value', 'decode_value.people', 'secret') > 0 AS made;
SELECT trem.rename_column('decode_value', 'decode_value.people', 'n', 'n as text') > 0 AS made;
SELECT rules('decode_value.keyed', 'value|b|trem.pseudonym(b, ''decode'')', 'type|a|numeric',
    'value|a|-a', 'add|d|text|c || a');
SELECT rules('decode_value.keyless', 'value|b|upper(b)');
SELECT trem.start_task('decode_value');
SELECT slot_name FROM pg_create_logical_replication_slot('trem_decode_value', 'trem');
CREATE VIEW shown AS
SELECT operation, table_name, data FROM trem.peek_changes('decode_value')
WHERE operation NOT IN ('begin', 'commit');
CREATE PROCEDURE done() LANGUAGE sql AS
$$SELECT pg_replication_slot_advance('trem_decode_value', pg_current_wal_lsn())$$;
-- The stream does not depend on the session's settings.
SET timezone = 'Asia/Tokyo';
SET datestyle = 'German';

INSERT INTO people VALUES (1, 'ann@example.com', '2024-05-06 23:30+00', 1234.56, 3, 'Ab12', 'good', '{a}', '{}');
UPDATE people SET n = 7;
UPDATE people SET id = 2, email = NULL;
DELETE FROM people;
SELECT * FROM shown;
CALL done();

-- The key on the target is the computed one, of old rows too.
INSERT INTO keyed VALUES (1, 'x', 'c');
UPDATE keyed SET c = 'd';
UPDATE keyed SET b = 'y';
DELETE FROM keyed;
SELECT operation, table_name,
    replace(replace(data::text, trem.pseudonym('x', 'decode'), 'pseudonym of x'),
        trem.pseudonym('y', 'decode'), 'pseudonym of y') AS data
FROM shown;
SELECT DISTINCT length(trem.pseudonym(v, 'decode')), trem.pseudonym('x', 'decode') <> trem.pseudonym('y', 'decode') AS differ
FROM unnest(ARRAY['', 'x', repeat('y', 1000)]) AS v;
CALL done();

-- Without a key whole rows are as the target has them.
INSERT INTO keyless VALUES (1, 'a'), (NULL, NULL);
UPDATE keyless SET b = 'b' WHERE a = 1;
DELETE FROM keyless;
SELECT * FROM shown WHERE operation <> 'relation';
CALL done();

-- Outside of decoding.
SELECT trem.operation(), trem.commit_lsn(), trem.commit_timestamp();
SELECT trem.mask_email('nobody'), trem.mask_partial('abc', 1, 5), trem.mask_number('+41 (0)79-1.5');
SELECT trem.mask_partial('abc', -1, 5);
SELECT trem.pseudonym('x', 'no such key');

-- What an expression reads changes in the table. The views of the task would forbid the most of it.
DO $$
DECLARE
    shown regclass;
BEGIN
    FOR shown IN SELECT oid FROM pg_class WHERE relnamespace = 'trem_read'::regnamespace LOOP
        EXECUTE format('DROP VIEW %s', shown);
    END LOOP;
END
$$;
INSERT INTO keyless VALUES (5, 'before');
ALTER TABLE people RENAME born TO birthday;
SELECT * FROM shown WHERE operation <> 'relation';
INSERT INTO people VALUES (3, 'cy@example.com', '2024-05-06', 1, 3, 's', NULL, NULL, NULL);
SELECT * FROM shown WHERE operation <> 'relation';
ALTER TABLE people RENAME birthday TO born;
SELECT * FROM shown WHERE operation <> 'relation';
CALL done();
INSERT INTO people VALUES (4, 'cy@example.com', '2024-05-06', 1, 3, 's', NULL, NULL, NULL);
ALTER TABLE people ALTER n TYPE bigint;
SELECT * FROM shown;
CALL done();
ALTER TABLE people DROP secret;
INSERT INTO people VALUES (5, 'cy@example.com', '2024-05-06', 1, 3, NULL, NULL, NULL);
SELECT * FROM shown;

SELECT pg_drop_replication_slot('trem_decode_value');
SELECT trem.stop_task('decode_value');
SELECT trem.drop_task('decode_value');
SELECT trem.drop_endpoint('decode_source'), trem.drop_endpoint('decode_target');
DROP SCHEMA decode_value CASCADE;
