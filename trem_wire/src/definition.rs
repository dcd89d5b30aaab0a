//! A task's published definition: what the plugin applies and the applier copies and creates.
//!
//! The extension writes it once, at publish, as one JSON document with a version; plugin and
//! applier read that document and nothing of the draft. Tables are bound by OID and columns by
//! attribute number; names are for people, for messages and for the target.

use serde::{Deserialize, Serialize};

use crate::compress::Compression;
use crate::Lsn;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    pub task: String,
    /// The task's uuid, as text: the key of everything the target keeps about it.
    pub task_id: String,
    pub definition_version: i64,
    /// Where the source's WAL ended when this version was published. A transaction that committed
    /// before may show a table as it was then: names that differ are not a change in that case.
    /// 0/0: not known.
    #[serde(default)]
    pub published_lsn: Lsn,
    pub mode: Mode,
    pub options: TaskOptions,
    /// Types of the user that the tables need, in the order in which they can be created.
    pub types: Vec<DefinedType>,
    pub tables: Vec<DefinedTable>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    FullLoad,
    Cdc,
    FullLoadAndCdc,
}

impl Mode {
    #[must_use]
    pub fn has_full_load(self) -> bool {
        self != Mode::Cdc
    }

    #[must_use]
    pub fn has_cdc(self) -> bool {
        self != Mode::FullLoad
    }
}

/// The options of a task: a closed set, every one with a default.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TaskOptions {
    pub target_tables: TargetTables,
    pub on_error: OnError,
    pub ddl: Ddl,
    /// Tables copied at a time.
    pub full_load_jobs: u16,
    pub indexes: Indexes,
    /// The task stops, and gives its slot up, when the slot holds back more WAL than this.
    /// `None`: no limit.
    pub wal_keep_bytes: Option<u64>,
    pub compression: Compression,
}

impl TaskOptions {
    /// The keys a user may give, for the message about one that is not.
    pub const KEYS: [&'static str; 7] = [
        "target_tables",
        "on_error",
        "ddl",
        "full_load_jobs",
        "indexes",
        "wal_keep_bytes",
        "compression",
    ];
}

impl Default for TaskOptions {
    fn default() -> Self {
        TaskOptions {
            target_tables: TargetTables::Create,
            on_error: OnError::Stop,
            ddl: Ddl::Apply,
            full_load_jobs: 4,
            indexes: Indexes::All,
            wal_keep_bytes: None,
            compression: Compression::Zstd,
        }
    }
}

/// What a full load does about the target's tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetTables {
    /// Created if missing; must be empty if there.
    Create,
    /// Created if missing; emptied if there.
    Truncate,
    /// Must be there; rows in it stay.
    Keep,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    Stop,
    SkipRow,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ddl {
    Apply,
    Ignore,
    Stop,
}

/// Which of the source's indexes the target gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Indexes {
    All,
    Key,
}

/// An enum, domain or composite type of the user.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DefinedType {
    /// As SQL names it, quoted: `app.mood`.
    pub name: String,
    pub schema: String,
    /// The statement that creates it on the target.
    pub create_statement: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DefinedTable {
    pub oid: u32,
    pub source_schema: String,
    pub source_name: String,
    pub target_schema: String,
    pub target_name: String,
    pub row_format: DefinedRowFormat,
    /// Raised by `reload_table`: the applier loads a table again whose stored number is lower.
    pub load_generation: i64,
    /// Where the source's WAL ended when the table was first published with this generation. What
    /// committed before is in the copy, whatever shape the table had then, so the stream leaves it
    /// out. 0/0: nothing is left out.
    #[serde(default)]
    pub changes_from: Lsn,
    /// True when no row can be addressed: no key, so changes match whole rows (FULL).
    pub keyless: bool,
    /// The target's columns, in order; rows of copy and stream have exactly these.
    pub columns: Vec<DefinedColumn>,
    /// What is read for the copy: one entry for an ordinary table, one per leaf of a partitioned.
    pub leaves: Vec<DefinedLeaf>,
    /// If anything is computed: all columns that the source table had at publish, by the names
    /// that the expressions use for them, whatever they are called later.
    #[serde(default)]
    pub inputs: Vec<DefinedInput>,
    /// The composite types and enums in the table's columns, at any depth, as they were at publish:
    /// a value that was written before one was altered means something else. Sorted by OID.
    #[serde(default)]
    pub shapes: Vec<DefinedShape>,
    /// `CREATE TABLE` for the target, without key and indexes.
    pub create_statement: String,
    /// Which rows are carried over; `None`: all. A boolean expression.
    #[serde(default)]
    pub filter: Option<DefinedExpression>,
    /// Key first, then indexes: run after the copy, in order.
    pub index_statements: Vec<DefinedIndex>,
}

/// [`RowFormat`](crate::message::RowFormat), as the definition names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DefinedRowFormat {
    Binary,
    Text,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DefinedColumn {
    /// Attribute number in the source table; 0 for a column that only the target has.
    pub attnum: i16,
    /// Empty for a column that only the target has.
    pub source_name: String,
    /// Name on the target.
    pub name: String,
    pub type_oid: u32,
    pub type_modifier: i32,
    /// As `format_type` has it with an empty `search_path`: `numeric(10,2)`, `app.mood`.
    pub type_name: String,
    pub not_null: bool,
    /// Part of the key: the replica-identity columns; with FULL those of the primary key.
    pub key: bool,
    /// What the column's value is computed from; `None`: the source column is passed through.
    #[serde(default)]
    pub expression: Option<DefinedExpression>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DefinedInput {
    pub attnum: i16,
    pub name: String,
    /// 0: not known.
    #[serde(default)]
    pub type_oid: u32,
    #[serde(default)]
    pub type_modifier: i32,
}

/// What a type of the user is made of that can change under the same OID.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DefinedShape {
    pub type_oid: u32,
    pub parts: DefinedParts,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DefinedParts {
    /// Of a composite type: its attributes that are not dropped, by number. `relation`: its
    /// `pg_class` row.
    Composite { relation: u32, attributes: Vec<DefinedAttribute> },
    /// Of an enum: its labels, by OID.
    Enum(Vec<DefinedLabel>),
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DefinedAttribute {
    pub attnum: i16,
    pub name: String,
    pub type_oid: u32,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DefinedLabel {
    pub oid: u32,
    pub label: String,
}

/// An expression over the source table's row, as the rules compose it. It sees the columns under
/// the names of [`DefinedTable::inputs`], and yields the column's type.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DefinedExpression {
    /// The rule to name when it fails.
    pub rule_id: i64,
    pub sql: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DefinedLeaf {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    /// `pg_class.relnatts` at publish. A live column that is not in the definition was left out or
    /// dropped if its number is not above this one, and came later if it is. 0: not known, and
    /// columns that came later are not noticed.
    #[serde(default)]
    pub attribute_count: i16,
    /// Of a partition: `[number in the root, number here]` of the columns whose numbers differ.
    #[serde(default)]
    pub renumbered: Vec<(i16, i16)>,
    /// The view in schema `trem_read` through which the leaf's rows are read. Its columns: those of
    /// the table, in order, under their target names.
    pub view: String,
}

impl DefinedLeaf {
    /// The attribute number here of a column of the root.
    #[must_use]
    pub fn attnum(&self, of_root: i16) -> i16 {
        let found = self.renumbered.iter().find(|(root, _)| *root == of_root);
        found.map_or(of_root, |&(_, here)| here)
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DefinedIndex {
    /// Name on the target; an index of this name on the table counts as built.
    pub name: String,
    pub key: bool,
    /// The target columns of a unique index other than the key; else empty.
    #[serde(default)]
    pub unique_columns: Vec<String>,
    pub create_statement: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_are_not_given_take_their_defaults() {
        let options: TaskOptions = serde_json::from_str("{}").expect("empty options");
        assert_eq!(options, TaskOptions::default());
    }

    #[test]
    fn an_unknown_option_is_refused() {
        assert!(serde_json::from_str::<TaskOptions>(r#"{"jobs": 1}"#).is_err());
    }

    #[test]
    fn the_list_of_keys_is_the_list_of_options() {
        let options = serde_json::to_value(TaskOptions::default()).expect("options are JSON");
        let mut keys: Vec<_> = options.as_object().expect("an object").keys().cloned().collect();
        let mut listed = TaskOptions::KEYS.map(str::to_owned).to_vec();
        keys.sort();
        listed.sort();
        assert_eq!(keys, listed);
    }
}
