//! The open group's changes of tables that can be applied set-wise: gathered and netted here, not
//! yet sent. What is done with them is in [`setwise`](super::setwise), or for a handful in
//! [`changes`](super::changes).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use trem_wire::message::{Operation, Relation, Run};

use super::layout::Layout;
use crate::connect::Client;
use crate::error::Result;
use crate::net;

/// The changes of one table.
pub(super) struct Gathered {
    pub(super) relation: Arc<Relation>,
    pub(super) layout: Arc<Layout>,
    /// Runs of inserts from before anything was netted: they need no netting and no decoding.
    pub(super) copied: Vec<Run>,
    pub(super) copied_rows: usize,
    pub(super) net: net::Table,
}

impl Gathered {
    fn new(relation: &Arc<Relation>, layout: &Arc<Layout>) -> Self {
        Gathered {
            relation: Arc::clone(relation),
            layout: Arc::clone(layout),
            copied: Vec::new(),
            copied_rows: 0,
            net: net::Table::new(relation.filtered),
        }
    }
}

/// How a table is applied, for one description of it.
struct Known {
    relation: Arc<Relation>,
    layout: Option<Arc<Layout>>,
}

#[derive(Default)]
pub(super) struct Gather {
    known: HashMap<u32, Known>,
    tables: BTreeMap<u32, Gathered>,
    /// Bytes of the runs that were copied, and of others that arrived meanwhile: a run shares the
    /// memory of what arrived with it.
    run_bytes: usize,
}

impl Gather {
    /// How the relation is applied set-wise, if it is known.
    pub(super) fn layout(&self, relation: &Arc<Relation>) -> Option<Option<Arc<Layout>>> {
        let known = self.known.get(&relation.oid)?;
        let same = Arc::ptr_eq(&known.relation, relation) || known.relation == *relation;
        same.then(|| known.layout.clone())
    }

    pub(super) async fn find_layout(
        &mut self,
        client: &Client,
        relation: &Arc<Relation>,
    ) -> Result<Option<Arc<Layout>>> {
        let layout = Layout::find(client, relation).await?.map(Arc::new);
        let known = Known { relation: Arc::clone(relation), layout: layout.clone() };
        self.known.insert(relation.oid, known);
        Ok(layout)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// Something of the table waits here.
    pub(super) fn holds(&self, oid: u32) -> bool {
        self.tables.contains_key(&oid)
    }

    /// Something of the table waits here, under an earlier description.
    pub(super) fn holds_other(&self, relation: &Arc<Relation>) -> bool {
        self.tables.get(&relation.oid).is_some_and(|table| table.relation != *relation)
    }

    /// Rows that would be carried out.
    pub(super) fn row_count(&self) -> usize {
        self.tables.values().map(|table| table.copied_rows + table.net.len()).sum()
    }

    /// About how much memory all of it takes.
    pub(super) fn bytes(&self) -> usize {
        let netted: usize = self.tables.values().map(|table| table.net.bytes()).sum();
        self.run_bytes + netted
    }

    /// Takes a run in. What cannot be netted comes back: it is to be applied in source order, after
    /// everything that waits here.
    pub(super) fn take_in(
        &mut self,
        operation: Operation,
        relation: &Arc<Relation>,
        layout: &Arc<Layout>,
        run: &Run,
    ) -> std::result::Result<(), Run> {
        let table =
            self.tables.entry(relation.oid).or_insert_with(|| Gathered::new(relation, layout));
        if operation == Operation::Insert && table.net.is_empty() {
            table.copied.push(run.clone());
            table.copied_rows += run.row_count as usize;
            self.run_bytes += run.rows.len();
            return Ok(());
        }
        table.net.take_in(operation, relation, run)
    }

    /// A run of another table is applied while something waits here.
    pub(super) fn pass(&mut self, run: &Run) {
        if !self.is_empty() {
            self.run_bytes += run.rows.len();
        }
    }

    /// Everything, table by table.
    pub(super) fn take(&mut self) -> Vec<Gathered> {
        self.run_bytes = 0;
        std::mem::take(&mut self.tables).into_values().collect()
    }
}
