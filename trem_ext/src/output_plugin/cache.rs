//! The relations that the stream has met: which table of the definition each belongs to, and its
//! mapping while that is fresh.

use std::collections::{HashMap, HashSet};

use pgrx::{pg_sys, spi};
use trem_wire::definition::{DefinedLeaf, DefinedParts, Definition};
use trem_wire::Lsn;

use super::error::StreamError;
use super::invalidation::{self, Stale};
use super::relation::{table_name, Mapping, Source};
use super::rules::Rules;
use crate::pg;

/// Relations that are remembered beside those of the task: of tables that are made and dropped all
/// day there is no end.
const FOREIGN_MAX: usize = 16 * 1024;

/// A relation's place in the definition.
#[derive(Clone, Copy)]
struct Member {
    table: usize,
    /// Position among the table's leaves; `None` for the root of a partitioned table.
    leaf: Option<usize>,
}

enum State {
    /// Not looked at since the server said that it may be different.
    Stale,
    /// Not of this task.
    Foreign,
    Mapped(Box<Mapping>),
}

struct Entry {
    oid: u32,
    /// What committed before is in the copy already.
    changes_from: Lsn,
    state: State,
}

pub(crate) struct Cache {
    members: HashMap<u32, Member>,
    entries: Vec<Entry>,
    positions: HashMap<u32, usize>,
    /// Of composite types that the tables' columns have: whether a table is as the definition has
    /// it depends on them, too.
    type_relations: HashSet<u32>,
    /// The mappings are of transactions that committed before the definition was published.
    older: bool,
    /// Position of the entry that was asked for last: rows of one relation come in runs.
    last: usize,
    memory: pg_sys::MemoryContext,
}

impl Cache {
    /// `memory` outlives the cache; the mappings take what they need there.
    pub(crate) fn new(definition: &Definition, memory: pg_sys::MemoryContext) -> Cache {
        let mut members = HashMap::new();
        for (table, defined) in definition.tables.iter().enumerate() {
            members.insert(defined.oid, Member { table, leaf: None });
            for (leaf, defined) in defined.leaves.iter().enumerate() {
                members.insert(defined.oid, Member { table, leaf: Some(leaf) });
            }
        }
        let shapes = definition.tables.iter().flat_map(|table| &table.shapes);
        let type_relations = shapes.filter_map(|shape| match shape.parts {
            DefinedParts::Composite { relation, .. } => Some(relation),
            DefinedParts::Enum(_) => None,
        });
        invalidation::register();
        Cache {
            type_relations: type_relations.collect(),
            members,
            entries: Vec::new(),
            positions: HashMap::new(),
            older: false,
            last: 0,
            memory,
        }
    }

    /// The mapping of a relation; `None` if a change of it is not for this task.
    ///
    /// # Safety
    /// `relation` is open in a change callback of a transaction with this `commit_lsn`.
    #[inline]
    pub(crate) unsafe fn find(
        &mut self,
        definition: &Definition,
        rules: &Rules,
        relation: pg_sys::Relation,
        commit_lsn: Lsn,
    ) -> Result<Option<&mut Mapping>, StreamError> {
        if let Some(stale) = invalidation::take() {
            self.forget(stale);
        }
        let older = commit_lsn < definition.published_lsn;
        if std::mem::replace(&mut self.older, older) != older {
            self.forget(Stale::All);
        }
        // SAFETY: the relation is open, so its fields and its descriptor are valid.
        let (oid, attribute_count) =
            unsafe { ((*relation).rd_id.to_u32(), (*(*relation).rd_att).natts as usize) };
        let at = self.position(definition, oid);
        if commit_lsn < self.entries[at].changes_from {
            return Ok(None);
        }
        let fresh = match &self.entries[at].state {
            State::Stale => false,
            State::Foreign => true,
            // A row is deformed into buffers of this size, so do not rely on the notice alone.
            State::Mapped(mapping) => mapping.attribute_count == attribute_count,
        };
        if !fresh {
            // Forget first: a failure must not leave the old mapping in place.
            self.set(at, State::Stale);
            // SAFETY: the relation is open in a change callback.
            let state = unsafe { self.look(definition, rules, relation)? };
            self.set(at, state);
        }
        Ok(match &mut self.entries[at].state {
            State::Mapped(mapping) => Some(mapping),
            State::Foreign | State::Stale => None,
        })
    }

    #[inline]
    fn position(&mut self, definition: &Definition, oid: u32) -> usize {
        if self.entries.get(self.last).is_some_and(|entry| entry.oid == oid) {
            return self.last;
        }
        self.last = match self.positions.get(&oid) {
            Some(&at) => at,
            None => self.add(definition, oid),
        };
        self.last
    }

    fn add(&mut self, definition: &Definition, oid: u32) -> usize {
        if self.entries.len() >= self.members.len() + FOREIGN_MAX {
            self.forget(Stale::All);
            self.entries.clear();
            self.positions.clear();
        }
        let member = self.members.get(&oid);
        let changes_from =
            member.map_or(Lsn::INVALID, |member| definition.tables[member.table].changes_from);
        let at = self.entries.len();
        self.entries.push(Entry { oid, changes_from, state: State::Stale });
        self.positions.insert(oid, at);
        at
    }

    fn set(&mut self, at: usize, state: State) {
        if let State::Mapped(mapping) = std::mem::replace(&mut self.entries[at].state, state) {
            mapping.free();
        }
    }

    fn forget(&mut self, stale: Stale) {
        match stale {
            Stale::All => (0..self.entries.len()).for_each(|at| self.set(at, State::Stale)),
            Stale::Some(oids) if oids.iter().any(|oid| self.type_relations.contains(oid)) => {
                self.forget(Stale::All);
            }
            Stale::Some(oids) => {
                for oid in oids {
                    if let Some(&at) = self.positions.get(&oid) {
                        self.set(at, State::Stale);
                    }
                }
            }
        }
    }

    unsafe fn look(
        &self,
        definition: &Definition,
        rules: &Rules,
        relation: pg_sys::Relation,
    ) -> Result<State, StreamError> {
        let older = self.older;
        // SAFETY: the relation is open in a change callback.
        let (oid, root) = unsafe { ((*relation).rd_id.to_u32(), self.root_of(relation)) };
        let Some(member) = self.members.get(&oid).copied() else {
            return match root {
                // A partition that was gone by the time of the publish is not missed.
                Some(table) if !older => Err(StreamError::PartitionAdded {
                    task: definition.task.clone(),
                    table: table_name(&definition.tables[table]),
                    leaf: relation_name(relation),
                }),
                _ => Ok(State::Foreign),
            };
        };
        let table = &definition.tables[member.table];
        let leaf = member.leaf.map(|leaf| &table.leaves[leaf]);
        let rules = rules.of(definition, member.table)?;
        let source = Source { definition, table: member.table, leaf, older, rules };
        let detached = |leaf: &&DefinedLeaf| leaf.oid != table.oid && root != Some(member.table);
        if let Some(leaf) = leaf.filter(detached) {
            if older {
                // It was a table of its own then, and came later: what it had is asked about.
                return Ok(State::Foreign);
            }
            return Err(StreamError::PartitionDetached {
                task: definition.task.clone(),
                table: table_name(table),
                leaf: spi::quote_qualified_identifier(&leaf.schema, &leaf.name),
            });
        }
        // SAFETY: the relation is open in a change callback; the cache's memory outlives it.
        let mapping = unsafe { Mapping::new(&source, relation, self.memory)? };
        Ok(State::Mapped(Box::new(mapping)))
    }

    /// The table of the definition of which the relation is a partition, however deep.
    unsafe fn root_of(&self, relation: pg_sys::Relation) -> Option<usize> {
        // SAFETY: the relation is open in a callback.
        let ancestors = unsafe { pg::partition_ancestors(relation) };
        let found = ancestors
            .iter()
            .find_map(|oid| self.members.get(oid).filter(|member| member.leaf.is_none()));
        found.map(|member| member.table)
    }

    /// Sorts the relations of one TRUNCATE: tables of the task, in order; a leaf stands for nothing
    /// while its root is there too, and is an error alone.
    ///
    /// # Safety
    /// The relations are open in a truncate callback.
    pub(crate) unsafe fn truncated(
        &self,
        definition: &Definition,
        relations: &[pg_sys::Relation],
        commit_lsn: Lsn,
    ) -> Result<Vec<pg_sys::Relation>, StreamError> {
        let mut truncated = Vec::new();
        let mut leaves = Vec::new();
        for &relation in relations {
            // SAFETY: the relation is open in a truncate callback.
            let (oid, root) = unsafe { ((*relation).rd_id.to_u32(), self.root_of(relation)) };
            match (root, self.members.get(&oid)) {
                (Some(table), _) if commit_lsn < definition.tables[table].changes_from => {}
                (Some(table), _) => leaves.push((table, relation)),
                (None, Some(_)) => truncated.push(relation),
                (None, None) => {}
            }
        }
        for (table, leaf) in leaves {
            let root = definition.tables[table].oid;
            // SAFETY: the relations are open.
            if !truncated.iter().any(|&relation| unsafe { (*relation).rd_id.to_u32() } == root) {
                return Err(StreamError::LeafTruncated {
                    task: definition.task.clone(),
                    table: table_name(&definition.tables[table]),
                    leaf: relation_name(leaf),
                });
            }
        }
        Ok(truncated)
    }
}

fn relation_name(relation: pg_sys::Relation) -> String {
    // SAFETY: called with open relations only; a namespace that is gone has no name.
    unsafe {
        let form = (*relation).rd_rel;
        let name = pg::utf8((*form).relname.data.as_ptr());
        let schema = pg_sys::get_namespace_name((*form).relnamespace);
        match schema.is_null() {
            true => spi::quote_identifier(name),
            false => spi::quote_qualified_identifier(pg::utf8(schema), name),
        }
    }
}
