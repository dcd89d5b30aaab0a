//! The frame that is being filled, and how it goes out.
//!
//! A small transaction is one frame; a big one is cut between rows once [`FRAME_BYTES`] are there.
//! Rows of one relation and operation that follow each other form a run; anything else closes it.
//! All buffers are kept from frame to frame, so a row costs no allocation.

use pgrx::pg_sys;
use trem_wire::codec::{self, Operation, FRAME_BYTES};
use trem_wire::compress::{Compression, Packer};

use super::encode::{append, make_room};
use super::error::StreamError;

/// What a packed frame has before its messages, at most.
const HEAD_BYTES: usize = 16;

/// A buffer that one large row has blown up beyond this is given back after the frame.
const BUFFER_BYTES_KEPT: usize = 4 * 1024 * 1024;

pub(crate) struct Frame {
    packer: Packer,
    messages: Vec<u8>,
    run: Option<(Operation, u32)>,
    row_count: u32,
    rows: Vec<u8>,
    packed: Vec<u8>,
}

/// How much of a frame was there before a change.
#[derive(Clone, Copy)]
pub(crate) struct Mark {
    messages: usize,
    rows: usize,
    run: Option<(Operation, u32)>,
    row_count: u32,
}

impl Frame {
    pub(crate) fn new(compression: Compression) -> Result<Frame, StreamError> {
        let packer = Packer::new(compression).map_err(packing)?;
        Ok(Frame {
            packer,
            messages: Vec::with_capacity(FRAME_BYTES * 2),
            run: None,
            row_count: 0,
            rows: Vec::with_capacity(FRAME_BYTES * 2),
            packed: Vec::new(),
        })
    }

    /// The buffer for one more row of `relation`.
    pub(crate) fn row(&mut self, operation: Operation, relation: u32) -> &mut Vec<u8> {
        if self.run != Some((operation, relation)) {
            self.close_run();
            self.run = Some((operation, relation));
        }
        self.row_count += 1;
        &mut self.rows
    }

    /// The buffer for a message that is not a row.
    pub(crate) fn message(&mut self) -> &mut Vec<u8> {
        self.close_run();
        &mut self.messages
    }

    #[inline]
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            messages: self.messages.len(),
            rows: self.rows.len(),
            run: self.run,
            row_count: self.row_count,
        }
    }

    /// Takes back what was added since. If the run of then was closed, its rows are the first ones
    /// behind its head, with all that came to it: they become a run once more.
    pub(crate) fn undo(&mut self, to: Mark) {
        if self.messages.len() > to.messages {
            self.rows.clear();
            if to.run.is_some() {
                let closed = codec::rows_of_first_run(&self.messages[to.messages..])
                    .expect("the run was closed before anything else was said");
                self.rows.extend_from_slice(&closed[..to.rows]);
            }
            self.messages.truncate(to.messages);
        }
        self.rows.truncate(to.rows);
        (self.run, self.row_count) = (to.run, to.row_count);
    }

    pub(crate) fn is_full(&self) -> bool {
        self.messages.len() + self.rows.len() >= FRAME_BYTES
    }

    fn close_run(&mut self) {
        if let Some((operation, relation)) = self.run.take() {
            let messages = &mut self.messages;
            make_room(messages, self.rows.len() + HEAD_BYTES);
            codec::encode_run(messages, operation, relation, self.row_count, &self.rows);
            self.rows.clear();
            self.row_count = 0;
        }
    }

    /// Sends the frame and empties it.
    ///
    /// # Safety
    /// Called in a callback that may write, with its context, while the current memory context is
    /// one of ours: through the SQL interface a copy of the frame stays there until it is reset.
    pub(crate) unsafe fn write(
        &mut self,
        context: *mut pg_sys::LogicalDecodingContext,
        last: bool,
    ) -> Result<(), StreamError> {
        self.pack()?;
        // SAFETY: prepare, fill, write is the server's protocol; `out` is valid in between, and
        // refuses what is longer than a message may be.
        unsafe {
            pg_sys::OutputPluginPrepareWrite(context, last);
            let length = i32::try_from(self.packed.len()).unwrap_or(i32::MAX);
            pg_sys::appendBinaryStringInfo((*context).out, self.packed.as_ptr().cast(), length);
            pg_sys::OutputPluginWrite(context, last);
        }
        self.clear();
        Ok(())
    }

    /// The frame, for somebody else than the server; empties it.
    pub(crate) fn take(&mut self) -> Result<Vec<u8>, StreamError> {
        self.pack()?;
        let mut packed = Vec::new();
        append(&mut packed, &self.packed);
        self.clear();
        Ok(packed)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.rows.is_empty()
    }

    fn pack(&mut self) -> Result<(), StreamError> {
        self.close_run();
        make_room(&mut self.packed, self.messages.len() + HEAD_BYTES);
        self.packer.pack(&self.messages, &mut self.packed).map_err(packing)
    }

    fn clear(&mut self) {
        for buffer in [&mut self.messages, &mut self.rows, &mut self.packed] {
            empty(buffer);
        }
    }
}

/// Empties a buffer that is used for one row after the other.
pub(crate) fn empty(buffer: &mut Vec<u8>) {
    buffer.clear();
    if buffer.capacity() > BUFFER_BYTES_KEPT {
        buffer.shrink_to(FRAME_BYTES * 2);
    }
}

fn packing(error: std::io::Error) -> StreamError {
    StreamError::Internal {
        what: "a frame of the stream cannot be packed",
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Frame {
        Frame::new(Compression::None).expect("no memory is asked for")
    }

    fn add(frame: &mut Frame, operation: Operation, relation: u32, row: &[u8]) {
        frame.row(operation, relation).extend_from_slice(row);
    }

    /// What is taken back leaves no trace, whatever it was, and whatever was there before.
    #[test]
    fn a_change_is_taken_back_as_if_it_had_not_been() {
        type Change = fn(&mut Frame);
        let changes: [Change; 4] = [
            |frame| add(frame, Operation::Insert, 7, b"same run"),
            |frame| add(frame, Operation::Update, 7, b"another run"),
            |frame| frame.message().push(b'x'),
            |frame| {
                add(frame, Operation::Insert, 7, b"same run");
                frame.message().push(b'x');
                add(frame, Operation::Delete, 8, b"another run");
            },
        ];
        let befores: [Change; 3] = [
            |_| {},
            |frame| frame.message().push(b'y'),
            |frame| {
                frame.message().push(b'y');
                add(frame, Operation::Insert, 7, b"first");
                add(frame, Operation::Insert, 7, b"second");
            },
        ];
        for before in befores {
            for change in changes {
                let (mut tested, mut expected) = (frame(), frame());
                before(&mut tested);
                before(&mut expected);
                let mark = tested.mark();
                change(&mut tested);
                tested.undo(mark);
                for frame in [&mut tested, &mut expected] {
                    add(frame, Operation::Insert, 7, b"next");
                }
                let frames = [tested, expected].map(|mut frame| frame.take().expect("packs"));
                assert_eq!(frames[0], frames[1]);
            }
        }
    }
}
