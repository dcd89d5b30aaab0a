//! Rows of a table by their keys on the target, for an applier that has to read some of them again:
//! for each key a frame with the row as an insert, or as an error row; or nothing.
//!
//! A key that is passed through is looked up by the table's index, with the equality that orders
//! its type. A key that a rule computes is in no index (and some types have casts that hide their
//! equality): the table is scanned once for all keys, and compared byte by byte with what the rule
//! makes of each row, which is what the stream sent.

use std::collections::HashMap;
use std::ffi::CString;
use std::ptr;

use pgrx::{pg_sys, spi};
use trem_wire::definition::{DefinedTable, Definition};
use trem_wire::row::Row;

use super::emit::Output;
use super::error::StreamError;
use super::leaf::{unreadable, Leaf};
use super::relation::row_format;
use crate::pg::table_scan::{self, FewBuffers, Place};
use crate::pg::{self, read_value};

pub(crate) struct KeyedRows {
    leaves: Vec<Keyed>,
    output: Output,
    keys: std::vec::IntoIter<Vec<u8>>,
}

struct Keyed {
    leaf: Leaf,
    lookup: Lookup,
}

enum Lookup {
    /// A statement of SPI's, whose parameters are the key's columns.
    Index { plan: pg_sys::SPIPlanPtr, columns: Vec<KeyColumn> },
    /// What a scan has found, by key.
    Found(HashMap<Vec<u8>, Vec<u8>>),
}

#[derive(Clone)]
struct KeyColumn {
    type_oid: pg_sys::Oid,
    type_modifier: i32,
    attnum: i16,
}

impl KeyedRows {
    /// Called by an SQL function, in its memory for several calls, under the snapshot that counts.
    pub(crate) fn open(
        definition: &Definition,
        table: u32,
        keys: Vec<Vec<u8>>,
    ) -> Result<KeyedRows, StreamError> {
        let found = definition.tables.iter().find(|defined| defined.oid == table);
        let defined = found.ok_or_else(|| unreadable("it is not one of the task"))?;
        let mut output = None;
        let mut leaves = Vec::with_capacity(defined.leaves.len());
        for leaf in &defined.leaves {
            let mut leaf = Leaf::open(definition, leaf.oid)?;
            let output = match &mut output {
                Some(output) => output,
                none => none.insert(leaf.output()?),
            };
            let lookup = match columns(defined) {
                Some(columns) => prepare(&mut leaf, defined, columns)?,
                None => Lookup::Found(scan(&mut leaf, output, &keys)?),
            };
            leaves.push(Keyed { leaf, lookup });
        }
        let output = output.ok_or_else(|| unreadable("it has no partition"))?;
        Ok(KeyedRows { leaves, output, keys: keys.into_iter() })
    }

    /// The frame of the next key; the inner `None`: there is no such row, or not in the filter.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Option<Vec<u8>>>, StreamError> {
        let Some(key) = self.keys.next() else { return Ok(None) };
        for Keyed { leaf, lookup } in &mut self.leaves {
            let found = match lookup {
                Lookup::Found(found) => found.remove(&key),
                Lookup::Index { plan, columns } => {
                    let (plan, columns) = (*plan, &columns[..]);
                    // SAFETY: the plan is kept, and the leaf locked.
                    unsafe { look_up(leaf, &mut self.output, plan, columns, &key)? };
                    taken(&mut self.output)?
                }
            };
            if found.is_some() {
                return Ok(Some(found));
            }
        }
        Ok(Some(None))
    }
}

fn taken(output: &mut Output) -> Result<Option<Vec<u8>>, StreamError> {
    match output.frame.is_empty() {
        true => Ok(None),
        false => output.frame.take().map(Some),
    }
}

/// The key's columns, if all of them are passed through and can be asked for in SQL.
fn columns(table: &DefinedTable) -> Option<Vec<KeyColumn>> {
    let key = table.columns.iter().filter(|column| column.key);
    key.map(|column| {
        let type_oid = pg_sys::Oid::from(column.type_oid);
        let found = column.expression.is_none() && pg::equality(type_oid).is_some();
        found.then_some(KeyColumn {
            type_oid,
            type_modifier: column.type_modifier,
            attnum: column.attnum,
        })
    })
    .collect()
}

/// Prepares the look-up by an index. It is planned as the owner of the table, whose code planning
/// may run (an index's expression).
fn prepare(
    leaf: &mut Leaf,
    table: &DefinedTable,
    columns: Vec<KeyColumn>,
) -> Result<Lookup, StreamError> {
    let defined = table.leaves.iter().find(|of| of.oid == leaf.locked.oid.to_u32());
    let conditions = columns.iter().enumerate().map(|(at, column)| {
        let attnum = defined.map_or(column.attnum, |leaf| leaf.attnum(column.attnum));
        let name = pg::column_name(leaf.locked.oid, attnum)
            .ok_or_else(|| unreadable("a column of its key was dropped"))?;
        let equals = pg::equality(column.type_oid)
            .ok_or_else(|| unreadable("values of its key cannot be compared"))?;
        Ok(format!("t.{} {equals} ${}", spi::quote_identifier(name), at + 1))
    });
    let conditions = conditions.collect::<Result<Vec<_>, StreamError>>()?;
    if conditions.is_empty() {
        return Err(unreadable("it has no key"));
    }
    let name = spi::quote_qualified_identifier(&leaf.locked.schema, &leaf.locked.name);
    let sql = format!("SELECT t.ctid FROM ONLY {name} AS t WHERE {}", conditions.join(" AND "));
    let sql = CString::new(sql).map_err(|_| unreadable("a name contains a zero byte"))?;
    let mut types: Vec<_> = columns.iter().map(|column| column.type_oid).collect();
    let (count, oid) = (columns.len() as i32, leaf.locked.oid);
    let plan = pg::as_role(leaf.locked.owner, || {
        // SAFETY: in a transaction; the text and the types are copied. A kept plan outlives SPI's
        // connection, and lasts until the session ends or it is freed.
        unsafe {
            connect()?;
            let plan = pg_sys::SPI_prepare(sql.as_ptr(), count, types.as_mut_ptr());
            if plan.is_null() || !pg::table::reads_only(plan, oid) {
                return Err(unreadable("its schema was renamed"));
            }
            pg_sys::SPI_keepplan(plan);
            pg_sys::SPI_finish();
            Ok(plan)
        }
    })?;
    Ok(Lookup::Index { plan, columns })
}

/// The row of a key into the frame, if there is one.
///
/// # Safety
/// The plan was made by [`prepare`] for this leaf.
unsafe fn look_up(
    leaf: &mut Leaf,
    output: &mut Output,
    plan: pg_sys::SPIPlanPtr,
    columns: &[KeyColumn],
    key: &[u8],
) -> Result<(), StreamError> {
    let table = leaf.table();
    let format = row_format(table);
    let row = Row::decode(key).map_err(|error| unreadable(&error.to_string()))?;
    if row.field_count() != columns.len() {
        return Err(unreadable("a key has another number of columns"));
    }
    leaf.read(|leaf| {
        // SAFETY: as promised by the caller. What is fetched is live until SPI is finished. The row
        // at that place is visible to the snapshot under which it was found.
        unsafe {
            connect()?;
            let mut values = Vec::with_capacity(columns.len());
            for (column, field) in columns.iter().zip(row.fields()) {
                let Some(field) = field else { return finish(Ok(())) };
                values.push(read_value(column.type_oid, column.type_modifier, format, field));
            }
            pg_sys::SPI_execute_plan(plan, values.as_mut_ptr(), ptr::null(), true, 1);
            let table = pg_sys::SPI_tuptable;
            if pg_sys::SPI_processed == 0 || table.is_null() {
                return finish(Ok(()));
            }
            let mut is_null = false;
            let tid = pg_sys::SPI_getbinval(*(*table).vals, (*table).tupdesc, 1, &mut is_null);
            let place = Place::of_tid(*tid.cast_mut_ptr());
            let no_lock = pg_sys::NoLock as i32;
            let relation = pg_sys::relation_open(leaf.locked.oid, no_lock);
            let descriptor = (*relation).rd_att;
            let here = (place, Some(place.next_block()));
            let result = table_scan::scan(relation, &FewBuffers::new(), here, |row| {
                leaf.put(output, row, descriptor).map(|()| true)
            });
            pg_sys::relation_close(relation, no_lock);
            finish(result.map(|_| ()))
        }
    })
}

/// # Safety
/// SPI is connected.
unsafe fn finish<T>(result: Result<T, StreamError>) -> Result<T, StreamError> {
    // SAFETY: as promised by the caller.
    unsafe { pg_sys::SPI_finish() };
    result
}

unsafe fn connect() -> Result<(), StreamError> {
    // SAFETY: in a transaction.
    match unsafe { pg_sys::SPI_connect() } {
        code if code == pg_sys::SPI_OK_CONNECT as i32 => Ok(()),
        _ => Err(unreadable("SPI does not connect")),
    }
}

/// The frames of all keys that the leaf has.
fn scan(
    leaf: &mut Leaf,
    output: &mut Output,
    keys: &[Vec<u8>],
) -> Result<HashMap<Vec<u8>, Vec<u8>>, StreamError> {
    let wanted: std::collections::HashSet<&[u8]> = keys.iter().map(Vec::as_slice).collect();
    let buffers = FewBuffers::new();
    let mut found = HashMap::new();
    leaf.read(|leaf| {
        // SAFETY: the relation is locked, and open meanwhile; a statement has a snapshot.
        unsafe {
            let no_lock = pg_sys::NoLock as i32;
            let relation = pg_sys::relation_open(leaf.locked.oid, no_lock);
            let descriptor = (*relation).rd_att;
            let all = (Place::of_block(0), None);
            let scanned = table_scan::scan(relation, &buffers, all, |row| {
                let key = leaf.key_of(row, descriptor)?;
                if let Some(key) = key.filter(|key| wanted.contains(key.as_slice())) {
                    leaf.put(output, row, descriptor)?;
                    if let Some(frame) = taken(output)? {
                        found.insert(key, frame);
                    }
                }
                Ok(false)
            });
            pg_sys::relation_close(relation, no_lock);
            scanned.map(|_| ())
        }
    })?;
    Ok(found)
}

impl Drop for KeyedRows {
    fn drop(&mut self) {
        for Keyed { lookup, .. } in &self.leaves {
            if let Lookup::Index { plan, .. } = lookup {
                // SAFETY: the plan was kept by us, and nothing runs it any more.
                unsafe { pg_sys::SPI_freeplan(*plan) };
            }
        }
    }
}
