-- Runs last: rights, settings and comments of functions.
--
-- Kinds of roles:
--   owner      who made the extension, a superuser. TREM reads and writes its own tables, and makes
--              views and grants, with this role's rights, and nothing else (trem_ext, pg/owner.rs).
--   operator   trem.grant_operator('role'): defines, starts and watches tasks, its own and those of
--              roles that it is a member of; so it does with endpoints. Rules about values, and
--              starting a task, take membership in the owners of the tables.
--   applier    the role that a source endpoint names: that grants it USAGE on the two schemas and
--              EXECUTE on the applier_* functions and trem.computed, and publishing SELECT on its
--              tasks' views. It alone is given the passwords of its tasks' endpoints. Before such a
--              role is dropped: DROP OWNED BY.
--   owners of tables   read their rows for TREM, and run the rules about them: what a user wrote is
--              run as the owner of its table and no one else. They may read trem.view_token as long
--              as there are views of their tables.
--   everybody  may name the functions for expressions, because an owner of a table may be anybody.
--              They tell nothing: trem.pseudonym answers only to rules, trem.previewed to previews.

CREATE FUNCTION trem.grant_operator(operator name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF operator IS NULL THEN
        RAISE EXCEPTION 'operator is null' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    EXECUTE format('GRANT USAGE ON SCHEMA trem TO %I', operator);
    -- Each of these asks for itself what its caller may do.
    EXECUTE format('GRANT EXECUTE ON FUNCTION '
        'trem.list_schemas, trem.list_tables, trem.table_schema, trem.table_counts, '
        'trem.exact_count, trem.create_endpoint, trem.endpoint_create, trem.alter_endpoint, '
        'trem.endpoint_alter, trem.drop_endpoint, trem.create_task, trem.alter_task, '
        'trem.add_table, trem.remove_table, trem.rename_schema, trem.rename_table, '
        'trem.rename_column, trem.exclude_column, trem.set_filter, trem.add_column, '
        'trem.change_type, trem.set_value, trem.drop_transformation, trem.make_mask_key, '
        'trem.preview, trem.preview_rows, trem.check_task, trem.explain_task, trem.start_task, '
        'trem.stop_task, trem.drop_task, trem.reload_table, trem.peek_changes TO %I', operator);
    EXECUTE format('GRANT SELECT ON trem.source_table, trem.task, trem.transformation, '
                   'trem.task_status, trem.table_status, trem.exception TO %I', operator);
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
-- Expressions are read and run as the owner of their table.
GRANT USAGE ON SCHEMA trem TO PUBLIC;
GRANT EXECUTE ON FUNCTION trem.pseudonym, trem.mask_partial, trem.mask_email, trem.mask_number,
    trem.commit_lsn, trem.commit_timestamp, trem.operation, trem.previewed TO PUBLIC;

-- Whoever owns the database dumps it, and pg_dump reads what an extension asks it to keep: it would
-- give up at a table that its caller may not read. Passwords are not among them.
GRANT USAGE ON SCHEMA trem TO pg_database_owner;
DO $$
DECLARE
    kept regclass;
BEGIN
    FOR kept IN SELECT unnest(extconfig) FROM pg_extension WHERE extname = 'trem' LOOP
        EXECUTE format('GRANT SELECT ON %s TO pg_database_owner', kept);
    END LOOP;
END
$$;

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

COMMENT ON TABLE trem.task_table IS 'Drafts: the tables and patterns of tasks';
COMMENT ON TABLE trem.rule IS 'Drafts: filters and transformations of tables';
COMMENT ON TABLE trem.task_load IS 'How often each table of a task was asked to be loaded again';
COMMENT ON TABLE trem.task_report IS 'What appliers last said of tasks';
COMMENT ON TABLE trem.table_report IS 'What appliers last said of the tables of tasks';
COMMENT ON TABLE trem.exception_report IS 'Rows that are skipped, as appliers report them';
COMMENT ON VIEW trem.source_table IS 'For TREM: the tables of this database that a task can have';
COMMENT ON FUNCTION trem.applier_protocol() IS
    'For the applier: the versions of the stream that this extension speaks';
COMMENT ON FUNCTION trem.grant_applier(text) IS
    'For upgrades: gives the role of a source endpoint its rights once more';
COMMENT ON FUNCTION trem.keep_slots() IS 'For the event trigger trem_keep_slots';
COMMENT ON FUNCTION trem.database_identity() IS
    'Tells one database, and one making of the extension in it, from another';
COMMENT ON FUNCTION trem.exact_count(oid, boolean) IS 'For trem.table_counts: rows of one table';
COMMENT ON FUNCTION trem.preview_rows(text, text, bigint) IS 'For trem.preview: its rows as texts';
COMMENT ON FUNCTION trem.endpoint_create(jsonb) IS 'For trem.create_endpoint';
COMMENT ON FUNCTION trem.endpoint_alter(jsonb) IS 'For trem.alter_endpoint';
COMMENT ON FUNCTION trem.applier_status_rows() IS 'For trem.applier_status: its rows as an array';
COMMENT ON FUNCTION trem.store_report(uuid, jsonb) IS 'For trem.applier_report';
COMMENT ON FUNCTION trem.store_exceptions(uuid, jsonb) IS 'For trem.applier_exception';
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
