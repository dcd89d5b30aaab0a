-- Rows as the target would get them, from live data and the draft rules, under the settings that
-- copy and stream run with (grants.sql pins them). They are read and computed with the rights of
-- the table's owner; the caller must be allowed to read the table.

CREATE FUNCTION trem.preview(task text, table_name text, row_count bigint DEFAULT 10)
RETURNS SETOF jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT shown::jsonb FROM trem.preview_rows(task, table_name, row_count) AS shown
$$;
COMMENT ON FUNCTION trem.preview(text, text, bigint) IS
    'Some rows of a table as the target would get them by the rules as drafted';
