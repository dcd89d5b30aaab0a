-- What the applier calls is in Rust (api/applier.rs), which asks whether the caller may serve a
-- task: only the role that the task's source endpoint names, its members and superusers. These
-- statements are for that alone; nobody may execute them.

CREATE FUNCTION trem.store_report(task_id uuid, report jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO trem.task_report AS r
        (task_id, phase, applied_lsn, confirmed_lsn, last_error, last_error_hint, applier)
    VALUES (store_report.task_id, report->>'phase', (report->>'applied_lsn')::pg_lsn,
            (report->>'confirmed_lsn')::pg_lsn, report->>'last_error', report->>'last_error_hint',
            report->>'applier')
    ON CONFLICT (task_id) DO UPDATE SET
        phase = excluded.phase,
        -- An applier that failed before it connected to the target does not know the positions.
        applied_lsn = coalesce(excluded.applied_lsn, r.applied_lsn),
        confirmed_lsn = coalesce(excluded.confirmed_lsn, r.confirmed_lsn),
        last_error = excluded.last_error,
        last_error_hint = excluded.last_error_hint,
        applier = excluded.applier,
        reported_at = clock_timestamp();

    INSERT INTO trem.table_report
        (task_id, table_oid, state, rows_loaded, bytes_loaded, rows_estimated, inserts, updates,
         deletes, conflicts, overlap_end)
    SELECT store_report.task_id, t.oid, t.state, t.rows_loaded, t.bytes_loaded, t.rows_estimated,
           t.inserts, t.updates, t.deletes, t.conflicts, t.overlap_end
    FROM jsonb_to_recordset(coalesce(nullif(report->'tables', 'null'), '[]')) AS t
        (oid oid, state text, rows_loaded bigint, bytes_loaded bigint, rows_estimated bigint,
         inserts bigint, updates bigint, deletes bigint, conflicts bigint, overlap_end pg_lsn)
    ON CONFLICT (task_id, table_oid) DO UPDATE SET
        state = excluded.state,
        rows_loaded = excluded.rows_loaded,
        bytes_loaded = excluded.bytes_loaded,
        rows_estimated = excluded.rows_estimated,
        inserts = excluded.inserts,
        updates = excluded.updates,
        deletes = excluded.deletes,
        conflicts = excluded.conflicts,
        overlap_end = excluded.overlap_end,
        reported_at = clock_timestamp();
END
$$;

CREATE FUNCTION trem.store_exceptions(task_id uuid, exceptions jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO trem.exception_report
        (task_id, table_name, operation, rule_id, sqlstate, commit_lsn, key)
    -- Names as the other views write them: quoted only where it is needed.
    SELECT store_exceptions.task_id, format('%I.%I', name[1], name[2]), e.operation, e.rule_id,
           e.sqlstate, e.commit_lsn, e.key
    FROM jsonb_to_recordset(exceptions) AS e
        ("table" text, operation text, rule_id bigint, sqlstate text, commit_lsn pg_lsn, key text),
        parse_ident(e."table") AS name
    ON CONFLICT DO NOTHING;
END
$$;

CREATE FUNCTION trem.applier_status() RETURNS SETOF trem.task_status
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT s.*
    FROM jsonb_populate_recordset(NULL::trem.task_status, trem.applier_status_rows()) AS s
$$;

COMMENT ON FUNCTION trem.applier_tasks() IS
    'For the applier: every task that the caller may serve, and where it writes';
COMMENT ON FUNCTION trem.applier_endpoint(text) IS
    'For the applier: how to connect to an endpoint of a task that the caller may serve';
COMMENT ON FUNCTION trem.applier_definition(text) IS
    'For the applier: the current published definition of a task';
COMMENT ON FUNCTION trem.applier_version(text) IS
    'For the applier: the version of a task''s current definition';
COMMENT ON FUNCTION trem.applier_report(text, jsonb) IS
    'For the applier: stores what task_status and table_status show';
COMMENT ON FUNCTION trem.applier_exception(text, jsonb) IS
    'For the applier: stores what the view trem.exception shows, an array of {"table", "operation", '
    '"rule_id", "sqlstate", "commit_lsn", "key"}';
COMMENT ON FUNCTION trem.applier_check(text) IS
    'For the applier: what check_task says about the server and the published tables';
COMMENT ON FUNCTION trem.applier_status() IS
    'For the applier: trem.task_status, of the tasks that the caller may serve';
COMMENT ON FUNCTION trem.applier_summary(text, bigint, oid) IS
    'For the applier: number and hash of the rows of a table, a line for each partition';
COMMENT ON FUNCTION trem.applier_lock(text, bigint, oid) IS
    'For the applier: locks a table or partition as a reader does; false if the transaction''s '
    'snapshot is older than the file that it has';
COMMENT ON FUNCTION trem.applier_rows(text, bigint, oid, bigint, bigint) IS
    'For the applier: the rows of a table or partition, or of some of its blocks, as the stream '
    'would bring them, in frames; a row for which a rule fails is an error row';
COMMENT ON FUNCTION trem.applier_reread(text, bigint, oid, bytea[]) IS
    'For the applier: the rows of these keys, each in a frame of its own; NULL if there is none';
COMMENT ON FUNCTION trem.applier_barrier(text, text) IS
    'For the applier: marks a place in the task''s stream and gives its position';
