//! How the rows of one source relation, as history has it at a change, become rows of a table of
//! the definition: which attribute feeds which column, by which encoder, and which make up the key.
//!
//! A mapping is made before the first change of a relation and again when the server says that the
//! relation may look different. Making it compares the relation with the definition. The rows that
//! are sent always have all columns of the definition; one that history does not have in the same
//! [form](super::form) is unknown in each of them. What the stream cannot follow is an error that
//! names the remedy; see [`Mapping::new`].
//!
//! A column that a rule computes has no attribute of its own; `inputs` says what its expression
//! reads.
//!
//! Columns are bound by attribute numbers, so a renamed column is the same column; a partition may
//! have numbers of its own, which the definition knows.

use pgrx::{pg_sys, spi};
use trem_wire::definition::{
    Ddl, DefinedColumn, DefinedLeaf, DefinedRowFormat, DefinedTable, Definition,
};
use trem_wire::message::RowFormat;

use super::encode::Encoder;
use super::error::StreamError;
use super::form::Form;
use super::identity::{self, Identity, OldRow};
use super::inputs::Inputs;
use super::rules::{Rule, TableRules};
use crate::pg;

/// One column of the rows that are sent.
pub(crate) struct MappedColumn {
    /// Position in the deformed row: of the attribute, or behind them of the result of a rule, or
    /// of the NULL that stands for a column that is unknown.
    pub(crate) attribute: usize,
    /// `None`: the column is unknown.
    pub(crate) encoder: Option<Encoder>,
    pub(crate) key: bool,
    /// Of variable length, so that a value may be only a pointer to TOAST on disk.
    pub(crate) toastable: bool,
}

pub(crate) struct Mapping {
    /// Position of the table in the definition.
    pub(crate) table: usize,
    /// The OID that the stream has for the table: of the root, for a leaf.
    pub(crate) oid: u32,
    pub(crate) attribute_count: usize,
    /// Attributes, and what lies behind them.
    pub(crate) value_count: usize,
    /// Those of the definition, in its order.
    pub(crate) columns: Vec<MappedColumn>,
    /// Some column is unknown in every row.
    pub(crate) lacks_columns: bool,
    /// Number of key columns; 0: rows are found by all columns.
    pub(crate) key_count: usize,
    pub(crate) toastable: bool,
    pub(crate) old_row: OldRow,
    /// Why there are no old rows, where there are none.
    pub(crate) no_old_row: &'static str,
    /// The definition has a key and the table has none any more.
    pub(crate) key_lost: bool,
    /// Why no row can be sent: what addresses it is unknown, and so nobody could read it again.
    pub(crate) unaddressable: Option<String>,
    /// The changes committed before the definition was published.
    pub(crate) older: bool,
    /// What the table's rules read and write, if it has any.
    pub(crate) inputs: Option<Inputs>,
    /// Holds what the encoders need from the server.
    memory: pg_sys::MemoryContext,
}

/// What a mapping is made from.
pub(crate) struct Source<'a> {
    pub(crate) definition: &'a Definition,
    pub(crate) table: usize,
    /// `None` for the root of a partitioned table, which has no rows of its own.
    pub(crate) leaf: Option<&'a DefinedLeaf>,
    /// The transaction committed before the definition was published.
    pub(crate) older: bool,
    pub(crate) rules: Option<&'a TableRules>,
}

impl Source<'_> {
    pub(crate) fn table(&self) -> &DefinedTable {
        &self.definition.tables[self.table]
    }

    /// The attribute that is this column of the table, if history has it yet.
    pub(crate) fn attribute<'a>(
        &self,
        attributes: &[&'a pg_sys::FormData_pg_attribute],
        attnum: i16,
    ) -> Option<&'a pg_sys::FormData_pg_attribute> {
        let here = self.leaf.map_or(attnum, |leaf| leaf.attnum(attnum));
        usize::try_from(here - 1).ok().and_then(|at| attributes.get(at).copied())
    }

    /// How many attributes the relation had at publish; 0: not known.
    fn attribute_count(&self) -> i16 {
        self.leaf.map_or(0, |leaf| leaf.attribute_count)
    }

    fn rule(&self, column: usize) -> Option<&Rule> {
        self.rules.and_then(|rules| rules.columns[column].as_ref())
    }

    pub(crate) fn ignores_ddl(&self) -> bool {
        self.definition.options.ddl == Ddl::Ignore
    }

    /// What history has is later than the definition.
    pub(crate) fn changed(&self, change: String) -> StreamError {
        StreamError::TableChanged {
            task: self.definition.task.clone(),
            table: table_name(self.table()),
            change,
            older: false,
        }
    }
}

/// A column of the definition, and how history has what it is made of.
struct Pair<'a> {
    column: &'a DefinedColumn,
    /// The attribute of the same number. Of a column that is computed only if it is a key column,
    /// to compare keys.
    attribute: Option<&'a pg_sys::FormData_pg_attribute>,
    /// Why the column is unknown, if it is.
    unknown: Option<String>,
}

impl Pair<'_> {
    fn attnum(&self) -> Option<i16> {
        self.attribute.map(|attribute| attribute.attnum)
    }
}

impl Mapping {
    /// Compares the relation with the definition and maps what they have in common.
    ///
    /// An attribute dropped, or of another form after the publish, another key, and unless the task
    /// ignores them a rename and a column that came after the publish, are errors.
    ///
    /// # Safety
    /// `relation` is open in a change callback; `parent` outlives the mapping.
    pub(crate) unsafe fn new(
        source: &Source<'_>,
        relation: pg_sys::Relation,
        parent: pg_sys::MemoryContext,
    ) -> Result<Mapping, StreamError> {
        // SAFETY: an open relation has a descriptor, valid while it is open.
        let attributes: Vec<_> = unsafe {
            let descriptor = (*relation).rd_att;
            (0..(*descriptor).natts as usize).map(|at| pg::attribute(descriptor, at)).collect()
        };
        let mut inputs = match source.rules {
            Some(rules) => Some(Inputs::find(source, rules, &attributes)?),
            None => None,
        };
        let pairs = pair_up(source, &attributes, inputs.as_ref())?;
        refuse_new_columns(source, &attributes, &pairs)?;
        // SAFETY: the relation is open in a change callback.
        let old_rows = unsafe { old_rows(source, relation, &pairs)? };

        // SAFETY: the parent is a live context.
        let memory = unsafe { pg::child_context(parent, c"trem relation") };
        let mut value_count = attributes.len();
        let columns: Vec<_> = pairs
            .iter()
            .enumerate()
            .map(|(at, pair)| map_column(source, pair, at, &mut inputs, &mut value_count, memory))
            .collect();
        if let Some(inputs) = &mut inputs {
            inputs.computed.sort_by_key(|computed| !computed.key);
        }
        Ok(Mapping {
            table: source.table,
            oid: source.table().oid,
            attribute_count: attributes.len(),
            value_count,
            key_count: columns.iter().filter(|column| column.key).count(),
            toastable: columns.iter().any(|column| column.toastable),
            lacks_columns: pairs.iter().any(|pair| pair.unknown.is_some()),
            columns,
            old_row: old_rows.there,
            no_old_row: old_rows.reason,
            key_lost: old_rows.key_lost,
            unaddressable: unaddressable(source, &pairs, inputs.as_ref()),
            older: source.older,
            inputs,
            memory,
        })
    }

    /// Gives back what the encoders took from the server.
    pub(crate) fn free(self) {
        // SAFETY: the context is this mapping's own, and the encoders that point into it go too.
        unsafe { pg_sys::MemoryContextDelete(self.memory) };
    }
}

pub(crate) fn table_name(table: &DefinedTable) -> String {
    spi::quote_qualified_identifier(&table.source_schema, &table.source_name)
}

pub(crate) fn row_format(table: &DefinedTable) -> RowFormat {
    match table.row_format {
        DefinedRowFormat::Binary => RowFormat::Binary,
        DefinedRowFormat::Text => RowFormat::Text,
    }
}

pub(crate) fn attribute_name(attribute: &pg_sys::FormData_pg_attribute) -> String {
    // SAFETY: a name of the catalog ends with a zero byte.
    unsafe { pg::utf8(attribute.attname.data.as_ptr()) }
}

/// Where a column's value is, and how it is encoded.
fn map_column(
    source: &Source<'_>,
    pair: &Pair<'_>,
    column: usize,
    inputs: &mut Option<Inputs>,
    value_count: &mut usize,
    memory: pg_sys::MemoryContext,
) -> MappedColumn {
    let format = row_format(source.table());
    let key = pair.column.key;
    let rule = source.rule(column);
    if let (None, None, Some(attribute)) = (&pair.unknown, rule, pair.attribute) {
        return MappedColumn {
            attribute: attribute.attnum as usize - 1,
            encoder: Some(Encoder::new(attribute.atttypid, format, memory)),
            key,
            toastable: attribute.attlen == -1,
        };
    }
    let attribute = *value_count;
    *value_count += 1;
    if pair.unknown.is_some() {
        return MappedColumn { attribute, encoder: None, key, toastable: false };
    }
    if let (Some(rule), Some(inputs)) = (rule, inputs) {
        inputs.add_computed(rule, column, attribute, key);
    }
    let type_oid = pg_sys::Oid::from(pair.column.type_oid);
    let encoder = Some(Encoder::new(type_oid, format, memory));
    MappedColumn { attribute, encoder, key, toastable: false }
}

fn pair_up<'a>(
    source: &'a Source<'_>,
    attributes: &[&'a pg_sys::FormData_pg_attribute],
    inputs: Option<&Inputs>,
) -> Result<Vec<Pair<'a>>, StreamError> {
    let mut pairs = Vec::new();
    for (position, column) in source.table().columns.iter().enumerate() {
        let (attribute, unknown) = match source.rule(position) {
            Some(rule) => {
                let attribute = source.attribute(attributes, column.attnum);
                let can_compute = inputs.is_some_and(|inputs| inputs.can_compute(rule));
                let unknown = source.form_of_result(column)?;
                let unknown = unknown.or_else(|| (!can_compute).then(|| lacks_input(column)));
                (attribute.filter(|_| column.key), unknown)
            }
            None => match source.form_of_column(attributes, column)? {
                Form::Same(attribute) => (Some(attribute), None),
                Form::Unknown(reason) => (None, Some(reason)),
            },
        };
        pairs.push(Pair { column, attribute, unknown });
    }
    Ok(pairs)
}

fn lacks_input(column: &DefinedColumn) -> String {
    format!("Column \"{}\" is computed from what is not there yet.", column.name)
}

fn refuse_new_columns(
    source: &Source<'_>,
    attributes: &[&pg_sys::FormData_pg_attribute],
    pairs: &[Pair<'_>],
) -> Result<(), StreamError> {
    let known = source.attribute_count();
    if known == 0 || source.ignores_ddl() {
        return Ok(());
    }
    let new = attributes.iter().find(|attribute| {
        let mapped = || pairs.iter().any(|pair| pair.attnum() == Some(attribute.attnum));
        !attribute.attisdropped && attribute.attnum > known && !mapped()
    });
    match new {
        None => Ok(()),
        Some(attribute) => {
            Err(source.changed(format!("Column \"{}\" was added.", attribute_name(attribute))))
        }
    }
}

/// Why rows cannot be addressed: a part of the key is unknown, or, where rows are found by all
/// columns, any part.
fn unaddressable(
    source: &Source<'_>,
    pairs: &[Pair<'_>],
    inputs: Option<&Inputs>,
) -> Option<String> {
    let keyless = !pairs.iter().any(|pair| pair.column.key);
    let mut needed = pairs.iter().filter(|pair| keyless || pair.column.key);
    let unknown = needed.find_map(|pair| pair.unknown.clone());
    let lacks = keyless && inputs.is_some_and(|inputs| inputs.filter_lacks);
    unknown.or_else(|| {
        lacks.then(|| {
            let table = table_name(source.table());
            format!("The filter of {table} reads a column that is not there yet.")
        })
    })
}

/// What there is of old rows.
struct OldRows {
    there: OldRow,
    /// Why there are none.
    reason: &'static str,
    key_lost: bool,
}

/// Compares the keys. Gives what may be used of old rows, and whether the table has no key any
/// more: then an insert fails as well, because the target's key would no longer hold.
///
/// From before the publish another key is no error by itself: only what needs the key fails.
///
/// # Safety
/// The relation is open in a change callback.
unsafe fn old_rows(
    source: &Source<'_>,
    relation: pg_sys::Relation,
    pairs: &[Pair<'_>],
) -> Result<OldRows, StreamError> {
    let there = |there| OldRows { there, reason: identity::NO_IDENTITY, key_lost: false };
    // SAFETY: an open relation has its pg_class row. The root of a partitioned table has no rows.
    if unsafe { (*(*relation).rd_rel).relkind } as u8 == pg_sys::RELKIND_PARTITIONED_TABLE {
        return Ok(there(OldRow::None));
    }
    let key = || pairs.iter().filter(|pair| pair.column.key);
    let mut defined: Vec<i16> = key().filter_map(Pair::attnum).collect();
    defined.sort_unstable();
    // SAFETY: the relation is open in a change callback.
    let identity = unsafe { Identity::of(relation) };
    let logged = identity.old_row;
    // A part of the key that is unknown is an error of its own.
    let incomplete = key().any(|pair| pair.unknown.is_some());
    if incomplete || defined == identity.key || defined.is_empty() && logged == OldRow::None {
        return Ok(there(logged));
    }
    if source.older {
        // SAFETY: as above.
        let usable = unsafe { identity::usable(relation, &identity, &defined) };
        return Ok(match usable {
            Ok(usable) => there(usable),
            Err(reason) => OldRows { there: OldRow::None, reason, key_lost: false },
        });
    }
    if identity.key.is_empty() && logged == OldRow::None {
        return Ok(OldRows { key_lost: true, ..there(logged) });
    }
    let names: Vec<_> = key().map(|pair| format!("\"{}\"", pair.column.source_name)).collect();
    Err(source.changed(if names.is_empty() {
        "It had no key, and has one now.".to_owned()
    } else {
        format!("Its key is no longer ({}).", names.join(", "))
    }))
}
