//! A target that does what it is told, and nothing that a well-behaved stream would not ask for.

use std::collections::HashMap;
use std::sync::Arc;

use trem_applier::apply::{Action, Window};
use trem_applier::net::{self, Net};
use trem_tests::Random;
use trem_wire::message::{Operation, Relation, Run, UpdatedRow};
use trem_wire::row::Row;
use trem_wire::Lsn;

use crate::source::{History, Rows, Values, KEYLESS, UNIQUE};

#[derive(Clone)]
struct State {
    applied_lsn: Lsn,
    tables: Vec<Vec<Values>>,
}

/// Netted changes of the open transaction, by table.
type Gathered = HashMap<u32, (Arc<Relation>, net::Table)>;

pub(crate) struct Target {
    /// Changes of tables whose rows do not depend on each other are netted.
    nets: bool,
    gathered: Gathered,
    /// Committed, in order. The last ones may be lost in a crash.
    committed: Vec<State>,
    /// How many of them are durable.
    durable: usize,
    /// The open transaction.
    open: Option<State>,
}

impl Target {
    pub(crate) fn new(loaded: Vec<Rows>, start: Lsn, nets: bool) -> Self {
        let tables = loaded.into_iter().map(|rows| rows.into_values().collect()).collect();
        let first = State { applied_lsn: start, tables };
        Target { nets, gathered: HashMap::new(), committed: vec![first], durable: 1, open: None }
    }

    fn last(&self) -> &State {
        self.committed.last().expect("the first state is durable")
    }

    pub(crate) fn applied_lsn(&self) -> Lsn {
        self.last().applied_lsn
    }

    /// The open transaction is lost; and commits that were not flushed, if the server crashed.
    pub(crate) fn crash(&mut self, random: &mut Random) {
        self.open = None;
        self.gathered.clear();
        self.durable += random.below((self.committed.len() - self.durable + 1) as u64) as usize;
        if random.below(2) == 0 {
            self.committed.truncate(self.durable);
        }
    }

    /// Whether something was committed.
    pub(crate) fn carry_out(&mut self, action: Action) -> bool {
        let last = self.last().clone();
        let open = self.open.get_or_insert(last);
        match action {
            Action::Transaction { .. } => {}
            Action::Insert(relation, run) => {
                gather(open, &mut self.gathered, self.nets, (Operation::Insert, relation, run));
            }
            Action::Update(relation, run) => {
                gather(open, &mut self.gathered, self.nets, (Operation::Update, relation, run));
            }
            Action::Delete(relation, run) => {
                gather(open, &mut self.gathered, self.nets, (Operation::Delete, relation, run));
            }
            Action::Truncate(relations) => {
                open.carry_out_all(&mut self.gathered);
                relations.iter().for_each(|relation| open.table(relation.oid).clear());
            }
            Action::Commit { applied_lsn, .. } | Action::Advance { applied_lsn } => {
                assert!(applied_lsn > open.applied_lsn, "progress goes forward");
                open.carry_out_all(&mut self.gathered);
                open.applied_lsn = applied_lsn;
                self.committed.extend(self.open.take());
                return true;
            }
            Action::Barrier { .. } => {}
            Action::RowFailed(..) => panic!("no row of this history fails"),
        }
        false
    }

    /// Compares with the source at the same commit, but for tables whose window is open.
    pub(crate) fn assert_is(&self, history: &History, windows: &HashMap<u32, Window>) {
        let State { applied_lsn, tables } = self.last();
        for (table, (rows, wanted)) in tables.iter().zip(history.at(*applied_lsn)).enumerate() {
            let window = windows.get(&(table as u32));
            if window.is_some_and(|window| window.overlap_end > *applied_lsn) {
                continue;
            }
            let mut rows = rows.clone();
            let mut wanted: Vec<Values> = wanted.values().copied().collect();
            rows.sort_unstable();
            wanted.sort_unstable();
            assert_eq!(rows, wanted, "table {table} at {applied_lsn}");
        }
    }
}

/// Nets a run, where that may be done; what is refused comes after what was netted so far.
fn gather(
    open: &mut State,
    gathered: &mut Gathered,
    nets: bool,
    (operation, relation, run): (Operation, Arc<Relation>, Run),
) {
    if !nets || [UNIQUE, KEYLESS].contains(&relation.oid) {
        return open.apply(operation, &relation, &run);
    }
    let fresh = || (Arc::clone(&relation), net::Table::new(false));
    let (_, table) = gathered.entry(relation.oid).or_insert_with(fresh);
    if let Err(rest) = table.take_in(operation, &relation, &run) {
        let (_, table) = gathered.remove(&relation.oid).expect("taken in above");
        open.carry_out(&relation, table);
        open.apply(operation, &relation, &rest);
    }
}

impl State {
    fn carry_out_all(&mut self, gathered: &mut Gathered) {
        for (_, (relation, table)) in gathered.drain() {
            self.carry_out(&relation, table);
        }
    }

    fn carry_out(&mut self, relation: &Relation, table: net::Table) {
        for (key, net) in table.in_order() {
            let row = |bytes| Row::decode(bytes).expect("a row");
            match net {
                Net::Delete => {
                    self.take(relation.oid, row(&key));
                }
                Net::Insert(new) => self.insert(relation.oid, values(row(&new))),
                Net::Put(_) => panic!("no table of this history has a filter"),
                Net::Update(new, present) => {
                    let old = self.take(relation.oid, row(&key));
                    let new = values(row(&new));
                    let has = |at: usize| present.as_ref().is_none_or(|present| present[at]);
                    let at = |at: usize| if has(at) { new[at] } else { old[at] };
                    self.insert(relation.oid, [at(0), at(1), at(2)]);
                }
            }
        }
    }

    fn apply(&mut self, operation: Operation, relation: &Relation, run: &Run) {
        match operation {
            Operation::Insert => {
                run.rows().for_each(|row| self.insert(relation.oid, values(row)));
            }
            Operation::Update => run.updated_rows().for_each(|row| self.update(relation, row)),
            Operation::Delete => {
                for row in run.rows() {
                    self.take(relation.oid, row);
                }
            }
        }
    }

    fn table(&mut self, table: u32) -> &mut Vec<Values> {
        &mut self.tables[table as usize]
    }

    fn insert(&mut self, table: u32, row: Values) {
        for other in self.table(table) {
            assert!(table == KEYLESS || other[0] != row[0], "table {table}: the key is free");
            let free = table != UNIQUE || row[1].is_none() || other[1] != row[1];
            assert!(free, "table {table}: the unique value is free");
        }
        self.table(table).push(row);
    }

    /// Takes away the row that has these values in its first columns.
    fn take(&mut self, table: u32, row: Row<'_>) -> Values {
        let wanted = integers(row);
        let rows = self.table(table);
        let found = rows.iter().position(|row| row.starts_with(&wanted));
        rows.swap_remove(found.expect("the row is there"))
    }

    fn update(&mut self, relation: &Relation, row: UpdatedRow<'_>) {
        let new = values(row.new);
        let old = match row.old {
            Some(old) => self.take(relation.oid, old),
            None => {
                let rows = self.table(relation.oid);
                let found = rows.iter().position(|old| old[0] == new[0]);
                rows.swap_remove(found.expect("the row is there"))
            }
        };
        let at = |at: usize| if row.unchanged.contains(at) { old[at] } else { new[at] };
        self.insert(relation.oid, [at(0), at(1), at(2)]);
    }
}

fn integers(row: Row<'_>) -> Vec<Option<i64>> {
    let integer = |field: &[u8]| i64::from_be_bytes(field.try_into().expect("eight bytes"));
    row.fields().map(|field| field.map(integer)).collect()
}

fn values(row: Row<'_>) -> Values {
    integers(row).try_into().expect("three columns")
}
