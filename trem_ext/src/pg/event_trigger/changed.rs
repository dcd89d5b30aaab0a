//! What a command has done to tables, as it ends (`ddl_command_end`, `sql_drop`) or as it begins to
//! write a table anew (`table_rewrite`).
//!
//! Where the parse tree has only a name that is gone, and for what CASCADE dropped, the server's
//! own functions tell the objects. They can be called in SQL alone: as the bootstrap superuser, and
//! with every name qualified.

use std::ffi::CStr;

use pgrx::{pg_sys, PgList, Spi};

use super::find;
use crate::pg::{as_role, utf8};

/// pg_proc.dat: pg_event_trigger_table_rewrite_oid and pg_event_trigger_table_rewrite_reason.
const REWRITE_OID: pg_sys::Oid = pg_sys::Oid::from_u32(4566);
const REWRITE_REASON: pg_sys::Oid = pg_sys::Oid::from_u32(4567);

/// commands/event_trigger.h. Another access method, the one reason left, changes no value.
const PERSISTENCE: i32 = 0x01;
const VALUES: i32 = 0x02 | 0x04;

pub(crate) enum Done {
    Attached {
        parent: u32,
        partition: u32,
    },
    Detached {
        parent: u32,
        partition: u32,
    },
    Dropped(u32),
    Rewritten(u32),
    /// From logged to unlogged, or back.
    Unlogged(u32),
    TypeAltered(u32),
    Renamed(u32),
    Moved(u32),
    /// The schema's name until now.
    SchemaRenamed(String),
}

/// # Safety
/// `data` are those of the call.
pub(super) unsafe fn read(data: &pg_sys::EventTriggerData) -> Vec<Done> {
    // SAFETY: the event is a string; the parse tree is a node, and each tag has its struct.
    unsafe {
        match CStr::from_ptr(data.event).to_bytes() {
            b"table_rewrite" => rewrite(),
            b"sql_drop" => objects(DROPPED).into_iter().map(Done::Dropped).collect(),
            b"ddl_command_end" => {
                let tree = data.parsetree;
                match (*tree).type_ {
                    pg_sys::NodeTag::T_AlterTableStmt => alter(&*tree.cast()),
                    pg_sys::NodeTag::T_AlterEnumStmt => alter_enum(&*tree.cast()),
                    pg_sys::NodeTag::T_RenameStmt => rename(&*tree.cast()),
                    pg_sys::NodeTag::T_AlterObjectSchemaStmt => {
                        objects(ALTERED_RELATIONS).into_iter().map(Done::Moved).collect()
                    }
                    _ => Vec::new(),
                }
            }
            _ => Vec::new(),
        }
    }
}

fn rewrite() -> Vec<Done> {
    // SAFETY: both functions may be called during this event, and only then.
    let (table, reason) = unsafe {
        let none = pg_sys::Oid::INVALID;
        let table = pg_sys::OidFunctionCall0Coll(REWRITE_OID, none);
        let reason = pg_sys::OidFunctionCall0Coll(REWRITE_REASON, none);
        (table.value() as u32, reason.value() as i32)
    };
    if reason & PERSISTENCE != 0 {
        vec![Done::Unlogged(table)]
    } else if reason & VALUES != 0 {
        vec![Done::Rewritten(table)]
    } else {
        Vec::new()
    }
}

/// # Safety
/// `statement` is from the parser, and was carried out.
unsafe fn alter(statement: &pg_sys::AlterTableStmt) -> Vec<Done> {
    // SAFETY: the relation is there; the commands are a list of AlterTableCmd, of which these kinds
    // have a PartitionCmd with a name.
    unsafe {
        let Some(altered) = find(statement.relation) else { return Vec::new() };
        if statement.objtype == pg_sys::ObjectType::OBJECT_TYPE {
            let of = pg_sys::get_rel_type_id(pg_sys::Oid::from_u32(altered));
            return vec![Done::TypeAltered(of.to_u32())];
        }
        if statement.objtype != pg_sys::ObjectType::OBJECT_TABLE {
            return Vec::new();
        }
        let commands = PgList::<pg_sys::AlterTableCmd>::from_pg(statement.cmds);
        let done = commands.iter_ptr().filter_map(|command| {
            use pg_sys::AlterTableType as Kind;
            let attaches = match (*command).subtype {
                Kind::AT_AttachPartition => true,
                Kind::AT_DetachPartition | Kind::AT_DetachPartitionFinalize => false,
                _ => return None,
            };
            let partition = find((*(*command).def.cast::<pg_sys::PartitionCmd>()).name)?;
            let parent = altered;
            Some(match attaches {
                true => Done::Attached { parent, partition },
                false => Done::Detached { parent, partition },
            })
        });
        done.collect()
    }
}

/// # Safety
/// As for [`alter`].
unsafe fn alter_enum(statement: &pg_sys::AlterEnumStmt) -> Vec<Done> {
    // A label more changes no row.
    if statement.oldVal.is_null() {
        return Vec::new();
    }
    // SAFETY: the type has this name.
    let of = unsafe {
        let name = pg_sys::makeTypeNameFromNameList(statement.typeName);
        pg_sys::typenameTypeId(std::ptr::null_mut(), name)
    };
    vec![Done::TypeAltered(of.to_u32())]
}

/// # Safety
/// As for [`alter`].
unsafe fn rename(statement: &pg_sys::RenameStmt) -> Vec<Done> {
    match statement.renameType {
        pg_sys::ObjectType::OBJECT_TABLE => {
            objects(ALTERED_RELATIONS).into_iter().map(Done::Renamed).collect()
        }
        pg_sys::ObjectType::OBJECT_SCHEMA => {
            // SAFETY: the old name is a string.
            vec![Done::SchemaRenamed(unsafe { utf8(statement.subname) })]
        }
        _ => Vec::new(),
    }
}

const ALTERED_RELATIONS: &str =
    "SELECT c.objid FROM pg_catalog.pg_event_trigger_ddl_commands() AS c
    WHERE c.classid OPERATOR(pg_catalog.=) 1259::pg_catalog.oid
      AND c.objsubid OPERATOR(pg_catalog.=) 0";

const DROPPED: &str = "SELECT d.objid FROM pg_catalog.pg_event_trigger_dropped_objects() AS d
    WHERE d.classid OPERATOR(pg_catalog.=) 1259::pg_catalog.oid
      AND d.objsubid OPERATOR(pg_catalog.=) 0 AND NOT d.is_temporary
      AND d.object_type OPERATOR(pg_catalog.=) 'table'";

fn objects(sql: &str) -> Vec<u32> {
    as_role(pg_sys::BOOTSTRAP_SUPERUSERID.into(), || {
        Spi::connect_mut(|client| {
            let Ok(rows) = client.update(sql, None, &[]) else { return Vec::new() };
            let oids = rows.filter_map(|row| row.get::<pg_sys::Oid>(1).ok().flatten());
            oids.map(pg_sys::Oid::to_u32).collect()
        })
    })
}
