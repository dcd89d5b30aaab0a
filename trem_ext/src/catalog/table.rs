//! Facts about source tables, as the catalog has them. Knows no task and no rule.

use serde::Deserialize;

use super::{access, name, spi};
use crate::error::Error;
use crate::pg;
use crate::pg::table::Locked;

#[derive(Clone, Deserialize)]
pub(crate) struct Table {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    pub kind: String,
    /// The partitioned table this is a partition of, at the top.
    pub root_oid: Option<u32>,
    /// `default`, `index`, `full`, `nothing`.
    pub replica_identity: String,
    pub row_security: bool,
    pub owner: u32,
    /// Why it cannot be replicated.
    pub refusal: Option<String>,
    /// Attribute numbers of the key by which its changes are logged.
    pub key_attnums: Option<Vec<i16>>,
    pub columns: Vec<Column>,
    pub indexes: Vec<Index>,
    pub leaves: Vec<Leaf>,
    /// What the target does not get, for people.
    pub not_carried: Vec<String>,
}

#[derive(Clone, Deserialize)]
pub(crate) struct Column {
    pub attnum: i16,
    pub name: String,
    pub type_oid: u32,
    pub type_modifier: i32,
    pub type_name: String,
    pub not_null: bool,
    pub identity: bool,
    /// Empty, `s` (stored) or `v` (virtual, PostgreSQL 18).
    pub generated: String,
    /// Quoted; `None`: the type's own.
    pub collation: Option<String>,
    pub collation_is_users: bool,
    /// Large values are stored apart from the row, and an update that leaves them logs none.
    pub toastable: bool,
}

#[derive(Clone, Deserialize)]
pub(crate) struct Index {
    pub oid: u32,
    pub name: String,
    pub method: String,
    pub primary: bool,
    pub unique: bool,
    pub immediate: bool,
    pub valid: bool,
    pub exclusion: bool,
    pub partial: bool,
    pub expressions: bool,
    pub nulls_not_distinct: bool,
    pub is_key: bool,
    /// It needs an access method or operator class that is not built in.
    pub needs_extension: bool,
    pub columns: Vec<IndexColumn>,
    pub included: Vec<i16>,
}

#[derive(Clone, Deserialize)]
pub(crate) struct IndexColumn {
    pub attnum: i16,
    pub collation: Option<String>,
    pub operator_class: Option<String>,
    pub descending: bool,
    pub nulls_first: bool,
}

/// What has rows: the table itself, or the partitions of a partitioned one.
#[derive(Clone, Deserialize)]
pub(crate) struct Leaf {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    pub attribute_count: i16,
    /// Number in the root and number here of the columns whose numbers differ.
    pub renumbered: Vec<(i16, i16)>,
    pub owner: String,
    pub replica_identity: String,
    pub owner_can_read: bool,
    /// Row security holds for the owner as well, so the view would hide rows.
    pub row_security_hides: bool,
    pub caller_can_publish: bool,
}

impl Table {
    /// The name for messages.
    pub(crate) fn display(&self) -> String {
        name::display(&self.schema, &self.name)
    }

    pub(crate) fn column(&self, attnum: i16) -> Option<&Column> {
        self.columns.iter().find(|column| column.attnum == attnum)
    }

    pub(crate) fn column_named(&self, name: &str) -> Result<&Column, Error> {
        self.columns.iter().find(|column| column.name == name).ok_or_else(|| Error::Missing {
            what: "column",
            name: format!("\"{name}\" of table {}", self.display()),
            hint: format!("Column names are plain, as trem.table_schema('{}') lists them.", {
                self.display().replace('\'', "''")
            }),
        })
    }

    pub(crate) fn is_key(&self, attnum: i16) -> bool {
        self.key_attnums.as_ref().is_some_and(|key| key.contains(&attnum))
    }

    /// Updates and deletes can be followed: the WAL says which row they touch.
    pub(crate) fn logs_old_rows(&self) -> bool {
        self.key_attnums.is_some() || self.replica_identity == "full"
    }

    pub(crate) fn is_partitioned(&self) -> bool {
        self.kind == "partitioned table"
    }
}

/// A relation's OID, whatever its kind.
pub(crate) fn find(schema: &str, table: &str) -> Result<u32, Error> {
    #[derive(Deserialize)]
    struct Found {
        oid: u32,
    }
    let sql =
        "SELECT oid::bigint FROM trem.source_table WHERE schema_name = $1 AND table_name = $2";
    let found = spi::row::<Found>(sql, &[schema.into(), table.into()])?;
    found.map(|found| found.oid).ok_or_else(|| Error::Missing {
        what: "table",
        name: name::display(schema, table),
        hint: "SELECT * FROM trem.list_tables(); lists what there is.".to_owned(),
    })
}

/// OIDs of everything in a schema that looks like a table.
pub(crate) fn in_schema(schema: &str) -> Result<Vec<u32>, Error> {
    #[derive(Deserialize)]
    struct Found {
        oid: u32,
    }
    let sql =
        "SELECT oid::bigint FROM trem.source_table WHERE schema_name = $1 ORDER BY table_name";
    Ok(spi::rows::<Found>(sql, &[schema.into()])?.into_iter().map(|found| found.oid).collect())
}

pub(crate) fn schema_exists(schema: &str) -> Result<bool, Error> {
    #[derive(Deserialize)]
    struct Found {}
    let sql = "SELECT nspname FROM pg_namespace WHERE nspname = $1";
    Ok(spi::row::<Found>(sql, &[schema.into()])?.is_some())
}

/// The tables of these OIDs; one that is gone is left out.
pub(crate) fn load(oids: impl IntoIterator<Item = u32>) -> Result<Vec<Table>, Error> {
    let sql = format!(
        "SELECT s.oid::bigint, s.schema_name AS schema, s.table_name AS name, s.kind,
                s.root_oid::bigint, s.replica_identity, s.row_security,
                s.owner_oid::bigint AS owner, s.refusal, s.key_attnums::int[],
                coalesce(({COLUMNS}), '[]') AS columns,
                coalesce(({INDEXES}), '[]') AS indexes,
                coalesce(({LEAVES}), '[]') AS leaves,
                coalesce(({NOT_CARRIED}), '[]') AS not_carried
         FROM trem.source_table AS s
         WHERE s.oid = ANY ($1::oid[])
         ORDER BY s.schema_name, s.table_name"
    );
    spi::rows(&sql, &[spi::oids(oids).into(), access::caller_oid().into()])
}

/// Locks a table as a reader does, and sees that it still is one.
pub(crate) fn lock(oid: u32, display: &str) -> Result<Locked, Error> {
    match pg::table::lock(oid) {
        Some(locked) if locked.is_table() => Ok(locked),
        _ => Err(Error::NotReplicable {
            table: display.to_owned(),
            reason: "is no table any more".to_owned(),
            hint: "SELECT * FROM trem.list_tables(); lists what there is.".to_owned(),
        }),
    }
}

/// One table, by the OID that a lookup gave.
pub(crate) fn load_one(oid: u32) -> Result<Table, Error> {
    load([oid])?.into_iter().next().ok_or_else(|| Error::Catalog(format!("relation {oid} is gone")))
}

const COLUMNS: &str = "
    SELECT jsonb_agg(jsonb_build_object(
        'attnum', a.attnum, 'name', a.attname, 'type_oid', a.atttypid::bigint,
        'type_modifier', a.atttypmod, 'type_name', format_type(a.atttypid, a.atttypmod),
        'not_null', a.attnotnull, 'identity', a.attidentity <> '', 'generated', a.attgenerated,
        'collation', quote_ident(cn.nspname) || '.' || quote_ident(co.collname),
        'collation_is_users', coalesce(co.oid >= 16384, false),
        -- Storage MAIN (numeric) is for values that are kept in the row if it fits at all.
        'toastable', a.attlen = -1 AND a.attstorage IN ('x', 'e')) ORDER BY a.attnum)
    FROM pg_attribute AS a
    JOIN pg_type AS t ON t.oid = a.atttypid
    LEFT JOIN pg_collation AS co ON co.oid = a.attcollation AND co.oid <> t.typcollation
    LEFT JOIN pg_namespace AS cn ON cn.oid = co.collnamespace
    WHERE a.attrelid = s.oid AND a.attnum > 0 AND NOT a.attisdropped";

const INDEXES: &str = "
    SELECT jsonb_agg(jsonb_build_object(
        'oid', i.indexrelid::bigint, 'name', c.relname, 'method', am.amname,
        'primary', i.indisprimary, 'unique', i.indisunique, 'immediate', i.indimmediate,
        'valid', i.indisvalid, 'exclusion', i.indisexclusion, 'partial', i.indpred IS NOT NULL,
        'expressions', i.indexprs IS NOT NULL,
        'nulls_not_distinct', coalesce((to_jsonb(i)->>'indnullsnotdistinct')::boolean, false),
        'is_key', i.indexrelid = s.key_index AND s.key_index IS NOT NULL,
        'needs_extension', am.oid >= 16384
            OR EXISTS (SELECT FROM unnest(i.indclass) AS class (oid) WHERE class.oid >= 16384),
        'included', coalesce((SELECT jsonb_agg(k.attnum ORDER BY k.at)
                              FROM unnest(i.indkey) WITH ORDINALITY AS k (attnum, at)
                              WHERE k.at > i.indnkeyatts), '[]'),
        'columns', (
            SELECT jsonb_agg(jsonb_build_object(
                'attnum', i.indkey[k.at],
                'descending', i.indoption[k.at] & 1 = 1,
                'nulls_first', i.indoption[k.at] & 2 = 2,
                'operator_class', CASE WHEN NOT oc.opcdefault
                    THEN format('%I.%I', ocn.nspname, oc.opcname) END,
                'collation', quote_ident(con.nspname) || '.'
                    || quote_ident(co.collname)) ORDER BY k.at)
            FROM generate_series(0, i.indnkeyatts - 1) AS k (at)
            JOIN pg_opclass AS oc ON oc.oid = i.indclass[k.at]
            JOIN pg_namespace AS ocn ON ocn.oid = oc.opcnamespace
            LEFT JOIN pg_attribute AS a ON a.attrelid = s.oid AND a.attnum = i.indkey[k.at]
            LEFT JOIN pg_collation AS co
                ON co.oid = i.indcollation[k.at] AND co.oid <> a.attcollation
            LEFT JOIN pg_namespace AS con ON con.oid = co.collnamespace)
        ) ORDER BY c.relname)
    FROM pg_index AS i
    JOIN pg_class AS c ON c.oid = i.indexrelid
    JOIN pg_am AS am ON am.oid = c.relam
    WHERE i.indrelid = s.oid";

const LEAVES: &str = "
    SELECT jsonb_agg(jsonb_build_object(
        'oid', leaf.oid::bigint, 'schema', leaf_schema.nspname, 'name', leaf.relname,
        'attribute_count', leaf.relnatts,
        'renumbered', coalesce((
            SELECT jsonb_agg(jsonb_build_array(root.attnum, here.attnum) ORDER BY root.attnum)
            FROM pg_attribute AS root
            JOIN pg_attribute AS here ON here.attname = root.attname
            WHERE root.attrelid = s.oid AND here.attrelid = leaf.oid
              AND here.attnum <> root.attnum AND root.attnum > 0), '[]'),
        'owner', pg_get_userbyid(leaf.relowner),
        'replica_identity', CASE leaf.relreplident WHEN 'd' THEN 'default' WHEN 'i' THEN 'index'
                                                   WHEN 'f' THEN 'full' ELSE 'nothing' END,
        'owner_can_read', has_table_privilege(leaf.relowner, leaf.oid, 'SELECT')
            AND has_schema_privilege(leaf.relowner, leaf_schema.oid, 'USAGE'),
        'row_security_hides', leaf.relrowsecurity AND leaf.relforcerowsecurity
            AND NOT (owner.rolsuper OR owner.rolbypassrls),
        'caller_can_publish', pg_has_role($2::oid, leaf.relowner, 'MEMBER')) ORDER BY leaf.oid)
    FROM (SELECT s.oid UNION SELECT relid FROM pg_partition_tree(s.oid)) AS part (oid)
    -- OFFSET 0: looked up one by one; the planner expects 1,000 partitions and would scan.
    JOIN LATERAL (SELECT * FROM pg_class AS c WHERE c.oid = part.oid OFFSET 0) AS leaf ON true
    JOIN pg_namespace AS leaf_schema ON leaf_schema.oid = leaf.relnamespace
    JOIN pg_roles AS owner ON owner.oid = leaf.relowner
    WHERE leaf.relkind = 'r'";

const NOT_CARRIED: &str = "
    SELECT jsonb_agg(item ORDER BY item)
    FROM (
        SELECT CASE c.contype WHEN 'f' THEN 'foreign key ' WHEN 'c' THEN 'check constraint '
                              WHEN 'x' THEN 'exclusion constraint ' ELSE 'constraint trigger ' END
               || quote_ident(c.conname) AS item
        FROM pg_constraint AS c
        WHERE c.conrelid = s.oid AND c.contype IN ('f', 'c', 'x', 't')
        UNION ALL
        SELECT 'trigger ' || quote_ident(g.tgname) FROM pg_trigger AS g
        WHERE g.tgrelid = s.oid AND NOT g.tgisinternal
        UNION ALL
        SELECT CASE WHEN a.attgenerated = '' THEN 'default of column '
                    ELSE 'generation of column ' END || quote_ident(a.attname)
        FROM pg_attribute AS a
        WHERE a.attrelid = s.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.atthasdef
        UNION ALL
        SELECT 'value of the sequence of column ' || quote_ident(a.attname)
        FROM pg_attribute AS a
        WHERE a.attrelid = s.oid AND a.attnum > 0 AND NOT a.attisdropped
          AND pg_get_serial_sequence(format('%I.%I', s.schema_name, s.table_name), a.attname)
              IS NOT NULL
        UNION ALL
        SELECT 'row security policy ' || quote_ident(p.polname) FROM pg_policy AS p
        WHERE p.polrelid = s.oid
        UNION ALL
        SELECT 'rule ' || quote_ident(r.rulename) FROM pg_rewrite AS r
        WHERE r.ev_class = s.oid
        UNION ALL
        SELECT 'extended statistics ' || quote_ident(x.stxname) FROM pg_statistic_ext AS x
        WHERE x.stxrelid = s.oid
        UNION ALL
        SELECT 'comments'
        WHERE EXISTS (SELECT FROM pg_description AS d
                      WHERE d.classoid = 'pg_class'::regclass AND d.objoid = s.oid)
        UNION ALL
        SELECT 'partitioning' WHERE s.kind = 'partitioned table'
        UNION ALL
        SELECT 'inheritance' WHERE EXISTS (SELECT FROM pg_inherits AS h
                                           WHERE h.inhrelid = s.oid OR h.inhparent = s.oid)
                               AND s.kind = 'table'
    ) AS items";
