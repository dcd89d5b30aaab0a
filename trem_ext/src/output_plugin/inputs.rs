//! What the rules of a table read and write in the rows of one relation: which attribute goes into
//! which column of the rules' slot, and where results go.
//!
//! Results lie behind the attributes in a deformed row, so that encoding a row knows no difference
//! between a column that is passed through and one that is computed.

use pgrx::pg_sys;
use trem_wire::definition::DefinedTable;

use super::error::StreamError;
use super::form::Form;
use super::relation::Source;
use super::rules::{Rule, TableRules};

/// A column that the rules read.
pub(crate) struct Input {
    /// Position in the slot of the rules.
    pub(crate) slot: usize,
    /// Position in the deformed row.
    pub(crate) attribute: usize,
    /// Of variable length, so that a value may be only a pointer to TOAST on disk.
    toastable: bool,
}

/// A column of the relation that is computed.
pub(crate) struct Computed {
    /// Position in the relation's columns; its rule is at the same position.
    pub(crate) column: usize,
    /// Position in the deformed row.
    pub(crate) attribute: usize,
    pub(crate) key: bool,
    /// Attributes that it reads and that may be missing in the WAL.
    pub(crate) watched: Vec<usize>,
    /// It is a function of one column and of nothing else.
    pub(crate) of_one_column: bool,
}

pub(crate) struct Inputs {
    pub(crate) inputs: Vec<Input>,
    /// Attributes that are read and may be missing in the WAL.
    pub(crate) toastable: Vec<usize>,
    /// Those of them that the filter reads.
    pub(crate) filter_watched: Vec<usize>,
    /// History does not have all that the filter reads, as it was published.
    pub(crate) filter_lacks: bool,
    /// The filter can be told from the key alone.
    pub(crate) filter_reads_key_only: bool,
    /// Key columns first.
    pub(crate) computed: Vec<Computed>,
}

impl Inputs {
    /// The attributes for all inputs of the rules. A column that is not yet in its form is left
    /// out; whatever reads it [cannot be computed](Inputs::can_compute).
    pub(crate) fn find(
        source: &Source<'_>,
        rules: &TableRules,
        attributes: &[&pg_sys::FormData_pg_attribute],
    ) -> Result<Inputs, StreamError> {
        let mut inputs = Vec::new();
        for read in &rules.inputs {
            let form = source.form_of_input(attributes, read.slot as i16 + 1, read)?;
            let Form::Same(attribute) = form else { continue };
            inputs.push(Input {
                slot: read.slot,
                attribute: attribute.attnum as usize - 1,
                toastable: attribute.attlen == -1,
            });
        }
        let toastable = |input: &&Input| input.toastable;
        let mut inputs = Inputs {
            toastable: inputs.iter().filter(toastable).map(|input| input.attribute).collect(),
            inputs,
            filter_watched: Vec::new(),
            filter_lacks: false,
            filter_reads_key_only: false,
            computed: Vec::new(),
        };
        if let Some(filter) = &rules.filter {
            inputs.add_filter(source.table(), filter);
        }
        Ok(inputs)
    }

    /// History has all columns that the rule reads.
    pub(crate) fn can_compute(&self, rule: &Rule) -> bool {
        rule.used.iter().all(|slot| self.inputs.iter().any(|input| input.slot == *slot))
    }

    fn watched(&self, rule: &Rule) -> Vec<usize> {
        let read = |input: &&Input| input.toastable && rule.used.contains(&input.slot);
        self.inputs.iter().filter(read).map(|input| input.attribute).collect()
    }

    fn add_filter(&mut self, table: &DefinedTable, filter: &Rule) {
        self.filter_lacks = !self.can_compute(filter);
        self.filter_watched = self.watched(filter);
        let is_key = |slot: &usize| {
            table.columns.iter().any(|column| column.key && column.attnum as usize == slot + 1)
        };
        self.filter_reads_key_only = filter.used.iter().all(is_key);
    }

    pub(crate) fn add_computed(&mut self, rule: &Rule, column: usize, attribute: usize, key: bool) {
        let computed = Computed {
            column,
            attribute,
            key,
            watched: self.watched(rule),
            of_one_column: rule.used.len() == 1 && !rule.uses_metadata,
        };
        self.computed.push(computed);
    }
}
