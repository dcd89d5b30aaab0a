//! One leaf from source to target: the source sends its rows as runs of inserts, which go into COPY
//! as they are, and of those that a rule cannot compute the keys.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio_postgres::CopyInSink;
use trem_wire::codec::decode_frame;
use trem_wire::compress::Unpacker;
use trem_wire::definition::{DefinedLeaf, DefinedTable, Definition, OnError};
use trem_wire::message::{ErrorRow, Message, Relation, RowFormat, Run};

use super::Meter;
use crate::connect::Client;
use crate::error::{Error, Kind, Result};
use crate::source::copy;
use crate::target::exception::{Failed, Recorder, TOGETHER};
use crate::target::{copy_bytes, schema, COPY_HEAD, COPY_TAIL};

/// Loads one leaf in the open transactions of source and target; gives the number of rows.
pub(super) async fn copy_leaf(
    (source, target): (&Client, &Client),
    definition: &Definition,
    table: &DefinedTable,
    leaf: &DefinedLeaf,
    meter: &mut Meter<'_>,
) -> Result<u64> {
    let mut unpacker = Unpacker::new()?;
    let mut recorder = Recorder::default();
    let mut relation: Option<Arc<Relation>> = None;
    let mut failed = Vec::new();
    let mut copying = Copying { target, table, sink: None, rows: 0 };
    let mut frames = copy::frames(source, definition, leaf).await?;
    while let Some(frame) = frames.next().await {
        for message in decode_frame(&unpacker.unpack(&frame?)?)? {
            match message {
                Message::Relation(described) => relation = Some(described),
                Message::Insert(run) => {
                    let format = relation.as_ref().ok_or_else(undescribed)?.format;
                    copying.put(format, &run).await?;
                    meter.add(u64::from(run.row_count), run.rows.len());
                }
                Message::Error(row) if definition.options.on_error == OnError::SkipRow => {
                    let relation = Arc::clone(relation.as_ref().ok_or_else(undescribed)?);
                    failed.push(Failed { relation, row, commit_lsn: None });
                }
                Message::Error(row) => return Err(row_failed(definition, &row)),
                _ => return Err(undescribed()),
            }
        }
        if failed.len() >= TOGETHER {
            copying.end().await?;
            recorder.record(target, &definition.task_id, &failed).await?;
            failed.clear();
        }
    }
    copying.end().await?;
    recorder.record(target, &definition.task_id, &failed).await?;
    Ok(copying.rows)
}

/// A COPY into the target's table, while it is open.
struct Copying<'a> {
    target: &'a Client,
    table: &'a DefinedTable,
    sink: Option<(RowFormat, Pin<Box<CopyInSink<Bytes>>>)>,
    /// What the target has taken.
    rows: u64,
}

impl Copying<'_> {
    async fn put(&mut self, format: RowFormat, run: &Run) -> Result<()> {
        let (_, sink) = match &mut self.sink {
            Some(open) => open,
            none => {
                let statement = schema::copy_statement(self.table);
                let mut sink = Box::pin(self.target.copy_in(&statement).await?);
                if format == RowFormat::Binary {
                    sink.feed(Bytes::from_static(COPY_HEAD)).await?;
                }
                none.insert((format, sink))
            }
        };
        Ok(sink.feed(copy_bytes(format, run)).await?)
    }

    async fn end(&mut self) -> Result<()> {
        if let Some((format, mut sink)) = self.sink.take() {
            if format == RowFormat::Binary {
                sink.feed(Bytes::from_static(COPY_TAIL)).await?;
            }
            self.rows += sink.as_mut().finish().await?;
        }
        Ok(())
    }
}

/// One row is at fault, not the task.
fn row_failed(definition: &Definition, row: &ErrorRow) -> Error {
    let message = format!("rule {} of the task fails on a row", row.rule_id);
    let hint = format!(
        "trem.transformation lists the rules. Mend the rule or the row, then SELECT \
         trem.start_task('{0}'); or have such rows skipped: SELECT trem.alter_task('{0}', \
         '{{\"on_error\": \"skip_row\"}}'); and start the task.",
        definition.task
    );
    Error::new(Kind::RowFailed, message).hint(hint).sqlstate(&row.sqlstate)
}

fn undescribed() -> Error {
    Error::new(Kind::Protocol, "rows of a load that do not follow their description")
}
