-- Runs last: rights, settings and comments of functions.
--
-- Three kinds of roles:
--   owner      who made the extension, a superuser: everything.
--   operator   trem.grant_operator('role'): defines, starts and watches tasks. What leaves this
--              database is in its hands, so give this only to a role that may read every table. It
--              needs CREATE on trem_read, and membership in the owners of the tables; to drop a
--              task with its slot, REPLICATION.
--   applier    the role that a source endpoint names: that grants it USAGE on the two schemas and
--              EXECUTE on the applier_* functions, and publishing SELECT on its tasks' views.
--              Before such a role is dropped: DROP OWNED BY.

CREATE FUNCTION trem.grant_operator(operator name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- With grant option: whoever publishes a task passes these on to the applier.
    EXECUTE format('GRANT USAGE ON SCHEMA trem, trem_read TO %I WITH GRANT OPTION', operator);
    EXECUTE format('GRANT CREATE ON SCHEMA trem_read TO %I', operator);
    EXECUTE format('GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA trem TO %I WITH GRANT OPTION',
                   operator);
    EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA trem TO %I', operator);
    EXECUTE format('GRANT INSERT, UPDATE, DELETE ON trem.endpoint, trem.task, trem.task_table, '
                   'trem.rule, trem.task_load, trem.definition TO %I', operator);
    -- What makes pseudonyms cannot be read; passwords can be set and not read.
    EXECUTE format('REVOKE ALL ON trem.mask_key, trem.message_key FROM %I', operator);
    EXECUTE format('REVOKE SELECT ON trem.endpoint FROM %I', operator);
    EXECUTE format('GRANT SELECT (name, role, kind, dbname, host, port, username, options, owner) '
                   'ON trem.endpoint TO %I', operator);
END
$$;
COMMENT ON FUNCTION trem.grant_operator(name) IS
    'Gives a role what it needs to define, start and watch tasks';

REVOKE ALL ON SCHEMA trem, trem_read FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA trem FROM PUBLIC;
-- Functions are executable by everybody when they are made.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA trem FROM PUBLIC;

-- Every function that pins search_path pins these as well: values in statements that it prints
-- (a domain's check, a default) and in rows must not depend on the session. And no JIT: catalog
-- queries look expensive to the planner and touch few rows, compiling them takes seconds.
DO $$
DECLARE
    function regprocedure;
    setting text;
BEGIN
    FOR function, setting IN
        SELECT p.oid, s
        FROM pg_proc AS p,
             (SELECT format('%s = %L', name, value) FROM trem.pinned_settings()
              UNION ALL SELECT 'jit = off') AS pinned (s)
        WHERE p.pronamespace = 'trem'::regnamespace AND p.proconfig IS NOT NULL
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET %s', function, setting);
    END LOOP;
END
$$;

COMMENT ON FUNCTION trem.give_way() IS 'For the event trigger trem_give_way';
COMMENT ON FUNCTION trem.note_change() IS 'For the event triggers trem_note_*';
COMMENT ON FUNCTION trem.table_schema(text) IS 'The columns of a table';
COMMENT ON FUNCTION trem.drop_endpoint(text) IS 'Forgets an endpoint that no task uses';
COMMENT ON FUNCTION trem.create_task(text, text, text, text[], text, jsonb) IS
    'Drafts a task: tables (''schema.table'' or ''schema.*'') from a source to a target endpoint';
COMMENT ON FUNCTION trem.alter_task(text, jsonb) IS
    'Changes the options of a task that are given; null takes one back to its default';
COMMENT ON FUNCTION trem.add_table(text, text) IS 'Adds a table or a pattern to a task''s draft';
COMMENT ON FUNCTION trem.remove_table(text, text) IS
    'Removes a table, with its rules, or a pattern from a task''s draft';
COMMENT ON FUNCTION trem.rename_schema(text, text, text) IS
    'Rule: a table, or all tables of a schema, go to another schema on the target';
COMMENT ON FUNCTION trem.rename_table(text, text, text) IS
    'Rule: a table has another name on the target';
COMMENT ON FUNCTION trem.rename_column(text, text, text, text) IS
    'Rule: a column has another name on the target';
COMMENT ON FUNCTION trem.exclude_column(text, text, text) IS
    'Rule: a column does not leave this database';
COMMENT ON FUNCTION trem.set_filter(text, text, text) IS
    'Rule: only rows for which the expression is true go to the target; null removes it';
COMMENT ON FUNCTION trem.add_column(text, text, text, text, text) IS
    'Rule: the target has one more column, computed from the source''s row';
COMMENT ON FUNCTION trem.change_type(text, text, text, text, text) IS
    'Rule: a column has another type on the target, by a cast or by an expression';
COMMENT ON FUNCTION trem.set_value(text, text, text, text) IS
    'Rule: a column has another value on the target, cast to its type';
COMMENT ON FUNCTION trem.drop_transformation(bigint) IS
    'Removes a rule, by the id that made it and that trem.transformation shows';
COMMENT ON FUNCTION trem.start_task(text, boolean) IS
    'Publishes the draft and has the task run; keep: rows on the target stay as they are although '
    'the rules of their tables changed. Gives the version that is published';
COMMENT ON FUNCTION trem.stop_task(text) IS 'Has the task stop; its slot keeps its place';
COMMENT ON FUNCTION trem.drop_task(text) IS
    'Forgets a stopped task, with its slot and views; the target is left as it is';
COMMENT ON FUNCTION trem.reload_table(text, text) IS
    'Has a table, or all of a pattern, loaded again';
COMMENT ON FUNCTION trem.check_task(text) IS
    'Everything that is wrong on the source side of a task, with what to do';
COMMENT ON FUNCTION trem.explain_task(text) IS
    'What a task makes of each table, and what the target does not get';
COMMENT ON FUNCTION trem.peek_changes(text, text, integer) IS
    'What the stream of a task has to say, as rows to read: 1000 lines of it, or as many as '
    'upto_nchanges says; null: all';
