//! `trem.computed`, by which the views of `trem_read` evaluate an expression of a rule: one whose
//! errors could tell of values, one that has to do with types of users, one that asks for
//! pseudonyms.
//!
//! The server's own words about a value quote it (`invalid input syntax for type integer: "..."`),
//! and whoever reads a view gets them. Here an error keeps its SQLSTATE and nothing else. And what
//! stands in a view itself would be run with the rights of its reader; here it is read and
//! evaluated as the owner of the table.
//!
//! Whoever may read a view may call the function as well, with whatever arguments: so a view proves
//! that it is one ([`view_token`](super::view_token)). All the same the arguments' types are
//! compared with what the expression expects, because a value taken for one of another type would
//! crash the server.

use std::ffi::CString;

use pgrx::pg_sys::{self, Datum};
use pgrx::{ereport, pg_guard, FromDatum, PgMemoryContexts, PgSqlErrorCode, Uuid};

use super::evaluate::evaluate_hiding;
use super::expression::{self, Names};
use super::owner::{as_role, Evaluation};
use super::view_token::{is_made_by_preview, Call};
use super::{attribute, PinnedSettings};

/// `token, example, rule_id, relation, output, attnums, names, expression`; then the columns'
/// values. All but the token are constants.
const FIRST_VALUE: usize = 8;
const TOKEN: usize = 0;
const EXAMPLE: usize = 1;
const FIRST_CONSTANT: usize = 2;

/// An expression, ready; lives as long as the call's place in a plan.
struct Computed {
    state: *mut pg_sys::ExprState,
    context: *mut pg_sys::ExprContext,
    slot: *mut pg_sys::TupleTableSlot,
    /// As whom it is evaluated.
    owner: pg_sys::Oid,
    /// For each value the position in the slot.
    positions: Vec<usize>,
    /// What to say when it fails.
    message: CString,
}

/// Who may call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum CalledBy {
    View,
    Preview,
}

#[no_mangle]
pub(super) extern "C-unwind" fn pg_finfo_trem_computed() -> &'static pg_sys::Pg_finfo_record {
    &pg_sys::Pg_finfo_record { api_version: 1 }
}

#[no_mangle]
pub(super) extern "C-unwind" fn pg_finfo_trem_previewed() -> &'static pg_sys::Pg_finfo_record {
    &pg_sys::Pg_finfo_record { api_version: 1 }
}

/// See the comment of the function in `sql/expression.sql`.
///
/// # Safety
/// Called by the server.
#[no_mangle]
#[pg_guard]
pub unsafe extern "C-unwind" fn trem_computed(call: pg_sys::FunctionCallInfo) -> Datum {
    // SAFETY: called by the server.
    unsafe { value(call, CalledBy::View) }
}

/// See the comment of the function in `sql/expression.sql`.
///
/// # Safety
/// Called by the server.
#[no_mangle]
#[pg_guard]
pub unsafe extern "C-unwind" fn trem_previewed(call: pg_sys::FunctionCallInfo) -> Datum {
    // SAFETY: called by the server.
    unsafe { value(call, CalledBy::Preview) }
}

/// # Safety
/// Called by the server.
unsafe fn value(call: pg_sys::FunctionCallInfo, called_by: CalledBy) -> Datum {
    // SAFETY: the server fills the call's record. What is kept in it was put there by the first
    // call from the same place. Results lie in the caller's memory, as those of any function.
    unsafe {
        let function = (*call).flinfo;
        if (*function).fn_extra.is_null() {
            (*function).fn_extra = prepare(call, called_by).cast();
        }
        let computed = &*(*function).fn_extra.cast::<Computed>();
        let values = (*call).args.as_slice((*call).nargs as usize).get(FIRST_VALUE..);
        for (value, &position) in values.unwrap_or_default().iter().zip(&computed.positions) {
            *(*computed.slot).tts_values.add(position) = value.value;
            *(*computed.slot).tts_isnull.add(position) = value.isnull;
        }
        (*computed.context).ecxt_per_tuple_memory = pg_sys::CurrentMemoryContext;
        let _evaluation = Evaluation::begin(computed.owner);
        let value = evaluate_hiding(computed.state, computed.context, &computed.message);
        (*call).isnull = value.is_none();
        value.unwrap_or(Datum::null())
    }
}

/// What comes before the values.
struct Arguments {
    token: Option<Uuid>,
    rule_id: i64,
    relation: pg_sys::Oid,
    output: pg_sys::Oid,
    attnums: Vec<i16>,
    names: Vec<String>,
    sql: String,
}

impl Arguments {
    /// # Safety
    /// As for [`trem_computed`].
    unsafe fn of(call: pg_sys::FunctionCallInfo) -> Arguments {
        // SAFETY: these arguments are of the types that SQL declares.
        unsafe {
            let constant = |at| pg_sys::get_fn_expr_arg_stable((*call).flinfo, at);
            if !(FIRST_CONSTANT as i32..FIRST_VALUE as i32).all(constant) {
                refuse(FOR_VIEWS);
            }
            let arguments = (*call).args.as_slice(FIRST_VALUE);
            Arguments {
                token: Uuid::from_datum(arguments[TOKEN].value, arguments[TOKEN].isnull),
                rule_id: argument(arguments[2]),
                relation: argument(arguments[3]),
                output: argument(arguments[4]),
                attnums: argument(arguments[5]),
                names: argument(arguments[6]),
                sql: argument(arguments[7]),
            }
        }
    }

    fn names(&self) -> Vec<&str> {
        self.names.iter().map(String::as_str).collect()
    }

    /// Refuses whoever is not the caller that it is for.
    fn check_caller(&self, called_by: CalledBy) {
        let called = Call {
            rule_id: self.rule_id,
            relation: self.relation.to_u32(),
            output: self.output.to_u32(),
            attnums: &self.attnums,
            names: &self.names(),
            expression: &self.sql,
        };
        let is_ours = self.token.is_some_and(|token| match called_by {
            CalledBy::Preview => is_made_by_preview(&token),
            CalledBy::View => {
                called.is_made_by_view(&token).unwrap_or_else(|error| refuse(&error.to_string()))
            }
        });
        if !is_ours {
            refuse(FOR_VIEWS);
        }
    }
}

/// # Safety
/// As for [`trem_computed`].
unsafe fn prepare(call: pg_sys::FunctionCallInfo, called_by: CalledBy) -> *mut Computed {
    // SAFETY: called by the server.
    let (function, arguments) = unsafe { ((*call).flinfo, Arguments::of(call)) };
    arguments.check_caller(called_by);
    let Arguments { relation, output, attnums, sql, .. } = &arguments;
    let message = format!("rule {} cannot compute a row", arguments.rule_id);
    let names = arguments.names();
    let named = Names {
        table: names.first().copied().unwrap_or_default(),
        columns: attnums.iter().copied().zip(names.iter().skip(1).copied()).collect(),
    };
    // SAFETY: catalog lookups; what is made lives in the memory of the call's place.
    unsafe {
        let memory = (*function).fn_mcxt;
        let before = pg_sys::CurrentMemoryContext;
        pg_sys::CurrentMemoryContext = memory;
        if pg_sys::get_fn_expr_argtype(function, EXAMPLE as i32) != pg_sys::getBaseType(*output) {
            refuse(&format!("{message}: its type is another"));
        }
        let mut settings = PinnedSettings::for_call();
        let compiled = expression::compile(*relation, sql, Some((*output, -1)), Some(&named));
        settings.restore();
        let Ok(compiled) = compiled else { refuse(&format!("{message}: it was refused")) };
        let slot = expression::slot(*relation);
        let count = ((*call).nargs as usize).saturating_sub(FIRST_VALUE);
        // An expression without columns is given one value all the same: SQL wants one.
        let as_many = attnums.len() == count || (attnums.is_empty() && count == 1);
        let fits = as_many
            && compiled.used.iter().all(|used| attnums.contains(used))
            && attnums.iter().enumerate().all(|(at, attnum)| {
                let given = pg_sys::get_fn_expr_argtype(function, (FIRST_VALUE + at) as i32);
                type_of(slot, *attnum) == Some(given)
            });
        if !fits {
            refuse(&format!("{message}: its columns are others"));
        }
        let context = pg_sys::CreateStandaloneExprContext();
        (*context).ecxt_scantuple = slot;
        let computed = Computed {
            // Asks whether its functions may be called, and reads the domains' checks.
            state: as_role(compiled.owner, || {
                pg_sys::ExecInitExpr(compiled.node, std::ptr::null_mut())
            }),
            context,
            slot,
            owner: compiled.owner,
            positions: attnums.iter().map(|&attnum| attnum as usize - 1).collect(),
            message: CString::new(message).unwrap_or_default(),
        };
        pg_sys::CurrentMemoryContext = before;
        PgMemoryContexts::For(memory).leak_and_drop_on_delete(computed)
    }
}

const FOR_VIEWS: &str = "only a view of trem_read can call trem.computed";

/// # Safety
/// The argument is of the type that stands for `T` in SQL.
unsafe fn argument<T: FromDatum>(argument: pg_sys::NullableDatum) -> T {
    // SAFETY: as promised by the caller.
    let value = unsafe { T::from_datum(argument.value, argument.isnull) };
    value.unwrap_or_else(|| refuse("an argument of trem.computed is null"))
}

/// The type of a column that the slot has.
unsafe fn type_of(slot: *mut pg_sys::TupleTableSlot, attnum: i16) -> Option<pg_sys::Oid> {
    // SAFETY: the slot has a descriptor; only its attributes are looked at.
    unsafe {
        let descriptor = (*slot).tts_tupleDescriptor;
        let at = usize::try_from(attnum - 1).ok()?;
        let column = (at < (*descriptor).natts as usize).then(|| attribute(descriptor, at))?;
        (!column.attisdropped).then_some(column.atttypid)
    }
}

fn refuse(message: &str) -> ! {
    ereport!(ERROR, PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message.to_owned());
}
