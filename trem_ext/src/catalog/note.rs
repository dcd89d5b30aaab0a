//! What a command did to tables that no row in the WAL shows, noted as it happens: a row of
//! `trem.table_change` and a message in the WAL, both in the command's own transaction.
//!
//! The row is for the next publish, which asks about what came since the last one
//! ([`super::unseen`]); the message is for streams, which stop at it. Both name tables by OID, and
//! nobody asks here whether a task has them: that is for whoever reads. So the command waits for
//! nothing of ours, and two commands never conflict here.

use trem_wire::Lsn;

use crate::pg::event_trigger::Done;
use crate::pg::{self, dependency};
use crate::wal_message::{self, Change};

/// Stands for the tables of a schema, which may be many.
const EVERY: u32 = 0;
const TEMPORARY: u8 = b't';
const PERMANENT: u8 = b'p';

pub(crate) fn note(done: Done) {
    match done {
        Done::Attached { parent, partition } => {
            let root = dependency::partition_root(parent);
            for leaf in dependency::leaves(partition) {
                // Whatever comes into one without rows from now on is in the WAL.
                let permanent = dependency::persistence(leaf) == Some(PERMANENT);
                if !permanent || dependency::has_blocks(leaf) {
                    write(Change::Attached, leaf, root);
                }
            }
        }
        Done::Detached { parent, partition } => {
            let root = dependency::partition_root(parent);
            for leaf in dependency::leaves(partition) {
                write(Change::Detached, leaf, root);
            }
        }
        Done::Dropped(table) => write(Change::Dropped, table, table),
        Done::Rewritten(table) => write_one(Change::Rewritten, table),
        Done::Unlogged(table) => write_one(Change::Unlogged, table),
        Done::TypeAltered(type_oid) => {
            for table in dependency::tables_with_type(type_oid) {
                write_one(Change::TypeAltered, table);
            }
        }
        Done::Renamed(table) => write_one(Change::Renamed, table),
        Done::Moved(table) => write_one(Change::Moved, table),
        Done::SchemaRenamed(old_name) => {
            let message = wal_message::write(&wal_message::schema_renamed(&old_name));
            add(message, Change::Moved, EVERY, EVERY);
        }
    }
}

fn write_one(change: Change, table: u32) {
    if dependency::persistence(table) != Some(TEMPORARY) {
        write(change, table, dependency::partition_root(table));
    }
}

fn write(change: Change, relation: u32, root: u32) {
    let message = wal_message::write(&wal_message::changed(change, relation, root));
    add(message, change, relation, root);
}

fn add(message: Option<Lsn>, change: Change, relation: u32, root: u32) {
    // The message's position is the row's: later than every publish that did not see it.
    let lsn = message.map_or_else(pg::insert_lsn, |lsn| lsn.0);
    pg::add_table_change(lsn, relation, root, change.as_str());
}
