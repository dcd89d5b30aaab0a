-- The plugin's options, and who may stream a task.
SET client_min_messages = error;
\set SHOW_CONTEXT never
CREATE SCHEMA decode_options;
CREATE TABLE decode_options.t (id int PRIMARY KEY);
CREATE ROLE decode_options_applier LOGIN REPLICATION;
CREATE ROLE decode_options_stranger LOGIN REPLICATION;
SELECT trem.create_endpoint('decode_source', 'source', dbname => current_database(),
    username => 'decode_options_applier');
SELECT trem.create_endpoint('decode_target', 'target', dbname => 'elsewhere');
SELECT trem.create_task('decode_options', 'decode_source', 'decode_target',
    ARRAY['decode_options.t'], mode => 'cdc') IS NOT NULL AS created;
SELECT slot_name FROM pg_create_logical_replication_slot('trem_decode_options', 'trem');
CREATE FUNCTION decode_options.peek(VARIADIC options text[]) RETURNS bigint LANGUAGE sql AS
$$SELECT count(*) FROM pg_logical_slot_peek_binary_changes('trem_decode_options', NULL, NULL,
    VARIADIC options)$$;

SELECT decode_options.peek('task', 'decode_options', 'definition_version', '1');
SELECT trem.start_task('decode_options');
SELECT decode_options.peek('task', 'decode_options', 'definition_version', '1');
SELECT decode_options.peek('task', 'decode_options', 'definition_version', '1',
    'proto_version', '1', 'compression', 'none');
SELECT decode_options.peek('task', 'decode_options');
SELECT decode_options.peek('definition_version', '1');
SELECT decode_options.peek('task', 'unknown', 'definition_version', '1');
SELECT decode_options.peek('task', 'decode_options', 'definition_version', '2');
SELECT decode_options.peek('task', 'decode_options', 'definition_version', 'one');
SELECT decode_options.peek('task', 'decode_options', 'definition_version', '1', 'publication', 'p');
SELECT decode_options.peek('task', 'decode_options', 'definition_version', '1',
    'proto_version', '9');
SELECT decode_options.peek('task', 'decode_options', 'definition_version', '1',
    'compression', 'lz4');
SELECT count(*) FROM trem.peek_changes('unknown');

-- SQLSTATEs tell the applier what to do.
CREATE FUNCTION decode_options.sqlstate_of(VARIADIC options text[]) RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
    RETURN decode_options.peek(VARIADIC options);
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE;
END
$$;
SELECT decode_options.sqlstate_of('task', 'decode_options', 'definition_version', '2');
ALTER TABLE decode_options.t ADD c int;
INSERT INTO decode_options.t VALUES (1, 1);
SELECT decode_options.sqlstate_of('task', 'decode_options', 'definition_version', '1');
ALTER TABLE decode_options.t DROP c;
ALTER TABLE decode_options.t REPLICA IDENTITY NOTHING;
SELECT trem.start_task('decode_options');
DELETE FROM decode_options.t;
SELECT decode_options.sqlstate_of('task', 'decode_options', 'definition_version', '2');

-- The settings of the session that calls are its own again, also after an error.
SET datestyle = 'German';
SELECT decode_options.sqlstate_of('task', 'decode_options', 'definition_version', '2');
SHOW datestyle;

-- The endpoint's role may stream the task, another one may not.
-- (EXECUTE is given here to see the function's own check.)
GRANT EXECUTE ON FUNCTION trem.applier_definition(text) TO decode_options_stranger;
GRANT USAGE ON SCHEMA decode_options, trem TO decode_options_applier, decode_options_stranger;
SET SESSION AUTHORIZATION decode_options_applier;
SELECT decode_options.peek('task', 'decode_options', 'definition_version', '1');
RESET SESSION AUTHORIZATION;
SET SESSION AUTHORIZATION decode_options_stranger;
SELECT decode_options.peek('task', 'decode_options', 'definition_version', '1');
RESET SESSION AUTHORIZATION;

SELECT pg_drop_replication_slot('trem_decode_options');
SELECT trem.stop_task('decode_options');
SELECT trem.drop_task('decode_options');
SELECT trem.drop_endpoint('decode_source'), trem.drop_endpoint('decode_target');
DROP SCHEMA decode_options CASCADE;
DROP OWNED BY decode_options_applier, decode_options_stranger;
DROP ROLE decode_options_applier, decode_options_stranger;
