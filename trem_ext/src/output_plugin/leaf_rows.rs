//! The rows of one table or partition as they are now, through the same rules and encoders as the
//! stream: frames of a relation, inserts and error rows. For a load that met rows for which an
//! expression fails: COPY from a view ends there, this reports such rows and goes on.
//!
//! The table is opened by OID, and read under that lock as its owner, who may not have put anything
//! else in its place. Rows come through a cursor, some at a time, as values of the table's row
//! type. Those are complete: the server puts large values in, and defaults of columns that the row
//! is older than.

use std::ffi::CString;

use pgrx::{pg_sys, spi};
use trem_wire::compress::Compression;
use trem_wire::definition::Definition;

use super::emit::{Emitter, Output};
use super::error::StreamError;
use super::relation::{Mapping, Source};
use super::rules::Rules;
use super::tuple::{Rows, Target};
use crate::pg::table::{self, Locked};
use crate::pg::{self, PinnedSettings};

/// Few, because a row may be large and a frame holds all that were fetched.
const ROWS_FETCHED: i64 = 16;

pub(crate) struct LeafRows {
    definition: Definition,
    rules: Rules,
    mapping: Mapping,
    descriptor: pg_sys::TupleDesc,
    output: Output,
    rows: Rows,
    /// The name of the open cursor; `None` at the end.
    cursor: Option<CString>,
    /// As whom the rows are read and the rules evaluated.
    owner: pg_sys::Oid,
    /// For the values of one row.
    scratch: pg_sys::MemoryContext,
}

impl LeafRows {
    /// Opens the rows of `leaf`, an ordinary table or a partition of the definition. Called by an
    /// SQL function, in its memory for several calls.
    pub(crate) fn open(definition: Definition, leaf: u32) -> Result<LeafRows, StreamError> {
        let found = definition.tables.iter().enumerate().find_map(|(table, defined)| {
            let leaf = defined.leaves.iter().find(|defined| defined.oid == leaf)?;
            Some((table, leaf))
        });
        let Some((table, defined)) = found else {
            return Err(StreamError::Internal {
                what: "the relation is not one of the task",
                reason: format!("Task \"{}\" has no relation {leaf}.", definition.task),
            });
        };
        let locked = table::lock(leaf).ok_or_else(|| unreadable("it was dropped"))?;
        check(&locked)?;
        let mut settings = PinnedSettings::for_call();
        // SAFETY: in an SQL function there is a transaction and a snapshot; its memory outlives the
        // result; the relation is open until its shape was copied.
        let (rules, mapping, descriptor, scratch) = unsafe {
            let memory = pg_sys::CurrentMemoryContext;
            let scratch = pg::child_context(memory, c"trem row");
            let rules = Rules::compile(&definition, memory, scratch)?;
            let relation = pg_sys::relation_open(locked.oid, pg_sys::NoLock as i32);
            let source = Source {
                definition: &definition,
                table,
                leaf: Some(defined),
                older: false,
                rules: rules.of(&definition, table)?,
            };
            let mapping = Mapping::new(&source, relation, memory)?;
            pg_sys::CurrentMemoryContext = memory;
            let descriptor = pg_sys::CreateTupleDescCopy((*relation).rd_att);
            pg_sys::relation_close(relation, pg_sys::NoLock as i32);
            (rules, mapping, descriptor, scratch)
        };
        // SAFETY: in a transaction.
        let cursor = pg::as_role(locked.owner, || unsafe { open_cursor(&locked) })?;
        settings.restore();
        Ok(LeafRows {
            output: Output::new(&definition, Compression::None)?,
            rows: Rows::new(),
            cursor: Some(cursor),
            definition,
            rules,
            mapping,
            descriptor,
            owner: locked.owner,
            scratch,
        })
    }

    /// The next frame; `None` after the last one. Called in the statement that opened the rows.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Vec<u8>>, StreamError> {
        if self.cursor.is_none() {
            return Ok(None);
        }
        let mut settings = PinnedSettings::for_call();
        self.rows.evaluator.begin();
        let evaluation = pg::Evaluation::begin(self.owner);
        let mut result = Ok(());
        while result.is_ok() && self.cursor.is_some() && !self.output.frame.is_full() {
            // SAFETY: in a transaction.
            result = unsafe { self.fetch() };
        }
        drop(evaluation);
        self.rows.evaluator.end();
        settings.restore();
        result?;
        match self.output.frame.is_empty() {
            true => Ok(None),
            false => self.output.frame.take().map(Some),
        }
    }

    /// Some more rows into the frame.
    unsafe fn fetch(&mut self) -> Result<(), StreamError> {
        let Some(cursor) = &self.cursor else { return Ok(()) };
        // SAFETY: the portal was opened in this transaction. What is fetched is live until SPI is
        // finished; the current memory context is put back by that.
        unsafe {
            connect()?;
            let portal = pg_sys::SPI_cursor_find(cursor.as_ptr());
            if portal.is_null() {
                return Err(unreadable("the cursor is gone"));
            }
            pg_sys::SPI_cursor_fetch(portal, true, ROWS_FETCHED as _);
            let (count, table) = (pg_sys::SPI_processed as usize, pg_sys::SPI_tuptable);
            for at in 0..count {
                let tuple = *(*table).vals.add(at);
                let mut is_null = false;
                let row = pg_sys::SPI_getbinval(tuple, (*table).tupdesc, 1, &mut is_null);
                if !is_null {
                    self.read(row)?;
                }
            }
            if count == 0 {
                pg_sys::SPI_cursor_close(portal);
                self.cursor = None;
            }
            pg_sys::SPI_finish();
        }
        Ok(())
    }

    /// One row, as a value of the table's row type.
    unsafe fn read(&mut self, row: pg_sys::Datum) -> Result<(), StreamError> {
        // SAFETY: a composite value starts with the header of a row, whose length it knows. The
        // current memory context is put back.
        unsafe {
            let before = pg_sys::CurrentMemoryContext;
            pg_sys::MemoryContextReset(self.scratch);
            pg_sys::CurrentMemoryContext = self.scratch;
            let header = pg_sys::pg_detoast_datum(row.cast_mut_ptr());
            let mut tuple = pg_sys::HeapTupleData {
                t_len: pgrx::varlena::varsize_any(header) as u32,
                t_data: header.cast(),
                ..Default::default()
            };
            let rules = self.rules.get(self.mapping.table);
            let no_transaction = std::ptr::null_mut();
            let mut out = Emitter::new(&self.definition, &mut self.output, no_transaction);
            let mut target = Target {
                definition: &self.definition,
                mapping: &mut self.mapping,
                descriptor: self.descriptor,
                rules,
            };
            let result = self.rows.insert(&mut out, &mut target, &raw mut tuple);
            pg_sys::CurrentMemoryContext = before;
            result
        }
    }
}

/// What is read must be a table, and all of it.
fn check(locked: &Locked) -> Result<(), StreamError> {
    if !locked.has_rows() {
        return Err(unreadable("it is no table any more"));
    }
    if !locked.shows_all_to(locked.owner) || locked.hides_rows_from_owner() {
        return Err(unreadable("its owner may not read all of it"));
    }
    Ok(())
}

/// Opens a cursor under the snapshot of the caller, and gives its name.
unsafe fn open_cursor(locked: &Locked) -> Result<CString, StreamError> {
    let name = spi::quote_qualified_identifier(&locked.schema, &locked.name);
    let sql = CString::new(format!("SELECT read FROM ONLY {name} AS read"))
        .map_err(|_| unreadable("a name contains a zero byte"))?;
    // SAFETY: in a transaction; the portal's name is copied before SPI is finished.
    unsafe {
        connect()?;
        let plan = pg_sys::SPI_prepare(sql.as_ptr(), 0, std::ptr::null_mut());
        if plan.is_null() {
            return Err(unreadable("its rows cannot be selected"));
        }
        if !table::reads_only(plan, locked.oid) {
            return Err(unreadable("its schema was renamed"));
        }
        let (values, nulls) = (std::ptr::null_mut(), std::ptr::null());
        let portal = pg_sys::SPI_cursor_open(std::ptr::null(), plan, values, nulls, true);
        let name = std::ffi::CStr::from_ptr((*portal).name).to_owned();
        pg_sys::SPI_finish();
        Ok(name)
    }
}

unsafe fn connect() -> Result<(), StreamError> {
    // SAFETY: in a transaction.
    match unsafe { pg_sys::SPI_connect() } {
        code if code == pg_sys::SPI_OK_CONNECT as i32 => Ok(()),
        _ => Err(unreadable("SPI does not connect")),
    }
}

fn unreadable(reason: &str) -> StreamError {
    StreamError::Internal { what: "the table cannot be read", reason: format!("{reason}.") }
}
