//! An event trigger's call, read: of a command that is about to run what may meet a view, of one
//! that has run ([`changed`]) what it did that no row in the WAL shows.
//!
//! Names are looked up as the command itself will look them up, under the caller's `search_path`,
//! and no lock is taken: what PostgreSQL finds a moment later is what counts, and it refuses what
//! does not exist in its own words.

mod changed;

use std::ffi::{CStr, CString};

use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::datum::Datum;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::{ereport, pg_sys, PgList, PgSqlErrorCode};

pub(crate) use changed::Done;

/// The call of a function by an event trigger; no argument in SQL.
pub(crate) struct EventTrigger(pub(super) pg_sys::FunctionCallInfo);

/// What such a function returns: SQL's `event_trigger`, which is nothing.
pub(crate) struct Handled;

/// A command that PostgreSQL refuses while a view shows what it takes away. With CASCADE it drops
/// the view itself, so those are left out.
pub(crate) enum DdlCommand {
    AlterTable { table: u32, with_children: bool, columns: Vec<AlteredColumn> },
    DropTables(Vec<u32>),
}

pub(crate) struct AlteredColumn {
    pub name: CString,
    pub is_dropped: bool,
}

impl EventTrigger {
    /// The command that is about to run, if it is one of those.
    pub(crate) fn command(&self) -> Option<DdlCommand> {
        let tree = self.data()?.parsetree;
        // SAFETY: the parse tree is a node, and each tag has its struct.
        unsafe {
            match (*tree).type_ {
                pg_sys::NodeTag::T_AlterTableStmt => alter_table(&*tree.cast()),
                pg_sys::NodeTag::T_DropStmt => drop_tables(&*tree.cast()),
                _ => None,
            }
        }
    }

    /// What the command has done, or is about to rewrite.
    pub(crate) fn done(&self) -> Vec<Done> {
        // SAFETY: the data are those of the call.
        self.data().map(|data| unsafe { changed::read(data) }).unwrap_or_default()
    }

    /// `None`: this is a time to keep still. The script of an extension and pg_upgrade build what
    /// is there already.
    pub(super) fn data(&self) -> Option<&pg_sys::EventTriggerData> {
        // SAFETY: the server passes the call's data, whose context is null or a node; a node of
        // this tag is an EventTriggerData. The globals are only set by this backend.
        unsafe {
            let context = (*self.0).context;
            if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_EventTriggerData {
                ereport!(
                    ERROR,
                    PgSqlErrorCode::ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED,
                    "this function can only be called by an event trigger of trem"
                );
            }
            if pg_sys::creating_extension || pg_sys::IsBinaryUpgrade {
                return None;
            }
            Some(&*context.cast::<pg_sys::EventTriggerData>())
        }
    }
}

/// # Safety
/// `statement` is from the parser.
unsafe fn alter_table(statement: &pg_sys::AlterTableStmt) -> Option<DdlCommand> {
    // SAFETY: the commands are a list of AlterTableCmd, each with the column's name for these two
    // kinds; the relation is there.
    unsafe {
        let commands = PgList::<pg_sys::AlterTableCmd>::from_pg(statement.cmds);
        let columns: Vec<AlteredColumn> =
            commands.iter_ptr().filter_map(|command| altered_column(&*command)).collect();
        if columns.is_empty() {
            return None;
        }
        let table = find(statement.relation)?;
        Some(DdlCommand::AlterTable { table, with_children: (*statement.relation).inh, columns })
    }
}

/// # Safety
/// As for [`alter_table`].
unsafe fn altered_column(command: &pg_sys::AlterTableCmd) -> Option<AlteredColumn> {
    let is_dropped = match command.subtype {
        pg_sys::AlterTableType::AT_DropColumn => true,
        pg_sys::AlterTableType::AT_AlterColumnType => false,
        _ => return None,
    };
    if command.behavior == pg_sys::DropBehavior::DROP_CASCADE || command.name.is_null() {
        return None;
    }
    // SAFETY: a name from the parser ends with a zero byte.
    let name = unsafe { CStr::from_ptr(command.name) }.to_owned();
    Some(AlteredColumn { name, is_dropped })
}

/// # Safety
/// As for [`alter_table`].
unsafe fn drop_tables(statement: &pg_sys::DropStmt) -> Option<DdlCommand> {
    if statement.removeType != pg_sys::ObjectType::OBJECT_TABLE
        || statement.behavior == pg_sys::DropBehavior::DROP_CASCADE
    {
        return None;
    }
    // SAFETY: for tables each object is a list of the parts of its name.
    let tables = unsafe {
        PgList::<pg_sys::List>::from_pg(statement.objects)
            .iter_ptr()
            .filter_map(|name| find(pg_sys::makeRangeVarFromNameList(name)))
            .collect()
    };
    Some(DdlCommand::DropTables(tables))
}

/// # Safety
/// `name` is valid.
unsafe fn find(name: *const pg_sys::RangeVar) -> Option<u32> {
    // SAFETY: without a callback the lookup needs nothing but the name.
    let oid = unsafe {
        pg_sys::RangeVarGetRelidExtended(
            name,
            pg_sys::NoLock as pg_sys::LOCKMODE,
            pg_sys::RVROption::RVR_MISSING_OK,
            None,
            std::ptr::null_mut(),
        )
    };
    (oid != pg_sys::Oid::INVALID).then(|| oid.to_u32())
}

// SAFETY: the call's data are valid while the function that has the argument runs.
unsafe impl<'fcx> ArgAbi<'fcx> for EventTrigger {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: this argument stands for the call itself, whatever it is read from.
        EventTrigger(unsafe { pg_sys::FunctionCallInfo::unbox_arg_unchecked(arg) })
    }

    fn is_virtual_arg() -> bool {
        true
    }
}

// SAFETY: not an argument in SQL, and never a result.
unsafe impl SqlTranslatable for EventTrigger {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(EventTrigger);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::Skip);
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> = Err(ReturnsError::Datum);
}

// SAFETY: the server ignores what an event trigger returns.
unsafe impl BoxRet for Handled {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        // SAFETY: as above.
        unsafe { fcinfo.return_raw_datum(pg_sys::Datum::null()) }
    }
}

pgrx::impl_sql_translatable!(Handled, "event_trigger");
