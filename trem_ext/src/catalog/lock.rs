//! What keeps a task's tables as they are while it is published.
//!
//! A publish reads the WAL's end and then the catalog: what its definition shows is everything that
//! was before that position, and a stream tells it from what came later. That holds because no
//! command that a definition must know of can end in between: each partitioned table is locked
//! against partitions that come and go (and against any other ALTER), each table with rows against
//! being rewritten, renamed, moved, dropped. Readers and writers are not in the way, nor do they
//! wait.
//!
//! In a transaction that sees one moment only (REPEATABLE READ) the catalog's rows would be older
//! than the locks, so nothing is published there.

use serde::Deserialize;

use super::draft::{Draft, ItemKind};
use super::spi;
use crate::error::Error;
use crate::pg;

/// A table of the draft, or a part of one.
#[derive(Deserialize, PartialEq, Eq)]
struct Part {
    oid: u32,
    name: String,
    schema: String,
    is_partitioned: bool,
}

/// Whoever may not publish a table locks nothing of it: its owner would be kept waiting by somebody
/// who is refused anyway.
const PARTS: &str = "
    SELECT c.oid::bigint, c.relname AS name, n.nspname AS schema, c.relkind = 'p' AS is_partitioned
    FROM pg_class AS c
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND pg_has_role($4::oid, c.relowner, 'MEMBER')
      AND c.oid IN (
          SELECT coalesce(tree.relid, member.oid)
          FROM pg_class AS member
          LEFT JOIN LATERAL pg_partition_tree(member.oid) AS tree ON true
          WHERE member.oid = ANY ($1::oid[])
             OR member.relkind IN ('r', 'p') AND NOT member.relispartition
                AND member.oid <> ALL ($3::oid[])
                AND member.relnamespace = ANY (
                    SELECT oid FROM pg_namespace WHERE nspname = ANY ($2::text[])))
    ORDER BY c.oid";

/// How often the tables may turn out to be others once they are locked.
const ROUNDS_MAX: usize = 20;

/// Locks the tables of a draft until the end of the transaction, in the order of their OIDs.
pub(crate) fn tables(draft: &Draft) -> Result<(), Error> {
    if pg::sees_one_moment() {
        let task = &draft.task.name;
        return Err(Error::State {
            message: "a task cannot be published in a transaction that sees one moment only"
                .to_owned(),
            hint: format!(
                "Publish at READ COMMITTED: BEGIN ISOLATION LEVEL READ COMMITTED; SELECT \
                 trem.start_task('{task}'); COMMIT;"
            ),
        });
    }
    let mut before = Vec::new();
    for _ in 0..ROUNDS_MAX {
        let parts = parts(draft)?;
        // Under the locks each is there still, by its name, and nothing came: now they are right.
        if parts == before {
            return Ok(());
        }
        for part in &parts {
            pg::lock_against_ddl(part.oid, part.is_partitioned);
        }
        before = parts;
    }
    Err(Error::State {
        message: format!("the tables of task \"{}\" change all the time", draft.task.name),
        hint: format!("Try again: SELECT trem.start_task('{}');", draft.task.name),
    })
}

fn parts(draft: &Draft) -> Result<Vec<Part>, Error> {
    let of_kind = |kind| draft.items.iter().filter(move |item| item.kind == kind);
    let named = of_kind(ItemKind::Table).filter_map(|item| item.table_oid);
    let schemas: Vec<String> =
        of_kind(ItemKind::Pattern).filter_map(|item| item.schema_name.clone()).collect();
    let left_out = of_kind(ItemKind::Excluded).filter_map(|item| item.table_oid);
    let caller = i64::from(pg::caller().to_u32());
    let arguments =
        [spi::oids(named).into(), schemas.into(), spi::oids(left_out).into(), caller.into()];
    spi::rows(PARTS, &arguments)
}
