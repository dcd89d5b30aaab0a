-- What an operator looks at: of tasks whose owner the operator is a member of, and no others'. The
-- views are security barriers, so that a condition of the reader's own is tried on no other row.

CREATE VIEW trem.transformation WITH (security_barrier) AS
SELECT r.id, t.name AS task, r.kind, r.table_name, r.column_name,
       r.arguments - 'columns' AS arguments
FROM trem.rule AS r
JOIN trem.task AS t USING (task_id)
WHERE pg_has_role(t.owner, 'MEMBER');
COMMENT ON VIEW trem.transformation IS 'The rules of all tasks, as drafted';

CREATE VIEW trem.task_status_of_all AS
SELECT t.name AS task, t.mode, t.state, r.phase, t.source, t.target, t.definition_version,
       r.applied_lsn, r.confirmed_lsn,
       pg_wal_lsn_diff(wal.lsn, r.applied_lsn)::bigint AS lag_bytes,
       s.active AS slot_active,
       pg_wal_lsn_diff(wal.lsn, s.restart_lsn)::bigint AS wal_kept_bytes,
       counted.tables, counted.tables_live, counted.rows_loaded,
       r.last_error, r.last_error_hint, r.applier, r.reported_at
FROM trem.task AS t
-- A standby has the tasks as well, and no current position of its own.
CROSS JOIN (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                        ELSE pg_current_wal_lsn() END AS lsn) AS wal
LEFT JOIN trem.task_report AS r USING (task_id)
LEFT JOIN pg_replication_slots AS s
    ON s.slot_name = 'trem_' || t.name AND s.database = current_database()
LEFT JOIN LATERAL (
    SELECT count(*) AS tables,
           count(*) FILTER (WHERE p.state = 'live') AS tables_live,
           sum(p.rows_loaded)::bigint AS rows_loaded
    FROM trem.definition AS d
    CROSS JOIN jsonb_array_elements(d.content->'tables') AS defined
    LEFT JOIN trem.table_report AS p
        ON p.task_id = d.task_id AND p.table_oid = (defined->>'oid')::oid
    WHERE d.task_id = t.task_id AND d.definition_version = t.definition_version
) AS counted ON true;
COMMENT ON VIEW trem.task_status_of_all IS 'trem.task_status, whoever asks';

CREATE VIEW trem.task_status WITH (security_barrier) AS
SELECT s.*
FROM trem.task_status_of_all AS s
JOIN trem.task AS t ON t.name = s.task
WHERE pg_has_role(t.owner, 'MEMBER');
COMMENT ON VIEW trem.task_status IS 'Each task, and what its applier reported last';

CREATE VIEW trem.table_status WITH (security_barrier) AS
SELECT t.name AS task,
       format('%I.%I', defined->>'source_schema', defined->>'source_name') AS table_name,
       format('%I.%I', defined->>'target_schema', defined->>'target_name') AS target_table,
       coalesce(p.state, 'pending') AS state,
       p.rows_loaded, p.bytes_loaded, p.rows_estimated,
       p.inserts, p.updates, p.deletes, p.conflicts, p.overlap_end, p.reported_at
FROM trem.task AS t
JOIN trem.definition AS d USING (task_id, definition_version)
CROSS JOIN jsonb_array_elements(d.content->'tables') AS defined
LEFT JOIN trem.table_report AS p
    ON p.task_id = t.task_id AND p.table_oid = (defined->>'oid')::oid
WHERE pg_has_role(t.owner, 'MEMBER');
COMMENT ON VIEW trem.table_status IS 'Each published table, and what the applier reported last';

CREATE VIEW trem.exception WITH (security_barrier) AS
SELECT t.name AS task, e.table_name, e.operation, e.key, e.sqlstate, e.rule_id,
       r.kind AS rule, r.column_name, e.commit_lsn, e.reported_at
FROM trem.exception_report AS e
JOIN trem.task AS t USING (task_id)
LEFT JOIN trem.rule AS r ON r.id = e.rule_id AND r.task_id = e.task_id
WHERE pg_has_role(t.owner, 'MEMBER');
COMMENT ON VIEW trem.exception IS
    'Rows that a rule could not compute and that were left out, with the rule and the error''s code';
