-- What there is to replicate. The view source_table is the one place that knows which tables can
-- be replicated, why not, and what their key is: list_tables shows it, check_task asks it.

CREATE VIEW trem.source_table AS
SELECT
    c.oid,
    n.nspname::text AS schema_name,
    c.relname::text AS table_name,
    CASE
        WHEN c.relispartition THEN 'partition'
        WHEN c.relkind = 'r' THEN 'table'
        WHEN c.relkind = 'p' THEN 'partitioned table'
        WHEN c.relkind = 'v' THEN 'view'
        WHEN c.relkind = 'm' THEN 'materialized view'
        WHEN c.relkind = 'f' THEN 'foreign table'
    END AS kind,
    c.relispartition AS is_partition,
    CASE WHEN c.relispartition THEN pg_partition_root(c.oid)::oid END AS root_oid,
    pg_get_userbyid(c.relowner)::text AS owner,
    c.relowner AS owner_oid,
    c.reltuples::float8 AS reltuples,
    CASE c.relreplident
        WHEN 'd' THEN 'default'
        WHEN 'i' THEN 'index'
        WHEN 'f' THEN 'full'
        WHEN 'n' THEN 'nothing'
    END AS replica_identity,
    c.relrowsecurity AS row_security,
    key.index_oid AS key_index,
    key.attnums AS key_attnums,
    -- Why it cannot be replicated, to be read after the table's name; null when it can.
    CASE
        WHEN n.nspname IN ('pg_catalog', 'information_schema') OR n.nspname LIKE 'pg\_toast%'
            THEN 'is a system catalog table'
        WHEN n.nspname IN ('trem', 'trem_read', 'trem_target') THEN 'belongs to TREM itself'
        WHEN c.relkind = 'v' THEN 'is a view'
        WHEN c.relkind = 'm' THEN 'is a materialized view'
        WHEN c.relpersistence = 't' THEN 'is a temporary table'
        WHEN c.relispartition
            THEN format('is a partition: its changes travel under %s', pg_partition_root(c.oid))
        WHEN c.relkind = 'f' THEN 'is a foreign table'
        WHEN c.relpersistence = 'u' THEN 'is unlogged: its changes are not in the WAL'
        WHEN bad_leaf.name IS NOT NULL
            THEN format('has the partition %s, which is foreign or unlogged', bad_leaf.name)
    END AS refusal
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
-- The key by which changes are logged; a deferrable one is none (relcache.c,
-- RelationGetIndexList). With FULL the primary key serves, if there is one.
LEFT JOIN LATERAL (
    SELECT i.indexrelid AS index_oid, (i.indkey::int2[])[0:i.indnkeyatts - 1] AS attnums
    FROM pg_index AS i
    WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indimmediate
      AND CASE c.relreplident
              WHEN 'i' THEN i.indisreplident
              WHEN 'n' THEN false
              ELSE i.indisprimary
          END
) AS key ON true
LEFT JOIN LATERAL (
    SELECT leaf.oid::regclass::text AS name
    FROM pg_partition_tree(c.oid) AS tree
    JOIN pg_class AS leaf ON leaf.oid = tree.relid
    WHERE c.relkind = 'p' AND NOT c.relispartition
      AND tree.isleaf AND (leaf.relkind = 'f' OR leaf.relpersistence = 'u')
    ORDER BY 1
    LIMIT 1
) AS bad_leaf ON true
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f');

-- Which database this is, and which making of the extension in it: a restored dump has tables of
-- other OIDs, and so has the database after pg_upgrade or pg_restore --clean.
CREATE FUNCTION trem.database_identity() RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT concat_ws('.', (SELECT system_identifier FROM pg_control_system()),
                     (SELECT oid FROM pg_database WHERE datname = current_database()),
                     (SELECT oid FROM pg_extension WHERE extname = 'trem'))
$$;

CREATE FUNCTION trem.list_schemas()
RETURNS TABLE (schema_name text, owner text, tables bigint)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT n.nspname::text, pg_get_userbyid(n.nspowner)::text,
           count(c.oid) FILTER (WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition)
    FROM pg_namespace AS n
    LEFT JOIN pg_class AS c ON c.relnamespace = n.oid
    WHERE n.nspname NOT LIKE 'pg\_%'
      AND n.nspname NOT IN ('information_schema', 'trem', 'trem_read', 'trem_target')
    GROUP BY n.oid, n.nspname, n.nspowner
    ORDER BY 1
$$;
COMMENT ON FUNCTION trem.list_schemas() IS
    'The schemas of this database and how many tables each has';

CREATE FUNCTION trem.list_tables(schema_name text DEFAULT NULL)
RETURNS TABLE (schema_name text, table_name text, kind text, estimated_rows bigint, bytes bigint,
               key_columns text[], replica_identity text, replicable boolean, reason text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT s.schema_name, s.table_name, s.kind, size.rows, size.bytes,
           ARRAY(SELECT a.attname::text
                 FROM unnest(s.key_attnums) WITH ORDINALITY AS k (attnum, at)
                 JOIN pg_attribute AS a ON a.attrelid = s.oid AND a.attnum = k.attnum
                 ORDER BY k.at),
           s.replica_identity,
           s.refusal IS NULL,
           CASE
               WHEN s.refusal IS NOT NULL THEN s.refusal
               WHEN s.replica_identity = 'nothing'
                   THEN 'only inserts: its replica identity is NOTHING'
               WHEN s.key_index IS NULL AND s.replica_identity <> 'full'
                   THEN 'only inserts: it has no key'
           END
    FROM trem.source_table AS s
    CROSS JOIN LATERAL (
        SELECT sum(nullif(leaf.reltuples, -1))::bigint AS rows,
               sum(pg_total_relation_size(leaf.oid))::bigint AS bytes
        FROM (SELECT s.oid UNION SELECT tree.relid FROM pg_partition_tree(s.oid) AS tree)
            AS part (oid)
        -- OFFSET 0: looked up one by one; the planner expects 1,000 partitions and would scan.
        JOIN LATERAL (SELECT * FROM pg_class AS c WHERE c.oid = part.oid OFFSET 0) AS leaf ON true
        WHERE leaf.relkind <> 'p'
    ) AS size
    WHERE CASE
        WHEN list_tables.schema_name IS NOT NULL THEN s.schema_name = list_tables.schema_name
        ELSE s.schema_name NOT LIKE 'pg\_%'
             AND s.schema_name NOT IN ('information_schema', 'trem', 'trem_read', 'trem_target')
    END
    ORDER BY 1, 2
$$;
COMMENT ON FUNCTION trem.list_tables(text) IS
    'Tables with size and key; whether they can be replicated and, if not or not wholly, why';

-- Counted with the rights of each table's owner: the caller must be allowed to read it.
CREATE FUNCTION trem.table_counts(schema_name text DEFAULT NULL, exact boolean DEFAULT false)
RETURNS TABLE (schema_name text, table_name text, row_count bigint)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT s.schema_name, s.table_name,
           coalesce(trem.exact_count(s.oid, table_counts.exact), t.estimated_rows)
    FROM trem.list_tables(table_counts.schema_name) AS t
    JOIN trem.source_table AS s USING (schema_name, table_name)
    WHERE t.kind IN ('table', 'partitioned table')
    ORDER BY 1, 2
$$;
COMMENT ON FUNCTION trem.table_counts(text, boolean) IS
    'Rows of each table, as the statistics have them (null: never analyzed) or counted';
