//! A frame in fewer bytes, before it is compressed: most of what a row says, the row before said.
//!
//! Sits between the codec and the compression: frames of messages go in, and the same frames come
//! out at the other end, byte by byte. Both ends remember the last begin message and the last row
//! of each relation and operation, so frames can only be read in order.
//!
//! # Layout
//! A varint, the control bytes, the data bytes. Control says what there is, and is mostly the same
//! from frame to frame; data are the values.
//!
//! | varint | control bytes |
//! |---|---|
//! | 0 | none, and the data are the frame as it is: one longer than [`FRAME_BYTES_MAX`] |
//! | 2n + 1 | n bytes follow |
//! | 2n + 2 | those in place n of the ring of [`CONTROLS`] that were there in full last, and not longer than [`CONTROL_BYTES_MAX`] |
//!
//! | control | data |
//! |---|---|
//! | `B` | what xid, commit_lsn and timestamp add to those of the last begin: three zigzag varints |
//! | `C` | what end_lsn adds to the commit_lsn: a zigzag varint |
//! | `i`, `d` relation, rows, fields, form of each column | the columns, see [`columns`] |
//! | `u` relation, rows, fields, 0, form of each column | the columns of the new rows |
//! | `u` relation, rows, fields, 1, old fields, forms of old columns, of new | flags of each row, old columns, new, sets |
//! | any other message as the codec has it | nothing |
//!
//! # Bounds
//! Many rows may come out of few bytes, but no more than [`FRAME_BYTES_MAX`] in one frame. What is
//! remembered is bounded by [`COLUMNS_MAX`].

mod columns;

use std::collections::HashMap;

use bytes::Bytes;

use crate::codec::{
    self, DecodeError, Operation, FRAME_BYTES, TAG_BEGIN, TAG_COMMIT, TAG_DELETE, TAG_INSERT,
    TAG_UPDATE,
};
use crate::message::{UpdatedRow, UPDATE_HAS_OLD, UPDATE_HAS_UNCHANGED, UPDATE_HAS_UNKNOWN};
use crate::primitive::{put_varint, unzigzag, zigzag, Reader};
use columns::{Block, Fields, Past};

/// A longer frame is left as it is.
const FRAME_BYTES_MAX: usize = 4 * FRAME_BYTES;

/// When more columns than this are remembered, a row itself counting as one, all are forgotten.
const COLUMNS_MAX: usize = 16_384;

const CONTROLS: usize = 32;
const CONTROL_BYTES_MAX: usize = 128;

const SHRUNK_INSERT: u8 = b'i';
const SHRUNK_UPDATE: u8 = b'u';
const SHRUNK_DELETE: u8 = b'd';
/// The old rows of updates, among what is remembered.
const OLD: u8 = b'o';

/// What both ends remember.
#[derive(Default)]
struct Memory {
    /// xid, commit_lsn and timestamp of the last begin.
    begin: [u64; 3],
    /// Of each relation and kind of rows: its columns.
    rows: HashMap<(u32, u8), Vec<Past>>,
    columns: usize,
    /// Control bytes of earlier frames: a ring, and where the next ones go.
    controls: Vec<Vec<u8>>,
    next_control: usize,
}

impl Memory {
    fn keep_control(&mut self, control: &[u8]) {
        if control.len() > CONTROL_BYTES_MAX {
            return;
        }
        match self.controls.get_mut(self.next_control) {
            Some(oldest) => {
                oldest.clear();
                oldest.extend_from_slice(control);
            }
            None => self.controls.push(control.to_vec()),
        }
        self.next_control = (self.next_control + 1) % CONTROLS;
    }

    fn commit_lsn(&self) -> u64 {
        self.begin[1]
    }

    fn columns(&mut self, relation: u32, kind: u8, columns: usize) -> &mut [Past] {
        if self.columns + self.rows.len() > COLUMNS_MAX {
            self.rows.clear();
            self.columns = 0;
        }
        let pasts = self.rows.entry((relation, kind)).or_default();
        if pasts.len() != columns {
            self.columns += columns;
            pasts.clear();
            pasts.resize(columns, Past::default());
        }
        pasts
    }
}

/// The end that makes frames small.
#[derive(Default)]
pub struct Shrinker {
    memory: Memory,
    control: Vec<u8>,
    data: Vec<u8>,
    new: Fields,
    old: Fields,
    flags: Vec<u8>,
}

impl Shrinker {
    /// Whether [`shrink`](Self::shrink) would do anything; if not, a frame is shrunk by putting
    /// [`AS_IT_IS`] before it.
    #[must_use]
    pub fn takes(frame: &[u8]) -> bool {
        frame.len() <= FRAME_BYTES_MAX
    }

    /// Appends the small form of a frame. Fails only if it is not one.
    pub fn shrink(&mut self, frame: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
        self.control.clear();
        self.data.clear();
        let mut reader = Reader::new(frame);
        while !reader.is_empty() {
            let start = reader.offset();
            match reader.byte()? {
                TAG_BEGIN => self.begin(&mut reader)?,
                TAG_COMMIT => {
                    self.control.push(TAG_COMMIT);
                    put_difference(&mut self.data, reader.varint()?, self.memory.commit_lsn());
                }
                TAG_INSERT => self.run(Operation::Insert, frame, start, &mut reader)?,
                TAG_UPDATE => self.run(Operation::Update, frame, start, &mut reader)?,
                TAG_DELETE => self.run(Operation::Delete, frame, start, &mut reader)?,
                tag => {
                    codec::skip_other(tag, &mut reader)?;
                    self.control.extend_from_slice(&frame[start..reader.offset()]);
                }
            }
        }
        let there = |control: &Vec<u8>| *control == self.control;
        if let Some(place) = self.memory.controls.iter().position(there) {
            put_varint(out, 2 * place as u64 + 2);
        } else {
            put_varint(out, 2 * self.control.len() as u64 + 1);
            out.extend_from_slice(&self.control);
            self.memory.keep_control(&self.control);
        }
        out.extend_from_slice(&self.data);
        Ok(())
    }

    fn begin(&mut self, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
        let begin = [reader.varint()?, reader.varint()?, unzigzag(reader.varint()?) as u64];
        self.control.push(TAG_BEGIN);
        for (value, before) in begin.iter().zip(self.memory.begin) {
            put_difference(&mut self.data, *value, before);
        }
        self.memory.begin = begin;
        Ok(())
    }

    fn run(
        &mut self,
        operation: Operation,
        frame: &[u8],
        start: usize,
        reader: &mut Reader<'_>,
    ) -> Result<(), DecodeError> {
        let (relation, count) = (reader.varint_u32()?, reader.varint_u32()?);
        let rows = reader.bytes()?;
        let taken_apart = count > 0
            && match operation {
                Operation::Insert => self.rows(SHRUNK_INSERT, relation, count, rows)?,
                Operation::Update => self.updates(relation, count, rows)?,
                Operation::Delete => self.rows(SHRUNK_DELETE, relation, count, rows)?,
            };
        if !taken_apart {
            self.control.extend_from_slice(&frame[start..reader.offset()]);
        }
        Ok(())
    }

    /// False, and nothing done, if the rows have not all as many fields.
    fn rows(
        &mut self,
        kind: u8,
        relation: u32,
        count: u32,
        rows: &[u8],
    ) -> Result<bool, DecodeError> {
        let columns = usize::try_from(Reader::new(rows).i16()?).unwrap_or(0);
        let mut reader = Reader::new(rows);
        self.new.start(count as usize, columns);
        for row in 0..count as usize {
            if !self.new.read_row(&mut reader, row, columns)? {
                return Ok(false);
            }
        }
        self.head(kind, relation, count, columns);
        let pasts = self.memory.columns(relation, kind, columns);
        self.new.write(rows, pasts, &mut self.control, &mut self.data);
        Ok(true)
    }

    fn head(&mut self, kind: u8, relation: u32, count: u32, columns: usize) {
        self.control.push(kind);
        put_varint(&mut self.control, u64::from(relation));
        put_varint(&mut self.control, u64::from(count));
        put_varint(&mut self.control, columns as u64);
    }

    fn updates(&mut self, relation: u32, count: u32, rows: &[u8]) -> Result<bool, DecodeError> {
        self.flags.clear();
        let (mut columns, mut old_columns) = (None, None);
        let mut reader = Reader::new(rows);
        for _ in 0..count {
            self.flags.push(rows.get(reader.offset()).copied().unwrap_or(0));
            let update = UpdatedRow::read(&mut reader, rows)?;
            let new = update.new.field_count();
            let old = update.old.map(|old| old.field_count());
            if *columns.get_or_insert(new) != new
                || old.is_some_and(|old| *old_columns.get_or_insert(old) != old)
            {
                return Ok(false);
            }
        }
        let (columns, old_columns) = (columns.unwrap_or(0), old_columns.unwrap_or(0));
        let sets = self.read_updates(rows, columns, old_columns)?;
        self.head(SHRUNK_UPDATE, relation, count, columns);
        let plain = self.flags.iter().all(|&flags| flags == 0);
        self.control.push(u8::from(!plain));
        if !plain {
            put_varint(&mut self.control, old_columns as u64);
            self.data.extend_from_slice(&self.flags);
            let pasts = self.memory.columns(relation, OLD, old_columns);
            self.old.write(rows, pasts, &mut self.control, &mut self.data);
        }
        let pasts = self.memory.columns(relation, SHRUNK_UPDATE, columns);
        self.new.write(rows, pasts, &mut self.control, &mut self.data);
        self.data.extend_from_slice(&sets);
        Ok(true)
    }

    fn read_updates(
        &mut self,
        rows: &[u8],
        columns: usize,
        old_columns: usize,
    ) -> Result<Vec<u8>, DecodeError> {
        let olds = self.flags.iter().filter(|&&flags| flags & UPDATE_HAS_OLD != 0).count();
        self.new.start(self.flags.len(), columns);
        self.old.start(olds, old_columns);
        let mut reader = Reader::new(rows);
        let mut old_row = 0;
        let mut sets = Vec::new();
        for (row, &flags) in self.flags.iter().enumerate() {
            reader.byte()?;
            if flags & UPDATE_HAS_OLD != 0 {
                self.old.read_row(&mut reader, old_row, old_columns)?;
                old_row += 1;
            }
            self.new.read_row(&mut reader, row, columns)?;
            sets.extend_from_slice(reader.take(set_bytes(flags, columns))?);
        }
        Ok(sets)
    }
}

fn put_difference(out: &mut Vec<u8>, value: u64, before: u64) {
    put_varint(out, zigzag(value.wrapping_sub(before) as i64));
}

fn read_difference(reader: &mut Reader<'_>, before: u64) -> Result<u64, DecodeError> {
    Ok(before.wrapping_add(unzigzag(reader.varint()?) as u64))
}

fn set_bytes(flags: u8, columns: usize) -> usize {
    let sets = [UPDATE_HAS_UNCHANGED, UPDATE_HAS_UNKNOWN];
    sets.iter().filter(|&&set| flags & set != 0).count() * columns.div_ceil(8)
}

/// Before a frame that is not taken apart.
pub const AS_IT_IS: &[u8] = &[0];

/// The end that puts frames together again.
#[derive(Default)]
pub struct Expander {
    memory: Memory,
    /// How the last run said how long it is.
    length: Vec<u8>,
}

impl Expander {
    /// The frame that was shrunk.
    pub fn expand(&mut self, shrunk: &[u8]) -> Result<Bytes, DecodeError> {
        let mut frame = Vec::new();
        self.expand_into(shrunk, &mut frame)?;
        Ok(frame.into())
    }

    /// Appends the frame that was shrunk. After an error the end of `out` is worth nothing.
    pub fn expand_into(&mut self, shrunk: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
        let mut data = Reader::new(shrunk);
        match data.varint()? {
            0 => out.extend_from_slice(&shrunk[data.offset()..]),
            head if head % 2 == 1 => {
                let length = usize::try_from(head / 2).map_err(|_| DecodeError::Truncated)?;
                let control = data.take(length)?;
                self.memory.keep_control(control);
                self.follow(control, &mut data, out)?;
            }
            head => {
                let place = usize::try_from(head / 2 - 1).unwrap_or(usize::MAX);
                const UNKNOWN: DecodeError = DecodeError::Malformed("unknown control bytes");
                let known = self.memory.controls.get_mut(place).ok_or(UNKNOWN)?;
                // Lent, because following it changes the rest of the memory.
                let control = std::mem::take(known);
                let followed = self.follow(&control, &mut data, out);
                self.memory.controls[place] = control;
                followed?;
            }
        }
        Ok(())
    }

    /// Puts a frame together from its control bytes and all its data.
    fn follow(
        &mut self,
        control: &[u8],
        data: &mut Reader<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), DecodeError> {
        let frame = out.len();
        let mut reader = Reader::new(control);
        while !reader.is_empty() {
            let start = reader.offset();
            match reader.byte()? {
                TAG_BEGIN => self.begin(data, out)?,
                TAG_COMMIT => {
                    out.push(TAG_COMMIT);
                    put_varint(out, read_difference(data, self.memory.commit_lsn())?);
                }
                kind @ (SHRUNK_INSERT | SHRUNK_UPDATE | SHRUNK_DELETE) => {
                    self.run(kind, (&mut reader, data), out)?;
                }
                tag => {
                    skip_message(tag, &mut reader)?;
                    out.extend_from_slice(&control[start..reader.offset()]);
                }
            }
            check_room(out.len() - frame)?;
        }
        match data.is_empty() {
            true => Ok(()),
            false => Err(DecodeError::Malformed("frame with values that belong to nothing")),
        }
    }

    fn begin(&mut self, data: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        for value in &mut self.memory.begin {
            *value = read_difference(data, *value)?;
        }
        let [xid, commit_lsn, commit_timestamp] = self.memory.begin;
        out.push(TAG_BEGIN);
        put_varint(out, xid);
        put_varint(out, commit_lsn);
        put_varint(out, zigzag(commit_timestamp as i64));
        Ok(())
    }

    fn run(
        &mut self,
        kind: u8,
        (control, data): (&mut Reader<'_>, &mut Reader<'_>),
        out: &mut Vec<u8>,
    ) -> Result<(), DecodeError> {
        let (relation, count) = (control.varint_u32()?, control.varint_u32()?);
        let columns = control.length()?;
        let rows = count as usize;
        if !(1..=FRAME_BYTES_MAX).contains(&rows) {
            return Err(DecodeError::Malformed("run of an impossible number of rows"));
        }
        out.push(match kind {
            SHRUNK_INSERT => TAG_INSERT,
            SHRUNK_UPDATE => TAG_UPDATE,
            _ => TAG_DELETE,
        });
        put_varint(out, u64::from(relation));
        put_varint(out, u64::from(count));
        // The rows' length comes before them and is known after them. One run is like the next, so
        // mostly the place kept for it is right and nothing has to move.
        let (length_at, length_bytes) = (out.len(), self.length.len());
        out.resize(length_at + length_bytes, 0);
        if kind == SHRUNK_UPDATE {
            self.updates(relation, rows, columns, (control, data), out)?;
        } else {
            let pasts = self.memory.columns(relation, kind, columns);
            let mut block = Block::read(control, data, rows, pasts)?;
            let start = out.len();
            for _ in 0..rows {
                block.put_row(out)?;
                check_room(out.len() - start)?;
            }
        }
        let length = out.len() - length_at - length_bytes;
        self.length.clear();
        put_varint(&mut self.length, length as u64);
        out.splice(length_at..length_at + length_bytes, self.length.iter().copied());
        Ok(())
    }

    fn updates(
        &mut self,
        relation: u32,
        rows: usize,
        columns: usize,
        (control, data): (&mut Reader<'_>, &mut Reader<'_>),
        out: &mut Vec<u8>,
    ) -> Result<(), DecodeError> {
        let start = out.len();
        let mut flags: &[u8] = &[];
        let mut old = None;
        if control.byte()? != 0 {
            let old_columns = control.length()?;
            flags = data.take(rows)?;
            let old_rows = flags.iter().filter(|&&flags| flags & UPDATE_HAS_OLD != 0).count();
            let pasts = self.memory.columns(relation, OLD, old_columns);
            old = Some(Block::read(control, data, old_rows, pasts)?);
        }
        let pasts = self.memory.columns(relation, SHRUNK_UPDATE, columns);
        let mut new = Block::read(control, data, rows, pasts)?;
        for row in 0..rows {
            let flags = flags.get(row).copied().unwrap_or(0);
            out.push(flags);
            if let (Some(old), true) = (&mut old, flags & UPDATE_HAS_OLD != 0) {
                old.put_row(out)?;
            }
            new.put_row(out)?;
            out.extend_from_slice(data.take(set_bytes(flags, columns))?);
            check_room(out.len() - start)?;
        }
        Ok(())
    }
}

/// Passes over a message that is in the control bytes as it is.
fn skip_message(tag: u8, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
    match tag {
        TAG_INSERT | TAG_UPDATE | TAG_DELETE => {
            reader.varint()?;
            reader.varint()?;
            reader.bytes().map(drop)
        }
        tag => codec::skip_other(tag, reader),
    }
}

fn check_room(taken: usize) -> Result<(), DecodeError> {
    match taken <= FRAME_BYTES_MAX {
        true => Ok(()),
        false => Err(DecodeError::Malformed("frame longer than a small one may be")),
    }
}
