//! How the rows of one source relation, as history has it at a change, become rows of a table of
//! the definition: which attribute feeds which column, by which encoder, and which make up the key.
//!
//! A mapping is made before the first change of a relation and again when the server says that the
//! relation may look different. Making it compares the relation with the definition. What differs
//! in a way that the stream cannot follow is an error that names the remedy; see [`Mapping::new`].
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
use trem_wire::message::{Column, Relation, RowFormat};

use super::encode::Encoder;
use super::error::StreamError;
use super::identity::{Identity, OldRow};
use super::inputs::Inputs;
use super::rules::TableRules;
use crate::pg;

/// One column of the rows that are sent.
pub(crate) struct MappedColumn {
    /// Position in the deformed row: of the attribute, or of the result that a rule puts behind.
    pub(crate) attribute: usize,
    pub(crate) encoder: Encoder,
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
    /// Attributes, and results of rules behind them.
    pub(crate) value_count: usize,
    pub(crate) columns: Vec<MappedColumn>,
    /// Number of key columns; 0: rows are found by all columns.
    pub(crate) key_count: usize,
    pub(crate) toastable: bool,
    pub(crate) old_row: OldRow,
    /// The definition has a key and the table has none any more.
    pub(crate) key_lost: bool,
    /// What the table's rules read and write, if it has any.
    pub(crate) inputs: Option<Inputs>,
    /// Positions in the definition's columns of those that are there.
    present: Vec<usize>,
    /// Of the description: tells whether the stream's last one for the table is this one.
    pub(crate) fingerprint: u64,
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

    fn computes(&self, position: usize) -> bool {
        self.rules.is_some_and(|rules| rules.columns[position].is_some())
    }

    pub(crate) fn ignores_ddl(&self) -> bool {
        self.definition.options.ddl == Ddl::Ignore
    }

    pub(crate) fn changed(&self, change: String) -> StreamError {
        StreamError::TableChanged {
            task: self.definition.task.clone(),
            table: table_name(self.table()),
            change,
        }
    }
}

/// A column of the definition, and the attribute that it stands for: for one that is computed only
/// if it is a key column, to compare keys.
struct Pair<'a> {
    position: usize,
    column: &'a DefinedColumn,
    attribute: Option<&'a pg_sys::FormData_pg_attribute>,
}

impl Pair<'_> {
    fn attnum(&self) -> Option<i16> {
        self.attribute.map(|attribute| attribute.attnum)
    }
}

impl Mapping {
    /// Compares the relation with the definition and maps what they have in common.
    ///
    /// A column of the definition that the relation does not have yet is left out. An attribute
    /// dropped or of another type, another key, and unless the task ignores them a rename and a
    /// column that came after the publish, are errors.
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
        if let (Some(inputs), Some(rules)) = (&mut inputs, source.rules) {
            if let Some(filter) = &rules.filter {
                inputs.add_filter(source, source.table(), filter)?;
            }
        }
        let pairs = pair_up(source, &attributes, inputs.as_ref())?;
        refuse_new_columns(source, &attributes, &pairs)?;
        // SAFETY: the relation is open in a change callback.
        let identity = unsafe { Identity::of(relation) };
        // SAFETY: an open relation has its pg_class row.
        let is_root =
            unsafe { (*(*relation).rd_rel).relkind } as u8 == pg_sys::RELKIND_PARTITIONED_TABLE;
        let (old_row, key_lost) = match is_root {
            true => (OldRow::None, false),
            false => compare_key(source, &pairs, &identity)?,
        };

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
        let mut mapping = Mapping {
            table: source.table,
            oid: source.table().oid,
            attribute_count: attributes.len(),
            value_count,
            key_count: columns.iter().filter(|column| column.key).count(),
            toastable: columns.iter().any(|column| column.toastable),
            columns,
            old_row,
            key_lost,
            inputs,
            present: pairs.iter().map(|pair| pair.position).collect(),
            fingerprint: 0,
            memory,
        };
        mapping.fingerprint = mapping.describe(source.table()).fingerprint();
        Ok(mapping)
    }

    /// The description that goes before the table's rows.
    pub(crate) fn describe(&self, table: &DefinedTable) -> Relation {
        let columns = self.present.iter().map(|&position| {
            let column = &table.columns[position];
            Column {
                attnum: column.attnum,
                name: column.name.clone(),
                type_oid: column.type_oid,
                type_name: column.type_name.clone(),
                key: column.key,
            }
        });
        Relation {
            oid: table.oid,
            source_schema: table.source_schema.clone(),
            source_name: table.source_name.clone(),
            target_schema: table.target_schema.clone(),
            target_name: table.target_name.clone(),
            format: row_format(table),
            filtered: table.filter.is_some(),
            columns: columns.collect(),
        }
    }

    /// The name, on the source, of a column that is sent.
    pub(crate) fn column_name<'a>(&self, table: &'a DefinedTable, column: usize) -> &'a str {
        &table.columns[self.present[column]].source_name
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
    let rule = source.rules.and_then(|rules| rules.columns[pair.position].as_ref());
    match (rule, inputs, pair.attribute) {
        (None, _, Some(attribute)) => MappedColumn {
            attribute: attribute.attnum as usize - 1,
            encoder: Encoder::new(attribute.atttypid, format, memory),
            key,
            toastable: attribute.attlen == -1,
        },
        (rule, inputs, _) => {
            let attribute = *value_count;
            *value_count += 1;
            if let (Some(rule), Some(inputs)) = (rule, inputs) {
                inputs.add_computed(rule, pair.position, column, attribute, key);
            }
            let type_oid = pg_sys::Oid::from(pair.column.type_oid);
            let encoder = Encoder::new(type_oid, format, memory);
            MappedColumn { attribute, encoder, key, toastable: false }
        }
    }
}

fn pair_up<'a>(
    source: &'a Source<'_>,
    attributes: &[&'a pg_sys::FormData_pg_attribute],
    inputs: Option<&Inputs>,
) -> Result<Vec<Pair<'a>>, StreamError> {
    let mut pairs = Vec::new();
    for (position, column) in source.table().columns.iter().enumerate() {
        let rule = source.rules.and_then(|rules| rules.columns[position].as_ref());
        if rule.is_some() && !column.key {
            if rule.zip(inputs).is_some_and(|(rule, inputs)| inputs.can_compute(rule)) {
                pairs.push(Pair { position, column, attribute: None });
            }
            continue;
        }
        if let Some(attribute) = source.attribute(attributes, column.attnum) {
            if !source.computes(position) {
                compare_column(source, column, attribute)?;
            }
            pairs.push(Pair { position, column, attribute: Some(attribute) });
        }
    }
    Ok(pairs)
}

fn compare_column(
    source: &Source<'_>,
    column: &DefinedColumn,
    attribute: &pg_sys::FormData_pg_attribute,
) -> Result<(), StreamError> {
    let name = &column.source_name;
    if attribute.attisdropped {
        return Err(source.changed(format!("Column \"{name}\" was dropped.")));
    }
    // A length or precision that was changed before the publish does not change the bytes.
    let modifier_differs = attribute.atttypmod != column.type_modifier && !source.older;
    if attribute.atttypid.to_u32() != column.type_oid || modifier_differs {
        return Err(
            source.changed(format!("Column \"{name}\" is no longer of type {}.", column.type_name))
        );
    }
    let now = attribute_name(attribute);
    if now != *name && !source.older && !source.ignores_ddl() {
        return Err(source.changed(format!("Column \"{name}\" was renamed to \"{now}\".")));
    }
    Ok(())
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

/// Compares the keys. Gives what may be used of old rows, and whether the table has no key any
/// more: then an insert fails as well, because the target's key would no longer hold.
///
/// From before the publish another key is no error by itself: only what needs the key fails.
fn compare_key(
    source: &Source<'_>,
    pairs: &[Pair<'_>],
    identity: &Identity,
) -> Result<(OldRow, bool), StreamError> {
    let mut defined: Vec<i16> =
        pairs.iter().filter(|pair| pair.column.key).filter_map(Pair::attnum).collect();
    defined.sort_unstable();
    let logged = identity.old_row;
    if defined == identity.key || defined.is_empty() && logged == OldRow::None {
        return Ok((logged, false));
    }
    if source.older {
        return Ok((if logged == OldRow::Full { logged } else { OldRow::None }, false));
    }
    if identity.key.is_empty() && logged == OldRow::None {
        return Ok((logged, true));
    }
    let names: Vec<_> = source
        .table()
        .columns
        .iter()
        .filter(|column| column.key)
        .map(|column| format!("\"{}\"", column.source_name))
        .collect();
    Err(source.changed(if names.is_empty() {
        "It had no key, and has one now.".to_owned()
    } else {
        format!("Its key is no longer ({}).", names.join(", "))
    }))
}
