//! A leaf row by row, for a task that skips rows which cannot be computed: the source sends those
//! that can as runs of inserts, and of the others their keys.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use trem_wire::codec::decode_frame;
use trem_wire::compress::Unpacker;
use trem_wire::definition::{DefinedLeaf, DefinedTable, Definition};
use trem_wire::message::{Message, Relation, RowFormat, Run};

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
    let mut rows = 0;
    let mut frames = copy::frames(source, &definition.task, leaf).await?;
    while let Some(frame) = frames.next().await {
        let mut runs = Vec::new();
        for message in decode_frame(&unpacker.unpack(&frame?)?)? {
            match message {
                Message::Relation(described) => relation = Some(described),
                Message::Insert(run) => runs.push(run),
                Message::Error(row) => {
                    let relation = Arc::clone(relation.as_ref().ok_or_else(undescribed)?);
                    failed.push(Failed { relation, row, commit_lsn: None });
                }
                _ => return Err(undescribed()),
            }
        }
        let format = relation.as_ref().ok_or_else(undescribed)?.format;
        rows += put(target, table, format, &runs, meter).await?;
        if failed.len() >= TOGETHER {
            recorder.record(target, &definition.task_id, &failed).await?;
            failed.clear();
        }
    }
    recorder.record(target, &definition.task_id, &failed).await?;
    Ok(rows)
}

async fn put(
    target: &Client,
    table: &DefinedTable,
    format: RowFormat,
    runs: &[Run],
    meter: &mut Meter<'_>,
) -> Result<u64> {
    if runs.is_empty() {
        return Ok(0);
    }
    let sink = target.copy_in::<_, Bytes>(&schema::copy_statement(table)).await?;
    let mut sink = Box::pin(sink);
    if format == RowFormat::Binary {
        sink.feed(Bytes::from_static(COPY_HEAD)).await?;
    }
    for run in runs {
        meter.add(u64::from(run.row_count), run.rows.len());
        sink.feed(copy_bytes(format, run)).await?;
    }
    if format == RowFormat::Binary {
        sink.feed(Bytes::from_static(COPY_TAIL)).await?;
    }
    Ok(sink.as_mut().finish().await?)
}

fn undescribed() -> Error {
    Error::new(Kind::Protocol, "rows of a load that do not follow their description")
}
