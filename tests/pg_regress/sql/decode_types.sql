-- Every built-in type, bit by bit: the rows in the stream are the rows that the types' send functions
-- make. And rows of types that are written as text, under whatever settings.
SET client_min_messages = error;
CREATE SCHEMA decode_types;
SET search_path = decode_types;
CREATE TYPE mood AS ENUM ('sad', 'ok', 'ha ppy');
CREATE DOMAIN positive AS int CHECK (value > 0);
CREATE DOMAIN words AS text;
CREATE TYPE floats AS RANGE (subtype = float8);
CREATE TABLE t (
    id int PRIMARY KEY, t_bool bool, t_int2 int2, t_int4 int4, t_int8 int8, t_float4 float4,
    t_float8 float8, t_numeric numeric, t_numeric_20_5 numeric(20, 5), t_money money, t_text text,
    t_varchar varchar(2000), t_char char(20), t_qchar "char", t_name name, t_bytea bytea, t_json json,
    t_jsonb jsonb, t_jsonpath jsonpath, t_uuid uuid, t_date date, t_time time,
    t_timetz timetz, t_timestamp timestamp, t_timestamptz timestamptz, t_interval interval,
    t_oid oid, t_xid xid, t_xid8 xid8, t_cid cid, t_tid tid, t_lsn pg_lsn, t_bit bit(3),
    t_varbit varbit, t_inet inet, t_cidr cidr, t_macaddr macaddr, t_macaddr8 macaddr8, t_point point,
    t_line line, t_lseg lseg, t_box box, t_path path, t_polygon polygon, t_circle circle,
    t_tsvector tsvector, t_lexemes tsvector, t_txid_snapshot txid_snapshot, t_snapshot pg_snapshot,
    t_ints int[], t_texts text[], t_numerics numeric[], t_timestamptzs timestamptz[],
    t_int4range int4range, t_numrange numrange, t_tstzrange tstzrange, t_daterange daterange,
    t_int4multirange int4multirange, t_nummultirange nummultirange, t_floats floats, t_mood mood,
    t_positive positive, t_words words);
CREATE TYPE pair AS (a int, b text);
CREATE TABLE as_text (id int PRIMARY KEY, t_moods mood[], t_pair pair, t_pairs pair[],
    t_regclass regclass, t_float8 float8, t_bytea bytea, t_timestamptz timestamptz,
    t_interval interval, t_money money, t_date date, t_ints int[], t_int2vector int2vector);
SELECT trem.create_endpoint('decode_source', 'source', dbname => current_database(),
    username => current_user);
SELECT trem.create_endpoint('decode_target', 'target', dbname => 'elsewhere');
SELECT trem.create_task('decode_types', 'decode_source', 'decode_target', ARRAY['decode_types.*'],
    mode => 'cdc') IS NOT NULL AS created;
SELECT trem.start_task('decode_types');
SELECT slot_name FROM pg_create_logical_replication_slot('trem_decode_types', 'trem');

SET timezone = 'UTC';
INSERT INTO t VALUES
(1, true, -32768, -2147483648, -9223372036854775808, 'NaN', 'Infinity', 'NaN', 12345.67891,
 '-12.34', 'héllo', 'v', 'c', 'x', 'naïve', '\x00ff01', '{"a" : 1,  "b":[1,2]}',
 '{"z":1.50,"a":"ü"}', '$.a[*] ? (@ > 1)', '00112233-4455-6677-8899-aabbccddeeff',
 '4713-01-01 BC', '24:00:00', '23:59:59.999999+15:59', '294276-12-31 23:59:59.999999',
 '4713-01-01 00:00:00 BC', '-178000000 years 3 mons -2 days 04:05:06.789', 4294967295, '4294967295',
 '18446744073709551615', '7', '(4294967295,65535)', 'FFFFFFFF/FFFFFFFF', b'101', b'0011010', '::1/64',
 '10.0.0.0/8', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05', '(1.5,-2)', '{1,2,3}', '[(0,0),(1,1)]',
 '(3,4),(1,2)', '[(0,0),(1,1)]', '((0,0),(1,1),(2,0))', '<(1,2),3>', 'a:1A b:2', 'a & !b',
 '10:20:10,14,15', '10:20:10,14,15', '{{1,NULL},{3,4}}', '{}', '{NaN,Infinity,-0.00}',
 '{infinity,-infinity,2020-01-01}', 'empty', '[1.5,)', '[2020-01-01,infinity)', '(,)',
 '{[1,3),[5,9)}', '{}', '[1.5,2.5]', 'ha ppy', 5, 'd'),
(2, false, 32767, 0, 9223372036854775807, '-0', '-0', 'Infinity', 0, '92233720368547758.07', '', '',
 '', '', '', '', 'null', 'null', '$', 'ffffffff-ffff-ffff-ffff-ffffffffffff', 'infinity', '00:00',
 '00:00-15:59', 'infinity', '-infinity', '0', 0, '0', '0', '0', '(0,0)', '0/0', b'000', b'',
 '0.0.0.0', '::/0', '00:00:00:00:00:00', '00:00:00:00:00:00:00:00', '(NaN,Infinity)', '{0,1,0}',
 '[(0,0),(0,0)]', '(0,0),(0,0)', '((0,0))', '((0,0))', '<(0,0),0>', '', '', '1:1:', '1:1:',
 '[5:6]={1,2}', '{NULL,"",a}', '{}', '{}', '[1,10)', 'empty', 'empty', '[2000-01-01,2000-02-02)',
 '{}', '{(,)}', '(,)', 'sad', 1, '');
INSERT INTO t (id) VALUES (3);
-- Compressed, in TOAST, and with the largest and the smallest of numbers.
INSERT INTO t (id, t_text, t_bytea, t_varchar, t_numeric, t_float4, t_float8, t_jsonb) VALUES
(4, repeat('compressible', 3000), decode(repeat('00ff', 30000), 'hex'), repeat('z', 2000),
 ('0.' || repeat('0', 16000) || '123')::numeric, 1e-45, 1e-307,
 jsonb_build_object('a', repeat('b', 10000))),
(5, (SELECT string_agg(md5(g::text), '') FROM generate_series(1, 4000) AS g), NULL, NULL,
 ('-9' || repeat('8', 60000))::numeric, 1e38, 1e308, NULL);
INSERT INTO t (id, t_numeric)
SELECT 100 + g, n FROM unnest(ARRAY[0, 0.0, 0.000, -0.0001, 1, 10000, 9999, 1e4, 1e-4, 1e100, 1e-100,
    -1e1000, 1e-1000, '-Infinity', 1.10, -1.1000, 123456789.123456789]) WITH ORDINALITY AS n (n, g);
INSERT INTO t (id, t_numeric)
SELECT 1000 + g, (g::numeric - 1000) * 10::numeric ^ (g % 41 - 20) FROM generate_series(1, 2000) AS g;

-- The rows as the send functions make them: a field count, then length and bytes of each field.
-- Every one of them is in the stream.
CREATE FUNCTION sent_rows(which regclass) RETURNS SETOF bytea LANGUAGE plpgsql AS $$
DECLARE
    fields text;
    field_count int;
BEGIN
    SELECT count(*), string_agg(
        format('CASE WHEN %1$I IS NULL THEN int4send(-1)
                ELSE int4send(length(%2$s(%1$I))) || %2$s(%1$I) END', attname, typsend::regproc),
        ' || ' ORDER BY attnum)
    INTO field_count, fields
    FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid
    WHERE attrelid = which AND attnum > 0;
    RETURN QUERY EXECUTE format('SELECT int2send(%s::int2) || %s FROM %s', field_count, fields, which);
END
$$;
SELECT count(*) AS row_count, count(*) FILTER (WHERE position(sent IN stream) > 0) AS bit_exact
FROM sent_rows('t') AS sent,
(SELECT string_agg(data, NULL) AS stream
 FROM pg_logical_slot_peek_binary_changes('trem_decode_types', NULL, NULL,
    'task', 'decode_types', 'definition_version', '1')) AS s;
SELECT pg_replication_slot_advance('trem_decode_types', pg_current_wal_lsn()) IS NOT NULL AS moved;

-- The same bytes in updates and keys.
UPDATE t SET id = -id WHERE id < 3;
SELECT operation, data->'old' AS old, data->'new'->>'id' AS id, data->'new'->>'t_numerics' AS numerics,
    data->'new'->>'t_interval' AS interval, data->'new'->>'t_mood' AS mood
FROM trem.peek_changes('decode_types') WHERE operation = 'update';
SELECT pg_replication_slot_advance('trem_decode_types', pg_current_wal_lsn()) IS NOT NULL AS moved;

-- As text: the same under any settings, with every name qualified.
INSERT INTO as_text VALUES
(1, '{sad,NULL,"ha ppy"}', '(1,"x y")', '{"(1,a)","(,)"}', 't', 0.1, '\x00ff',
 '2024-02-29 12:00:00.5+00', '1 year 2 mons -3 days 04:05:06', '-1234.56', '2024-12-31', '{1,NULL}',
 '');
CREATE VIEW shown AS
SELECT key, value FROM trem.peek_changes('decode_types'), json_each_text(data->'new')
WHERE operation = 'insert';
SELECT * FROM shown;
SELECT md5(string_agg(data::text, '')) AS before FROM trem.peek_changes('decode_types') \gset
SET datestyle = 'German';
SET timezone = 'Asia/Tokyo';
SET extra_float_digits = -5;
SET bytea_output = 'escape';
SET intervalstyle = 'iso_8601';
SET client_encoding = 'LATIN1';
SELECT md5(string_agg(data::text, '')) = :'before' AS the_same FROM trem.peek_changes('decode_types');
SHOW datestyle;
SHOW client_encoding;
RESET client_encoding;

SELECT pg_drop_replication_slot('trem_decode_types');
SELECT trem.stop_task('decode_types');
SELECT trem.drop_task('decode_types');
SELECT trem.drop_endpoint('decode_source'), trem.drop_endpoint('decode_target');
DROP SCHEMA decode_types CASCADE;
