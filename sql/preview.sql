-- Rows as the target would get them, from live data and the draft rules, read with the caller's
-- rights under the settings that copy and stream run with (grants.sql pins the rest of them).

CREATE FUNCTION trem.preview(task text, table_name text, row_count bigint DEFAULT 10)
RETURNS SETOF jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, trem, pg_temp
SET row_security = off
AS $$
BEGIN
    RETURN QUERY EXECUTE format('SELECT to_jsonb(shown) FROM (%s LIMIT $1) AS shown',
                                trem.preview_statement(task, table_name))
                 USING row_count;
END
$$;
COMMENT ON FUNCTION trem.preview(text, text, bigint) IS
    'Some rows of a table as the target would get them by the rules as drafted';
