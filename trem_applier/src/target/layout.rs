//! Whether a table of the target can be applied set-wise, and how its rows look to the server.
//!
//! # Which tables
//! Those whose rows do not depend on each other while we apply: with a key, one unique index (the
//! key's) and no exclusion constraint; no trigger, foreign key or rule that fires in this
//! session; key columns of built-in types or enums, whose equality is found without a search path.
//! Asked once for each description of a table; what someone changes on the target later shows as
//! a refused row at worst, and the group is redone in source order.
//!
//! # Rows as a parameter
//! Many rows are one parameter: an array of the table's own row type, in the binary form that
//! `record_recv` reads. Columns that a change does not bring are NULL there and are not assigned.
//! A domain may not take that NULL, so tables with domains are left to the other way.

use trem_wire::message::{Relation, RowFormat};
use trem_wire::row::Row;

use crate::connect::Client;
use crate::error::Result;

/// How the rows of a relation become elements of an array of the target table's row type.
#[derive(Debug)]
pub(super) struct Layout {
    row_type: u32,
    columns: Vec<LayoutColumn>,
    /// For each key column, in order, its position in the relation.
    key: Vec<usize>,
}

#[derive(Debug)]
struct LayoutColumn {
    type_oid: u32,
    /// Where the relation has it.
    position: Option<usize>,
}

/// The conditions above, of one table by schema and name; `$3`: the names of the key, in order.
const IS_INDEPENDENT: &str = "
SELECT c.reltype, c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind = 'r' AND NOT c.relhasrules
    AND (SELECT count(*) = 1 FROM pg_index i
         WHERE i.indrelid = c.oid AND (i.indisunique OR i.indisexclusion))
    AND EXISTS (
        SELECT FROM pg_index i
        WHERE i.indrelid = c.oid AND i.indisunique AND i.indimmediate AND i.indisvalid
            AND i.indpred IS NULL AND i.indexprs IS NULL
            AND $3::text[] = (
                SELECT array_agg(a.attname::text ORDER BY a.attname::text COLLATE \"C\")
                FROM unnest(i.indkey) WITH ORDINALITY k (attnum, n)
                    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
                WHERE k.n <= i.indnkeyatts))
    AND NOT EXISTS (
        SELECT FROM pg_trigger t
        WHERE t.tgrelid = c.oid AND t.tgenabled = ANY (
            CASE current_setting('session_replication_role')
                WHEN 'replica' THEN '{R,A}' ELSE '{O,A}' END::\"char\"[]))
    AND NOT EXISTS (
        SELECT FROM pg_attribute a
            JOIN pg_type t ON t.oid = a.atttypid
            JOIN pg_namespace tn ON tn.oid = t.typnamespace
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
            AND (t.typtype = 'd' OR a.attname = ANY ($3::text[])
                AND tn.nspname <> 'pg_catalog' AND t.typtype <> 'e'))";

const COLUMNS: &str = "SELECT attname::text, atttypid FROM pg_attribute
    WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attnum";

impl Layout {
    /// `None`: the table is to be applied in source order.
    pub(super) async fn find(client: &Client, relation: &Relation) -> Result<Option<Self>> {
        if relation.format != RowFormat::Binary || !relation.has_key() {
            return Ok(None);
        }
        let key: Vec<_> = relation.key().collect();
        let mut names: Vec<&str> =
            key.iter().map(|&at| relation.columns[at].name.as_str()).collect();
        names.sort_unstable();
        let (schema, name) = (&relation.target_schema, &relation.target_name);
        let Some(found) = client.query_opt(IS_INDEPENDENT, &[schema, name, &names]).await? else {
            return Ok(None);
        };
        let (row_type, oid): (u32, u32) = (found.get(0), found.get(1));
        let mut columns = Vec::new();
        for row in client.query(COLUMNS, &[&oid]).await? {
            let (name, type_oid): (&str, u32) = (row.get(0), row.get(1));
            let position = relation.columns.iter().position(|column| column.name == name);
            columns.push(LayoutColumn { type_oid, position });
        }
        let known = columns.iter().filter(|column| column.position.is_some()).count();
        let all_known = known == relation.columns.len();
        Ok(all_known.then_some(Layout { row_type, columns, key }))
    }

    /// Appends an element: a row of all columns of the relation.
    fn put_row(&self, out: &mut Vec<u8>, row: Row<'_>) {
        let fields: Vec<_> = row.fields().collect();
        self.put_element(out, |at| fields[at]);
    }

    /// Appends an element of which only the key is known.
    fn put_key(&self, out: &mut Vec<u8>, key: Row<'_>) {
        let fields: Vec<_> = key.fields().collect();
        let field = |at| self.key.iter().position(|&of_key| of_key == at).and_then(|n| fields[n]);
        self.put_element(out, field);
    }

    fn put_element<'a>(&self, out: &mut Vec<u8>, field: impl Fn(usize) -> Option<&'a [u8]>) {
        let at = out.len();
        put_length(out, 0);
        put_length(out, self.columns.len());
        for column in &self.columns {
            out.extend_from_slice(&column.type_oid.to_be_bytes());
            match column.position.and_then(&field) {
                None => out.extend_from_slice(&(-1_i32).to_be_bytes()),
                Some(field) => {
                    put_length(out, field.len());
                    out.extend_from_slice(field);
                }
            }
        }
        let length = out.len() - at - 4;
        set_length(out, at, length);
    }
}

/// An array of rows in the making.
pub(super) struct RowArray<'a> {
    layout: &'a Layout,
    bytes: Vec<u8>,
    count: usize,
}

impl<'a> RowArray<'a> {
    const COUNT_AT: usize = 12;

    pub(super) fn new(layout: &'a Layout) -> Self {
        let mut bytes = Vec::new();
        // One dimension, no element is NULL, of this type, from 1 on; see array_recv.
        put_length(&mut bytes, 1);
        put_length(&mut bytes, 0);
        bytes.extend_from_slice(&layout.row_type.to_be_bytes());
        put_length(&mut bytes, 0);
        put_length(&mut bytes, 1);
        RowArray { layout, bytes, count: 0 }
    }

    pub(super) fn push_row(&mut self, row: Row<'_>) {
        self.layout.put_row(&mut self.bytes, row);
        self.count += 1;
    }

    pub(super) fn push_key(&mut self, key: Row<'_>) {
        self.layout.put_key(&mut self.bytes, key);
        self.count += 1;
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn byte_count(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        set_length(&mut self.bytes, Self::COUNT_AT, self.count);
        self.bytes
    }
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    out.extend_from_slice(&length_bytes(length));
}

fn set_length(out: &mut [u8], at: usize, length: usize) {
    out[at..at + 4].copy_from_slice(&length_bytes(length));
}

fn length_bytes(length: usize) -> [u8; 4] {
    i32::try_from(length).expect("a PostgreSQL value is below 1 GiB").to_be_bytes()
}
