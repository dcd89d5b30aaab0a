//! Rows of a table with a filter or with columns that are computed.
//!
//! # What a change becomes
//! The filter is asked about the new row: `in`, `out` (false or NULL), or `unknown` (it needs a
//! value that is not in the WAL, or that history does not have yet in its form). With replica
//! identity FULL it is asked about the old row too.
//!
//! | change | new row | becomes |
//! |---|---|---|
//! | insert | in / out | insert / nothing |
//! | | unknown | update of which all but the key is unknown |
//! | update | in | update |
//! | | out | delete by the old key; nothing if the old row was out |
//! | | unknown | update of which all but the key is unknown: the applier reads the row again |
//! | delete | | delete; nothing if the old row, or what the filter reads of its key, was out |
//!
//! A row without a key that comes in is an insert, because there is nothing to find it by.
//!
//! # Values that are not in the WAL
//! An expression that reads one is not evaluated. If that column is all that it reads, its result
//! did not change either: `unchanged`. Else it is `unknown`.
//!
//! # Failures
//! An expression that fails makes an error row of the change: the key that the target has, the
//! rule and the SQLSTATE, never a value that is not key, nor the message. A key column that is NULL
//! fails as a constraint does. An update that fails leaves the target's row as it was, unless its
//! key changes or it has none: then a delete goes before. Keys of old rows go through the same
//! expressions, because those are what the target has; an old row of which it fails is not there,
//! so only a delete reports that.

use bytes::Bytes;
use pgrx::pg_sys::Datum;
use trem_wire::codec::Operation;
use trem_wire::message::ErrorRow;

use super::super::encode::take_failure;
use super::super::inputs::Inputs;
use super::super::rules::{Condition, Rule};
use super::change::NO_RULE;
use super::{
    append, encode_address, encode_row, is_on_disk, Deformed, Emitter, OldRow, Rows, StreamError,
    TableRules, Target, NO_OLD_KEY,
};
use crate::pg::expression::Junction;
use crate::pg::{Evaluator, Failed};

const NOT_LOGGED: &str = "A value that a rule reads was not logged.";
const NOT_NULL_VIOLATION: [u8; 5] = *b"23502";

/// The filter's answer for one row.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    In,
    Out,
    Unknown,
}

/// An expression failed.
#[derive(Clone, Copy)]
struct Failure {
    rule_id: i64,
    failed: Failed,
}

/// Of a condition's value, which is by value: NULL does not hold.
fn verdict(value: Option<Datum>) -> Verdict {
    match value {
        Some(value) if value.value() & 0xFF != 0 => Verdict::In,
        _ => Verdict::Out,
    }
}

/// The expressions of a table, about to run over rows of one relation.
struct Run<'a> {
    rules: &'a TableRules,
    inputs: &'a Inputs,
    evaluator: &'a mut Evaluator,
    /// For each attribute: not in the WAL.
    missing: &'a [bool],
}

impl Run<'_> {
    /// Puts a row where the expressions read it.
    unsafe fn load(&mut self, row: &Deformed) {
        // SAFETY: the slot has room for all columns of its table, and inputs are among them.
        unsafe {
            let slot = self.rules.slot;
            for input in &self.inputs.inputs {
                *(*slot).tts_values.add(input.slot) = row.values[input.attribute];
                *(*slot).tts_isnull.add(input.slot) = row.nulls[input.attribute];
            }
        }
    }

    unsafe fn evaluate(&mut self, rule: &Rule) -> Result<Option<Datum>, Failure> {
        // SAFETY: state and context were made together; the row was loaded.
        let value = unsafe { self.evaluator.evaluate(rule.state, self.rules.context) };
        value.map_err(|failed| Failure { rule_id: rule.rule_id, failed })
    }

    /// Asks the filter about the row that was loaded.
    unsafe fn filter(&mut self) -> Result<Verdict, Failure> {
        let Some(filter) = &self.rules.filter else { return Ok(Verdict::In) };
        let mut watched = self.inputs.filter_watched.iter();
        if self.inputs.filter_lacks || watched.any(|&attribute| self.missing[attribute]) {
            let condition = self.rules.condition.as_ref();
            // SAFETY: as for `evaluate`.
            return Ok(condition.map_or(Verdict::Unknown, |of| unsafe { self.judge(of) }));
        }
        // SAFETY: as for `evaluate`; a boolean is passed by value.
        Ok(verdict(unsafe { self.evaluate(filter)? }))
    }

    /// What the values that are there tell of the filter: one condition of an AND that does not
    /// hold, or one of an OR that holds, settles it. One that fails might not have been reached.
    unsafe fn judge(&mut self, condition: &Condition) -> Verdict {
        match condition {
            Condition::Joined(junction, conditions) => {
                let settling = if *junction == Junction::And { Verdict::Out } else { Verdict::In };
                let mut joined =
                    if *junction == Junction::And { Verdict::In } else { Verdict::Out };
                for condition in conditions {
                    // SAFETY: as promised by the caller.
                    match unsafe { self.judge(condition) } {
                        verdict if verdict == settling => return settling,
                        Verdict::Unknown => joined = Verdict::Unknown,
                        _ => {}
                    }
                }
                joined
            }
            Condition::One { state, used } => {
                let is_there = |slot: &usize| {
                    let input = self.inputs.inputs.iter().find(|input| input.slot == *slot);
                    input.is_some_and(|input| !self.missing[input.attribute])
                };
                if !used.iter().all(is_there) {
                    return Verdict::Unknown;
                }
                // SAFETY: state and context were made together; the row was loaded.
                match unsafe { self.evaluator.evaluate(*state, self.rules.context) } {
                    Ok(value) => verdict(value),
                    Err(_) => Verdict::Unknown,
                }
            }
        }
    }

    /// Computes the key columns of the row that was loaded.
    unsafe fn keys(&mut self, row: &mut Deformed) -> Result<(), Failure> {
        for computed in self.inputs.computed.iter().take_while(|computed| computed.key) {
            let Some(rule) = &self.rules.columns[computed.column] else { continue };
            // SAFETY: as for `evaluate`.
            let Some(value) = (unsafe { self.evaluate(rule)? }) else {
                let failed = Failed { sqlstate: NOT_NULL_VIOLATION };
                return Err(Failure { rule_id: rule.rule_id, failed });
            };
            row.put(computed.attribute, Some(value));
        }
        Ok(())
    }

    /// Computes the other columns. Those that cannot be are noted: which did not change, and of
    /// which nothing is known.
    unsafe fn others(
        &mut self,
        row: &mut Deformed,
        unchanged: &mut [bool],
        unknown: &mut [bool],
    ) -> Result<(), Failure> {
        for computed in self.inputs.computed.iter().skip_while(|computed| computed.key) {
            let Some(rule) = &self.rules.columns[computed.column] else { continue };
            if computed.watched.iter().any(|&attribute| self.missing[attribute]) {
                let noted = if computed.of_one_column { &mut *unchanged } else { &mut *unknown };
                noted[computed.column] = true;
                row.put(computed.attribute, None);
                continue;
            }
            // SAFETY: as for `evaluate`.
            let value = unsafe { self.evaluate(rule)? };
            row.put(computed.attribute, value);
        }
        Ok(())
    }

    /// Everything that addresses a row: its key; without a key all columns.
    unsafe fn address(&mut self, row: &mut Deformed, key_count: usize) -> Result<(), Failure> {
        // SAFETY: as for `evaluate`. An old row that stands for its own key is all there.
        unsafe {
            self.load(row);
            self.keys(row)?;
            match key_count {
                0 => self.others(row, &mut [], &mut []),
                _ => Ok(()),
            }
        }
    }
}

impl Deformed {
    fn put(&mut self, attribute: usize, value: Option<Datum>) {
        self.nulls[attribute] = value.is_none();
        self.values[attribute] = value.unwrap_or(Datum::null());
    }
}

/// The parts of [`Rows`] that a run needs and those that it works on.
macro_rules! run {
    ($rows:ident, $target:ident, $rules:ident) => {{
        let Some(inputs) = &$target.mapping.inputs else {
            return Err(StreamError::Internal {
                what: "a relation of a table with rules was set up without them",
                reason: String::new(),
            });
        };
        Run { rules: $rules, inputs, evaluator: &mut $rows.evaluator, missing: &$rows.missing }
    }};
}

impl Rows {
    /// # Safety
    /// The new row was taken apart, and so in the functions below the rows that they name.
    pub(super) unsafe fn insert_ruled(
        &mut self,
        out: &mut Emitter<'_>,
        target: &mut Target<'_>,
        rules: &TableRules,
    ) -> Result<(), StreamError> {
        self.reset_notes(target);
        self.find_missing(target, false);
        if self.missing.contains(&true) {
            // Never seen: an insert has all its values in the WAL.
            return Err(target.key_not_in_wal(NOT_LOGGED));
        }
        let mut run = run!(self, target, rules);
        // SAFETY: as promised by the caller.
        let (verdict, computed) = unsafe {
            run.load(&self.new);
            let verdict = run.filter();
            let computed = match verdict {
                Ok(Verdict::Out) => return Ok(()),
                Ok(Verdict::Unknown) => run.keys(&mut self.new),
                Ok(Verdict::In) => {
                    let noted = (&mut self.unchanged, &mut self.unknown);
                    run.keys(&mut self.new)
                        .and_then(|()| run.others(&mut self.new, noted.0, noted.1))
                }
                Err(failure) => Err(failure),
            };
            (verdict.unwrap_or(Verdict::In), computed)
        };
        match computed {
            Ok(()) if verdict == Verdict::Unknown || target.mapping.lacks_columns => {
                if verdict == Verdict::Unknown {
                    self.forget_all_but_key(target);
                }
                // SAFETY: values are those of the mapping's attributes, or were just computed.
                unsafe { self.send_update(out, target, false) }
            }
            Ok(()) => {
                let out = out.row(Operation::Insert, target.mapping);
                // SAFETY: as above.
                unsafe { encode_row(target.mapping, &self.new, out) };
                Ok(())
            }
            // SAFETY: as promised by the caller.
            Err(failure) => unsafe {
                self.fail(out, target, rules, Operation::Insert, failure, [true, false])
            },
        }
    }

    /// # Safety
    /// As for [`Rows::insert_ruled`]; the old row if `has_old`.
    pub(super) unsafe fn update_ruled(
        &mut self,
        out: &mut Emitter<'_>,
        target: &mut Target<'_>,
        rules: &TableRules,
        has_old: bool,
    ) -> Result<(), StreamError> {
        self.reset_notes(target);
        self.find_missing(target, has_old);
        self.find_unchanged(target, has_old)?;
        if self.key_is_missing(target) {
            return Err(target.key_not_in_wal(NO_OLD_KEY));
        }
        let rows = [true, has_old];
        // SAFETY: as promised by the caller.
        unsafe {
            // A row of which no key can be computed is not on the target.
            let was = self.look_at_old(target, rules, has_old)?.unwrap_or(Verdict::Out);
            let mut run = run!(self, target, rules);
            run.load(&self.new);
            let verdict = run.filter();
            // Without an old row the key is the same, and so what the filter says of it.
            let was_out = was == Verdict::Out || !has_old && run.inputs.filter_reads_key_only;
            if verdict.as_ref().is_ok_and(|&is| is == Verdict::Out) && was_out {
                return Ok(());
            }
            let computed = match verdict {
                Err(failure) => Err(failure),
                Ok(Verdict::Out) if has_old => Ok(()),
                Ok(Verdict::Out | Verdict::Unknown) => run.keys(&mut self.new),
                Ok(Verdict::In) => {
                    let noted = (&mut self.unchanged, &mut self.unknown);
                    run.keys(&mut self.new)
                        .and_then(|()| run.others(&mut self.new, noted.0, noted.1))
                }
            };
            match (verdict, computed) {
                (Err(failure), _) | (_, Err(failure)) => {
                    if has_old && was != Verdict::Out {
                        self.forget_old(out, target, rules)?;
                    }
                    self.fail(out, target, rules, Operation::Update, failure, rows)
                }
                (Ok(Verdict::Out), Ok(())) => {
                    let out = out.row(Operation::Delete, target.mapping);
                    let row = if has_old { &self.old } else { &self.new };
                    encode_address(target.mapping, row, out);
                    Ok(())
                }
                (Ok(Verdict::In), Ok(())) if was == Verdict::Out && target.is_keyless() => {
                    encode_row(
                        target.mapping,
                        &self.new,
                        out.row(Operation::Insert, target.mapping),
                    );
                    Ok(())
                }
                (Ok(verdict), Ok(())) => {
                    if verdict == Verdict::Unknown {
                        self.forget_all_but_key(target);
                    }
                    self.send_update(out, target, has_old && was != Verdict::Out)
                }
            }
        }
    }

    /// # Safety
    /// As for [`Rows::insert_ruled`]: the old row.
    pub(super) unsafe fn delete_ruled(
        &mut self,
        out: &mut Emitter<'_>,
        target: &mut Target<'_>,
        rules: &TableRules,
    ) -> Result<(), StreamError> {
        self.reset_notes(target);
        // SAFETY: as promised by the caller.
        unsafe {
            match self.look_at_old(target, rules, true)? {
                Ok(Verdict::Out) => Ok(()),
                Ok(_) => {
                    let out = out.row(Operation::Delete, target.mapping);
                    encode_address(target.mapping, &self.old, out);
                    Ok(())
                }
                Err(failure) => {
                    let rows = [false, true];
                    self.fail(out, target, rules, Operation::Delete, failure, rows)
                }
            }
        }
    }

    /// Whether the old row passed the filter, as far as it is there, and if it may have, its
    /// address. A filter that fails on it says nothing.
    unsafe fn look_at_old(
        &mut self,
        target: &Target<'_>,
        rules: &TableRules,
        has_old: bool,
    ) -> Result<Result<Verdict, Failure>, StreamError> {
        if !has_old {
            return Ok(Ok(Verdict::Unknown));
        }
        let mapping = &*target.mapping;
        // SAFETY: the attribute is of variable length and the value not NULL.
        let on_disk = |value: Datum| unsafe { is_on_disk(value) };
        let inputs = mapping.inputs.iter().flat_map(|inputs| &inputs.toastable);
        if inputs.copied().any(|attribute| self.old.get(attribute).is_some_and(on_disk)) {
            // Never seen: the server flattens old rows before it logs them.
            return Err(target.key_not_in_wal(NOT_LOGGED));
        }
        let missing = std::mem::take(&mut self.missing);
        self.missing.resize(mapping.attribute_count, false);
        let mut run = run!(self, target, rules);
        // SAFETY: the old row was taken apart.
        let result = unsafe {
            run.load(&self.old);
            let can_tell = mapping.old_row == OldRow::Full || run.inputs.filter_reads_key_only;
            let was = match rules.filter.is_some() && can_tell {
                true => run.filter().unwrap_or(Verdict::Unknown),
                false => Verdict::Unknown,
            };
            match was {
                Verdict::Out => Ok(was),
                _ => run.address(&mut self.old, mapping.key_count).map(|()| was),
            }
        };
        self.missing = missing;
        Ok(result)
    }

    /// Computes the key columns of the new row; false if that fails.
    pub(super) unsafe fn compute_key(
        &mut self,
        target: &Target<'_>,
        rules: &TableRules,
    ) -> Result<bool, StreamError> {
        self.reset_notes(target);
        let mut run = run!(self, target, rules);
        // SAFETY: as promised by the caller.
        unsafe {
            run.load(&self.new);
            Ok(run.keys(&mut self.new).is_ok())
        }
    }

    /// Deletes the old row of an update whose new row fails, if it goes by another key than the
    /// new one, or by none: nothing that comes later would find it. Where the new key fails too,
    /// the old one is the only name that the row has: it stays.
    unsafe fn forget_old(
        &mut self,
        out: &mut Emitter<'_>,
        target: &mut Target<'_>,
        rules: &TableRules,
    ) -> Result<(), StreamError> {
        let key_count = target.mapping.key_count;
        // SAFETY: the new row was taken apart; the address of the old one was computed when it was
        // looked at.
        unsafe {
            let unnamed = key_count > 0
                && run!(self, target, rules).address(&mut self.new, key_count).is_err();
            if !unnamed && self.old_is_needed(target)? {
                append(out.row(Operation::Delete, target.mapping), &self.old_key);
            }
        }
        Ok(())
    }

    /// The change as an error row, with the key of the first of the rows `[new, old]` that are
    /// there whose key can be computed.
    unsafe fn fail(
        &mut self,
        out: &mut Emitter<'_>,
        target: &mut Target<'_>,
        rules: &TableRules,
        operation: Operation,
        failure: Failure,
        rows: [bool; 2],
    ) -> Result<(), StreamError> {
        let mut key = Vec::new();
        let key_count = target.mapping.key_count;
        for (row, there) in [&mut self.new, &mut self.old].into_iter().zip(rows) {
            if !there || key_count == 0 || !key.is_empty() {
                continue;
            }
            // SAFETY: the rows that are there were taken apart.
            unsafe {
                if run!(self, target, rules).address(row, key_count).is_ok() {
                    encode_address(target.mapping, row, &mut key);
                    if take_failure().is_some() {
                        key.clear();
                    }
                }
            }
        }
        if key.is_empty() {
            key.extend_from_slice(&0_u16.to_be_bytes());
        }
        let error = ErrorRow {
            relation: target.mapping.oid,
            operation,
            rule_id: failure.rule_id,
            sqlstate: String::from_utf8_lossy(&failure.failed.sqlstate).into_owned(),
            key: Bytes::from(key),
        };
        out.error(target.mapping, &error);
        Ok(())
    }

    /// The change as an error row when a value cannot be sent.
    ///
    /// # Safety
    /// As for [`Rows::insert_ruled`], the old row if `has_old`.
    pub(super) unsafe fn give_up_ruled(
        &mut self,
        out: &mut Emitter<'_>,
        target: &mut Target<'_>,
        rules: &TableRules,
        operation: Operation,
        has_old: bool,
        failed: Failed,
    ) -> Result<(), StreamError> {
        let rows = match operation {
            Operation::Insert => [true, false],
            Operation::Update => [true, has_old],
            Operation::Delete => [false, true],
        };
        // SAFETY: as promised by the caller.
        unsafe {
            if operation == Operation::Update && has_old {
                let before = out.progress(target.mapping);
                self.forget_old(out, target, rules)?;
                if take_failure().is_some() {
                    out.undo(target.mapping, &before);
                }
            }
            self.fail(out, target, rules, operation, Failure { rule_id: NO_RULE, failed }, rows)
        }
    }

    /// Notes which values that rules read are not in the WAL, after taking from the old row what it
    /// has.
    fn find_missing(&mut self, target: &Target<'_>, has_old: bool) {
        let Some(inputs) = &target.mapping.inputs else { return };
        for &attribute in &inputs.toastable {
            // SAFETY: the attribute is of variable length and the value not NULL.
            let on_disk = |value: Datum| unsafe { is_on_disk(value) };
            if !self.new.get(attribute).is_some_and(on_disk) {
                continue;
            }
            match self.old.get_if(has_old, attribute).filter(|&value| !on_disk(value)) {
                Some(value) => self.new.values[attribute] = value,
                None => self.missing[attribute] = true,
            }
        }
    }

    /// What a key column is computed from is not in the WAL.
    fn key_is_missing(&self, target: &Target<'_>) -> bool {
        let Some(inputs) = &target.mapping.inputs else { return false };
        let mut keys = inputs.computed.iter().take_while(|computed| computed.key);
        keys.any(|key| key.watched.iter().any(|&attribute| self.missing[attribute]))
    }

    /// Nothing is known of the new row but its key.
    fn forget_all_but_key(&mut self, target: &Target<'_>) {
        for (at, column) in target.mapping.columns.iter().enumerate() {
            self.unchanged[at] = false;
            self.unknown[at] = !column.key;
            if !column.key {
                self.new.put(column.attribute, None);
            }
        }
    }
}

impl Target<'_> {
    fn is_keyless(&self) -> bool {
        self.mapping.key_count == 0
    }
}
