//! The expressions of one table's rules, held against the live catalog.
//!
//! What a user wrote is compiled alone first, so that it is one expression and not a piece of
//! text that happens to fit, then as composed, with the cast to the column's type.

use std::collections::BTreeSet;

use pgrx::pg_sys;

use super::name;
use super::problem::Problem;
use super::shape::{Guard, Shape, ShapedColumn};
use crate::error::Error;
use crate::pg::expression::{compile, Compiled, Fault};
use crate::pg::{base_type, equality, has_default_operator_class, lacks_collation, type_name};

const BOOL: u32 = 16;
/// The longest expression, in characters.
const LENGTH_MAX: usize = 10_000;

/// What was found about a table's expressions.
#[derive(Default)]
pub(crate) struct Findings {
    pub faults: Vec<RuleFault>,
    /// Worth a word, in `check_task`.
    pub remarks: Vec<Problem>,
    /// The keys by which values become pseudonyms.
    pub mask_keys: BTreeSet<String>,
}

pub(crate) struct RuleFault {
    pub rule_id: i64,
    /// The source column it is about; 0: a filter, or a column that only the target has.
    pub attnum: i16,
    pub fault: Fault,
}

pub(crate) fn fault(message: impl Into<String>, hint: impl Into<String>) -> Fault {
    Fault { message: message.into(), hint: Some(hint.into()) }
}

/// Looks at every expression of a table, and notes how views evaluate it.
pub(crate) fn check(shape: &mut Shape) -> Findings {
    let mut findings = Findings::default();
    let (mut of_filter, mut of_columns) = (None, Vec::new());
    if let Some(filter) = &shape.filter {
        match check_filter(shape, &filter.written) {
            Ok(compiled) => {
                findings.remarks.extend(rereads(shape, &compiled, None));
                findings.remarks.push(filter_remark(shape));
                findings.remarks.extend(search_remark(shape));
                of_filter = guard(&compiled);
                findings.mask_keys.extend(compiled.pseudonym_keys);
            }
            Err(faults) => findings.add(filter.expression.rule_id, 0, faults),
        }
    }
    for (at, column) in shape.columns.iter().enumerate() {
        let Some(computed) = &column.computed else { continue };
        match check_column(shape, column) {
            Ok(compiled) => {
                of_columns.push((at, guard(&compiled)));
                findings.remarks.extend(rereads(shape, &compiled, Some(column)));
                findings.remarks.extend(key_remark(shape, column));
                findings.mask_keys.extend(compiled.pseudonym_keys);
            }
            Err(faults) => findings.add(computed.expression.rule_id, column.attnum(), faults),
        }
    }
    shape.filter.iter_mut().for_each(|filter| filter.guard = of_filter.take());
    for (at, guard) in of_columns {
        shape.columns[at].computed.iter_mut().for_each(|computed| computed.guard = guard.clone());
    }
    findings
}

fn guard(compiled: &Compiled) -> Option<Guard> {
    (compiled.may_tell || !compiled.is_built_in).then(|| Guard {
        output: compiled.type_oid,
        output_name: type_name(compiled.type_oid),
        base_type_name: type_name(base_type(compiled.type_oid)),
        attnums: compiled.used.clone(),
        collation: compiled.collation.clone(),
    })
}

impl Findings {
    fn add(&mut self, rule_id: i64, attnum: i16, faults: Vec<Fault>) {
        let of_rule = |fault| RuleFault { rule_id, attnum, fault };
        self.faults.extend(faults.into_iter().map(of_rule));
    }

    /// An error with every fault, if there is any.
    pub(crate) fn refuse(self, what: String) -> Result<Findings, Error> {
        if self.faults.is_empty() {
            return Ok(self);
        }
        let faults = self.faults.into_iter().map(|of| of.fault).collect();
        Err(Error::Faulty { what, faults })
    }
}

/// The type and modifier that an expression is to give; `None`: its own.
pub(crate) type Wanted = Option<(pg_sys::Oid, i32)>;

/// An expression as the user wrote it. Its type need not be the wanted one: a cast is to come.
pub(crate) fn check_written(
    table_oid: u32,
    written: &str,
    wanted: Wanted,
) -> Result<Compiled, Vec<Fault>> {
    let length = written.chars().count();
    if written.trim().is_empty() {
        return Err(vec![fault("the expression is empty", "Write an SQL expression.")]);
    }
    if length > LENGTH_MAX {
        return Err(vec![fault(
            format!("the expression has {length} characters, and {LENGTH_MAX} are allowed"),
            "Shorten it, or compute the value in a generated column of the source.",
        )]);
    }
    let oid = pg_sys::Oid::from(table_oid);
    let compiled = compile(oid, written, None, None).or_else(|faults| {
        // It may be of the wanted type already, one that does not occur in the table.
        let faults = faults.into_iter().map(|fault| hinted(fault, NAMES));
        let compiled = wanted.and_then(|wanted| compile(oid, written, Some(wanted), None).ok());
        compiled.ok_or_else(|| faults.collect::<Vec<_>>())
    })?;
    let bad = compiled.pseudonym_keys.iter().find(|key| !(1..=KEY_NAME_MAX).contains(&key.len()));
    match bad {
        None => Ok(compiled),
        Some(key) => Err(vec![fault(
            format!("\"{key}\" cannot be the name of a key"),
            format!("Name it with 1 to {KEY_NAME_MAX} bytes."),
        )]),
    }
}

/// The longest name of a key for pseudonyms, in bytes.
const KEY_NAME_MAX: usize = 63;

const NAMES: &str =
    "Columns go by their names in the source table, functions and types by those of \
                     pg_catalog and trem.";

/// PostgreSQL's own words often come without one.
fn hinted(fault: Fault, hint: &str) -> Fault {
    Fault { hint: fault.hint.or_else(|| Some(hint.to_owned())), ..fault }
}

fn check_filter(shape: &Shape, written: &str) -> Result<Compiled, Vec<Fault>> {
    let compiled = check_written(shape.table.oid, written, None)?;
    if compiled.type_oid != BOOL {
        return Err(vec![not_boolean(compiled.type_oid)]);
    }
    if compiled.uses_metadata {
        return Err(vec![of_one_change("a filter")]);
    }
    Ok(compiled)
}

fn not_boolean(type_oid: u32) -> Fault {
    fault(
        format!("a filter must be boolean, and this one is of type {}", type_name(type_oid)),
        "Compare something: the rows for which it is true are carried over.",
    )
}

fn check_column(shape: &Shape, column: &ShapedColumn) -> Result<Compiled, Vec<Fault>> {
    let computed = column.computed.as_ref().expect("only computed columns are checked");
    let output = &column.output;
    let wanted = Some((pg_sys::Oid::from(output.type_oid), output.type_modifier));
    if let Some(written) = &computed.written {
        check_written(shape.table.oid, written, wanted)?;
    }
    let oid = pg_sys::Oid::from(shape.table.oid);
    let compiled = compile(oid, &computed.expression.sql, wanted, None).map_err(|faults| {
        let hint = format!("Give an expression that can be cast to {}.", output.type_name);
        faults.into_iter().map(|fault| hinted(fault, &hint)).collect::<Vec<_>>()
    })?;
    if lacks_collation(compiled.node) {
        return Err(vec![fault(
            "its columns have different collations, and none of them is the result's",
            "Say which one holds: (...) COLLATE \"C\".",
        )]);
    }
    if column.key {
        check_key(shape, column, &compiled)?;
    }
    let whole_rows = shape.table.key_attnums.is_none() && shape.table.logs_old_rows();
    if compiled.uses_metadata && whole_rows {
        return Err(vec![fault(
            "without a key a row is found by all its values, and this one tells of one change",
            format!(
                "ALTER TABLE {} ADD PRIMARY KEY (...);",
                name::qualified(&shape.table.schema, &shape.table.name)
            ),
        )]);
    }
    Ok(compiled)
}

/// The target finds rows by their key, and a change's old key is all that the WAL has of a row.
fn check_key(shape: &Shape, column: &ShapedColumn, compiled: &Compiled) -> Result<(), Vec<Fault>> {
    let mut faults = Vec::new();
    let others = names(shape, &compiled.used, |attnum| !shape.table.is_key(attnum));
    if !others.is_empty() {
        faults.push(fault(
            format!(
                "column \"{}\" is part of the key and cannot be computed from {others}",
                column.display()
            ),
            "A key may be computed from columns of the key only: of a row that is deleted \
             nothing else is known.",
        ));
    }
    if compiled.uses_metadata {
        faults.push(of_one_change("a key"));
    }
    let type_oid = column.output.type_oid;
    if !has_default_operator_class(type_oid, "btree") {
        faults.push(fault(
            format!(
                "column \"{}\" is part of the key, and values of type {} have no order",
                column.display(),
                type_name(type_oid)
            ),
            "Choose a type that can be indexed.",
        ));
    }
    match faults.is_empty() {
        true => Ok(()),
        false => Err(faults),
    }
}

fn of_one_change(what: &str) -> Fault {
    fault(
        format!("{what} cannot depend on the change: it must be the same for a row's every change"),
        "Leave out trem.commit_lsn(), trem.commit_timestamp() and trem.operation().",
    )
}

/// The names of those columns that pass a test, as a list for a message.
fn names(shape: &Shape, attnums: &[i16], test: impl Fn(i16) -> bool) -> String {
    let columns = attnums.iter().filter(|attnum| test(**attnum));
    let columns = columns.filter_map(|attnum| shape.table.column(*attnum));
    columns.map(|column| format!("\"{}\"", column.name)).collect::<Vec<_>>().join(", ")
}

/// Large values that an update leaves alone are not in the WAL: the applier reads such rows again,
/// unless the value would be left alone as well.
fn rereads(shape: &Shape, compiled: &Compiled, column: Option<&ShapedColumn>) -> Option<Problem> {
    let table = &shape.table;
    let toastable = |attnum| {
        !table.is_key(attnum) && table.column(attnum).is_some_and(|column| column.toastable)
    };
    let large = names(shape, &compiled.used, toastable);
    let alone = column.is_some() && compiled.used.len() == 1;
    if large.is_empty() || alone || table.replica_identity == "full" || !table.logs_old_rows() {
        return None;
    }
    let what = match column {
        Some(column) => format!("the value of column \"{}\"", column.name),
        None => "the filter".to_owned(),
    };
    let message = format!(
        "{what} needs {large}: after an update that leaves a large value there alone the row is \
         read again"
    );
    let quoted = name::qualified(&table.schema, &table.name);
    let hint = format!("ALTER TABLE {quoted} REPLICA IDENTITY FULL; avoids that.");
    Some(Problem::warning("toast", message, hint).of(table.display()))
}

fn filter_remark(shape: &Shape) -> Problem {
    let message = "the filter follows rows: one that an update brings into it is inserted, one \
                   that leaves it is deleted";
    let hint = "Updates of this table are applied as upserts.";
    Problem::info("filter", message, hint).of(shape.table.display())
}

/// A row is read again by its key, which must be in the table's index as it is, and SQL must be
/// able to ask for it (`output_plugin::keyed_rows`).
fn search_remark(shape: &Shape) -> Option<Problem> {
    let table = &shape.table;
    let is_found = |column: &ShapedColumn| {
        let type_oid = pg_sys::Oid::from(column.output.type_oid);
        column.computed.is_none() && equality(type_oid).is_some()
    };
    let missed = shape.columns.iter().find(|column| column.key && !is_found(column))?;
    if table.replica_identity == "full" {
        return None;
    }
    let message = format!(
        "a row that has to be read again is searched in the whole table: no index finds what the \
         task has as \"{}\"",
        missed.name
    );
    let quoted = name::qualified(&table.schema, &table.name);
    let hint = format!("ALTER TABLE {quoted} REPLICA IDENTITY FULL; avoids reading again.");
    Some(Problem::warning("reread", message, hint).of(table.display()))
}

fn key_remark(shape: &Shape, column: &ShapedColumn) -> Option<Problem> {
    if !column.key || !column.may_merge_values() {
        return None;
    }
    let message = format!("the key column \"{}\" is computed", column.name);
    let hint = "Rows that are given the same key become one row on the target: the rule must keep \
                keys different.";
    Some(Problem::warning("computed_key", message, hint).of(shape.table.display()))
}
