//! `trem.peek_changes`: what the stream of a task has to say, as rows that a person can read.
//!
//! Peeks into the task's slot with the plugin, takes the frames apart and shows the values as text.
//! Consumes nothing. For people and for the regression tests, not for the applier.
//!
//! A slot may hold back any amount, and a person wants to see how it begins: no more lines than the
//! limit come back, and no more frames are held than have brought them.

use std::collections::HashMap;
use std::sync::Arc;

use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use pgrx::spi::{quote_qualified_identifier, SpiError};
use serde_json::Value;
use trem_wire::codec::{decode_frame, DecodeError};
use trem_wire::compress::Unpacker;
use trem_wire::message::{ErrorRow, Message, Operation, Relation, RowFormat, Run};
use trem_wire::row::Row;
use trem_wire::{Lsn, PROTO_VERSION};

use crate::pg::PinnedSettings;
use crate::pg::{self, JsonText, PgLsn, Xid8};

#[derive(Debug, thiserror::Error)]
enum PeekError {
    #[error("the stream cannot be read: {0}")]
    Decode(#[from] DecodeError),
    #[error("the stream cannot be unpacked: {0}")]
    Unpack(#[from] std::io::Error),
    #[error("task is null")]
    TaskIsNull,
    #[error("the slot cannot be peeked: {0}")]
    Spi(#[from] SpiError),
    #[error("upto_nchanges must be at least 1; null is no limit")]
    Limit,
}

/// One line of the answer.
struct Line {
    lsn: Lsn,
    xid: u64,
    operation: &'static str,
    table_name: Option<String>,
    data: Option<String>,
}

#[allow(clippy::type_complexity)]
#[pg_extern(volatile)]
fn peek_changes(
    task: Option<&str>,
    slot_name: default!(Option<&str>, "NULL"),
    upto_nchanges: default!(Option<i32>, "1000"),
) -> Result<
    TableIterator<
        'static,
        (
            name!(lsn, PgLsn),
            name!(xid, Xid8),
            name!(operation, &'static str),
            name!(table_name, Option<String>),
            name!(data, Option<JsonText>),
        ),
    >,
    PeekError,
> {
    let task = task.ok_or(PeekError::TaskIsNull)?;
    let slot_name = slot_name.map_or_else(|| trem_wire::slot_name(task), str::to_owned);
    let limit = match upto_nchanges {
        None => usize::MAX,
        Some(limit @ 1..) => limit as usize,
        Some(_) => return Err(PeekError::Limit),
    };
    // The values are shown as the stream has text, whatever the session's settings.
    let mut settings = PinnedSettings::for_call();
    let mut reader = Reader::default();
    read(task, &slot_name, upto_nchanges, |frame, unpacker| {
        for message in decode_frame(&unpacker.unpack(&frame)?)? {
            reader.read(message);
        }
        Ok(reader.lines.len() < limit)
    })?;
    reader.lines.truncate(limit);
    settings.restore();
    Ok(TableIterator::new(reader.lines.into_iter().map(|line| {
        let data = line.data.map(JsonText);
        (PgLsn(line.lsn.0 as i64), Xid8(line.xid as i64), line.operation, line.table_name, data)
    })))
}

/// Hands over the frames as the slot has them, under the current definition, until one is enough.
fn read(
    task: &str,
    slot_name: &str,
    upto_nchanges: Option<i32>,
    mut more: impl FnMut(Vec<u8>, &mut Unpacker) -> Result<bool, PeekError>,
) -> Result<(), PeekError> {
    const FRAMES: &str = "SELECT data FROM pg_catalog.pg_logical_slot_peek_binary_changes(
        $1::pg_catalog.name, NULL, $2, 'task', $3, 'proto_version', $4, 'definition_version',
        trem.applier_definition($3) OPERATOR(pg_catalog.->>) 'definition_version')";
    /// Frames have 64 KB, but for one row that is larger.
    const FETCHED_TOGETHER: i64 = 8;
    let proto_version = PROTO_VERSION.to_string();
    let arguments = [
        DatumWithOid::from(slot_name),
        DatumWithOid::from(upto_nchanges),
        DatumWithOid::from(task),
        DatumWithOid::from(proto_version.as_str()),
    ];
    let mut unpacker = Unpacker::new()?;
    Spi::connect(|client| {
        // The server decodes into a file of its own; what is not fetched is never in memory.
        let mut cursor = client.try_open_cursor(FRAMES, &arguments)?;
        loop {
            let fetched = cursor.fetch(FETCHED_TOGETHER)?;
            if fetched.is_empty() {
                return Ok(());
            }
            for row in fetched {
                let Some(frame) = row.get::<Vec<u8>>(1)? else { continue };
                if !more(frame, &mut unpacker)? {
                    return Ok(());
                }
            }
        }
    })
}

/// Follows the messages: which transaction it is in, and what its relations look like.
#[derive(Default)]
struct Reader {
    relations: HashMap<u32, Arc<Relation>>,
    lsn: Lsn,
    xid: u64,
    lines: Vec<Line>,
}

impl Reader {
    fn read(&mut self, message: Message) {
        match message {
            Message::Begin(begin) => {
                (self.lsn, self.xid) = (begin.commit_lsn, begin.xid);
                self.line("begin", None, None);
            }
            Message::Relation(relation) => {
                let (name, data) = (table_name(&relation), described(&relation));
                self.relations.insert(relation.oid, relation);
                self.line("relation", Some(name), Some(data));
            }
            Message::Insert(run) => self.rows("insert", &run),
            Message::Update(run) => self.updates(&run),
            Message::Delete(run) => self.rows("delete", &run),
            Message::Truncate(truncate) => {
                let data = object([
                    ("cascade", truncate.cascade.to_string()),
                    ("restart_identity", truncate.restart_identity.to_string()),
                ]);
                for oid in truncate.relations {
                    let name = self.relations.get(&oid).map(|relation| table_name(relation));
                    self.line("truncate", name, Some(data.clone()));
                }
            }
            Message::Error(error) => {
                let Some(relation) = self.relations.get(&error.relation) else { return };
                let data = failed(relation, &error);
                self.line("error", Some(table_name(relation)), Some(data));
            }
            Message::Logical(logical) => {
                let content = string(&String::from_utf8_lossy(&logical.content));
                self.line("message", None, Some(object([("content", content)])));
            }
            Message::Commit(commit) => {
                self.lsn = commit.end_lsn;
                self.line("commit", None, None);
            }
        }
    }

    fn rows(&mut self, operation: &'static str, run: &Run) {
        let Some(relation) = self.relations.get(&run.relation) else { return };
        let name = table_name(relation);
        let (part, key_only) = match operation {
            "delete" => ("old", relation.has_key()),
            _ => ("new", false),
        };
        let data: Vec<_> =
            run.rows().map(|row| object([(part, fields(relation, row, key_only))])).collect();
        for data in data {
            self.line(operation, Some(name.clone()), Some(data));
        }
    }

    fn updates(&mut self, run: &Run) {
        let Some(relation) = self.relations.get(&run.relation) else { return };
        let name = table_name(relation);
        let mut lines = Vec::new();
        for row in run.updated_rows() {
            let mut parts = Vec::new();
            if let Some(old) = row.old {
                parts.push(("old", fields(relation, old, relation.has_key())));
            }
            parts.push(("new", fields(relation, row.new, false)));
            for (name, set) in [("unchanged", row.unchanged), ("unknown", row.unknown)] {
                if !set.is_empty() {
                    let columns = relation.columns.iter().enumerate();
                    let named = columns.filter(|(at, _)| set.contains(*at));
                    parts.push((name, array(named.map(|(_, column)| string(&column.name)))));
                }
            }
            lines.push(object(parts));
        }
        for data in lines {
            self.line("update", Some(name.clone()), Some(data));
        }
    }

    fn line(&mut self, operation: &'static str, table_name: Option<String>, data: Option<String>) {
        self.lines.push(Line { lsn: self.lsn, xid: self.xid, operation, table_name, data });
    }
}

fn table_name(relation: &Relation) -> String {
    quote_qualified_identifier(&relation.source_schema, &relation.source_name)
}

fn described(relation: &Relation) -> String {
    let target = quote_qualified_identifier(&relation.target_schema, &relation.target_name);
    let format = match relation.format {
        RowFormat::Binary => "binary",
        RowFormat::Text => "text",
    };
    let columns = relation.columns.iter().map(|column| {
        let mut parts = vec![("name", string(&column.name)), ("type", string(&column.type_name))];
        if column.key {
            parts.push(("key", "true".to_owned()));
        }
        object(parts)
    });
    object([("target", string(&target)), ("format", string(format)), ("columns", array(columns))])
}

/// The key is there unless it is what failed.
fn failed(relation: &Relation, error: &ErrorRow) -> String {
    let operation = match error.operation {
        Operation::Insert => "insert",
        Operation::Update => "update",
        Operation::Delete => "delete",
    };
    let mut parts = vec![
        ("operation", string(operation)),
        ("rule_id", error.rule_id.to_string()),
        ("sqlstate", string(&error.sqlstate)),
    ];
    if error.key().field_count() > 0 {
        parts.push(("key", fields(relation, error.key(), true)));
    }
    object(parts)
}

/// A row as an object, in the order of its columns.
fn fields(relation: &Relation, row: Row<'_>, key_only: bool) -> String {
    let columns = relation.columns.iter().filter(|column| !key_only || column.key);
    object(columns.zip(row.fields()).map(|(column, field)| {
        let value = match (field, relation.format) {
            (None, _) => "null".to_owned(),
            (Some(bytes), RowFormat::Binary) => string(&pg::text_of_binary(column.type_oid, bytes)),
            (Some(bytes), RowFormat::Text) => string(&String::from_utf8_lossy(bytes)),
        };
        (column.name.as_str(), value)
    }))
}

/// JSON by hand, because columns are shown in their order and a map would sort them.
fn object<'a>(members: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let members: Vec<_> =
        members.into_iter().map(|(name, value)| format!("{}: {value}", string(name))).collect();
    format!("{{{}}}", members.join(", "))
}

fn array(elements: impl Iterator<Item = String>) -> String {
    format!("[{}]", elements.collect::<Vec<_>>().join(", "))
}

fn string(text: &str) -> String {
    Value::from(text).to_string()
}
