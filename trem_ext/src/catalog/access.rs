//! Who may do what. Endpoints and tasks belong to roles, and so do tables; every function asks here
//! before it has TREM do something for its caller.
//!
//! The caller is the role whose rights hold at that moment, not the session's user: a function that
//! somebody talked a superuser into calling, and that runs with its author's rights, gets no more
//! than its author.

use pgrx::pg_sys;

use super::{name, spi};
use crate::error::Error;
use crate::pg;

/// What belongs to a role: a row of `trem.endpoint` or `trem.task`.
pub(crate) struct Owned<'a> {
    pub kind: Kind,
    pub name: &'a str,
    pub owner: u32,
}

#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Endpoint,
    Task,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Endpoint => "endpoint",
            Kind::Task => "task",
        }
    }
}

/// The caller, for messages.
pub(crate) fn caller_name() -> String {
    pg::role_name(pg::caller()).unwrap_or_default()
}

pub(crate) fn caller_oid() -> i64 {
    pg::caller().to_u32().into()
}

/// The caller is the role, a member of it, or a superuser.
pub(crate) fn is_member(role: u32) -> bool {
    pg::is_member(pg::caller(), pg_sys::Oid::from(role))
}

/// The role that is meant is not there any more.
pub(crate) fn is_dropped(role: u32) -> bool {
    pg::role_name(pg_sys::Oid::from(role)).is_none()
}

impl Owned<'_> {
    /// An error unless the caller is a member of the owner.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if is_member(self.owner) {
            return Ok(());
        }
        let (word, name) = (self.kind.word(), self.name);
        Err(match pg::role_name(pg_sys::Oid::from(self.owner)) {
            Some(owner) => Error::Forbidden {
                message: format!("{word} \"{name}\" belongs to role \"{owner}\""),
                hint: become_member(&owner),
            },
            None => Error::Forbidden {
                message: format!("{word} \"{name}\" belonged to a role that was dropped"),
                hint: format!("{word}s like this one are for superusers, who take it over: {}", {
                    self.take_over_statement()
                }),
            },
        })
    }

    /// What a superuser changes of somebody who is gone becomes the superuser's.
    pub(crate) fn take_over(&self) -> Result<(), Error> {
        if !is_dropped(self.owner) {
            return Ok(());
        }
        let sql = match self.kind {
            Kind::Endpoint => "UPDATE trem.endpoint SET owner = $2::oid::regrole WHERE name = $1",
            Kind::Task => "UPDATE trem.task SET owner = $2::oid::regrole WHERE name = $1",
        };
        spi::run(sql, &[self.name.into(), caller_oid().into()])?;
        Ok(())
    }

    pub(crate) fn take_over_statement(&self) -> String {
        match self.kind {
            Kind::Endpoint => format!("SELECT trem.alter_endpoint('{}');", self.name),
            Kind::Task => format!("SELECT trem.alter_task('{}', '{{}}');", self.name),
        }
    }
}

fn become_member(owner: &str) -> String {
    let caller = caller_name();
    format!("Be a member of that role: GRANT {} TO {};", name::quoted(owner), name::quoted(&caller))
}

/// An error unless the caller may bring code into what runs as the owner of a table: expressions,
/// and the types that they name.
pub(crate) fn check_author(table: &str, owner: u32) -> Result<(), Error> {
    if is_member(owner) {
        return Ok(());
    }
    let owner = pg::role_name(pg_sys::Oid::from(owner)).unwrap_or_default();
    Err(Error::Forbidden {
        message: format!(
            "rules about values of table {table} are made by members of its owner \"{owner}\""
        ),
        hint: format!("They run with the owner's rights. {}", become_member(&owner)),
    })
}

/// An error unless the caller may see all rows of a table, as they are.
pub(crate) fn check_reader(table: &pg::table::Locked) -> Result<(), Error> {
    let caller = pg::caller();
    if pg::is_member(caller, table.owner) || table.shows_all_to(caller) {
        return Ok(());
    }
    let quoted = name::qualified(&table.schema, &table.name);
    Err(Error::Forbidden {
        message: format!(
            "you may not read all of table {}",
            name::display(&table.schema, &table.name)
        ),
        hint: format!(
            "GRANT SELECT ON {quoted} TO {}; where row security holds, be a member of the table's \
             owner.",
            name::quoted(&caller_name())
        ),
    })
}
