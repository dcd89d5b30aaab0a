//! The bytes of the stream, version 1. Each `encode_x` stands directly above its `decode_x`, though
//! one runs in the walsender and the other in the applier.
//!
//! # Frame
//! One frame is the payload of one CopyData message of the replication stream (after the server's
//! own header): whole messages, back to back, packed by [`compress`](crate::compress) on their way.
//! A small transaction is one frame; a big one is cut into frames of about [`FRAME_BYTES`] between
//! rows, so a run never crosses a frame.
//!
//! # Message
//! A tag byte, then the fields. Numbers are unsigned LEB128 varints, signed ones (timestamps,
//! attribute numbers) zigzag first; strings and byte strings have their length before them. Rows
//! are COPY's binary rows, see [`row`](crate::row).
//!
//! | tag | message  | fields |
//! |-----|----------|--------|
//! | `B` | begin    | xid, commit_lsn, commit_timestamp |
//! | `R` | relation | oid, four names, format, filtered, column count, columns (attnum, name, type OID, type name, key) |
//! | `I` | insert   | relation OID, row count, byte count, rows |
//! | `U` | update   | relation OID, row count, byte count, rows, each: flags, [old row], new row, [unchanged set], [unknown set] |
//! | `D` | delete   | relation OID, row count, byte count, rows of the key columns |
//! | `T` | truncate | flags, relation count, relation OIDs |
//! | `E` | error    | relation OID, operation (`I`, `U`, `D`), rule id, SQLSTATE, byte count, row of the key columns |
//! | `M` | logical  | content |
//! | `C` | commit   | end_lsn |
//!
//! # Decoding is total
//! Whatever the bytes, decoding ends with messages or a [`DecodeError`]; it never panics, never
//! allocates more than a small multiple of the frame, and leaves nothing over. Rows of a run are
//! checked once here, so readers of a [`Run`] need not check again.

use std::sync::Arc;

use bytes::Bytes;

pub use crate::message::Operation;
use crate::message::{
    Begin, Column, Commit, ErrorRow, Logical, Message, Relation, RowFormat, Run, Truncate,
    UpdatedRow, UPDATE_HAS_OLD, UPDATE_HAS_UNCHANGED, UPDATE_HAS_UNKNOWN,
};
use crate::primitive::{put_bytes, put_varint, unzigzag, zigzag, Reader};
use crate::row::Row;
use crate::Lsn;

/// Where a frame is cut, in bytes before compression. One row may make it larger.
pub const FRAME_BYTES: usize = 64 * 1024;

/// The bytes are not a frame of this protocol. Holds no data of the stream: it may be logged.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    #[error("frame ends in the middle of a message")]
    Truncated,
    #[error("unknown message tag 0x{0:02x}")]
    UnknownTag(u8),
    #[error("malformed frame: {0}")]
    Malformed(&'static str),
}

pub(crate) const TAG_BEGIN: u8 = b'B';
pub(crate) const TAG_RELATION: u8 = b'R';
pub(crate) const TAG_INSERT: u8 = b'I';
pub(crate) const TAG_UPDATE: u8 = b'U';
pub(crate) const TAG_DELETE: u8 = b'D';
pub(crate) const TAG_TRUNCATE: u8 = b'T';
pub(crate) const TAG_ERROR: u8 = b'E';
pub(crate) const TAG_LOGICAL: u8 = b'M';
pub(crate) const TAG_COMMIT: u8 = b'C';

pub fn encode_begin(out: &mut Vec<u8>, begin: &Begin) {
    out.push(TAG_BEGIN);
    put_varint(out, begin.xid);
    put_varint(out, begin.commit_lsn.0);
    put_varint(out, zigzag(begin.commit_timestamp));
}

fn decode_begin(reader: &mut Reader<'_>) -> Result<Message, DecodeError> {
    Ok(Message::Begin(Begin {
        xid: reader.varint()?,
        commit_lsn: Lsn(reader.varint()?),
        commit_timestamp: unzigzag(reader.varint()?),
    }))
}

pub fn encode_relation(out: &mut Vec<u8>, relation: &Relation) {
    out.push(TAG_RELATION);
    put_varint(out, u64::from(relation.oid));
    put_bytes(out, relation.source_schema.as_bytes());
    put_bytes(out, relation.source_name.as_bytes());
    put_bytes(out, relation.target_schema.as_bytes());
    put_bytes(out, relation.target_name.as_bytes());
    out.push(match relation.format {
        RowFormat::Binary => b'b',
        RowFormat::Text => b't',
    });
    out.push(u8::from(relation.filtered));
    put_varint(out, relation.columns.len() as u64);
    for column in &relation.columns {
        put_varint(out, zigzag(i64::from(column.attnum)));
        put_bytes(out, column.name.as_bytes());
        put_varint(out, u64::from(column.type_oid));
        put_bytes(out, column.type_name.as_bytes());
        out.push(u8::from(column.key));
    }
}

fn decode_relation(reader: &mut Reader<'_>) -> Result<Message, DecodeError> {
    Ok(Message::Relation(Arc::new(Relation {
        oid: reader.varint_u32()?,
        source_schema: reader.string()?,
        source_name: reader.string()?,
        target_schema: reader.string()?,
        target_name: reader.string()?,
        format: match reader.byte()? {
            b'b' => RowFormat::Binary,
            b't' => RowFormat::Text,
            _ => return Err(DecodeError::Malformed("unknown row format")),
        },
        filtered: decode_flag(reader)?,
        columns: {
            let count = reader.length()?;
            (0..count).map(|_| decode_column(reader)).collect::<Result<_, _>>()?
        },
    })))
}

fn decode_column(reader: &mut Reader<'_>) -> Result<Column, DecodeError> {
    Ok(Column {
        attnum: i16::try_from(unzigzag(reader.varint()?))
            .map_err(|_| DecodeError::Malformed("attribute number over 16 bits"))?,
        name: reader.string()?,
        type_oid: reader.varint_u32()?,
        type_name: reader.string()?,
        key: decode_flag(reader)?,
    })
}

fn decode_flag(reader: &mut Reader<'_>) -> Result<bool, DecodeError> {
    match reader.byte()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::Malformed("flag that is neither 0 nor 1")),
    }
}

fn operation_tag(operation: Operation) -> u8 {
    match operation {
        Operation::Insert => TAG_INSERT,
        Operation::Update => TAG_UPDATE,
        Operation::Delete => TAG_DELETE,
    }
}

/// Appends a run whose rows the caller has encoded: for updates with [`encode_update_row`].
pub fn encode_run(out: &mut Vec<u8>, op: Operation, relation: u32, row_count: u32, rows: &[u8]) {
    out.push(operation_tag(op));
    put_varint(out, u64::from(relation));
    put_varint(out, u64::from(row_count));
    put_bytes(out, rows);
}

/// The rows of the run that stands first in `frame`, as [`encode_run`] wrote it.
pub fn rows_of_first_run(frame: &[u8]) -> Result<&[u8], DecodeError> {
    let mut reader = Reader::new(frame);
    reader.byte()?;
    reader.varint_u32()?;
    reader.varint_u32()?;
    reader.bytes()
}

fn decode_run(reader: &mut Reader<'_>, op: Operation, frame: &Bytes) -> Result<Run, DecodeError> {
    let relation = reader.varint_u32()?;
    let row_count = reader.varint_u32()?;
    let rows = frame.slice_ref(reader.bytes()?);
    let mut row_reader = Reader::new(&rows);
    for _ in 0..row_count {
        match op {
            Operation::Update => UpdatedRow::read(&mut row_reader, &rows).map(drop)?,
            Operation::Insert | Operation::Delete => {
                Row::read(&mut row_reader, &rows).map(drop)?;
            }
        }
    }
    if !row_reader.is_empty() {
        return Err(DecodeError::Malformed("run with bytes after its last row"));
    }
    Ok(Run { relation, row_count, rows })
}

/// Starts a row of an update run: the flags, and the old row if `old` writes one. The caller then
/// appends the new row, and finally the sets that it announced, with [`encode_column_set`].
pub fn encode_update_row(
    out: &mut Vec<u8>,
    unchanged: bool,
    unknown: bool,
    old: Option<impl FnOnce(&mut Vec<u8>)>,
) {
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    out.push(
        flag(old.is_some(), UPDATE_HAS_OLD)
            | flag(unchanged, UPDATE_HAS_UNCHANGED)
            | flag(unknown, UPDATE_HAS_UNKNOWN),
    );
    if let Some(old) = old {
        old(out);
    }
}

/// Appends a set of columns: `contains(column)` for each of `columns` positions.
pub fn encode_column_set(out: &mut Vec<u8>, columns: usize, contains: impl Fn(usize) -> bool) {
    let at = out.len();
    out.resize(at + columns.div_ceil(8), 0);
    for column in (0..columns).filter(|&column| contains(column)) {
        out[at + column / 8] |= 1 << (column % 8);
    }
}

pub fn encode_truncate(out: &mut Vec<u8>, truncate: &Truncate) {
    out.push(TAG_TRUNCATE);
    out.push(u8::from(truncate.cascade) | u8::from(truncate.restart_identity) << 1);
    put_varint(out, truncate.relations.len() as u64);
    for &relation in &truncate.relations {
        put_varint(out, u64::from(relation));
    }
}

fn decode_truncate(reader: &mut Reader<'_>) -> Result<Message, DecodeError> {
    let flags = reader.byte()?;
    if flags > 3 {
        return Err(DecodeError::Malformed("truncate with unknown flags"));
    }
    let count = reader.length()?;
    Ok(Message::Truncate(Truncate {
        relations: (0..count).map(|_| reader.varint_u32()).collect::<Result<_, _>>()?,
        cascade: flags & 1 != 0,
        restart_identity: flags & 2 != 0,
    }))
}

pub fn encode_error_row(out: &mut Vec<u8>, error: &ErrorRow) {
    out.push(TAG_ERROR);
    put_varint(out, u64::from(error.relation));
    out.push(operation_tag(error.operation));
    put_varint(out, zigzag(error.rule_id));
    put_bytes(out, error.sqlstate.as_bytes());
    put_bytes(out, &error.key);
}

fn decode_error_row(reader: &mut Reader<'_>, frame: &Bytes) -> Result<Message, DecodeError> {
    let error = ErrorRow {
        relation: reader.varint_u32()?,
        operation: match reader.byte()? {
            TAG_INSERT => Operation::Insert,
            TAG_UPDATE => Operation::Update,
            TAG_DELETE => Operation::Delete,
            _ => return Err(DecodeError::Malformed("unknown operation")),
        },
        rule_id: unzigzag(reader.varint()?),
        sqlstate: reader.string()?,
        key: frame.slice_ref(reader.bytes()?),
    };
    let mut key_reader = Reader::new(&error.key);
    Row::read(&mut key_reader, &error.key)?;
    if !key_reader.is_empty() || error.sqlstate.len() != 5 {
        return Err(DecodeError::Malformed("error row with a broken key or SQLSTATE"));
    }
    Ok(Message::Error(error))
}

pub fn encode_logical(out: &mut Vec<u8>, content: &[u8]) {
    out.push(TAG_LOGICAL);
    put_bytes(out, content);
}

fn decode_logical(reader: &mut Reader<'_>, frame: &Bytes) -> Result<Message, DecodeError> {
    Ok(Message::Logical(Logical { content: frame.slice_ref(reader.bytes()?) }))
}

pub fn encode_commit(out: &mut Vec<u8>, commit: &Commit) {
    out.push(TAG_COMMIT);
    put_varint(out, commit.end_lsn.0);
}

fn decode_commit(reader: &mut Reader<'_>) -> Result<Message, DecodeError> {
    Ok(Message::Commit(Commit { end_lsn: Lsn(reader.varint()?) }))
}

/// Passes over one message that is neither begin, run nor commit.
pub(crate) fn skip_other(tag: u8, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
    match tag {
        TAG_RELATION => decode_relation(reader).map(drop),
        TAG_TRUNCATE => decode_truncate(reader).map(drop),
        TAG_ERROR => {
            reader.varint()?;
            reader.byte()?;
            reader.varint()?;
            reader.bytes()?;
            reader.bytes().map(drop)
        }
        TAG_LOGICAL => reader.bytes().map(drop),
        tag => Err(DecodeError::UnknownTag(tag)),
    }
}

/// The messages of one unpacked frame, or of several, one after the other. Runs share the memory.
pub fn decode_frame(frame: &Bytes) -> Result<Vec<Message>, DecodeError> {
    let mut messages = Vec::new();
    let mut reader = Reader::new(frame);
    while !reader.is_empty() {
        messages.push(match reader.byte()? {
            TAG_BEGIN => decode_begin(&mut reader)?,
            TAG_RELATION => decode_relation(&mut reader)?,
            TAG_INSERT => Message::Insert(decode_run(&mut reader, Operation::Insert, frame)?),
            TAG_UPDATE => Message::Update(decode_run(&mut reader, Operation::Update, frame)?),
            TAG_DELETE => Message::Delete(decode_run(&mut reader, Operation::Delete, frame)?),
            TAG_TRUNCATE => decode_truncate(&mut reader)?,
            TAG_ERROR => decode_error_row(&mut reader, frame)?,
            TAG_LOGICAL => decode_logical(&mut reader, frame)?,
            TAG_COMMIT => decode_commit(&mut reader)?,
            tag => return Err(DecodeError::UnknownTag(tag)),
        });
    }
    Ok(messages)
}
