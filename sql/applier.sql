-- What the applier calls. It has rights on none of our tables: these functions read and write for
-- it, so each first asks whether the session's user may serve the task: a superuser, a member of
-- the task's owner, or (a member of) the role that the source endpoint names.

CREATE FUNCTION trem.may_serve(task trem.task) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, trem, pg_temp
AS $$
    SELECT EXISTS (
        SELECT FROM pg_roles AS r
        WHERE r.rolname = session_user
          AND (r.rolsuper
               OR pg_has_role(r.oid, may_serve.task.owner, 'MEMBER')
               OR EXISTS (
                   SELECT FROM trem.endpoint AS e JOIN pg_roles AS a ON a.rolname = e.username
                   WHERE e.name = may_serve.task.source AND pg_has_role(r.oid, a.oid, 'MEMBER'))))
$$;

-- The task, or an error: unknown and forbidden look alike only to those who may not know.
CREATE FUNCTION trem.served_task(task text) RETURNS trem.task
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, trem, pg_temp
AS $$
DECLARE
    found_task trem.task;
BEGIN
    SELECT * INTO found_task FROM trem.task AS t WHERE t.name = served_task.task;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'task "%" does not exist', served_task.task
            USING ERRCODE = 'undefined_object',
                  HINT = 'SELECT name FROM trem.task; lists the tasks.';
    END IF;
    IF NOT trem.may_serve(found_task) THEN
        RAISE EXCEPTION 'role "%" may not serve task "%"', session_user, served_task.task
            USING ERRCODE = 'insufficient_privilege',
                  HINT = format('Name it in the source endpoint: SELECT trem.alter_endpoint(%L, '
                                'username => %L), then start the task again.',
                                found_task.source, session_user);
    END IF;
    RETURN found_task;
END
$$;

CREATE FUNCTION trem.endpoint_json(name text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, trem, pg_temp
AS $$
    SELECT jsonb_build_object(
        'name', e.name, 'role', e.role, 'kind', e.kind, 'dbname', e.dbname, 'host', e.host,
        'port', e.port, 'username', e.username, 'password', e.password, 'options', e.options)
    FROM trem.endpoint AS e
    WHERE e.name = endpoint_json.name
$$;

CREATE FUNCTION trem.applier_tasks()
RETURNS TABLE (task_id text, name text, mode text, state text, definition_version bigint,
               options jsonb, target jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, trem, pg_temp
AS $$
    SELECT t.task_id::text, t.name, t.mode, t.state, t.definition_version, t.options,
           trem.endpoint_json(t.target) - 'role'
    FROM trem.task AS t
    WHERE trem.may_serve(t)
    ORDER BY t.name
$$;
COMMENT ON FUNCTION trem.applier_tasks() IS
    'For the applier: every task that the caller may serve, and where it writes';

CREATE FUNCTION trem.applier_endpoint(name text) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, trem, pg_temp
AS $$
DECLARE
    endpoint trem.endpoint;
BEGIN
    SELECT * INTO endpoint FROM trem.endpoint AS e WHERE e.name = applier_endpoint.name;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'endpoint "%" does not exist', applier_endpoint.name
            USING ERRCODE = 'undefined_object',
                  HINT = 'SELECT name FROM trem.endpoint; lists the endpoints.';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles AS r
                   WHERE r.rolname = session_user
                     AND (r.rolsuper OR pg_has_role(r.oid, endpoint.owner, 'MEMBER')))
       AND NOT EXISTS (SELECT FROM trem.task AS t
                       WHERE endpoint.name IN (t.source, t.target) AND trem.may_serve(t))
    THEN
        RAISE EXCEPTION 'role "%" may not use endpoint "%"', session_user, applier_endpoint.name
            USING ERRCODE = 'insufficient_privilege',
                  DETAIL = 'It belongs to no task that this role may serve.';
    END IF;
    RETURN trem.endpoint_json(endpoint.name);
END
$$;
COMMENT ON FUNCTION trem.applier_endpoint(text) IS
    'For the applier: how to connect to an endpoint of a task that the caller may serve';

CREATE FUNCTION trem.applier_definition(task text) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, trem, pg_temp
AS $$
DECLARE
    served trem.task := trem.served_task(task);
    published jsonb;
BEGIN
    SELECT d.content INTO published
    FROM trem.definition AS d
    WHERE d.task_id = served.task_id AND d.definition_version = served.definition_version;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'task "%" is not published', task
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = format('SELECT trem.start_task(%L);', task);
    END IF;
    RETURN published;
END
$$;
COMMENT ON FUNCTION trem.applier_definition(text) IS
    'For the applier: the current published definition of a task';

CREATE FUNCTION trem.applier_report(task text, report jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, trem, pg_temp
AS $$
DECLARE
    served trem.task := trem.served_task(task);
BEGIN
    INSERT INTO trem.task_report AS r
        (task_id, phase, applied_lsn, confirmed_lsn, last_error, last_error_hint, applier)
    VALUES (served.task_id, report->>'phase', (report->>'applied_lsn')::pg_lsn,
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
    SELECT served.task_id, t.oid, t.state, t.rows_loaded, t.bytes_loaded, t.rows_estimated,
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
COMMENT ON FUNCTION trem.applier_report(text, jsonb) IS
    'For the applier: stores what task_status and table_status show';

-- Idempotent: what was reported before is left as it is.
CREATE FUNCTION trem.applier_exception(task text, exceptions jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, trem, pg_temp
AS $$
DECLARE
    served trem.task := trem.served_task(task);
BEGIN
    INSERT INTO trem.exception_report
        (task_id, table_name, operation, rule_id, sqlstate, commit_lsn, key)
    -- Names as the other views write them: quoted only where it is needed.
    SELECT served.task_id, format('%I.%I', name[1], name[2]), e.operation, e.rule_id, e.sqlstate,
           e.commit_lsn, e.key
    FROM jsonb_to_recordset(exceptions) AS e
        ("table" text, operation text, rule_id bigint, sqlstate text, commit_lsn pg_lsn, key text),
        parse_ident(e."table") AS name
    ON CONFLICT DO NOTHING;
END
$$;
COMMENT ON FUNCTION trem.applier_exception(text, jsonb) IS
    'For the applier: stores what the view trem.exception shows, an array of {"table", "operation", '
    '"rule_id", "sqlstate", "commit_lsn", "key"}';

-- The draft may hold what is not published, and be wrong without harm to what runs: of a published
-- task only the server and the published tables are looked at. What changed unseen of those, the
-- stream meets in its place, and stops there.
CREATE FUNCTION trem.applier_check(task text)
RETURNS TABLE (severity text, table_name text, check_name text, message text, hint text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, trem, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    served trem.task := trem.served_task(applier_check.task);
BEGIN
    RETURN QUERY
    SELECT c.severity, c.table_name, c.check_name, c.message, c.hint
    FROM trem.check_task(served.name) AS c
    WHERE served.definition_version IS NULL
       OR c.table_name IS NULL AND c.check_name <> 'tables'
       OR EXISTS (SELECT FROM trem.table_status AS s
                  WHERE s.task = served.name AND s.table_name = c.table_name)
          AND c.check_name NOT IN ('rule', 'name_clash', 'changed');
END
$$;
COMMENT ON FUNCTION trem.applier_check(text) IS
    'For the applier: what check_task says about the server and the published tables';

CREATE FUNCTION trem.applier_status() RETURNS SETOF trem.task_status
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, trem, pg_temp
AS $$
    SELECT s.*
    FROM trem.task_status AS s
    JOIN trem.task AS t ON t.name = s.task
    WHERE trem.may_serve(t)
    ORDER BY s.task
$$;
COMMENT ON FUNCTION trem.applier_status() IS
    'For the applier: trem.task_status, of the tasks that the caller may serve';

COMMENT ON FUNCTION trem.applier_rows(text, oid) IS
    'For the applier: the rows of a table or partition as the stream would bring them, in frames; '
    'a row for which a rule fails is an error row';

COMMENT ON FUNCTION trem.applier_barrier(text, text) IS
    'For the applier: marks a place in the task''s stream and gives its position';
